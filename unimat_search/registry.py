"""Generators and relaxers by name: entry points, or `package.module:attribute` for what is not packaged.

A specification is `NAME[,key=value,...]`: the options go to the factory as keyword arguments, values read
as TOML (`patience=50`, `model="r2scan"`), and as plain text where they are no TOML. The option `label` is not the
factory's: it is the name in tables.
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal

from unimat_search.records import UserError, did_you_mean, plain

Kind = Literal["generators", "relaxers"]


class PluginError(UserError):
    """A plug-in that can't be found, imported or built; the message is one line."""


class UnknownPluginError(PluginError):
    """A name that no installed plug-in has, or an option that one does not have or lacks."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A plug-in as the user asked for it.

    Attributes:
        name: Entry point name or `module:attribute`.
        options: Keyword arguments for the factory.
        text: The user's text.
        label: Names the column and the rows: the option `label`, or the text.
    """

    name: str
    options: dict[str, Any]
    text: str
    label: str

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read `NAME[,key=value,...]`.

        Raises:
            ValueError: If the text is not of that form.
        """
        name, _, rest = (part.strip() for part in text.partition(","))
        if not name:
            raise ValueError(f"{text!r} names no plug-in; write NAME or NAME,key=value,...")
        try:
            options = tomllib.loads(f"options = {{{rest}}}")["options"]
        except tomllib.TOMLDecodeError:  # some value is plain text
            options = dict(_pair(part, text) for part in rest.split(","))
        label = options.pop("label", text.strip())
        if not (isinstance(label, str) and label and label.isprintable()):
            raise ValueError(f"the label in {text!r} must be text of one line, without control characters")
        return cls(name, options, text.strip(), label)


def parse_all(texts: Iterable[str]) -> tuple[Spec, ...]:
    """Specifications of plug-ins to be told apart.

    Raises:
        ValueError: If two are the same, or have the same label.
    """
    specs: list[Spec] = []
    for spec in map(Spec.parse, texts):
        if any((spec.name, spec.options) == (other.name, other.options) for other in specs):
            raise ValueError(f"generator {spec.text!r} is given twice")
        if any(spec.label == other.label for other in specs):
            raise ValueError(f"two generators have the label {spec.label!r}; give one of them another")
        if alike := [other.label for other in specs if _as_file(other.label) == _as_file(spec.label)]:
            raise ValueError(f"files can't tell {alike[0]!r} and {spec.label!r} apart; give one of them another label")
        specs.append(spec)
    return tuple(specs)


def _as_file(label: str) -> str:
    """What is left of a label in file names, on systems that do not mind the case."""
    return plain(label).lower()


def names(kind: Kind) -> dict[str, EntryPoint]:
    """All installed plug-ins of a kind by name, sorted."""
    points = entry_points(group=f"unimat_search.{kind}")
    return {point.name: point for point in sorted(points, key=lambda point: point.name)}


def load(kind: Kind, spec: Spec) -> Any:  # noqa: ANN401 - a factory may build anything; callers check
    """Build a plug-in.

    Raises:
        UnknownPluginError: If no plug-in has this name, or this one other options.
        PluginError: If it can't be imported, or its factory raises.
    """
    factory = find(kind, spec.name)
    _check_options(factory, spec)
    try:
        return factory(**spec.options)
    except (UserError, ValueError) as error:
        raise PluginError(f"{spec.label}: {error}") from error
    except (Exception, SystemExit) as error:  # anybody's code may do anything
        raise PluginError(f"{spec.label}: {type(error).__name__}: {error}") from error


def find(kind: Kind, name: str) -> Callable[..., Any]:
    """The factory of a plug-in, imported.

    Raises:
        UnknownPluginError: If no plug-in has this name.
        PluginError: If it can't be imported.
    """
    installed = names(kind)
    if name not in installed and (":" not in name or name.partition(":")[0] in installed):
        raise UnknownPluginError(
            f"{name!r} is none of the {kind} {', '.join(installed)}, and no package.module:Class"
            f"{did_you_mean(name, installed)}"
        )
    try:
        return _import(name) if name not in installed else installed[name].load()
    except (Exception, SystemExit) as error:  # a script without a guard exits when it is imported
        raise PluginError(f"{name} can't be imported: {type(error).__name__}: {error}") from error


def options_of(factory: Callable[..., Any]) -> dict[str, Parameter]:
    """The options that a factory takes, by name; none where it does not say."""
    try:
        return dict(signature(factory).parameters)
    except (TypeError, ValueError):
        return {}


def needed_options(factory: Callable[..., Any]) -> list[str]:
    """The options that a factory can't do without."""
    open_ended = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return [
        name
        for name, option in options_of(factory).items()
        if option.default is Parameter.empty and option.kind not in open_ended
    ]


def _check_options(factory: Callable[..., Any], spec: Spec) -> None:
    options = options_of(factory)
    if lacking := [name for name in needed_options(factory) if name not in spec.options]:
        raise UnknownPluginError(f"{spec.label} needs an option: {spec.name},{lacking[0]}=...")
    if any(option.kind is Parameter.VAR_KEYWORD for option in options.values()):
        return
    for name in spec.options:
        if name not in options:
            known = f"there are {', '.join(options)}" if options else "it has none"
            raise UnknownPluginError(f"{spec.label} has no option {name!r}; {known}{did_you_mean(name, options)}")


def _import(name: str) -> Callable[..., Any]:
    """Import `module:attribute`, from the working folder too."""
    module, _, attribute = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]


def _pair(text: str, whole: str) -> tuple[str, Any]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not (equals and key.isidentifier()):
        raise ValueError(f"{text.strip()!r} in {whole!r} is not key=value")
    return key, _value(value)


def _value(text: str) -> Any:  # noqa: ANN401
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
