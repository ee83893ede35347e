"""Random cells: a shape within bounds that a space group allows, scaled to a volume and reduced."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unimat_search.airss.compiled import compiled, uniform

FloatArray = NDArray[np.float64]
StateArray = NDArray[np.uint64]

MAX_DRAWS = 1000


@compiled
def random_metric(
    state: StateArray,
    rotations: FloatArray,
    centring: FloatArray,
    uncentring: FloatArray,
    constraints: FloatArray,
    elongation: float,
    flatness: float,
    metric: FloatArray,
) -> bool:
    """The metric tensor of a random cell, of any volume.

    As AIRSS's buildcell (0.9.1) draws cells: one edge of the conventional cell is `elongation / 2`, one is uniform up
    to `1 - elongation / 2`, one lies between them, in random order; free angles are uniform; flat cells are drawn
    again. The average over the group then gives each crystal system its constraints.

    Args:
        state: Of the random numbers. (4,)
        rotations: Of the group in its primitive cell. (order, 3, 3)
        centring: Row vectors of the primitive cell in the conventional one. (3, 3)
        uncentring: Its inverse. (3, 3)
        constraints: Of a, b, c, alpha, beta, gamma: 0 is free, -1 equal among those marked so; an angle in degrees.
        elongation: Near 0 allows any edges, 1 makes them equal (CONS).
        flatness: Least volume of the cell with its edges scaled to one (ACONS).
        metric: Takes the result. (3, 3)

    Returns:
        Whether a cell was found.
    """
    low = 0.5 * elongation
    conventional, primitive, averaged = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    edges, cosines = np.empty(3), np.empty(3)
    for _ in range(MAX_DRAWS):
        second = low + (1 - 2 * low) * uniform(state)
        third = low + (second - low) * uniform(state)
        first = int(3 * uniform(state))
        turn = 1 if uniform(state) < 0.5 else 2
        edges[first], edges[(first + turn) % 3], edges[(first + 2 * turn) % 3] = low, second, third
        tied = -1.0
        for k in range(3):
            if constraints[k] < 0:
                tied = edges[k] if tied < 0 else tied
                edges[k] = tied
        tied = -1.0
        for k in range(3):
            angle = 180 * uniform(state)
            if constraints[3 + k] > 0:
                angle = constraints[3 + k]
            elif constraints[3 + k] < 0:
                tied = angle if tied < 0 else tied
                angle = tied
            cosines[k] = np.cos(np.pi / 180 * angle)
        for i in range(3):
            for j in range(3):
                conventional[i, j] = edges[i] * edges[j] * (1.0 if i == j else cosines[3 - i - j])
        congruent(centring, conventional, primitive)
        average(rotations, primitive, averaged)
        congruent(uncentring, averaged, conventional)
        diagonal = conventional[0, 0] * conventional[1, 1] * conventional[2, 2]
        if determinant(conventional) > flatness * flatness * diagonal:
            copy(averaged, metric)
            return True
    return False


@compiled
def average(rotations: FloatArray, metric: FloatArray, out: FloatArray) -> None:
    """The mean of W^T G W over rotations W. (order, 3, 3), (3, 3) -> (3, 3)."""
    for i in range(3):
        for j in range(3):
            total = 0.0
            for g in range(len(rotations)):
                for k in range(3):
                    for n in range(3):
                        total += rotations[g, k, i] * metric[k, n] * rotations[g, n, j]
            out[i, j] = total / len(rotations)


@compiled
def congruent(a: FloatArray, m: FloatArray, out: FloatArray) -> None:
    """A m a^T, all (3, 3)."""
    for i in range(3):
        for j in range(3):
            total = 0.0
            for k in range(3):
                for n in range(3):
                    total += a[i, k] * m[k, n] * a[j, n]
            out[i, j] = total


@compiled
def multiply(a: FloatArray, b: FloatArray, out: FloatArray) -> None:
    """A b, all (3, 3)."""
    for i in range(3):
        for j in range(3):
            out[i, j] = a[i, 0] * b[0, j] + a[i, 1] * b[1, j] + a[i, 2] * b[2, j]


@compiled
def transform(m: FloatArray, x: float, y: float, z: float, out: FloatArray) -> None:
    """M v for a matrix (3, 3) and a vector (3,)."""
    for i in range(3):
        out[i] = m[i, 0] * x + m[i, 1] * y + m[i, 2] * z


@compiled
def copy(m: FloatArray, out: FloatArray) -> None:
    """A matrix (3, 3)."""
    for i in range(3):
        for j in range(3):
            out[i, j] = m[i, j]


@compiled
def inverse(m: FloatArray, out: FloatArray) -> None:
    """Of a matrix (3, 3)."""
    scale = 1 / determinant(m)
    for i in range(3):
        for j in range(3):
            a, b, c, d = (j + 1) % 3, (j + 2) % 3, (i + 1) % 3, (i + 2) % 3
            out[i, j] = scale * (m[a, c] * m[b, d] - m[a, d] * m[b, c])


@compiled
def determinant(m: FloatArray) -> float:
    """Of a matrix (3, 3)."""
    value: float = (
        m[0, 0] * (m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1])
        - m[0, 1] * (m[1, 0] * m[2, 2] - m[1, 2] * m[2, 0])
        + m[0, 2] * (m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0])
    )
    return value


@compiled
def lattice_of(metric: FloatArray, volume: float, lattice: FloatArray) -> None:
    """Row vectors of the cell with this metric's shape and this volume, lower triangular. All (3, 3)."""
    scale = (volume / np.sqrt(determinant(metric))) ** (1 / 3)
    for i in range(3):
        for j in range(3):
            rest = metric[i, j]
            for k in range(min(i, j)):
                rest -= lattice[i, k] * lattice[j, k]
            if i == j:
                lattice[i, i] = np.sqrt(rest)
            elif j < i:
                lattice[i, j] = rest / lattice[j, j]
            else:
                lattice[i, j] = 0.0
    for i in range(3):
        for j in range(3):
            lattice[i, j] *= scale


@compiled
def reduce_cell(lattice: FloatArray) -> None:
    """Replace the row vectors (3, 3) of a lattice by its shortest ones (Minkowski-reduced), in place.

    Their directions are not changed to make them right-handed.
    """
    changed = True
    while changed:
        changed = False
        for i in range(3):
            for j in range(3):
                if i == j:
                    continue
                length, along = 0.0, 0.0
                for c in range(3):
                    length += lattice[j, c] * lattice[j, c]
                    along += lattice[i, c] * lattice[j, c]
                if abs(along) > 0.5 * length * (1 + 1e-9):
                    times = np.rint(along / length)
                    for c in range(3):
                        lattice[i, c] -= times * lattice[j, c]
                    changed = True
        for corner in range(4):
            first, second = 1.0 - 2 * (corner & 1), 1.0 - (corner & 2)
            for i in range(3):
                j, k = (i + 1) % 3, (i + 2) % 3
                old, new = 0.0, 0.0
                for c in range(3):
                    old += lattice[i, c] ** 2
                    new += (lattice[i, c] + first * lattice[j, c] + second * lattice[k, c]) ** 2
                if new < old * (1 - 1e-9):
                    for c in range(3):
                        lattice[i, c] += first * lattice[j, c] + second * lattice[k, c]
                    changed = True


@compiled
def shortest_edge(lattice: FloatArray) -> float:
    """Length of a cell's shortest edge."""
    best = np.inf
    for i in range(3):
        length = lattice[i, 0] ** 2 + lattice[i, 1] ** 2 + lattice[i, 2] ** 2
        best = min(best, length)
    return float(np.sqrt(best))
