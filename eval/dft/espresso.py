"""Quantum ESPRESSO (Giannozzi et al., J. Phys.: Condens. Matter 29, 465901) with pseudopotentials of the user's own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read, write
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import Ry

from unimat_search.eval.adapters import MissingPackageError
from unimat_search.eval.dft.point import Point, Setup, band_gap
from unimat_search.eval.dft.relaxer import DftRelaxer
from unimat_search.eval.dft.settings import DftSettings
from unimat_search.eval.potential import EvaluationError, OverdueError, ScfError
from unimat_search.records import UserError

DENSITY = 8
"""Cutoff of the charge density by that of the wave functions: enough for ultrasoft and PAW data."""

IS_PBE = re.compile(r"functional=\"[^\"]*PB[EX]\b|\bPBE\b.*Exchange|PBX +PBC", re.IGNORECASE)


class PseudopotentialError(UserError):
    """No pseudopotentials are at hand; the message is one line."""


class Espresso:
    """The program pw.x.

    Args:
        command: How it is started, e.g. "pw.x" or "mpiexec -n 8 pw.x".
        pseudo_dir: Folder of pseudopotentials; of several PBE files of an element the last by name counts. What they
            hold is part of the program's name.

    Raises:
        MissingPackageError: If the program is not there.
        PseudopotentialError: If the folder holds no PBE file.
    """

    def __init__(self, command: str, pseudo_dir: Path) -> None:
        self._command = shlex.split(command, posix=os.name != "nt")
        if not self._command or shutil.which(self._command[0]) is None:
            raise MissingPackageError(f"{command!r} can't be started: install Quantum ESPRESSO, or give command=")
        self._pseudo_dir = pseudo_dir.resolve()
        self.pseudopotentials = read_pseudopotentials(self._pseudo_dir)
        content = b"".join((self._pseudo_dir / file).read_bytes() for _, file in sorted(self.pseudopotentials.items()))
        version = _version(tuple(self._command))
        self.name = f"espresso-{version}-{hashlib.sha256(content).hexdigest()[:6]}"

    def missing(self, symbols: Collection[str]) -> list[str]:
        """See `unimat_search.eval.dft.point.DftCode.missing`."""
        return sorted(set(symbols) - self.pseudopotentials.keys())

    def engine(self, setup: Setup) -> EspressoEngine:
        """See `unimat_search.eval.dft.point.DftCode.engine`."""
        return EspressoEngine(self._command, self._pseudo_dir, self.pseudopotentials, setup)


def read_pseudopotentials(folder: Path) -> dict[str, str]:
    """File names by element, of those that say that they are of PBE.

    Raises:
        PseudopotentialError: If there are none.
    """
    from ase.data import atomic_numbers

    found: dict[str, str] = {}
    for file in sorted(folder.glob("*")):
        symbol = re.split(r"[._-]", file.name)[0].capitalize()
        if file.suffix.lower() == ".upf" and symbol in atomic_numbers and _is_plain_pbe(file):
            found[symbol] = file.name
    if not found:
        raise PseudopotentialError(f"{folder} holds no pseudopotential of PBE (ELEMENT.*.UPF); give pseudo_dir=FOLDER")
    return found


def _is_plain_pbe(file: Path) -> bool:
    """Whether it is of PBE, and not made for spin-orbit coupling."""
    with file.open(encoding="latin-1") as text:
        head = text.read(20_000)
    return bool(IS_PBE.search(head)) and 'relativistic="full"' not in head


@lru_cache
def _version(command: tuple[str, ...]) -> str:
    """What the program says when it is given nothing to do."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
    found = re.search(r"Program PWSCF v\.(\S+)", done.stdout)
    return found.group(1) if found else "unknown"


class EspressoEngine:
    """Pw.x at work on one crystal, a process for each geometry."""

    def __init__(self, command: list[str], pseudo_dir: Path, pseudopotentials: Mapping[str, str], setup: Setup) -> None:
        self._command = command
        self._pseudo_dir = pseudo_dir
        self._pseudopotentials = pseudopotentials
        self._setup = setup
        self._done: Any = None

    def evaluate(self, atoms: Atoms, *, gradients: bool = True) -> Point:
        """See `unimat_search.eval.dft.point.Engine.evaluate`."""
        self._setup.check()
        with tempfile.TemporaryDirectory() as folder:
            control = {"tprnfor": gradients, "tstress": gradients, "pseudo_dir": str(self._pseudo_dir)}
            write_input(Path(folder) / "pw.in", atoms, self._setup, self._pseudopotentials, {"control": control})
            output = self._run(Path(folder))
            self._done = read(output, format="espresso-out").calc
            energy = self._done.get_potential_energy() + _half_smearing(output)
        if not gradients:
            return Point(energy)
        stress = voigt_6_to_full_3x3_stress(self._done.results["stress"])
        return Point(energy, np.asarray(self._done.results["forces"]), stress)

    def band_gap(self) -> float:
        """See `unimat_search.eval.dft.point.Engine.band_gap`."""
        points = self._done.kpts
        spins = sorted({point.s for point in points})
        eigenvalues = np.array([[point.eps_n for point in points if point.s == spin] for spin in spins])
        return band_gap(eigenvalues, self._done.get_fermi_level())

    def _run(self, folder: Path) -> Path:
        output = folder / "pw.out"
        with output.open("w") as text:
            process = subprocess.Popen(
                [*self._command, "-in", "pw.in"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=text,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(self._setup.left())
            except subprocess.TimeoutExpired as error:
                raise OverdueError("its time was over during an iteration") from error
            finally:
                with contextlib.suppress(ProcessLookupError):
                    _kill_with_children(process)
                process.wait()
        text_out = output.read_text(encoding="latin-1")
        if "convergence NOT achieved" in text_out:
            raise ScfError(f"not self-consistent after {self._setup.settings.scf_steps} iterations")
        if code or "JOB DONE" not in text_out:
            complaint = re.search(r"%%%+\s*\n\s*(.*\n.*)", text_out)
            reason = " ".join(complaint.group(1).split()) if complaint else f"exit code {code}"
            raise EvaluationError(f"pw.x failed: {reason}")
        return output


def _kill_with_children(process: subprocess.Popen[bytes]) -> None:
    """End a program, where the system can also what it launched."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _half_smearing(output: Path) -> float:
    """What takes the free energy to the energy without smearing, eV: half of T S."""
    found = re.findall(r"smearing contrib\. \(-TS\)\s+=\s+(\S+) Ry", output.read_text(encoding="latin-1"))
    return -float(found[-1]) * Ry / 2 if found else 0.0


def write_input(
    file: Path,
    atoms: Atoms,
    setup: Setup,
    pseudopotentials: Mapping[str, str],
    more: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write an input of pw.x.

    Args:
        file: To write.
        atoms: The crystal.
        setup: What is asked for.
        pseudopotentials: File names by element.
        more: What the namelists control and cell say besides.
    """
    settings = setup.settings
    atoms = atoms.copy()
    system: dict[str, Any] = {
        "ecutwfc": setup.cutoff / Ry,
        "ecutrho": DENSITY * setup.cutoff / Ry,
        "occupations": "smearing",
        "smearing": "fd",
        "degauss": settings.smearing / Ry,
    }
    if setup.moments is not None:
        atoms.set_initial_magnetic_moments(setup.moments)
        system["nspin"] = 2
    write(
        file,
        atoms,
        format="espresso-in",
        input_data={
            "control": {"calculation": "scf", "verbosity": "high", "disk_io": "none", **more["control"]},
            "system": system,
            "cell": dict(more.get("cell", {})),
            "electrons": {"conv_thr": 1e-8, "electron_maxstep": settings.scf_steps},
        },
        pseudopotentials=dict(pseudopotentials),
        kpts=setup.kpoints,
        koffset=(0, 0, 0),
    )


def espresso_relaxer(pseudo_dir: str = "", command: str = "pw.x", **settings: Any) -> DftRelaxer:  # noqa: ANN401
    """PBE by Quantum ESPRESSO: `espresso,pseudo_dir=FOLDER,cutoff=800`; see `DftSettings`.

    Args:
        pseudo_dir: Folder of pseudopotentials (UPF); by default what `ESPRESSO_PSEUDO` names.
        command: How pw.x is started.
        settings: Of the calculation.

    Raises:
        MissingPackageError: If pw.x is not there.
        PseudopotentialError: If the folder holds no PBE file.
        ValueError: If a setting is out of range.
    """
    folder = pseudo_dir or os.environ.get("ESPRESSO_PSEUDO", "")
    if not folder:
        raise PseudopotentialError("give pseudo_dir=FOLDER, or set ESPRESSO_PSEUDO: a folder of UPF files")
    return DftRelaxer(Espresso(command, Path(folder)), DftSettings(**settings))
