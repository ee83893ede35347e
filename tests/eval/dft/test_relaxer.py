from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from pymatgen.core import Lattice, Structure

from unimat_search.eval.dft.point import DftPotential, Point, Setup
from unimat_search.eval.dft.relaxer import DftRelaxer
from unimat_search.eval.dft.settings import DftSettings
from unimat_search.eval.potential import Crystals, ScfError
from unimat_search.records import Outcome, RelaxSettings

AL = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.2), ["Al"], [[0, 0, 0]])
PER_CUTOFF = 50.0
"""EV by which the stub's energy falls when its cutoff is multiplied by e."""


class StubEngine:
    """EMT with an energy that falls with the cutoff, and a stress that does not know of it."""

    def __init__(self, code: StubCode, setup: Setup) -> None:
        self.code, self.setup = code, setup

    def evaluate(self, atoms: Atoms, *, gradients: bool = True) -> Point:
        self.code.setups.append(self.setup)
        self.setup.check()
        if self.code.scf_fails or (self.code.static_fails and self.setup.kpoints == (15, 15, 15)):
            raise ScfError("not self-consistent after 100 iterations")
        atoms = atoms.copy()
        atoms.calc = EMT()
        energy = atoms.get_potential_energy() - PER_CUTOFF * np.log(self.setup.cutoff / 600)
        return Point(energy, atoms.get_forces(), atoms.get_stress(voigt=False)) if gradients else Point(energy)

    def band_gap(self) -> float:
        return self.code.gap


class StubCode:
    name = "stub"
    gap = 0.0
    scf_fails = False
    static_fails = False

    def __init__(self) -> None:
        self.setups: list[Setup] = []

    def missing(self, symbols: Collection[str]) -> list[str]:
        return sorted(set(symbols) & {"Tc"})

    def engine(self, setup: Setup) -> StubEngine:
        return StubEngine(self, setup)


def test_two_relaxations_and_a_static_run_each_with_its_k_points() -> None:
    code = StubCode()
    (result,) = DftRelaxer(code, DftSettings(pulay=False)).relax([AL], RelaxSettings())
    assert result.outcome is Outcome.CONVERGED
    assert result.structure is not None
    assert result.energy is not None
    assert len(result.structure) == 4
    assert result.structure.volume ** (1 / 3) == pytest.approx(3.99, abs=0.02)  # EMT's
    grids = list(dict.fromkeys(setup.kpoints for setup in code.setups))
    assert grids == [(6, 6, 6), (13, 13, 13), (15, 15, 15)]  # 2.59, 2.70 1/angstrom by 0.44, 0.22, 0.19
    alone = AL.copy()
    (whole,) = DftRelaxer(code, DftSettings(pulay=False, symprec=0)).relax([alone], RelaxSettings())
    assert whole.energy == pytest.approx(result.energy, abs=1e-3)
    assert alone == AL


def test_an_insulator_keeps_its_few_k_points() -> None:
    code = StubCode()
    code.gap = 8.0
    list(DftRelaxer(code, DftSettings(pulay=False)).relax([AL], RelaxSettings()))
    assert max(setup.kpoints for setup in code.setups) == (8, 8, 8)


def test_the_stress_is_corrected_for_the_cutoff() -> None:
    """The slope is -50 eV for the atoms; so the stress lacks 2/3 of -50 eV / V."""
    for pulay in (True, False):
        code = StubCode()
        settings = DftSettings(pulay=pulay)
        setup = Setup.of(AL, 1.0, settings, lambda: 1.0)
        crystals = Crystals.of([AL])
        evaluation = DftPotential(code, setup, AL).evaluate(crystals)
        plain = StubEngine(code, setup).evaluate(Atoms("Al4", AL.cart_coords, cell=AL.lattice.matrix, pbc=True)).stress
        assert plain is not None
        lacking = -2 / 3 * PER_CUTOFF / AL.volume * np.eye(3) if pulay else np.zeros((3, 3))
        assert evaluation.stresses[0].numpy() == pytest.approx(plain + lacking, abs=1e-6)


def test_another_cell_of_the_lattice_is_taken_back_to_that_of_the_k_points() -> None:
    setup = Setup.of(AL, 1.0, DftSettings(pulay=False), lambda: 1.0)
    potential = DftPotential(StubCode(), setup, AL)
    change = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]])
    strained = AL.lattice.matrix @ (np.eye(3) + 0.03)
    assert potential._as_at_first(change @ strained) == pytest.approx(strained)


def test_every_failure_is_a_reason() -> None:
    relaxer = DftRelaxer(StubCode(), DftSettings())
    tc = Structure(Lattice.cubic(3), ["Tc"], [[0, 0, 0]])
    (result,) = relaxer.relax([tc], RelaxSettings())
    assert (result.outcome, result.detail) == (Outcome.RELAXER_FAILED, "stub has no PBE data for Tc")
    (result,) = relaxer.relax([AL], RelaxSettings(time_limit=1e-9))
    assert result.outcome is Outcome.TIME_LIMIT
    assert "time was over" in result.detail
    (result,) = relaxer.relax([AL], RelaxSettings(max_steps=1))
    assert result.outcome is Outcome.NOT_CONVERGED
    code = StubCode()
    code.scf_fails = True
    (result,) = DftRelaxer(code, DftSettings()).relax([AL], RelaxSettings())
    assert (result.outcome, result.detail) == (
        Outcome.SCF_NOT_CONVERGED, "not self-consistent after 100 iterations",
    )  # fmt: skip


def test_a_static_run_that_fails_keeps_what_was_relaxed() -> None:
    code = StubCode()
    code.static_fails = True
    (result,) = DftRelaxer(code, DftSettings(pulay=False)).relax([AL], RelaxSettings())
    assert result.outcome is Outcome.SCF_NOT_CONVERGED
    assert result.detail == "static run: not self-consistent after 100 iterations"
    assert result.structure is not None
    assert result.n_steps > 0
    assert result.energy is None


def test_a_cell_that_is_fixed_is_not_made_symmetric() -> None:
    lattice = Lattice.from_parameters(4.05, 4.08, 4.02, 90, 90.5, 90)
    askew = Structure(lattice, ["Al"] * 4, [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
    for settings in (RelaxSettings(fixed_cell=True), RelaxSettings(max_steps=0, fmax=99)):
        (result,) = DftRelaxer(StubCode(), DftSettings(pulay=False)).relax([askew], settings)
        assert result.structure is not None
        assert result.structure.lattice.parameters == pytest.approx(lattice.parameters)
