"""What is installed, what works, and the command that cures what does not."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unimat_search.compare import versions
from unimat_search.eval.parallel import load_relaxer, quiet, usable_cores
from unimat_search.eval.references import DATA_FILE, load_references
from unimat_search.registry import PluginError, Spec, load, names

State = Literal["ok", "missing", "broken"]


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
    """Look at everything that a comparison may need."""
    return [
        Finding("ok", "python", f"{platform.python_version()} on {platform.platform()}"),
        *_packages(),
        _devices(),
        *(_generator(name) for name in names("generators")),
        *(finding for name in names("relaxers") for finding in _relaxer(name)),
        _data(data_dir),
    ]


def _packages() -> list[Finding]:
    cures = {"pyxtal": "pip install 'unimat-search[pyxtal]'"}
    return [
        Finding("missing" if name in cures else "broken", name, cures.get(name, f"pip install {name}"))
        if found == "missing"
        else Finding("ok", name, found)
        for name, found in versions().items()
    ]


def _devices() -> Finding:
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return Finding("ok", "devices", f"{', '.join(devices)}; {usable_cores()} usable cores")


def _generator(name: str) -> Finding:
    try:
        with quiet():
            built = load("generators", Spec.parse(name))
    except PluginError as error:
        return Finding("missing", f"generator {name}", str(error))
    return Finding("ok", f"generator {name}", f"{type(built).__module__}:{type(built).__name__}")


def _relaxer(name: str) -> list[Finding]:
    """The relaxer and its elemental references."""
    try:
        potential = load_relaxer(Spec.parse(name)).name
    except PluginError as error:
        return [Finding("missing", f"relaxer {name}", str(error))]
    references = load_references(potential)
    text = f"{len(references.elements)} elements from {references.origin}"
    if not references.elements:
        text = f"computed on demand, or by unimat-search references build --relaxer {name}"
    return [Finding("ok", f"relaxer {name}", potential), Finding("ok", f"references {name}", text)]


def _data(data_dir: Path | None) -> Finding:
    if data_dir is None:
        return Finding("missing", "data folder", "optional: set UNIMAT_SEARCH_DATA or give --data-dir")
    file = data_dir / DATA_FILE
    if not file.is_file():
        return Finding("missing", "data folder", f"{file} is not there; references are built from simple crystals")
    return Finding("ok", "data folder", str(data_dir))
