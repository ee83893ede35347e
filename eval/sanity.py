"""Is a geometry physically possible? One definition for candidates and for relaxed structures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from unimat_search.cells import is_finite
from unimat_search.fingerprint import neighbour_pairs
from unimat_search.records import Outcome, Relaxation, storable

FloatArray = NDArray[np.float64]

ISOLATION_RADIUS = 6.0
"""An atom with no neighbour within this distance (angstrom; CHGNet's cutoff) is isolated."""

FORMATION_ENERGY_WINDOW = (-5.5, 5.0)
"""eV/atom. The lowest of 50,541 Materials Project phases near the hull is -4.50; a potential that
promises more than 1 eV/atom below that has found one of its holes."""


class Problem(NamedTuple):
    """Why a structure is not sane."""

    outcome: Outcome
    detail: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a possible crystal, in angstrom, cubic angstrom per atom and degrees.

    Attributes:
        min_distance: Between two atoms.
        min_distance_h: The same where one of them is hydrogen.
        volume_per_atom: Smallest and largest.
        min_angle: Of the LLL-reduced cell; 180 degrees minus it is the largest.
        max_aspect: Longest by shortest edge of the LLL-reduced cell.
        min_height: Smallest distance between opposite faces of the LLL-reduced cell.
    """

    min_distance: float = 0.5
    min_distance_h: float = 0.35
    volume_per_atom: tuple[float, float] = (2.0, 150.0)
    min_angle: float = 15.0
    max_aspect: float = 25.0
    min_height: float = 0.5


FINAL = Limits()
"""What a valid candidate and a converged structure have to satisfy."""

IN_FLIGHT = Limits(0.02, 0.02, (0.3, 200.0), 1.0, 1000.0, 0.2)
"""What ends a relaxation on the spot: beyond it there is no way back, or the potential breaks."""


def structure_problem(structure: Structure) -> Problem | None:
    """Return what makes the structure impossible, or None; see `geometry_problem`."""
    numbers = np.array([site.specie.Z for site in structure])
    return geometry_problem(structure.lattice.matrix, structure.cart_coords, numbers, FINAL)


def energy_problem(formation_energy: float | None) -> Problem | None:
    """Return why no crystal has a formation energy (eV/atom), or None; an unknown one is none."""
    low, high = FORMATION_ENERGY_WINDOW
    if formation_energy is None or low < formation_energy < high:
        return None
    detail = f"{formation_energy:.2f} eV/atom of formation, outside {low} to {high}"
    return Problem(Outcome.UNPHYSICAL_ENERGY, detail)


def judge(initial: Structure, result: Relaxation) -> Relaxation:
    """A relaxer's result as the harness takes it: plain types, and converged only if it is sane.

    Args:
        initial: What was relaxed.
        result: What the relaxer, anybody's, says of it.

    Returns:
        The result, or one with the reason why it does not count.
    """
    try:
        outcome, structure = Outcome(result.outcome), _structure_of(result)
        problem = _result_problem(initial, result) if outcome is Outcome.CONVERGED else None
        kept = Relaxation(
            int(result.index),
            structure if structure is not None and is_finite(structure) else None,
            _finite(result.energy),
            int(result.n_steps),
            _finite(result.max_force),
            outcome,
            storable(result.detail),
            _finite(result.seconds) or 0.0,
        )
    except (TypeError, ValueError, AttributeError) as error:
        return Relaxation(result.index, detail=storable(f"the relaxer's result is no Relaxation: {error}")[:300])
    return replace(kept, outcome=problem.outcome, detail=problem.detail) if problem else kept


def _structure_of(result: Relaxation) -> Structure | None:
    """What anybody's relaxer calls its structure: none, or an ordered one."""
    structure = result.structure
    if structure is None or (isinstance(structure, Structure) and structure.is_ordered):
        return structure
    raise TypeError(f"its structure is a disordered one, or a {type(structure).__name__}")


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(float(value)) else float(value)


def _result_problem(initial: Structure, result: Relaxation) -> Problem | None:
    final = result.structure
    if final is None or final.composition != initial.composition:
        found = "no structure" if final is None else final.composition.formula
        return Problem(Outcome.RELAXER_FAILED, f"the relaxer gave {found} for {initial.composition.formula}")
    if result.energy is None or not np.isfinite(result.energy):
        return Problem(Outcome.NAN, "the energy is not a finite number")
    return structure_problem(final)


def geometry_problem(
    lattice: FloatArray, positions: FloatArray, numbers: NDArray[np.int_], limits: Limits
) -> Problem | None:
    """Return the first thing that makes a geometry impossible, or None.

    Args:
        lattice: Row vectors, angstrom, shape (3, 3).
        positions: Cartesian, angstrom, shape (n, 3).
        numbers: Atomic numbers, shape (n,).
        limits: The bounds.
    """
    if not (np.isfinite(lattice).all() and np.isfinite(positions).all()):
        return Problem(Outcome.NAN, "a coordinate or cell vector is not a finite number")
    problem = _volume_problem(lattice, len(numbers), limits)
    if problem:
        return problem
    try:
        reduced = Lattice(lattice).get_lll_reduced_lattice()
    except np.linalg.LinAlgError:
        return Problem(Outcome.EXPLODED, "a cell that can't be reduced: its edges differ beyond all measure")
    return (
        _flat_problem(reduced, limits)
        or _neighbour_problem(reduced.matrix, positions, numbers, limits)
        or _shape_problem(reduced, limits)
    )


def _volume_problem(lattice: FloatArray, num_sites: int, limits: Limits) -> Problem | None:
    volume_per_atom = abs(float(np.linalg.det(lattice))) / num_sites
    smallest, largest = limits.volume_per_atom
    if volume_per_atom < smallest:
        return Problem(Outcome.COLLAPSED, f"{volume_per_atom:.3g} cubic angstrom an atom, less than {smallest}")
    if volume_per_atom > largest:
        return Problem(Outcome.EXPLODED, f"{volume_per_atom:.4g} cubic angstrom an atom, more than {largest}")
    return None


def _flat_problem(reduced: Lattice, limits: Limits) -> Problem | None:
    """A cell too flat, looked for before neighbours: a search for these in it would not end."""
    height = float(1 / np.linalg.norm(reduced.inv_matrix, axis=0).max())
    if height < limits.min_height:
        return Problem(Outcome.COLLAPSED, f"a cell {height:.3g} angstrom flat, less than {limits.min_height}")
    return None


def _neighbour_problem(
    lattice: FloatArray, positions: FloatArray, numbers: NDArray[np.int_], limits: Limits
) -> Problem | None:
    centers, neighbors, distances = neighbour_pairs(lattice, positions, ISOLATION_RADIUS)
    isolated = np.setdiff1d(np.arange(len(numbers)), centers)
    if len(isolated):
        return Problem(
            Outcome.ISOLATED_ATOMS, f"{len(isolated)} atom(s) without a neighbour in {ISOLATION_RADIUS} angstrom"
        )
    with_hydrogen = (numbers[centers] == 1) | (numbers[neighbors] == 1)
    allowed = np.where(with_hydrogen, limits.min_distance_h, limits.min_distance)
    worst = int(np.argmin(distances - allowed))
    if distances[worst] < allowed[worst]:
        return Problem(
            Outcome.COLLAPSED, f"two atoms {distances[worst]:.3f} angstrom apart, less than {allowed[worst]}"
        )
    return None


def _shape_problem(reduced: Lattice, limits: Limits) -> Problem | None:
    if min(*reduced.angles, *(180 - a for a in reduced.angles)) < limits.min_angle:
        return Problem(Outcome.COLLAPSED, f"cell angles {_round(reduced.angles)} are degenerate")
    if max(reduced.lengths) / min(reduced.lengths) > limits.max_aspect:
        return Problem(Outcome.EXPLODED, f"cell lengths {_round(reduced.lengths)} are degenerate")
    return None


def _round(values: tuple[float, ...]) -> list[float]:
    return [round(float(v), 2) for v in values]
