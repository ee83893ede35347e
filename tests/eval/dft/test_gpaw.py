"""GPAW itself, where it is installed."""

from __future__ import annotations

import pytest
from pymatgen.core import Lattice, Structure

from unimat_search.eval.parallel import load_relaxer
from unimat_search.records import Outcome, Relaxation, RelaxSettings
from unimat_search.registry import Spec

pytest.importorskip("gpaw")

NACL = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.8), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
MGO = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.32), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
QUICK = "gpaw,kspacing=0.8,kspacing_insulator=0.8"


def relaxed(structure: Structure, spec: str, **settings: float) -> Relaxation:
    (result,) = load_relaxer(Spec.parse(spec)).relax([structure], RelaxSettings(**settings))  # type: ignore[arg-type]
    return result


def edge(result: Relaxation) -> float:
    assert result.outcome is Outcome.CONVERGED, result.detail
    assert result.structure is not None
    return float(result.structure.volume ** (1 / 3))


def test_salt_has_the_lattice_of_pbe() -> None:
    """PBE: 5.69 to 5.70 angstrom (5.698: Haas et al., Phys. Rev. B 79, 085104)."""
    result = relaxed(NACL, f"{QUICK},cutoff=400", fmax=0.02)
    assert edge(result) == pytest.approx(5.698, rel=0.01)
    assert result.structure is not None
    assert len(result.structure) == 8


@pytest.mark.slow
def test_a_low_cutoff_needs_the_corrected_stress() -> None:
    """MgO: 4.26 angstrom by PBE (Haas et al.); without the correction 500 eV give 4.10, and nothing complains."""
    assert edge(relaxed(MGO, f"{QUICK},cutoff=500")) == pytest.approx(4.26, rel=0.01)
    assert edge(relaxed(MGO, f"{QUICK},cutoff=500,pulay=false")) < 4.17


def test_what_it_has_no_data_for_and_what_does_not_converge_are_reasons() -> None:
    tc = Structure(Lattice.cubic(3), ["Tc"], [[0, 0, 0]])
    assert relaxed(tc, "gpaw").detail.endswith("has no PBE data for Tc")
    result = relaxed(NACL, f"{QUICK},cutoff=300,scf_steps=2")
    assert (result.outcome, result.detail) == (
        Outcome.SCF_NOT_CONVERGED, "not self-consistent after 2 iterations",
    )  # fmt: skip
    assert relaxed(NACL, f"{QUICK},cutoff=300", time_limit=0.01).outcome is Outcome.TIME_LIMIT


@pytest.mark.slow
def test_iron_is_magnetic() -> None:
    """Bcc iron at 2.83 angstrom is ferromagnetic; without spin its energy is 0.4 eV/atom or more higher."""
    iron = Structure(Lattice.cubic(2.83), ["Fe", "Fe"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    quick = "gpaw,kspacing=0.5,kspacing_insulator=0.5,cutoff=350,pulay=false,smearing=0.1"
    energies = [relaxed(iron, f"{quick}{spin}", max_steps=0, fmax=99).energy for spin in ("", ',spin="none"')]
    assert energies[0] is not None
    assert energies[1] is not None
    assert (energies[1] - energies[0]) / 2 > 0.3
