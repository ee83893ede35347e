"""Is a geometry physically possible? One definition for candidates and for relaxed structures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure
from pymatgen.optimization.neighbors import find_points_in_spheres

from unimat_search.records import Outcome

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
        min_height: Smallest distance between opposite faces of the cell.
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


def structure_problem(structure: Structure, limits: Limits = FINAL) -> Problem | None:
    """Return what makes the structure impossible, or None; see `geometry_problem`."""
    numbers = np.array([site.specie.Z for site in structure])
    return geometry_problem(structure.lattice.matrix, structure.cart_coords, numbers, limits)


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
    return (
        _volume_problem(lattice, len(numbers), limits)
        or _neighbour_problem(lattice, positions, numbers, limits)
        or _shape_problem(lattice, limits)
    )


def _volume_problem(lattice: FloatArray, num_sites: int, limits: Limits) -> Problem | None:
    """A cell too small, too flat or too large, checked first: a neighbour search in it might not end."""
    volume = abs(float(np.linalg.det(lattice)))
    smallest, largest = limits.volume_per_atom
    if volume / num_sites < smallest:
        return Problem(Outcome.COLLAPSED, f"{volume / num_sites:.3g} cubic angstrom an atom, less than {smallest}")
    if volume / num_sites > largest:
        return Problem(Outcome.EXPLODED, f"{volume / num_sites:.4g} cubic angstrom an atom, more than {largest}")
    faces = np.linalg.norm(np.cross(np.roll(lattice, -1, 0), np.roll(lattice, -2, 0)), axis=1)
    height = float(volume / faces.max())
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


def _shape_problem(lattice: FloatArray, limits: Limits) -> Problem | None:
    reduced = Lattice(lattice).get_lll_reduced_lattice()
    if min(*reduced.angles, *(180 - a for a in reduced.angles)) < limits.min_angle:
        return Problem(Outcome.COLLAPSED, f"cell angles {_round(reduced.angles)} are degenerate")
    if max(reduced.lengths) / min(reduced.lengths) > limits.max_aspect:
        return Problem(Outcome.EXPLODED, f"cell lengths {_round(reduced.lengths)} are degenerate")
    return None


def neighbour_pairs(
    lattice: FloatArray, positions: FloatArray, radius: float
) -> tuple[NDArray[np.int_], NDArray[np.int_], FloatArray]:
    """All pairs of atoms, periodic images included, nearer than `radius` (angstrom).

    Returns:
        Centre indices, neighbour indices, distances; each pair stands in both directions, an atom is
        not its own neighbour except through a lattice translation.
    """
    coords = np.ascontiguousarray(positions, dtype=float)
    centers, neighbors, images, distances = find_points_in_spheres(
        coords, coords, r=radius, pbc=np.ones(3, dtype=np.int64), lattice=np.ascontiguousarray(lattice), tol=1e-8
    )
    other = (centers != neighbors) | (images != 0).any(axis=1)
    return centers[other], neighbors[other], distances[other]


def _round(values: tuple[float, ...]) -> list[float]:
    return [round(float(v), 2) for v in values]
