"""Quantum ESPRESSO itself, where it and some pseudopotentials are installed (Debian's packages)."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from unimat_search.eval.dft.espresso import PseudopotentialError, read_pseudopotentials
from unimat_search.eval.parallel import load_relaxer
from unimat_search.records import Outcome, RelaxSettings
from unimat_search.registry import PluginError, Spec

PSEUDO_DIR = Path("/usr/share/espresso/pseudo")
NEEDED = pytest.mark.skipif(not (shutil.which("pw.x") and PSEUDO_DIR.is_dir()), reason="pw.x is not installed")
SILICON = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.35), ["Si"], [[0, 0, 0]])
QUICK = f"espresso,pseudo_dir={PSEUDO_DIR},cutoff=300,kspacing=0.6,kspacing_insulator=0.6"


@NEEDED
def test_silicon_has_the_lattice_of_pbe() -> None:
    """5.47 angstrom: Haas et al., Phys. Rev. B 79, 085104."""
    relaxer = load_relaxer(Spec.parse(QUICK))
    (result,) = relaxer.relax([SILICON], RelaxSettings(fmax=0.02))
    assert result.outcome is Outcome.CONVERGED, result.detail
    assert result.structure is not None
    assert result.structure.volume ** (1 / 3) == pytest.approx(5.47, rel=0.01)
    assert len(result.structure) == 8
    assert relaxer.name.startswith("espresso-")


@NEEDED
def test_failures_are_reasons() -> None:
    (result,) = load_relaxer(Spec.parse(f"{QUICK},scf_steps=1")).relax([SILICON], RelaxSettings())
    assert (result.outcome, result.detail) == (
        Outcome.SCF_NOT_CONVERGED, "not self-consistent after 1 iterations",
    )  # fmt: skip
    (result,) = load_relaxer(Spec.parse(QUICK)).relax([SILICON], RelaxSettings(time_limit=0.05))
    assert result.outcome is Outcome.TIME_LIMIT
    gold = Structure(Lattice.cubic(3), ["Tc"], [[0, 0, 0]])
    (result,) = load_relaxer(Spec.parse(QUICK)).relax([gold], RelaxSettings())
    assert result.detail.endswith("has no PBE data for Tc")


def test_pseudopotentials_are_found_by_element_and_functional(tmp_path: Path) -> None:
    heads = {
        "Si.pbe-n-kjpaw_psl.1.0.0.UPF": 'functional=" SLA  PW   PBX  PBC "',
        "si_pbe_v1.uspp.F.UPF": "SLA  PW   PBE  PBE     PBE  Exchange-Correlation functional",
        "Ag_ONCV_PBE-1.0.oncvpsp.upf": 'functional="PBE"',
        "O.pbesol-n.UPF": 'functional=" SLA  PW   PSX  PSC "',
        "O.pz.UPF": 'functional="SLA PZ NOGX NOGC"',
        "Pt.rel-pbe.UPF": 'functional="PBE" relativistic="full"',
        "Readme.txt": "PBE Exchange",
    }
    for name, head in heads.items():
        (tmp_path / name).write_text(f"<UPF>\n{head}\n")
    assert read_pseudopotentials(tmp_path) == {"Si": "si_pbe_v1.uspp.F.UPF", "Ag": "Ag_ONCV_PBE-1.0.oncvpsp.upf"}
    with pytest.raises(PseudopotentialError, match="holds no pseudopotential of PBE"):
        read_pseudopotentials(tmp_path / "nowhere")


@NEEDED
def test_other_data_under_the_same_names_is_another_potential(tmp_path: Path) -> None:
    names = set()
    for note in ("one", "other"):
        folder = tmp_path / note
        folder.mkdir()
        (folder / "Si.UPF").write_text(f'<UPF>\nfunctional="PBE" {note}\n')
        names.add(load_relaxer(Spec.parse(f"espresso,pseudo_dir={folder}")).name)
    assert len(names) == 2


def test_a_launchers_children_end_with_it(tmp_path: Path) -> None:
    """A wrapper that starts another process, as mpiexec does: none is left when the time is over."""
    launcher, mark = tmp_path / "launch", tmp_path / "mark"
    launcher.write_text(f"#!/bin/sh\n[ $# -gt 0 ] && (sleep 3; touch {mark}) & wait\n")
    launcher.chmod(0o755)
    (tmp_path / "Si.UPF").write_text('functional="PBE"')
    relaxer = load_relaxer(Spec.parse(f"espresso,pseudo_dir={tmp_path},command={launcher}"))
    (result,) = relaxer.relax([SILICON], RelaxSettings(time_limit=1))
    assert result.outcome is Outcome.TIME_LIMIT
    time.sleep(3)
    assert not mark.exists()


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="'no-such-pw' can't be started: install Quantum ESPRESSO"):
        load_relaxer(Spec.parse(f"espresso,pseudo_dir={tmp_path},command=no-such-pw"))
