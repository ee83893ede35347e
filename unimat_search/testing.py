"""Contract tests that plug-in authors run on their own generators and relaxers.

    from unimat_search.testing import check_generator

    def test_my_generator() -> None:
        check_generator(MyGenerator(), "Na2Cl2")

A breach raises AssertionError with one line that says what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from unimat_search.protocol import LearningGenerator, Relaxer, StructureGenerator
from unimat_search.records import FailedAttempt, Outcome, Relaxation, RelaxSettings

if TYPE_CHECKING:
    from pymatgen.core import Structure


def check_generator(generator: StructureGenerator, cell_formula: str = "Na2Cl2", *, n: int = 4) -> None:
    """Check what the harness relies on.

    `n` attempts come; each is an ordered structure of the very composition with finite coordinates, or a
    `FailedAttempt`, and at least one is a structure; the same seed gives the same, another seed another; the
    composition handed in is left as it was. One that learns has seen nothing before.

    Raises:
        AssertionError: If any of this does not hold.
    """
    from pymatgen.core import Composition, Structure

    _require(isinstance(generator, StructureGenerator), "a method generate(composition, n, *, seed)", generator)
    composition = Composition(cell_formula)

    def ask(seed: int) -> list[Structure | FailedAttempt]:
        if isinstance(generator, LearningGenerator):
            generator.observe(())
        return list(islice(generator.generate(composition, n, seed=seed), n + 1))

    attempts = ask(1)
    _require(composition == Composition(cell_formula), "the composition handed in left as it was", composition)
    _require(len(attempts) == n, f"{n} attempts", len(attempts) if len(attempts) < n else f"more than {n}")
    for attempt in attempts:
        _require(isinstance(attempt, Structure | FailedAttempt), "Structures or FailedAttempts", type(attempt).__name__)
    structures = [attempt for attempt in attempts if isinstance(attempt, Structure)]
    _require(bool(structures), "at least one structure", attempts)
    for structure in structures:
        _require(structure.is_ordered, "ordered structures", structure.formula)
        _require(structure.composition == composition, composition.formula, structure.composition.formula)
        finite = np.isfinite(structure.frac_coords).all() and np.isfinite(structure.lattice.matrix).all()
        _require(bool(finite), "finite coordinates and cell vectors", structure.lattice)
    again = ask(1)
    _require(_same(attempts, again), "the same structures for the same seed", "others")
    other = ask(2)
    _require(not _same(attempts, other), "other structures for another seed", "the same")


def check_relaxer(
    relaxer: Relaxer, structures: Sequence[Structure], settings: RelaxSettings | None = None
) -> list[Relaxation]:
    """Check what the harness relies on.

    One result for each structure, under its index; the input is left untouched; no steps means no move; what
    converged has a finite energy, a geometry of the same composition and forces below the threshold; a batch
    gives what single structures give, energies within 1 meV/atom.

    Returns:
        The relaxations, in the order of the structures.

    Raises:
        AssertionError: If any of this does not hold.
    """
    _require(isinstance(relaxer, Relaxer), "a property name and a method relax(structures, settings)", relaxer)
    settings = settings or RelaxSettings()
    copies = [structure.copy() for structure in structures]
    results = _in_order(relaxer, structures, settings)
    _require(list(structures) == copies, "the input left untouched", "a changed structure")
    for structure, result in zip(structures, results, strict=True):
        if result.outcome is Outcome.CONVERGED:
            _check_converged(structure, result, settings)
    for index, structure in enumerate(structures):
        alone = _in_order(relaxer, [structure], settings)[0]
        _require(alone.outcome is results[index].outcome, f"{results[index].outcome} alone as well", alone.outcome)
        if alone.energy is not None and (together := results[index].energy) is not None:
            difference = abs(alone.energy - together) / len(structure)
            _require(difference < 1e-3, "a batch and its singles within 1 meV/atom", difference)
    still = _in_order(relaxer, structures, RelaxSettings(max_steps=0))
    for structure, result in zip(structures, still, strict=True):
        if result.structure is not None:
            _require(result.n_steps == 0, "no steps with max_steps=0", result.n_steps)
            moved = np.abs(structure.lattice.matrix - result.structure.lattice.matrix).max()
            _require(moved < 1e-8, "no move with max_steps=0", moved)
    return results


def _check_converged(structure: Structure, result: Relaxation, settings: RelaxSettings) -> None:
    _require(result.energy is not None and bool(np.isfinite(result.energy)), "a finite energy", result.energy)
    final = result.structure
    _require(final is not None and final.composition == structure.composition, structure.formula, final)
    _require(result.n_steps <= settings.max_steps, f"at most {settings.max_steps} steps", result.n_steps)
    if result.max_force is not None:
        _require(result.max_force <= settings.fmax, f"forces below {settings.fmax}", result.max_force)


def _in_order(relaxer: Relaxer, structures: Sequence[Structure], settings: RelaxSettings) -> list[Relaxation]:
    results = sorted(relaxer.relax(structures, settings), key=lambda result: result.index)
    indices = [result.index for result in results]
    _require(indices == list(range(len(structures))), "one result for each structure", indices)
    return results


def _same(first: Sequence[object], second: Sequence[object]) -> bool:
    return len(first) == len(second) and all(a == b for a, b in zip(first, second, strict=True))


def _require(holds: bool, expected: object, found: object) -> None:
    if not holds:
        raise AssertionError(f"expected {expected}, found {found}")
