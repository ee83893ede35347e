"""How like a site's neighbours are to coordination motifs: order parameters, 0 (unlike) to 1 (like).

Zimmermann et al., Front. Mater. 4, 34 (2017), after Peters, J. Chem. Phys. 131, 244103 (2009), with the parameters and
the choices of pymatgen's `LocalStructOrderParams`; Steinhardt, Nelson and Ronchetti, Phys. Rev. B 28, 784 (1983).

One neighbour j is put at the north pole, another, k, on the prime meridian; theta is a neighbour's polar angle, phi the
azimuth of a third one, m. A motif says what theta_k, theta_m and phi should be; the best choice of j and k counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Parameters = Mapping[str | int, float]

ALIGNED = 1e-12
"""Sine of an angle under which a vector lies on the polar axis, and has no azimuth."""


@dataclass(frozen=True)
class Angles:
    """Angles between the neighbours of a site.

    Attributes:
        cosines: Of the angles between neighbours. (n, n)
        theta: Polar angle of each neighbour (column), another one (row) at the pole. (n, n)
        phi: Azimuth of m against k with j at the pole, 0 to pi; 0 where m is on the axis. (n, n, n) of j, k, m
        pair: Whether k is another neighbour than j. (n, n)
        third: Whether m is a third neighbour, and k not on the axis. (n, n, n)
        azimuth: `third`, and m not on the axis either. (n, n, n)
    """

    cosines: FloatArray
    theta: FloatArray
    phi: FloatArray
    pair: NDArray[np.bool_]
    third: NDArray[np.bool_]
    azimuth: NDArray[np.bool_]

    @classmethod
    def of(cls, vectors: FloatArray) -> Angles:
        """Of the vectors from a site to its neighbours. (n, 3)."""
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = np.clip(unit @ unit.T, -1.0, 1.0)
        across = unit - cosines[:, :, None] * unit[:, None]  # (j, k, 3): k's part perpendicular to j
        sines = np.linalg.norm(across, axis=2)
        off_axis = sines >= ALIGNED
        across /= np.where(off_axis, sines, 1.0)[:, :, None]
        phi = np.arccos(np.clip(across @ across.transpose(0, 2, 1), -1.0, 1.0))
        pair = ~np.eye(len(unit), dtype=bool)
        third = (pair & off_axis)[:, :, None] & pair[:, None] & pair
        azimuth = third & off_axis[:, None]
        return cls(cosines, np.arccos(cosines), np.where(azimuth, phi, 0.0), pair, third, azimuth)


def likeness(motif: str, parameters: Parameters | None, angles: Angles) -> float:
    """How like the neighbours are to a motif of as many.

    Args:
        motif: A key of `MOTIFS`, or "q2", "q4" or "q6".
        parameters: Of the motif, as pymatgen names them.
        angles: Of the neighbours.
    """
    if motif in MOTIFS:
        return MOTIFS[motif](parameters or {}, angles)
    return steinhardt(int(motif.removeprefix("q")), angles)


def steinhardt(order: int, angles: Angles) -> float:
    """Bond orientational order q_l: by the addition theorem the root of the mean P_l of the angles between bonds."""
    polynomial = legendre.legval(angles.cosines, [0.0] * order + [1.0])
    return math.sqrt(max(0.0, float(polynomial.mean())))


def _single(_: Parameters, __: Angles) -> float:
    return 1.0


def _bent(p: Parameters, angles: Angles) -> float:
    return float(_peak(angles.theta, p["TA"], p["IGW_TA"])[angles.pair].mean())


def _polygon(p: Parameters, angles: Angles) -> float:
    """All neighbours at one angle from the pole: triangle, tetrahedron."""
    near = _peak(angles.theta, p["TA"], p["IGW_TA"])
    return _best(angles, near, near[:, None] * _folds(p, angles))


def _pentagon(p: Parameters, angles: Angles) -> float:
    at = np.where(angles.theta <= p["TA"] * np.pi, 0.4, 0.8)
    near = _peak(angles.theta, at, p["IGW_TA"])
    return _best(angles, near, near[:, None] * np.cos(angles.phi) ** 2)


def _pyramid(p: Parameters, angles: Angles) -> float:
    """All but the pole on the equator, at equal azimuths."""
    near = _peak(angles.theta, 0.5, p["IGW_EP"])
    return _best(angles, near, near[:, None] * _folds(p, angles))


def _bipyramid(p: Parameters, angles: Angles) -> float:
    """One at the south pole, the others on the equator at equal azimuths."""
    return _poles_and_equator(p, angles, _peak(angles.theta, 0.5, p["IGW_EP"]))


def _hexagon(p: Parameters, angles: Angles) -> float:
    """A plane through the poles."""
    off_equator = np.abs(angles.theta / np.pi - 0.5)
    return _poles_and_equator(p, angles, np.exp(-0.5 * (p["IGW_TA"] * (off_equator - p["TA"])) ** 2))


def _rectangular_see_saw(p: Parameters, angles: Angles) -> float:
    near = _peak(angles.theta, 0.5, p["IGW_EP"])
    return _poles_and_equator(p, angles, near, angles.phi < 0.75 * np.pi)


def _poles_and_equator(
    p: Parameters, angles: Angles, near: FloatArray, allowed: NDArray[np.bool_] | None = None
) -> float:
    """`near` says how near the equator a neighbour is; those beyond min_SPP should be at the south pole. (n, n)."""
    south = angles.theta >= p["min_SPP"]
    at_south = np.broadcast_to(south[:, None], angles.phi.shape) & angles.third
    beside = ~south[:, :, None] & ~south[:, None] & angles.azimuth
    if allowed is not None:
        beside &= allowed
    others = np.where(at_south, _peak(angles.theta, 1.0, p["IGW_SPP"])[:, None], 0.0)
    others += np.where(beside, near[:, None] * _folds(p, angles), 0.0)
    counts = np.asarray(at_south, dtype=float) + np.asarray(beside, dtype=float)
    return _largest(angles, np.where(south, 0.0, near), (~south).astype(float), others, counts)


def _cuboctahedron(p: Parameters, angles: Angles) -> float:
    low, high = p[4], p[2]
    theta, far = angles.theta, angles.theta >= p["min_SPP"]
    first = np.where(far, p["w_SPP"] * _peak(theta, 1.0, p["IGW_SPP"]), 0.0)
    middle = ((low < theta) & (theta < high))[:, :, None] & ~far[:, None] & angles.azimuth
    azimuths = np.exp(-0.5 * (0.0556 * (np.cos(angles.phi - 0.5 * np.pi) - math.sqrt(2 / 3))) ** 2)
    theta_m = np.broadcast_to(theta[:, None], angles.phi.shape)
    equator, north, south = (low < theta_m) & (theta_m < high), theta_m < low, theta_m > high
    others = np.where(equator, np.cos(angles.phi) ** 2 * _peak(theta_m, 0.5, p[5]), 0.0)
    others += np.where(north, azimuths * _peak(theta_m, 1 / 3, p[6]), 0.0)
    others += np.where(south, azimuths * _peak(theta_m, 2 / 3, p[6]), 0.0)
    counted = middle & (equator | north | south)
    return _largest(
        angles, first, np.where(far, p["w_SPP"], 0.0), np.where(counted, others, 0.0), counted.astype(float)
    )


def _body_centred(p: Parameters, angles: Angles) -> float:
    n = len(angles.theta)
    far = angles.theta >= p["min_SPP"]
    once = np.triu(angles.pair)
    poles = (p["w_SPP"] * _peak(angles.theta, 1.0, p["IGW_SPP"]))[once & far].sum()
    tilt = (angles.theta - np.pi / 2) / math.asin(1 / 3)
    side = np.where(angles.theta > np.pi / 2, 1.0, -1.0)[:, :, None]
    others = side * np.cos(3 * angles.phi) * math.exp(0.5) * (tilt * np.exp(-0.5 * tilt**2))[:, None]
    beside = others[angles.azimuth & (once & ~far)[:, :, None]].sum()
    return float((poles + beside) / (0.5 * n * (6 + (n - 2) * (n - 3))))


def _peak(theta: FloatArray, at: float | FloatArray, width: float) -> FloatArray:
    """A Gaussian in theta / pi around `at`, of inverse width."""
    return np.asarray(np.exp(-0.5 * (width * (theta / np.pi - at)) ** 2))


def _folds(p: Parameters, angles: Angles) -> FloatArray:
    """Large where the azimuths are multiples of a part of the circle. (n, n, n)."""
    return np.asarray(np.cos(p["fac_AA"] * angles.phi) ** p["exp_cos_AA"])


def _best(angles: Angles, first: FloatArray, others: FloatArray) -> float:
    """The best pair of a motif to which all neighbours count. (n, n), (n, n, n)."""
    others = np.where(angles.azimuth, others, 0.0)
    return _largest(angles, first, np.ones_like(first), others, angles.azimuth.astype(float))


def _largest(
    angles: Angles, first: FloatArray, first_counts: FloatArray, others: FloatArray, counts: FloatArray
) -> float:
    """The largest mean over the pairs (j, k) of what k and the others m contribute."""
    total, count = first + others.sum(axis=2), first_counts + counts.sum(axis=2)
    means = np.divide(total, count, out=np.zeros_like(total), where=count > 1e-12)
    return float(means[angles.pair].max(initial=0.0))


MOTIFS: dict[str, Callable[[Parameters, Angles], float]] = {
    "sgl_bd": _single,
    "bent": _bent,
    "tri_plan_max": _polygon,
    "tet_max": _polygon,
    "pent_plan_max": _pentagon,
    **dict.fromkeys(("T", "tri_pyr", "sq_pyr", "pent_pyr", "hex_pyr"), _pyramid),
    **dict.fromkeys(("tri_bipyr", "pent_bipyr", "hex_bipyr", "oct_max", "sq_plan_max"), _bipyramid),
    "hex_plan_max": _hexagon,
    "see_saw_rect": _rectangular_see_saw,
    "cuboct_max": _cuboctahedron,
    "bcc": _body_centred,
}
"""By pymatgen's name."""
