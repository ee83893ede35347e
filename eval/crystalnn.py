"""CrystalNN order-parameter fingerprints of crystals, as the benchmarks' coverage metrics take them.

The numbers of matminer's `CrystalNNFingerprint.from_preset("ops")` (Zimmermann and Jain, RSC Adv. 10, 6063 (2020); Pan
et al., Inorg. Chem. 60, 1590 (2021)), many times faster: faces of Voronoi cells and angles between
neighbours in arrays.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pymatgen.analysis.local_env import DEFAULT_OP_PARAMS, CovalentRadius
from pymatgen.core import Element, Structure
from pymatgen.optimization.neighbors import find_points_in_spheres
from scipy.spatial import QhullError, Voronoi

from unimat_search.eval.motifs import Angles, Parameters, likeness

FloatArray = NDArray[np.float64]

REACH = 7.0
"""Atoms that a Voronoi cell is made of, angstrom; twice as far where it stays open."""

NEAR, FAR = 0.5, 1.0
"""Angstrom beyond the sum of covalent radii: up to the first a neighbour counts whole, from the second not at all."""

IONICITY = 3.0
"""Weight of the difference in electronegativity; `MOST_IONIC` is the largest one."""

MOST_IONIC = 3.3
LARGEST_CN = 24
LENGTH = 61
"""Of a fingerprint: 24 coordination numbers, 37 motifs."""


@dataclass(frozen=True)
class Site:
    """A site and its neighbours.

    Attributes:
        vectors: From the site to them, angstrom. (k, 3)
        weights: CrystalNN's, in (0, 1], falling, to three digits. (k,)
    """

    vectors: FloatArray
    weights: Sequence[float]


def crystal_fingerprint(structure: Structure) -> FloatArray:
    """The mean of the fingerprints of all sites. (61,).

    Raises:
        ValueError: If a site has no Voronoi cell: atoms on top of each other, or nothing around.
    """
    return np.asarray(site_fingerprints(structure).mean(axis=0))


def site_fingerprints(structure: Structure) -> FloatArray:
    """For each coordination number its likelihood, and that times the site's likeness to each motif of it. (n, 61)."""
    return np.array([_fingerprint(site) for site in coordination(structure)])


def coordination(structure: Structure) -> list[Site]:
    """The neighbours of each site, weighted by solid angle, porosity, electronegativity and distance as CrystalNN does.

    Raises:
        ValueError: As `crystal_fingerprint`.
    """
    numbers = np.array([site.specie.Z for site in structure])
    radius, attraction = _element_tables()
    sites = []
    for center in range(len(structure)):
        vectors, kinds, angles, areas = _voronoi_cell(structure, center)
        distances = np.linalg.norm(vectors, axis=1)
        weights = angles / angles.max() * angles / areas
        ionic = np.sqrt(np.abs(attraction[numbers[center]] - attraction[numbers[kinds]]) / MOST_IONIC)
        weights *= 1 + IONICITY * np.nan_to_num(ionic)
        reach = np.clip((distances - radius[numbers[center]] - radius[numbers[kinds]] - NEAR) / (FAR - NEAR), 0, 1)
        weights = weights / weights.max() * (np.cos(np.pi * reach) + 1) / 2
        if not np.isfinite(weights).all():
            raise ValueError("a face of a Voronoi cell has no area")
        order = np.argsort(-weights, kind="stable")
        rounded = [round(float(weight), 3) for weight in weights[order]]
        kept = sum(weight > 0 for weight in rounded)
        sites.append(Site(vectors[order[:kept]], rounded[:kept]))
    return sites


def _voronoi_cell(structure: Structure, center: int) -> tuple[FloatArray, NDArray[np.int_], FloatArray, FloatArray]:
    """Vectors to the neighbours across the faces of a site's cell, their indices, solid angles and areas of the faces.

    (k, 3), (k,), (k,), (k,).
    """
    lattice = structure.lattice.matrix
    corners = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]]) @ lattice
    farthest = float(np.linalg.norm(corners, axis=1).max()) + 0.01
    reach = REACH
    while True:
        vectors, kinds = _surroundings(structure, center, reach)
        try:
            faces = _faces(vectors)
            break
        except (ValueError, QhullError) as error:
            if reach >= farthest:
                raise ValueError(f"site {center} has no Voronoi cell") from error
            reach = min(2 * reach, farthest + 0.001)
    neighbour, angles, areas = faces
    return vectors[neighbour], kinds[neighbour], angles, areas


def _surroundings(structure: Structure, center: int, reach: float) -> tuple[FloatArray, NDArray[np.int_]]:
    """Vectors from a site to all atoms within a distance, itself first, and their indices. (p, 3), (p,)."""
    lattice = np.ascontiguousarray(structure.lattice.matrix)
    coords = np.ascontiguousarray(structure.cart_coords)
    _, found, images, distances = find_points_in_spheres(
        coords, coords[[center]], r=reach, pbc=np.ones(3, dtype=np.int64), lattice=lattice, tol=1e-8
    )
    order = np.argsort(distances, kind="stable")
    vectors = coords[found[order]] + images[order] @ lattice - coords[center]
    return vectors, found[order]


def _faces(points: FloatArray) -> tuple[NDArray[np.int_], FloatArray, FloatArray]:
    """Across each face of the first point's cell: the other point, the face's solid angle and area. (k,) each.

    Raises:
        ValueError: If the cell is open.
    """
    cell = Voronoi(points)
    mine = np.flatnonzero((cell.ridge_points == 0).any(axis=1))
    neighbour = cell.ridge_points[mine].sum(axis=1)
    rings = [cell.ridge_vertices[ridge] for ridge in mine]
    if not rings or any(-1 in ring for ring in rings):
        raise ValueError("the cell is open")
    fans = np.array([(face, ring[0], i, j) for face, ring in enumerate(rings) for i, j in pairwise(ring[1:])])
    a, b, c = (cell.vertices[fans[:, corner]] for corner in (1, 2, 3))  # (t, 3) each
    product = np.abs(np.einsum("tx,tx->t", a, np.cross(b, c)))
    ra, rb, rc = (np.linalg.norm(corner, axis=1) for corner in (a, b, c))
    cosines = ra * rb * rc + rc * (a * b).sum(1) + rb * (a * c).sum(1) + ra * (b * c).sum(1)
    angles = np.arctan2(product, cosines)  # of a triangle: van Oosterom and Strackee (1983)
    solid, volumes = np.zeros(len(rings)), np.zeros(len(rings))
    np.add.at(solid, fans[:, 0], 2 * np.where(angles > 0, angles, np.pi))
    np.add.at(volumes, fans[:, 0], product / 6)
    areas: FloatArray = 6 * volumes / np.linalg.norm(points[neighbour], axis=1)
    return np.asarray(neighbour), solid, areas


def _fingerprint(site: Site) -> FloatArray:
    """Of one site. (61,)."""
    likelihoods = _likelihoods(site.weights)
    numbers: list[float] = []
    for cn in range(1, LARGEST_CN + 1):
        likelihood = likelihoods.get(cn, 0.0)
        numbers.append(likelihood)
        motifs = _motifs().get(cn, ())
        if likelihood and motifs:
            angles = Angles.of(site.vectors[:cn])
            numbers += [likelihood * likeness(motif, parameters, angles) for motif, parameters in motifs]
        else:
            numbers += [0.0] * len(motifs)
    return np.array(numbers)


def _likelihoods(weights: Sequence[float]) -> dict[int, float]:
    """How likely a site has each coordination number, from the gaps between weights: areas under a quarter circle."""
    steps = [*dict.fromkeys(weights), 0.0]
    return {
        sum(weight >= high for weight in weights): (_circle(high) - _circle(low)) * 4 / math.pi
        for high, low in pairwise(steps)
    }


def _circle(x: float) -> float:
    """Area under the unit circle from 0 to x."""
    return 0.25 * math.pi if x == 1 else 0.5 * (x * math.sqrt(1 - x * x) + math.asin(x))


@cache
def _motifs() -> dict[int, list[tuple[str, Parameters | None]]]:
    """Motifs and their parameters by coordination number, as matminer lists them; pymatgen's where it has none."""
    from matminer.featurizers.site.fingerprint import load_cn_motif_op_params, load_cn_target_motif_op

    listed = load_cn_motif_op_params()
    motifs: dict[int, list[tuple[str, Parameters | None]]] = {}
    for cn, names in load_cn_target_motif_op().items():
        known = [listed.get(cn, {}).get(name, [name]) for name in names]
        motifs[cn] = [(one[0], dict(one[1]) if len(one) > 1 else DEFAULT_OP_PARAMS[one[0]]) for one in known]
    return motifs


@cache
def _element_tables() -> tuple[FloatArray, FloatArray]:
    """Covalent radius (atomic where there is none, angstrom) and electronegativity by atomic number, NaN if unknown."""
    radius, attraction = np.full(119, np.nan), np.full(119, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for z in range(1, 119):
            element = Element.from_Z(z)
            known = CovalentRadius.radius.get(element.symbol, element.atomic_radius)
            radius[z] = np.nan if known is None else float(known)
            attraction[z] = element.X
    return radius, attraction
