"""Atoms pushed apart until every pair keeps its distance: the inner loop of random search, compiled.

A crystal is a set of orbits. The first atom of an orbit is moved; the others are its images under the group's
operations, `x = M X + t` in Cartesian coordinates, so that symmetry holds exactly at every step. A list of the pairs
that may come too near is made once for many steps (Verlet's). All lengths are angstrom.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unimat_search.airss.cell import average, determinant, inverse, transform
from unimat_search.airss.compiled import inner, uniform

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
StateArray = NDArray[np.uint64]

SKIN = 0.8
"""Pairs are listed up to this far beyond their least distance."""

MARGIN = 1.002
"""Pairs are pushed to this many times their least distance, so that the last step is not infinitely small."""

SHAKES = 10
"""Without gain, after which overlap counts as not to be relieved."""

LONGEST_STEP = 0.1
"""Of an atom while the overlap is relieved."""


class Crystal(NamedTuple):
    """Atoms in a cell under symmetry. n atoms, k orbits.

    Attributes:
        lattice: Row vectors, reduced. (3, 3)
        points: The atom of each orbit that is moved. (k, 3)
        projectors: Onto the directions in which its site lets it move. (k, 3, 3)
        sizes: Atoms of each orbit. (k,)
        movable: Whether it may be moved at all. (k,)
        orbit: Orbit of each atom, rising. (n,)
        species: Of each atom. (n,)
        rotations: M of each atom. (n, 3, 3)
        shifts: t of each atom. (n, 3)
        group: M of each operation of the group. (order, 3, 3)
    """

    lattice: FloatArray
    points: FloatArray
    projectors: FloatArray
    sizes: IntArray
    movable: NDArray[np.bool_]
    orbit: IntArray
    species: IntArray
    rotations: FloatArray
    shifts: FloatArray
    group: FloatArray


class Pairs(NamedTuple):
    """Pairs of an orbit's first atom with another atom, or with an image of itself.

    Attributes:
        first: Orbit. (capacity,) int32
        second: Atom. (capacity,) int32
        shift: Of the second atom's image. (capacity, 3)
        least: Least distance. (capacity,)
    """

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    shift: FloatArray
    least: FloatArray


@inner
def place_atoms(crystal: Crystal, atoms: FloatArray) -> None:
    """Positions of all atoms from those of the orbits' first ones. Writes (n, 3)."""
    for j in range(len(crystal.orbit)):
        point = crystal.points[crystal.orbit[j]]
        for c in range(3):
            atoms[j, c] = (
                crystal.rotations[j, c, 0] * point[0]
                + crystal.rotations[j, c, 1] * point[1]
                + crystal.rotations[j, c, 2] * point[2]
                + crystal.shifts[j, c]
            )


@inner
def list_pairs(crystal: Crystal, atoms: FloatArray, least: FloatArray, pairs: Pairs) -> int:
    """List every pair within its least distance and `SKIN`, each orbit's with itself and with later ones.

    Args:
        crystal: The crystal.
        atoms: Its atoms. (n, 3)
        least: Least distance of each pair of species.
        pairs: Takes the result.

    Returns:
        How many there are; -1 if they are more than there is room for.
    """
    n, count, first = len(atoms), 0, -1
    back, frac = np.empty((3, 3)), np.empty((n, 3))
    inverse(crystal.lattice, back)
    for j in range(n):
        for c in range(3):
            frac[j, c] = atoms[j, 0] * back[0, c] + atoms[j, 1] * back[1, c] + atoms[j, 2] * back[2, c]
    ax, ay, az = crystal.lattice[0]
    bx, by, bz = crystal.lattice[1]
    cx, cy, cz = crystal.lattice[2]
    planes_a = np.sqrt(back[0, 0] ** 2 + back[1, 0] ** 2 + back[2, 0] ** 2)  # of the lattice, in an angstrom
    planes_b = np.sqrt(back[0, 1] ** 2 + back[1, 1] ** 2 + back[2, 1] ** 2)
    planes_c = np.sqrt(back[0, 2] ** 2 + back[1, 2] ** 2 + back[2, 2] ** 2)
    for i in range(n):
        if crystal.orbit[i] == first:
            continue
        first = crystal.orbit[i]
        for j in range(i, n):
            distance = least[crystal.species[i], crystal.species[j]]
            reach = distance + SKIN
            a, b, c = frac[j, 0] - frac[i, 0], frac[j, 1] - frac[i, 1], frac[j, 2] - frac[i, 2]
            apart_x, apart_y, apart_z = atoms[j, 0] - atoms[i, 0], atoms[j, 1] - atoms[i, 1], atoms[j, 2] - atoms[i, 2]
            for p in range(int(np.ceil(-reach * planes_a - a)), int(np.floor(reach * planes_a - a)) + 1):
                px, py, pz = p * ax, p * ay, p * az
                for q in range(int(np.ceil(-reach * planes_b - b)), int(np.floor(reach * planes_b - b)) + 1):
                    qx, qy, qz = px + q * bx, py + q * by, pz + q * bz
                    for r in range(int(np.ceil(-reach * planes_c - c)), int(np.floor(reach * planes_c - c)) + 1):
                        x, y, z = qx + r * cx, qy + r * cy, qz + r * cz
                        square = (apart_x + x) ** 2 + (apart_y + y) ** 2 + (apart_z + z) ** 2
                        if square >= reach * reach or (i == j and p == 0 and q == 0 and r == 0):
                            continue
                        if count == len(pairs.first):
                            return -1
                        pairs.first[count], pairs.second[count], pairs.least[count] = first, j, distance
                        pairs.shift[count, 0], pairs.shift[count, 1], pairs.shift[count, 2] = x, y, z
                        count += 1
    return count


@inner
def push_apart(
    crystal: Crystal, least: FloatArray, pairs: Pairs, step: float, patience: int, budget: int
) -> tuple[bool, int]:
    """Move atoms until no pair is nearer than its least distance.

    Each atom of a pair at the distance r < d moves along their line by `step (d^2 - r^2) / (2 d)`, for all pairs at
    once, projected onto what its site allows.

    Args:
        crystal: Its points are moved.
        least: Least distance of each pair of species.
        pairs: Room for the pairs.
        step: See above.
        patience: Steps without 2 % less overlap after which it gives up.
        budget: Pairs looked at after which it gives up.

    Returns:
        Whether no pair is too near, and the pairs looked at.
    """
    n, k = len(crystal.orbit), len(crystal.sizes)
    atoms, start, pushes = np.empty((n, 3)), np.empty((k, 3)), np.empty((k, 3))
    best, since, work, count = np.inf, 0, 0, -1
    moved = np.inf
    while work < budget and since <= patience:
        place_atoms(crystal, atoms)
        if moved > 0.5 * SKIN:
            count = list_pairs(crystal, atoms, least, pairs)
            work += k * n
            if count < 0:
                return False, work
            _copy_rows(crystal.points, start)
        overlap = overlaps(crystal, atoms, pairs, count, step, pushes)
        work += count
        if overlap == 0.0:
            return True, work
        since = 0 if overlap < 0.98 * best else since + 1
        best = min(best, overlap)
        if move(crystal, pushes) < 1e-7:
            return False, work  # symmetry holds the overlapping atoms where they are
        moved = farthest(crystal.points, start)
    return False, work


@inner
def overlaps(crystal: Crystal, atoms: FloatArray, pairs: Pairs, count: int, step: float, pushes: FloatArray) -> float:
    """The pushes on the orbits' first atoms (k, 3), and the sum of d^2 - r^2 over the pairs that are too near."""
    _clear(pushes)
    total = 0.0
    for t in range(count):
        i, j, least = pairs.first[t], pairs.second[t], pairs.least[t]
        x = atoms[j, 0] - crystal.points[i, 0] + pairs.shift[t, 0]
        y = atoms[j, 1] - crystal.points[i, 1] + pairs.shift[t, 1]
        z = atoms[j, 2] - crystal.points[i, 2] + pairs.shift[t, 2]
        square = x * x + y * y + z * z
        if square >= least * least:
            continue
        total += least * least - square
        target = MARGIN * least
        weight = 0.5 * step * (target * target - square) / (target * (np.sqrt(square) + 1e-6))
        push_pair(crystal, i, j, weight * x, weight * y, weight * z, pushes)
    return total


@inner
def push_pair(crystal: Crystal, i: int, j: int, x: float, y: float, z: float, pushes: FloatArray) -> None:
    """Add a pair's push on atom j, and its opposite on the first atom of orbit i, to those of the first atoms."""
    pushes[i, 0] -= x
    pushes[i, 1] -= y
    pushes[i, 2] -= z
    other = crystal.orbit[j]
    if other == i:  # the pair stands in the list from both of its ends
        return
    share = crystal.sizes[i] / crystal.sizes[other]
    for c in range(3):
        turned = crystal.rotations[j, 0, c] * x + crystal.rotations[j, 1, c] * y + crystal.rotations[j, 2, c] * z
        pushes[other, c] += share * turned


@inner
def move(crystal: Crystal, pushes: FloatArray) -> float:
    """Move the orbits' first atoms as far as their sites allow; the largest component of all moves."""
    largest = 0.0
    for i in range(len(pushes)):
        if not crystal.movable[i]:
            continue
        for c in range(3):
            along = (
                crystal.projectors[i, c, 0] * pushes[i, 0]
                + crystal.projectors[i, c, 1] * pushes[i, 1]
                + crystal.projectors[i, c, 2] * pushes[i, 2]
            )
            crystal.points[i, c] += along
            largest = max(largest, abs(along))
    return largest


@inner
def farthest(points: FloatArray, start: FloatArray) -> float:
    """The longest way that a point has gone."""
    longest = 0.0
    for i in range(len(points)):
        square = 0.0
        for c in range(3):
            square += (points[i, c] - start[i, c]) ** 2
        longest = max(longest, square)
    return float(np.sqrt(longest))


@inner
def repulsion(
    crystal: Crystal, atoms: FloatArray, pairs: Pairs, count: int, forces: FloatArray, virial: FloatArray
) -> float:
    """Energy per atom of soft spheres; forces on the orbits' first atoms (k, 3), and the virial (3, 3).

    A pair's energy is 4 ((d/r)^12 - (d/r)^6) + 24 (r/d - 1) for r < d: Lennard-Jones's potential cut and force-shifted
    at its zero, in units of its depth.
    """
    _clear(forces)
    _clear(virial)
    energy = 0.0
    vector = np.empty(3)
    for t in range(count):
        i, j, least = pairs.first[t], pairs.second[t], pairs.least[t]
        square = 0.0
        for c in range(3):
            vector[c] = atoms[j, c] - crystal.points[i, c] + pairs.shift[t, c]
            square += vector[c] * vector[c]
        if square >= least * least:
            continue
        copies = crystal.sizes[i] * (0.5 if crystal.orbit[j] == i else 1.0)
        ratio = least / max(np.sqrt(square), 0.3 * least)
        sixth = ratio**6
        energy += copies * (4 * (sixth * sixth - sixth) + 24 * (1 / ratio - 1))
        force = ratio * (48 * sixth * sixth - 24 * sixth - 24 / ratio) / least  # along the line, outwards
        weight = force * ratio / least
        push_pair(crystal, i, j, weight * vector[0], weight * vector[1], weight * vector[2], forces)
        for a in range(3):
            for b in range(3):
                virial[a, b] += copies * weight * vector[a] * vector[b]
    return energy / len(atoms)


@inner
def relieve(
    crystal: Crystal, least: FloatArray, pairs: Pairs, limit: float, adapt: bool, budget: int
) -> tuple[float, int]:
    """Minimise the energy of soft spheres by FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201), at constant volume.

    Args:
        crystal: Its points are moved; its lattice and shifts too if the cell adapts.
        least: Diameter of the spheres of each pair of species.
        pairs: Room for the pairs.
        limit: Energy per atom that is low enough.
        adapt: Whether the cell's shape is free, as far as the group allows (CELLADAPT).
        budget: Pairs looked at after which it gives up.

    Returns:
        The energy per atom, infinite if there were too many pairs, and the pairs looked at.
    """
    n, k = len(crystal.orbit), len(crystal.sizes)
    atoms, start = np.empty((n, 3)), np.empty((k, 3))
    forces, velocities = np.empty((k, 3)), np.zeros((k, 3))
    virial, stress, stretching = np.empty((3, 3)), np.zeros((3, 3)), np.zeros((3, 3))
    size = abs(determinant(crystal.lattice)) ** (1 / 3)
    time, inertia, downhill, work, count = 0.02, 0.1, 0, 0, -1
    moved, bent, energy = np.inf, 0.0, np.inf
    while work < budget:
        place_atoms(crystal, atoms)
        if moved > 0.5 * SKIN:
            count = list_pairs(crystal, atoms, least, pairs)
            work += k * n
            if count < 0:
                return np.inf, work
            _copy_rows(crystal.points, start)
            bent = 0.0
        energy = repulsion(crystal, atoms, pairs, count, forces, virial)
        work += count
        if energy <= limit:
            return energy, work
        _project(crystal, forces)
        if adapt:
            _allowed_stress(crystal.group, virial, size, stress)
        power = _weighted(crystal, forces, velocities) + _inner(stress, stretching)
        force = _weighted(crystal, forces, forces) + _inner(stress, stress)
        speed = _weighted(crystal, velocities, velocities) + _inner(stretching, stretching)
        if force < 1e-6 * n:
            return energy, work
        if power > 0:
            mix = inertia * np.sqrt(speed / force)
            _blend(velocities, 1 - inertia, forces, mix)
            _blend(stretching, 1 - inertia, stress, mix)
            downhill += 1
            if downhill > 5:
                time, inertia = min(1.1 * time, 0.3), 0.99 * inertia
        else:
            _clear(velocities)
            _clear(stretching)
            time, inertia, downhill = 0.5 * time, 0.1, 0
        _blend(velocities, 1.0, forces, time)
        _blend(stretching, 1.0, stress, time)
        longest = max(_largest(velocities), _largest(stretching)) * time
        if longest > LONGEST_STEP:
            _blend(velocities, LONGEST_STEP / longest, forces, 0.0)
            _blend(stretching, LONGEST_STEP / longest, stress, 0.0)
        _blend(crystal.points, 1.0, velocities, time)
        if adapt:
            bent += _deform(crystal, stretching, time / size, pairs, count, start)
        moved = bent + farthest(crystal.points, start)
    return energy, work


@inner
def relieve_and_shake(
    state: StateArray,
    crystal: Crystal,
    least: FloatArray,
    pairs: Pairs,
    limit: float,
    adapt: bool,
    amplitude: float,
    budget: int,
) -> tuple[bool, int]:
    """Relieve the overlap; where that is not enough, shake the best so far and relieve again (RASH).

    Args:
        state: Of the random numbers.
        crystal: See `relieve`.
        least: Likewise.
        pairs: Likewise.
        limit: Energy per atom that is low enough (OVERLAP).
        adapt: See `relieve` (CELLADAPT).
        amplitude: Of the shakes; 0 for none. They end after ten without gain.
        budget: See `relieve`.

    Returns:
        Whether the energy is low enough, and the pairs looked at.
    """
    best, work = relieve(crystal, least, pairs, limit, adapt, budget)
    points, shifts, lattice = crystal.points.copy(), crystal.shifts.copy(), crystal.lattice.copy()
    vain = 0 if amplitude > 0 else SHAKES
    while best > limit and vain < SHAKES and work < budget:
        displacements = np.empty_like(points)
        for i in range(len(points)):
            random_in_sphere(state, amplitude, displacements[i])
        move(crystal, displacements)
        energy, used = relieve(crystal, least, pairs, limit, adapt, budget - work)
        work += used
        if energy < best:
            best, vain = energy, 0
            _copy_rows(crystal.points, points)
            _copy_rows(crystal.shifts, shifts)
            _copy_rows(crystal.lattice, lattice)
        else:
            vain += 1
            _copy_rows(points, crystal.points)
            _copy_rows(shifts, crystal.shifts)
            _copy_rows(lattice, crystal.lattice)
    return best <= limit, work


@inner
def random_in_sphere(state: StateArray, radius: float, out: FloatArray) -> None:
    """A point within a sphere around the origin. (3,)."""
    square = 2.0
    while square > 1:
        square = 0.0
        for c in range(3):
            out[c] = 2 * uniform(state) - 1
            square += out[c] * out[c]
    for c in range(3):
        out[c] *= radius


@inner
def _clear(rows: FloatArray) -> None:
    """Zeros. (m, 3)."""
    for i in range(len(rows)):
        for c in range(3):
            rows[i, c] = 0.0


@inner
def _copy_rows(rows: FloatArray, out: FloatArray) -> None:
    """(m, 3) -> (m, 3)."""
    for i in range(len(rows)):
        for c in range(3):
            out[i, c] = rows[i, c]


@inner
def _blend(rows: FloatArray, keep: float, others: FloatArray, add: float) -> None:
    """`keep` times rows and `add` times others, in place of the former. (m, 3)."""
    for i in range(len(rows)):
        for c in range(3):
            rows[i, c] = keep * rows[i, c] + add * others[i, c]


@inner
def _inner(a: FloatArray, b: FloatArray) -> float:
    """Sum of the products. (m, 3)."""
    total = 0.0
    for i in range(len(a)):
        for c in range(3):
            total += a[i, c] * b[i, c]
    return total


@inner
def _weighted(crystal: Crystal, a: FloatArray, b: FloatArray) -> float:
    """Sum of the products over all atoms. (k, 3)."""
    total = 0.0
    for i in range(len(a)):
        for c in range(3):
            total += crystal.sizes[i] * a[i, c] * b[i, c]
    return total


@inner
def _largest(rows: FloatArray) -> float:
    """The largest number but for its sign. (m, 3)."""
    largest = 0.0
    for i in range(len(rows)):
        for c in range(3):
            largest = max(largest, abs(rows[i, c]))
    return largest


@inner
def _project(crystal: Crystal, forces: FloatArray) -> None:
    """Keep the part of the forces (k, 3) that the sites allow."""
    allowed = np.empty(3)
    for i in range(len(forces)):
        transform(crystal.projectors[i], forces[i, 0], forces[i, 1], forces[i, 2], allowed)
        for c in range(3):
            forces[i, c] = allowed[c] if crystal.movable[i] else 0.0


@inner
def _allowed_stress(group: FloatArray, virial: FloatArray, size: float, stress: FloatArray) -> None:
    """The part of a virial without trace that all operations leave as it is, by a length. (order, 3, 3), (3, 3)."""
    average(group, virial, stress)
    trace = (stress[0, 0] + stress[1, 1] + stress[2, 2]) / 3
    for a in range(3):
        stress[a, a] -= trace
        for b in range(3):
            stress[a, b] /= size


@inner
def _deform(
    crystal: Crystal, stretching: FloatArray, time: float, pairs: Pairs, count: int, start: FloatArray
) -> float:
    """Stretch everything by 1 + time * stretching at constant volume; how far that brings listed pairs together."""
    stretch, widest = np.empty((3, 3)), 0.0
    for a in range(3):
        for b in range(3):
            stretch[a, b] = time * stretching[a, b] + (1.0 if a == b else 0.0)
    scale = determinant(stretch) ** (-1 / 3)
    _blend(stretch, scale, stretch, 0.0)
    _stretch(crystal.lattice, 3, stretch)
    _stretch(crystal.points, len(crystal.points), stretch)
    _stretch(crystal.shifts, len(crystal.shifts), stretch)
    _stretch(start, len(start), stretch)
    _stretch(pairs.shift, count, stretch)
    for t in range(count):
        widest = max(widest, pairs.least[t])
    return 3 * time * _largest(stretching) * (widest + SKIN)


@inner
def _stretch(rows: FloatArray, count: int, stretch: FloatArray) -> None:
    """Row vectors times a matrix (3, 3), in place."""
    for i in range(count):
        x, y, z = rows[i, 0], rows[i, 1], rows[i, 2]
        for c in range(3):
            rows[i, c] = x * stretch[0, c] + y * stretch[1, c] + z * stretch[2, c]
