"""What is installed, what works, and the command that cures what does not."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unimat_search.registry import PluginError, Spec, load, names
from unimat_search.versions import versions

State = Literal["ok", "missing", "broken"]

OPTIONAL = {"pyxtal": "pip install 'unimat-search[pyxtal]'"}
"""Packages that the main job can do without, and their cures."""

NEEDED = ("airss", "chgnet")
"""Plug-ins that the main job can't do without."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: "ok"; "missing" for what is optional; "broken" for what the main job needs.
        subject: What it is.
        text: What was found, or the cure.
    """

    state: State
    subject: str
    text: str


def examine(data_dir: Path | None) -> list[Finding]:
    """Look at everything that a comparison may need; plug-ins only if all packages are there."""
    packages = [
        Finding("ok", "python", f"{platform.python_version()} on {platform.platform()}"),
        *(_package(name, version) for name, version in versions().items()),
    ]
    if any(finding.state == "broken" for finding in packages):
        return packages
    return [
        *packages,
        _devices(),
        _kernels(),
        *(_generator(name) for name in names("generators")),
        *(finding for name in names("relaxers") for finding in _relaxer(name)),
        _data(data_dir),
    ]


def _package(name: str, version: str) -> Finding:
    if version != "missing":
        return Finding("ok", name, version)
    return Finding("missing" if name in OPTIONAL else "broken", name, OPTIONAL.get(name, f"pip install {name}"))


def _devices() -> Finding:
    import torch

    from unimat_search.eval.backends import usable_cores

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return Finding("ok", "devices", f"{', '.join(devices)}; {usable_cores()} usable cores")


def _kernels() -> Finding:
    from unimat_search.eval.chgnet.kernels import LEVELS, levels

    if not levels():
        cure = "CHGNet takes 3 times as long: install a C compiler, then pip install --force-reinstall --no-deps"
        return Finding("missing", "compiled kernels", f"{cure} unimat-search")
    return Finding("ok", "compiled kernels", LEVELS[levels()[-1]])


def _generator(name: str) -> Finding:
    from unimat_search.eval.parallel import quiet

    try:
        with quiet():
            built = load("generators", Spec.parse(name))
    except PluginError as error:
        return _failure(name, "generator", error)
    return Finding("ok", f"generator {name}", f"{type(built).__module__}:{type(built).__name__}")


def _relaxer(name: str) -> list[Finding]:
    """The relaxer and its elemental references."""
    from unimat_search.eval.parallel import load_relaxer
    from unimat_search.eval.references import load_references

    try:
        potential = load_relaxer(Spec.parse(name)).name
    except PluginError as error:
        return [_failure(name, "relaxer", error)]
    references = load_references(potential)
    text = f"{len(references.elements)} elements from {references.origin}"
    if not references.elements:
        text = f"computed on demand, or by unimat-search references build --relaxer {name}"
    return [Finding("ok", f"relaxer {name}", potential), Finding("ok", f"references {name}", text)]


def _failure(name: str, kind: str, error: PluginError) -> Finding:
    return Finding("broken" if name in NEEDED else "missing", f"{kind} {name}", str(error))


def _data(data_dir: Path | None) -> Finding:
    from unimat_search.eval.references import DATA_FILE

    if data_dir is None:
        return Finding("missing", "data folder", "optional: set UNIMAT_SEARCH_DATA or give --data-dir")
    file = data_dir / DATA_FILE
    if not file.is_file():
        return Finding("missing", "data folder", f"{file} is not there; references are built from simple crystals")
    return Finding("ok", "data folder", str(data_dir))
