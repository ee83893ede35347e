"""What generators and relaxers are installed: what each is, where it is from, and what it lacks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unimat_search.eval.parallel import load_relaxer, quiet
from unimat_search.registry import Kind, PluginError, Spec, find, load, names, needed_options
from unimat_search.unimat.public import without_downloads


@dataclass(frozen=True, slots=True)
class Entry:
    """One plug-in.

    Attributes:
        name: As it is asked for; with the options that it can't do without.
        what: The first line of its documentation.
        origin: The distribution that brings it, with its version.
        built: What its factory made; None if it needs options, or can't be built.
        lacks: Why it can't be built; empty if it can.
    """

    name: str
    what: str
    origin: str
    built: Any = None
    lacks: str = ""


def catalogue(kind: Kind) -> Iterator[Entry]:
    """Every installed plug-in of a kind, by name."""
    for name, point in names(kind).items():
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
        what = ""
        try:
            with quiet(), without_downloads():
                factory = find(kind, name)
                what = (inspect.getdoc(factory) or "").partition("\n")[0]
                needed = needed_options(factory)
                asked = ",".join([name, *(f"{option}=..." for option in needed)])
                built = None if needed else _build(kind, name)
            yield Entry(asked, what, origin, built)
        except PluginError as error:
            yield Entry(name, what, origin, lacks=str(error).removeprefix(f"{name}: "))


def _build(kind: Kind, name: str) -> Any:  # noqa: ANN401 - a generator or a relaxer
    spec = Spec.parse(name)
    return load_relaxer(spec) if kind == "relaxers" else load(kind, spec)
