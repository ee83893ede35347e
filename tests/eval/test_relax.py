from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from tests.eval.structures import HOPELESS, ROCK_SALT, random_structures
from unimat_search.eval.adapters import emt_relaxer
from unimat_search.eval.chgnet import ChgnetPotential, chgnet_relaxer
from unimat_search.eval.chgnet.kernels import levels
from unimat_search.eval.descent import Bfgs, Variables, frechet_adjoint
from unimat_search.eval.potential import AsePotential, Crystals, Evaluations
from unimat_search.eval.relax import BatchedRelaxer
from unimat_search.records import EV_PER_CUBIC_ANGSTROM, Outcome, Relaxation, RelaxSettings
from unimat_search.testing import check_relaxer


def to_atoms(structure: Structure) -> Atoms:
    numbers = [site.specie.Z for site in structure]
    return Atoms(numbers, positions=structure.cart_coords, cell=structure.lattice.matrix, pbc=True)


def relaxed(relaxer: BatchedRelaxer, structures: Sequence[Structure], **limits: float) -> list[Relaxation]:
    results = relaxer.relax(structures, RelaxSettings(**limits))  # type: ignore[arg-type]
    return sorted(results, key=lambda result: result.index)


def fire() -> BatchedRelaxer:
    return BatchedRelaxer(AsePotential(EMT(), "ase-emt"), "fire")


@settings(max_examples=15)
@given(st.sampled_from(["AlCu", "Al4Cu4", "Au3Pd", "Ni5"]), st.integers(0, 1000))
def test_every_trajectory_is_ases_own(formula: str, seed: int) -> None:
    """Steps, energy and cell of ASE's FIRE on ASE's FrechetCellFilter."""
    structure = random_structures(formula, 1, seed)[0]
    ours = relaxed(fire(), [structure], max_steps=60)[0]
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
    gradient = frechet_adjoint(torch.tensor(log)[None], torch.tensor(weights)[None])[0].numpy()
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


def test_a_left_handed_cell_relaxes_as_its_mirror_does() -> None:
    """chgnet divides by the signed volume: without care a left-handed cell would run from its minimum."""
    squeezed = ROCK_SALT.copy().apply_strain(-0.03, inplace=False)
    left = Structure(-squeezed.lattice.matrix, squeezed.species, squeezed.frac_coords)
    right, mirrored = relaxed(chgnet_relaxer(), [squeezed, left])
    assert mirrored.outcome is Outcome.CONVERGED
    assert mirrored.energy == pytest.approx(right.energy, abs=1e-3)


@pytest.mark.parametrize("capacity", [1.0, 10_000.0])
def test_the_hopeless_neither_crash_nor_stop_the_batch(capacity: float) -> None:
    structures = [ROCK_SALT, *HOPELESS.values(), ROCK_SALT]
    results = relaxed(BatchedRelaxer(ChgnetPotential(device="cpu"), capacity=capacity), structures)
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
    result = relaxed(fire(), random_structures("Al4", 1), max_steps=0)[0]
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


class Moody(AsePotential):
    """A potential that breaks in every way for a known number of atoms."""

    capacity = 5.0

    def __init__(self) -> None:
        super().__init__(EMT(), "moody")
        self.sizes: list[int] = []

    def evaluate(self, crystals: Crystals) -> Evaluations:
        self.sizes.append(len(crystals))
        if 2 in crystals.sizes:
            raise MemoryError("two atoms are too many")
        return super().evaluate(crystals)

    def _evaluate(self, crystal: Crystals) -> Evaluations:
        right = super()._evaluate(crystal)
        match len(crystal.numbers):
            case 3:
                return Evaluations(right.energies * np.nan, right.forces, right.stresses)
            case 4:
                return Evaluations(right.energies, right.forces, torch.full((1, 3, 3), 10.0).double())
            case 5:
                return Evaluations(right.energies, right.forces, -10 * torch.eye(3).double()[None])
        return right


def test_a_potential_that_breaks_costs_only_its_structure() -> None:
    structures = [random_structures(f"Al{n}", 1)[0] for n in (1, 2, 3, 4, 5)]
    results = relaxed(BatchedRelaxer(Moody()), structures, max_steps=400)
    assert [result.outcome for result in results] == [
        Outcome.CONVERGED,
        Outcome.RELAXER_FAILED,
        Outcome.NAN,
        Outcome.COLLAPSED,
        Outcome.EXPLODED,
    ]
    assert "two atoms are too many" in results[1].detail


def test_batches_shrink_when_memory_runs_out() -> None:
    relaxer = BatchedRelaxer(Moody(), capacity=8)
    relaxed(relaxer, [*random_structures("Al6", 7), *random_structures("Al2", 1)], max_steps=3)
    assert relaxer.capacity == 1
    assert isinstance(relaxer.potential, Moody)
    assert relaxer.potential.sizes[:7] == [8, 4, 4, 2, 2, 1, 1]


def test_memory_that_is_short_is_not_tried_again() -> None:
    class Small(AsePotential):
        capacity = 8.0

        def evaluate(self, crystals: Crystals) -> Evaluations:
            sizes.append(len(crystals))
            if len(crystals) > 5:
                raise RuntimeError("CUDA out of memory.")
            return super().evaluate(crystals)

    sizes: list[int] = []
    relaxer = BatchedRelaxer(Small(EMT(), "small"))
    assert all(r.outcome is Outcome.CONVERGED for r in relaxed(relaxer, random_structures("Cu2", 12)))
    assert sizes.count(8) == 1
    assert max(sizes[1:]) == relaxer.capacity == 4


def test_what_is_no_crystal_is_a_row() -> None:
    disordered = Structure(Lattice.cubic(3.6), [{"Cu": 0.5, "Au": 0.5}], [[0.0, 0, 0]])
    empty = Structure(Lattice.cubic(3.6), [], [])
    copper = random_structures("Cu2", 1)[0]
    results = relaxed(emt_relaxer(), [copper, disordered, empty, copper])
    assert [r.outcome for r in results[1:3]] == [Outcome.RELAXER_FAILED] * 2
    assert "ordered" in results[1].detail
    assert "without atoms" in results[2].detail
    assert results[0].outcome is results[3].outcome is Outcome.CONVERGED


def test_waiting_for_candidates_is_not_charged_to_them() -> None:
    def slowly() -> Iterator[Structure]:
        for structure in random_structures("Cu2", 2):
            time.sleep(2.0)
            yield structure

    results = emt_relaxer().relax(slowly(), RelaxSettings(time_limit=1.8, max_steps=5))
    assert Outcome.TIME_LIMIT not in [result.outcome for result in results]


def test_site_properties_that_fail_leave_the_relaxation() -> None:
    def broken(_: Crystals) -> dict[str, list[float]]:
        raise KeyError("no such property")

    relaxer = BatchedRelaxer(AsePotential(EMT(), "emt"), site_properties=broken)
    result = relaxed(relaxer, random_structures("Cu2", 1))[0]
    assert result.outcome is Outcome.CONVERGED
    assert "no such property" in result.detail


def test_structures_in_flight_do_not_see_each_other() -> None:
    structures = [s for f in ("Al2Cu2", "Au5", "Ni3Al", "Pt") for s in random_structures(f, 3)]
    for optimizer in ("fire", "bfgs"):
        alone, together = (
            relaxed(BatchedRelaxer(AsePotential(EMT(), "emt"), optimizer, capacity), structures) for capacity in (1, 5)
        )
        for a, b in zip(alone, together, strict=True):
            assert a.n_steps == b.n_steps
            assert a.energy == pytest.approx(b.energy, abs=1e-6)


def test_bfgs_needs_fewer_steps_and_ends_as_low() -> None:
    structures = [s for f in ("Al2Cu2", "Au4", "Ni3Al") for s in random_structures(f, 6)]
    slow, fast = relaxed(fire(), structures), relaxed(emt_relaxer(), structures)
    assert sum(result.n_steps for result in fast) < 0.75 * sum(result.n_steps for result in slow)
    higher = [b.energy > a.energy + 1e-3 * len(s) for a, b, s in zip(slow, fast, structures, strict=True)
              if a.energy is not None and b.energy is not None]  # fmt: skip
    assert sum(higher) <= 1


@pytest.mark.parametrize("in_company", [False, True])
def test_bfgs_gives_up_where_every_step_climbs(in_company: bool) -> None:
    """After `PATIENCE` steps taken back it starts FIRE at the lowest point, whatever the others in flight do."""
    n = 1 + in_company
    x = torch.zeros(n, 4, 3, dtype=torch.float64)
    optimizer, sizes = Bfgs(), torch.ones(n, dtype=torch.long)
    optimizer.join(x)
    forces = torch.zeros_like(x)
    lengths = []
    for step in range(4 + Bfgs.PATIENCE + 3):
        forces[0, 3, 0] = 0.2 if step >= 4 else 1.0  # FIRE gathers speed, then Newton takes over
        forces[1:, 3, 0] = 1.0  # the other one stays with FIRE
        if step == 4:
            start = x[0]
        energies = torch.full((n,), float(step), dtype=torch.float64)
        x = optimizer.step(x, forces, energies, sizes)
        if step >= 4:
            assert bool(optimizer.stands(energies + 1, sizes)[0]) == (step >= 4 + Bfgs.PATIENCE)
            lengths.append(float((x[0] - start).norm()))
    climbs = lengths[: Bfgs.PATIENCE]
    assert all(b < a for a, b in pairwise(climbs))
    assert lengths[Bfgs.PATIENCE] == pytest.approx(0.2 * 0.1**2)  # FIRE's first step: force x dt^2
    assert lengths[-1] > lengths[-2] > lengths[Bfgs.PATIENCE]


class Cliff(AsePotential):
    """Copper that rises by 3 eV and feels no force any more at one evaluation of all."""

    def __init__(self, at: int) -> None:
        super().__init__(EMT(), "cliff")
        self.at = at
        self.n = 0

    def evaluate(self, crystals: Crystals) -> Evaluations:
        self.n += 1
        right = super().evaluate(crystals)
        if self.n != self.at:
            return right
        return Evaluations(right.energies + 3, right.forces * 0, right.stresses * 0)


def test_a_step_that_is_taken_back_does_not_converge() -> None:
    copper = Structure(Lattice.cubic(3.6), ["Cu"] * 4, [[0.0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0.15]])
    right = relaxed(emt_relaxer(), [copper], fmax=0.001)[0]
    assert right.n_steps > 5
    misled = relaxed(BatchedRelaxer(Cliff(right.n_steps)), [copper], fmax=0.001)[0]
    assert misled.outcome is Outcome.CONVERGED
    assert misled.n_steps > right.n_steps
    assert misled.energy == pytest.approx(right.energy, abs=1e-3)


def test_no_step_is_longer_than_allowed() -> None:
    x = torch.zeros(2, 9, 3, dtype=torch.float64)
    for optimizer in (Bfgs(), type(Bfgs()._fire)()):
        optimizer.join(x)
        forces = 1e4 * torch.randn(2, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        moved = optimizer.step(x, forces, torch.zeros(2).double(), torch.tensor([6, 6]))
        assert float(moved.norm(dim=2).max()) <= 0.3


def test_a_fixed_cell_stays() -> None:
    structure = random_structures("Al2Cu2", 1)[0]
    result = relaxed(emt_relaxer(), [structure], fixed_cell=True)[0]
    assert result.outcome is Outcome.CONVERGED
    assert result.structure is not None
    assert np.allclose(result.structure.lattice.matrix, structure.lattice.matrix, atol=1e-12)
    assert not np.allclose(result.structure.distance_matrix, structure.distance_matrix, atol=1e-3)


def test_pressure_is_the_stress_that_is_left() -> None:
    """At 20 GPa a relaxed crystal pushes back with 20 GPa, and has the lower enthalpy."""
    structure = random_structures("Al2Cu2", 1, seed=1)[0]
    free, pressed = (relaxed(emt_relaxer(), [structure], pressure=p, fmax=0.002)[0] for p in (0.0, 20.0))
    assert pressed.outcome is Outcome.CONVERGED
    assert free.structure is not None
    assert pressed.structure is not None
    stress = emt_relaxer().potential.evaluate(Crystals.of([pressed.structure])).stresses[0].numpy()
    assert np.allclose(-stress * EV_PER_CUBIC_ANGSTROM, 20 * np.eye(3), atol=0.1)
    assert pressed.energy is not None
    assert free.energy is not None
    assert pressed.energy + 20 / EV_PER_CUBIC_ANGSTROM * pressed.structure.volume < (
        free.energy + 20 / EV_PER_CUBIC_ANGSTROM * free.structure.volume
    )


def test_a_fixed_space_group_is_kept() -> None:
    """A tetragonal cell on its way to a lower symmetry, with positions off their sites by rounding."""
    bct = Structure.from_spacegroup("I4/mmm", Lattice.tetragonal(3.3, 4.6), ["Al", "Cu"], [[0.0, 0, 0], [0, 0.5, 0.25]])
    group = SpacegroupAnalyzer(bct).get_space_group_number()
    shaken = bct.copy().perturb(1e-4)
    kept = relaxed(emt_relaxer(), [shaken], fix_symmetry=True)[0]
    assert kept.outcome is Outcome.CONVERGED
    assert kept.structure is not None
    assert SpacegroupAnalyzer(kept.structure, symprec=2e-3).get_space_group_number() == group
    a, b, c = kept.structure.lattice.abc
    assert a == pytest.approx(b, abs=1e-6)
    assert a != pytest.approx(c, abs=0.1)


def test_magnetic_moments_on_request() -> None:
    iron = Structure(Lattice.cubic(2.84), ["Fe"] * 2, [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    result = relaxed(chgnet_relaxer(magmoms=True), [iron])[0]
    assert result.structure is not None
    assert result.structure.site_properties["magmom"] == pytest.approx([2.2, 2.2], abs=0.3)  # experiment: 2.2


def test_variables_are_the_geometry() -> None:
    structure = random_structures("Al2Cu3", 1)[0]
    variables = Variables.of(torch.tensor(structure.lattice.matrix), torch.tensor(structure.cart_coords))
    both = variables.join(variables)
    assert np.allclose(both.lattices[1], structure.lattice.matrix)
    assert np.allclose(both.positions[5:], structure.cart_coords)


def test_an_element_that_the_potential_does_not_know() -> None:
    result = relaxed(emt_relaxer(), [ROCK_SALT])[0]
    assert result.outcome is Outcome.RELAXER_FAILED
    assert result.detail
    assert result.seconds > 0  # a failure costs what it took


@pytest.mark.parametrize(
    "limits",
    [{"fmax": 0}, {"fmax": float("nan")}, {"fmax": -1}, {"max_steps": -1}, {"time_limit": 0}, {"pressure": np.inf}],
)
def test_bad_settings(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"fmax|max_steps|time_limit|pressure"):
        RelaxSettings(**limits)  # type: ignore[arg-type]


def test_bad_capacity() -> None:
    with pytest.raises(ValueError, match="capacity must be positive, got 0"):
        BatchedRelaxer(Moody(), capacity=0)


def test_an_optimizer_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="no optimizer 'newton'; there are bfgs, fire"):
        BatchedRelaxer(Moody(), "newton")


@pytest.mark.slow
def test_perturbed_crystals_end_where_chgnets_own_optimizer_ends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known crystals, strained by up to 5 % and shaken by 0.15 angstrom: one basin each, so one energy each."""
    monkeypatch.syspath_prepend(root / "benchmarks")
    benchmark = import_module("relaxation")
    structures = [s for seed in range(4) for s in benchmark.perturbed_crystals(16, seed)]
    theirs, ours = (
        np.array([energy for energy, _, _ in benchmark.measure(engine, structures, 2)[0]])
        for engine in ("StructOptimizer, FIRE", "compiled, BFGS" if levels() else "PyTorch alone, BFGS")
    )
    assert len(structures) >= 60
    assert (ours - theirs > 1e-3).mean() <= 0.05
    assert (ours - theirs).max() < 0.01
