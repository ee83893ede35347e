"""Neighbours of atoms, and a fingerprint of a crystal made of them."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure
from pymatgen.optimization.neighbors import find_points_in_spheres

FloatArray = NDArray[np.float64]

REACH = 2.5
"""Pairs count up to this many times the cube root of the volume per atom."""

BINS = 25
WIDTH = 2.0
"""Of the Gaussians, in bins."""


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


def fingerprint(structure: Structure) -> FloatArray:
    """Smoothed counts of neighbours by distance for each pair of elements, the same for every cell of a crystal.

    Distances are in units of the cube root of the volume per atom, so that a change of scale does not matter.

    Returns:
        Elements in alphabetical order, pairs of them, `BINS` numbers each.
    """
    scale = (structure.volume / len(structure)) ** (1 / 3)
    symbols = np.array([site.specie.symbol for site in structure])
    centers, neighbors, distances = neighbour_pairs(
        structure.lattice.matrix, structure.cart_coords, (REACH + 0.3) * scale
    )
    edges = np.linspace(0, REACH, BINS)
    rows = []
    for a, b in combinations_with_replacement(sorted({*symbols.tolist()}), 2):
        own = (symbols[centers] == a) & (symbols[neighbors] == b)
        reduced = distances[own] / scale
        weights = np.exp(-0.5 * ((reduced[:, None] - edges) / (WIDTH * REACH / BINS)) ** 2)
        rows.append((weights / np.maximum(reduced[:, None], 0.1) ** 2).sum(axis=0) / (symbols == a).sum())
    return np.concatenate(rows)


def difference(first: FloatArray, second: FloatArray) -> float:
    """Distance of two fingerprints relative to their mean length; infinite if their elements differ in number."""
    if first.shape != second.shape:
        return float("inf")
    return float(2 * np.linalg.norm(first - second) / (np.linalg.norm(first) + np.linalg.norm(second)))
