"""Atoms onto the sites of a space group, then pushed apart until every pair keeps its distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from unimat_search.airss.symmetry import Site, SpaceGroup

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int_]

MAX_PUSHES = 150
STEP = 0.5
"""Part of a pair's push that is taken in one iteration."""

_CELLS = np.array(sorted(product((-1, 0, 1), repeat=3), key=lambda cell: np.abs(cell).sum()), dtype=float)


@dataclass(frozen=True)
class Arrangement:
    """Which sites are occupied by what.

    Attributes:
        sites: One for each orbit of atoms.
        species: Index of each orbit's element.
    """

    sites: Sequence[Site]
    species: Sequence[int]


def random_arrangement(sites: Sequence[Site], counts: Sequence[int], rng: np.random.Generator) -> Arrangement | None:
    """Occupy sites at random so that every element gets its number of atoms.

    Sites without freedom are used at most once. The largest multiplicities that fit are as likely as the
    smallest.

    Args:
        sites: All sites of a space group.
        counts: Atoms of each element in the primitive cell.
        rng: Source of randomness.

    Returns:
        None if this draw came to a dead end.
    """
    free = list(sites)
    chosen: list[Site] = []
    species: list[int] = []
    for element in rng.permutation(len(counts)):
        remaining = counts[element]
        while remaining:
            multiplicities = sorted({s.multiplicity for s in free if s.multiplicity <= remaining})
            if not multiplicities:
                return None
            wanted = rng.choice(multiplicities)
            fitting = [i for i, site in enumerate(free) if site.multiplicity == wanted]
            index = int(rng.choice(fitting))
            chosen.append(free[index])
            species.append(int(element))
            remaining -= free[index].multiplicity
            if free[index].is_point:
                del free[index]
    return Arrangement(chosen, species)


def place(
    group: SpaceGroup,
    arrangement: Arrangement,
    lattice: FloatArray,
    separations: FloatArray,
    rng: np.random.Generator,
) -> tuple[FloatArray, IntArray] | None:
    """Put atoms on their sites at random and push overlapping ones apart, symmetry kept.

    Args:
        group: The space group.
        arrangement: Its occupied sites.
        lattice: Row vectors, angstrom, shape (3, 3).
        separations: Least distance of each pair of elements, angstrom, shape (elements, elements).
        rng: Source of randomness.

    Returns:
        Fractional coordinates (atoms, 3) and the element index of each atom; None if atoms still overlap
        after `MAX_PUSHES`.
    """
    orbit = np.repeat(np.arange(len(arrangement.sites)), [s.multiplicity for s in arrangement.sites])
    operation = np.concatenate([site.operations for site in arrangement.sites])
    species = np.array(arrangement.species)[orbit]
    allowed = separations[np.ix_(species, species)]
    edges = np.linalg.norm(_CELLS[1:] @ lattice, axis=1).min()
    if edges < allowed.diagonal().max():
        return None
    projectors = np.array([site.projector for site in arrangement.sites])
    origins = np.array([site.origin for site in arrangement.sites])
    points = origins + np.einsum("oij,oj->oi", projectors, rng.uniform(0, 1, origins.shape))
    rotations, translations = group.rotations[operation], group.translations[operation]
    inverses = np.linalg.inv(rotations)
    sizes = np.bincount(orbit)[:, None]
    for _ in range(MAX_PUSHES):
        coords = np.einsum("nij,nj->ni", rotations, points[orbit]) + translations  # (atoms, 3)
        pushes = _pushes(coords, lattice, allowed)
        if pushes is None:
            return coords - np.floor(coords), species
        back = np.einsum("nij,nj->ni", inverses, pushes @ np.linalg.inv(lattice))
        moves = np.zeros_like(points)
        np.add.at(moves, orbit, back)
        moves = np.einsum("oij,oj->oi", projectors, moves / sizes)
        if np.abs(moves).max() < 1e-7:
            return None  # symmetry holds the overlapping atoms where they are
        points = points + moves
    return None


def _pushes(coords: FloatArray, lattice: FloatArray, allowed: FloatArray) -> FloatArray | None:
    """Cartesian push on each atom (atoms, 3), angstrom; None if no pair is too near.

    Each of two atoms at distance r below d moves by sqrt(d^2 - r^2) / 2 along their line: a stronger push
    for slight overlaps than the linear d - r, which settles dense cells in fewer iterations.
    """
    apart = coords[:, None] - coords  # (atoms, atoms, 3)
    apart -= np.rint(apart)
    vectors = (apart[:, :, None] + _CELLS) @ lattice  # (atoms, atoms, cells, 3)
    squared = np.einsum("abci,abci->abc", vectors, vectors)
    squared[np.arange(len(coords)), np.arange(len(coords)), 0] = np.inf
    gap = allowed[:, :, None] ** 2 - squared
    if not (gap > 1e-6).any():
        return None
    weight = 0.5 * STEP * np.sqrt(np.clip(gap, 0, None)) / np.sqrt(np.clip(squared, 1e-4, None))
    return np.asarray(np.einsum("abc,abci->ai", weight, vectors))
