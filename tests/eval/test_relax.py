from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.airss import RandomSearch
from unimat_search.eval.chgnet import ChgnetPotential, chgnet_relaxer
from unimat_search.eval.descent import frechet_adjoint
from unimat_search.eval.potential import AsePotential, Evaluation, emt_relaxer
from unimat_search.eval.relax import BatchedRelaxer
from unimat_search.records import FailedAttempt, Outcome, Relaxation, RelaxSettings
from unimat_search.testing import check_relaxer


def random_structures(formula: str, n: int, seed: int = 0) -> list[Structure]:
    attempts = RandomSearch().generate(Composition(formula), n, seed=seed)
    return [attempt for attempt in attempts if not isinstance(attempt, FailedAttempt)]


def to_atoms(structure: Structure) -> Atoms:
    numbers = [site.specie.Z for site in structure]
    return Atoms(numbers, positions=structure.cart_coords, cell=structure.lattice.matrix, pbc=True)


def relaxed(relaxer: BatchedRelaxer, structures: Sequence[Structure], **limits: float) -> list[Relaxation]:
    results = relaxer.relax(structures, RelaxSettings(**limits))  # type: ignore[arg-type]
    return sorted(results, key=lambda result: result.index)


ROCK_SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
HOPELESS = {
    "two atoms on one spot": Structure(Lattice.cubic(4), ["Na", "Cl"], [[0.0, 0, 0], [0.0, 0, 0]]),
    "an isolated atom": Structure(Lattice.cubic(7.6), ["Na", "Cl", "Cl"], [[0.0, 0, 0], [0.1, 0, 0], [0.55, 0.5, 0.5]]),
    "a cell of 200 angstrom": Structure(Lattice.cubic(200), ["Na", "Cl"], [[0.0, 0, 0], [0.01, 0.01, 0]]),
    "not a number": Structure(Lattice.cubic(4), ["Na", "Cl"], [[0.0, 0, 0], [np.nan, 0, 0]]),
    "no volume": Structure(
        Lattice.from_parameters(3, 3, 3, 60, 60, 119.99), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]]
    ),
}


@settings(max_examples=15)
@given(st.sampled_from(["AlCu", "Al4Cu4", "Au3Pd", "Ni5"]), st.integers(0, 1000))
def test_every_trajectory_is_ases_own(formula: str, seed: int) -> None:
    """Steps, energy and cell of ASE's FIRE on ASE's FrechetCellFilter."""
    structure = random_structures(formula, 1, seed)[0]
    ours = relaxed(emt_relaxer(), [structure], max_steps=60)[0]
    atoms = to_atoms(structure)
    atoms.calc = EMT()
    optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)
    converged = optimizer.run(fmax=0.05, steps=60)
    assert ours.structure is not None
    assert ours.n_steps == optimizer.nsteps
    assert ours.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert np.allclose(ours.structure.lattice.matrix, atoms.cell.array, atol=1e-7)
    assert converged or ours.outcome is not Outcome.CONVERGED


@given(st.integers(0, 2**31))
def test_the_cell_gradient_is_the_derivative(seed: int) -> None:
    """f(U) = sum(G * exp(U)), by central differences."""
    from scipy.linalg import expm

    rng = np.random.default_rng(seed)
    log, weights = 0.3 * rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
    gradient = frechet_adjoint(log, weights)
    for i, j in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[i, j] = 1e-5
        difference = (weights * (expm(log + step) - expm(log - step))).sum() / 2e-5
        assert gradient[i, j] == pytest.approx(difference, abs=1e-8)


def test_the_contract_with_emt() -> None:
    check_relaxer(emt_relaxer(), random_structures("Al2Cu2", 3))


def test_the_contract_with_chgnet() -> None:
    check_relaxer(chgnet_relaxer(), random_structures("Na2Cl2", 3))


def test_rock_salt_by_chgnet() -> None:
    """a = 5.69 angstrom by PBE (Materials Project mp-22862); CHGNet learned that."""
    result = relaxed(chgnet_relaxer(), [ROCK_SALT])[0]
    assert result.outcome is Outcome.CONVERGED
    assert result.structure is not None
    assert result.structure.lattice.a == pytest.approx(5.69, rel=0.01)


def test_chgnet_is_chgnets_own() -> None:
    """Energies, forces and stress of `CHGNet.predict_structure`, which gives eV/atom and GPa."""
    potential = ChgnetPotential()
    structures = [ROCK_SALT, *random_structures("Sr2Ti2O6", 3), *random_structures("C", 1)]
    batch = potential.evaluate([to_atoms(s) for s in structures])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [potential.model.predict_structure(s, task="efs") for s in structures]
    for structure, ours, theirs in zip(structures, batch, expected, strict=True):
        handedness = np.sign(np.linalg.det(structure.lattice.matrix))  # chgnet's stress has this sign
        assert ours.energy / len(structure) == pytest.approx(float(theirs["e"]), abs=1e-5)
        assert np.allclose(ours.forces, theirs["f"], rtol=1e-3, atol=1e-3)
        assert np.allclose(ours.stress * 160.21766208, handedness * theirs["s"], rtol=1e-3, atol=0.01)


def test_a_left_handed_cell_relaxes_as_its_mirror_does() -> None:
    """chgnet divides by the signed volume: without care a left-handed cell would run from its minimum."""
    squeezed = ROCK_SALT.copy().apply_strain(-0.03, inplace=False)
    left = Structure(-squeezed.lattice.matrix, squeezed.species, squeezed.frac_coords)
    right, mirrored = relaxed(chgnet_relaxer(), [squeezed, left])
    assert mirrored.outcome is Outcome.CONVERGED
    assert mirrored.energy == pytest.approx(right.energy, abs=1e-3)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_hopeless_neither_crash_nor_stop_the_batch(batch_size: int) -> None:
    structures = [ROCK_SALT, *HOPELESS.values(), ROCK_SALT]
    results = relaxed(BatchedRelaxer(ChgnetPotential(), batch_size), structures)
    outcomes = [result.outcome for result in results]
    assert outcomes[0] is outcomes[-1] is Outcome.CONVERGED
    assert outcomes[1:3] == [Outcome.COLLAPSED, Outcome.ISOLATED_ATOMS]
    assert outcomes[4] is Outcome.NAN
    assert Outcome.CONVERGED not in outcomes[1:-1]
    assert all(result.detail for result in results[1:-1])


def test_a_one_atom_cell() -> None:
    result = relaxed(chgnet_relaxer(), [Structure(Lattice.cubic(2.4), ["Fe"], [[0.0, 0, 0]])])[0]
    assert result.outcome is Outcome.CONVERGED


def test_no_steps_evaluates_the_structure_as_it_is() -> None:
    result = relaxed(emt_relaxer(), random_structures("Al4", 1), max_steps=0)[0]
    assert result.n_steps == 0
    assert result.outcome is Outcome.NOT_CONVERGED
    assert result.energy is not None


def test_the_step_cap_is_a_reason() -> None:
    result = relaxed(emt_relaxer(), random_structures("Al2Cu2", 1), max_steps=3)[0]
    assert result.outcome is Outcome.NOT_CONVERGED
    assert result.n_steps == 3
    assert "after 3 steps" in result.detail


def test_the_time_limit_is_a_reason() -> None:
    result = relaxed(emt_relaxer(), random_structures("Al2Cu2", 1), time_limit=1e-9)[0]
    assert result.outcome is Outcome.TIME_LIMIT
    assert result.energy is not None


class Moody:
    """A potential that breaks in every way for a known number of atoms."""

    name = "moody"

    def __init__(self) -> None:
        self.emt = AsePotential(EMT(), "emt")

    def evaluate(self, batch: Sequence[Atoms]) -> list[Evaluation]:
        if any(len(atoms) == 2 for atoms in batch):
            raise MemoryError("two atoms are too many")
        return [self._evaluate(atoms) for atoms in batch]

    def _evaluate(self, atoms: Atoms) -> Evaluation:
        evaluation = self.emt.evaluate([atoms])[0]
        match len(atoms):
            case 3:
                return Evaluation(np.nan, evaluation.forces, evaluation.stress)
            case 4:
                return Evaluation(evaluation.energy, evaluation.forces, np.full((3, 3), 10.0))
            case 5:
                return Evaluation(evaluation.energy, evaluation.forces, np.diag([-10.0, -10, -10]))
        return evaluation


def test_a_potential_that_breaks_costs_only_its_structure() -> None:
    structures = [random_structures(f"Al{n}", 1)[0] for n in (1, 2, 3, 4, 5)]
    results = relaxed(BatchedRelaxer(Moody(), batch_size=5), structures, max_steps=400)
    assert [result.outcome for result in results] == [
        Outcome.CONVERGED,
        Outcome.RELAXER_FAILED,
        Outcome.NAN,
        Outcome.COLLAPSED,
        Outcome.EXPLODED,
    ]
    assert "two atoms are too many" in results[1].detail


def test_an_element_that_the_potential_does_not_know() -> None:
    result = relaxed(emt_relaxer(), [ROCK_SALT])[0]
    assert result.outcome is Outcome.RELAXER_FAILED
    assert result.detail


@pytest.mark.parametrize(
    "limits", [{"fmax": 0}, {"fmax": float("nan")}, {"fmax": -1}, {"max_steps": -1}, {"time_limit": 0}]
)
def test_bad_settings(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"fmax|max_steps|time_limit"):
        RelaxSettings(**limits)  # type: ignore[arg-type]


def test_bad_batch_size() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        BatchedRelaxer(Moody(), batch_size=0)
