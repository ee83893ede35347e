"""What is installed, what works, and the command that cures what does not."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unimat_search.catalogue import catalogue
from unimat_search.registry import Kind
from unimat_search.versions import PACKAGES, versions

State = Literal["ok", "missing", "broken"]

EXTRAS = {
    "pyxtal": "pyxtal",
    "plotly": "report",
    "matminer": "evaluate",
    "smact": "evaluate",
    "distributed": "cluster",
    "torch-sim-atomistic": "torch-sim",
}
"""Packages that the main job can do without, and what brings them; those of relaxers are told of there."""

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
        *(_package(name, version) for name, version in versions((*PACKAGES, *EXTRAS)).items()),
    ]
    if any(finding.state == "broken" for finding in packages):
        return packages
    return [
        *packages,
        _devices(),
        _kernels(),
        *_plug_ins("generators"),
        *_plug_ins("relaxers"),
        _data(data_dir),
    ]


def _package(name: str, version: str) -> Finding:
    if version != "missing":
        return Finding("ok", name, version)
    if name in EXTRAS:
        return Finding("missing", name, f"pip install 'unimat-search[{EXTRAS[name]}]'")
    return Finding("broken", name, f"pip install {name}")


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


def _plug_ins(kind: Kind) -> Iterator[Finding]:
    """Every plug-in; relaxers with their elemental references."""
    singular = kind.removesuffix("s")
    for entry in catalogue(kind):
        if entry.lacks:
            yield Finding("broken" if entry.name in NEEDED else "missing", f"{singular} {entry.name}", entry.lacks)
        elif kind == "generators" or entry.built is None:
            yield Finding("ok", f"{singular} {entry.name}", entry.what)
        else:
            yield Finding("ok", f"{singular} {entry.name}", entry.built.name)
            yield _references(entry.name, entry.built.name)


def _references(relaxer: str, potential: str) -> Finding:
    from unimat_search.eval.references import load_references

    references = load_references(potential)
    text = f"{len(references.elements)} elements from {references.origin}"
    if not references.elements:
        text = f"computed on demand, or by unimat-search references build --relaxer {relaxer}"
    return Finding("ok", f"references {relaxer}", text)


def _data(data_dir: Path | None) -> Finding:
    from unimat_search.eval.references import DATA_FILE

    if data_dir is None:
        return Finding("missing", "data folder", "optional: set UNIMAT_SEARCH_DATA or give --data-dir")
    file = data_dir / DATA_FILE
    if not file.is_file():
        return Finding("missing", "data folder", f"{file} is not there; references are built from simple crystals")
    return Finding("ok", "data folder", str(data_dir))
