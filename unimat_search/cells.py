"""The same crystal in another cell."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure


def is_finite(structure: Structure) -> bool:
    """Whether all coordinates and cell vectors are finite numbers."""
    return bool(np.isfinite(structure.frac_coords).all() and np.isfinite(structure.lattice.matrix).all())


def in_cell(structure: Structure, num_sites: int) -> Structure | None:
    """A crystal in a cell of so many atoms: as it is, its primitive cell, or the most compact supercell of either.

    Returns:
        The structure; None if no cell of it has that number of atoms.
    """
    if len(structure) == num_sites:
        return structure
    if num_sites % len(structure):
        structure = structure.get_primitive_structure(tolerance=0.1)
    if num_sites % len(structure):
        return None
    return supercell(structure, num_sites // len(structure))


def strained_into(structure: Structure, lattice: Lattice) -> Structure:
    """A crystal strained into another cell: the edges of its Niggli-reduced cell become those of the other's.

    Args:
        structure: Any cell of the crystal.
        lattice: The cell that it gets.
    """
    reduced = structure.get_reduced_structure("niggli")
    target = lattice.get_niggli_reduced_lattice()
    coords = reduced.frac_coords @ target.matrix @ np.linalg.inv(lattice.matrix)
    return Structure(lattice, reduced.species, coords, to_unit_cell=True)


def supercell(structure: Structure, size: int) -> Structure:
    """The supercell of `size` cells whose edges are the shortest: the sum of their squares after LLL reduction."""
    if size == 1:
        return structure
    best = min(hermite_forms(size), key=lambda form: _compactness(form @ structure.lattice.matrix))
    return structure.make_supercell(best, in_place=False).get_reduced_structure("LLL")


def hermite_forms(size: int) -> Iterator[NDArray[np.int64]]:
    """One matrix for each sublattice of an index, as lower triangles (Hart and Forcade, PRB 77, 224115). (3, 3)."""
    for a in _divisors(size):
        for c in _divisors(size // a):
            f = size // a // c
            for b in range(a):
                for d in range(a):
                    for e in range(c):
                        yield np.array([[a, 0, 0], [b, c, 0], [d, e, f]])


def _divisors(number: int) -> list[int]:
    return [k for k in range(1, number + 1) if number % k == 0]


def _compactness(cell: NDArray[np.float64]) -> float:
    return float((Lattice(cell).get_lll_reduced_lattice().matrix ** 2).sum())
