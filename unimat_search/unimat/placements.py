"""Where a space group puts a crystal's atoms: its setting in the Niggli-reduced cell, and the site of each orbit.

Column vectors throughout, as in `airss.symmetry`, whose tables of groups and sites are used. The operations of a space
group are tabulated in a primitive cell of its standard setting; a `Setting` says how the Niggli-reduced cell, which the
models know, lies in that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from unimat_search.airss.symmetry import TOLERANCE, Site, sites, space_group, wrapped
from unimat_search.unimat.orbits import SYMPREC, UPPER, Constraint, Orbits, constrain, fixed_lattice, metric_projector

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

GRID = 12
"""Origins that are tried as equivalent are multiples of 1/12 of the primitive cell's edges."""

CELL_TOLERANCE = 1e-3
"""Relative difference of metric tensors up to which a group allows a given cell."""

Basis = tuple[int, ...]
"""Row vectors of a cell in those of another, nine whole numbers."""

Occupied = tuple[tuple[int, int], ...]
"""Atomic number, and number of the site in `airss.symmetry.sites`, of each orbit, sorted."""


@dataclass(frozen=True)
class Setting:
    """A space group in a cell.

    Attributes:
        number: In the International Tables, 1 to 230.
        basis: Row vectors of the cell in those of the primitive cell of `airss.symmetry.space_group`.
    """

    number: int
    basis: Basis = (1, 0, 0, 0, 1, 0, 0, 0, 1)

    @cached_property
    def to_standard(self) -> FloatArray:
        """Fractional coordinates of the primitive cell from those of this one. (3, 3)."""
        return np.array(self.basis, dtype=float).reshape(3, 3).T

    @cached_property
    def rotations(self) -> IntArray:
        """W in this cell. (g, 3, 3)."""
        inverse = np.linalg.inv(self.to_standard)
        turned = inverse @ space_group(self.number).rotations @ self.to_standard
        return np.rint(turned).astype(np.int64)

    @cached_property
    def metrics(self) -> FloatArray:
        """See `orbits.metric_projector`. (6, 6)."""
        return metric_projector(self.rotations)

    def allows(self, cell: FloatArray) -> bool:
        """Whether the group leaves a cell of these row vectors (3, 3) as it is."""
        metric = (cell @ cell.T)[UPPER]
        return bool(np.abs(self.metrics @ metric - metric).max() < CELL_TOLERANCE * np.abs(metric).max())


@dataclass(frozen=True)
class Placement:
    """A space group in a setting, and the sites that atoms are on.

    Attributes:
        setting: The group.
        occupied: The sites.
    """

    setting: Setting
    occupied: Occupied

    @cached_property
    def numbers(self) -> IntArray:
        """Atomic numbers, orbit by orbit. (n,)."""
        table = sites(self.setting.number)
        return np.repeat([z for z, _ in self.occupied], [table[site].multiplicity for _, site in self.occupied])

    def orbits(self) -> tuple[FloatArray, Orbits]:
        """A point that each atom may be at (n, 3), and how far it may move from there."""
        table = sites(self.setting.number)
        parts = [_orbit(self.setting, table[site]) for _, site in self.occupied]
        lengths = [len(points) for points, _, _ in parts]
        owner = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
        points, moves, answers = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return points, Orbits(owner, moves, answers)


def _orbit(setting: Setting, site: Site) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Points (m, 3), moves and answers (m, 3, 3) of one orbit, in the setting's cell."""
    group, to_cell = space_group(setting.number), np.linalg.inv(setting.to_standard)
    points = (group.rotations[site.operations] @ site.origin + group.translations[site.operations]) @ to_cell.T
    rotations = to_cell @ group.rotations[site.operations] @ setting.to_standard
    projector = to_cell @ site.projector @ setting.to_standard
    basis = fixed_lattice(projector)
    answers = np.linalg.pinv(basis) @ projector @ np.linalg.inv(rotations) / site.multiplicity
    return points % 1.0, rotations @ basis, answers


def find_placement(
    cell: FloatArray, frac_coords: FloatArray, numbers: NDArray[np.uint8], symprec: float = SYMPREC
) -> Placement | None:
    """The space group of a crystal, and the site of each of its orbits; None where there is none in a primitive cell.

    Args:
        cell: Row vectors, angstrom, of a primitive cell. (3, 3)
        frac_coords: (n, 3)
        numbers: Atomic numbers. (n,)
        symprec: Tolerance, angstrom.
    """
    import spglib

    dataset = spglib.get_symmetry_dataset((cell, frac_coords, numbers), symprec=symprec)
    if dataset is None:
        return None
    number = int(dataset.number)
    to_primitive = np.linalg.inv(space_group(number).centring.T)
    to_standard = to_primitive @ dataset.transformation_matrix
    basis = np.rint(to_standard.T)
    if np.abs(basis - to_standard.T).max() > 1e-3 or round(abs(float(np.linalg.det(basis)))) != 1:
        return None
    points = frac_coords @ to_standard.T + to_primitive @ dataset.origin_shift
    _, first, sizes = np.unique(dataset.crystallographic_orbits, return_index=True, return_counts=True)
    occupied = [
        (int(numbers[k]), _nearest_site(number, points[k], int(size))) for k, size in zip(first, sizes, strict=True)
    ]
    if any(site is None for _, site in occupied):
        return None
    return Placement(
        Setting(number, tuple(int(x) for x in basis.ravel())),
        tuple(sorted((z, site) for z, site in occupied if site is not None)),
    )


@dataclass(frozen=True)
class _Points:
    """All positions of all sites of a group: of which site each is, one point of it, and what leads away from it."""

    site: IntArray
    multiplicity: IntArray
    origin: FloatArray
    across: FloatArray


@lru_cache(maxsize=256)
def _points(number: int) -> _Points:
    group, table = space_group(number), sites(number)
    owner = np.repeat(np.arange(len(table)), [site.multiplicity for site in table])
    rotations = np.concatenate([group.rotations[site.operations] for site in table])
    translations = np.concatenate([group.translations[site.operations] for site in table])
    origins = np.array([table[k].origin for k in owner])
    projectors = np.array([table[k].projector for k in owner])
    turned = rotations @ projectors @ np.linalg.inv(rotations)
    return _Points(
        owner,
        np.array([site.multiplicity for site in table])[owner],
        np.einsum("kxy,ky->kx", rotations, origins) + translations,
        np.eye(3) - turned,
    )


_SHIFTS = np.array(list(product((-1, 0, 1), repeat=3)))


def _distances(number: int, point: FloatArray) -> FloatArray:
    """How far a point is from each position of `_points`, in fractional coordinates. (k,)."""
    table = _points(number)
    apart = point - table.origin
    apart = (apart - np.rint(apart))[:, None] + _SHIFTS
    lengths = np.linalg.norm(apart @ table.across.swapaxes(1, 2), axis=-1)
    return np.asarray(lengths.min(1))


def _nearest_site(number: int, point: FloatArray, multiplicity: int) -> int | None:
    """The site of that multiplicity that a point is nearest to."""
    table = _points(number)
    distances = np.where(table.multiplicity == multiplicity, _distances(number, point), np.inf)
    return int(table.site[distances.argmin()]) if np.isfinite(distances).any() else None


def _site_at(number: int, point: FloatArray) -> int:
    """The most special site that a point is on."""
    table = _points(number)
    on = _distances(number, point) < 100 * TOLERANCE
    return int(table.site[np.flatnonzero(on)[table.multiplicity[on].argmin()]])


def _shift(number: int, turn: IntArray) -> FloatArray | None:
    """The first origin that makes a change of axes map a space group onto itself; None if there is none. (3,)."""
    found = _shifts(number, turn)
    return found[0] if len(found) else None


def _shifts(number: int, turn: IntArray) -> FloatArray:
    """All such origins on the grid. (k, 3)."""
    group = space_group(number)
    turned = np.rint(turn @ group.rotations @ np.linalg.inv(turn)).astype(int)
    same = (turned[:, None] == group.rotations).all((2, 3))
    if not same.any(1).all():
        return np.zeros((0, 3))
    wanted = group.translations[same.argmax(1)] - group.translations @ turn.T  # t - W' t, up to whole numbers
    grid = _origins()
    for rotation, target in zip(turned, wanted, strict=True):
        rest = grid - grid @ rotation.T - target
        grid = grid[np.abs(rest - np.rint(rest)).max(1) < 1e-4]
    return grid


@lru_cache(maxsize=1)
def _origins() -> FloatArray:
    """The grid. (GRID^3, 3)."""
    return np.array(list(product(range(GRID), repeat=3))) / GRID


@lru_cache(maxsize=1)
def _turns() -> IntArray:
    """Changes of axes that may leave a cell as it is. (k, 3, 3)."""
    matrices = np.array(list(product((-1, 0, 1), repeat=9)), dtype=np.int64).reshape(-1, 3, 3)
    unimodular: IntArray = matrices[np.abs(np.rint(np.linalg.det(matrices))) == 1]
    return unimodular


Permutation = tuple[int, ...]


def site_permutation(number: int, turn: IntArray, shift: FloatArray) -> Permutation:
    """The site that each site becomes under a change of axes and origin that maps the group onto itself."""
    generic = np.array([0.1234567, 0.2718281, 0.4142135])
    return tuple(
        _site_at(number, wrapped(turn @ (site.origin + site.projector @ generic) + shift)) for site in sites(number)
    )


@lru_cache(maxsize=256)
def equivalences(number: int) -> tuple[Permutation, ...]:
    """The ways to exchange sites that only describe a crystal from another origin, or along equal axes.

    They come of the group's Euclidean normaliser for a cell as general as the group allows.
    """
    group = space_group(number)
    draw = np.random.default_rng(0).normal(size=(3, 3))
    metric = group.symmetrised(draw @ draw.T + 3 * np.eye(3))
    turns = _turns()
    turns = turns[np.abs(turns.transpose(0, 2, 1) @ metric @ turns - metric).max((1, 2)) < 1e-6]
    moves = {site_permutation(number, np.eye(3, dtype=int), shift) for shift in _shifts(number, np.eye(3, dtype=int))}
    found = set()
    for turn in turns:
        if (shift := _shift(number, turn)) is not None:
            first = site_permutation(number, turn, shift)
            found |= {tuple(move[site] for site in first) for move in moves}
    return tuple(sorted(found))


def canonical(number: int, occupied: Occupied) -> Occupied:
    """The least of all equivalent descriptions of the occupied sites."""
    if number == 1:
        return occupied
    return min(tuple(sorted((z, order[site]) for z, site in occupied)) for order in equivalences(number))


class Settings:
    """The settings met so far, each once: cells in which a group has the same operations up to the origin share one."""

    def __init__(self, known: Sequence[Setting] = ()) -> None:
        self._by_key: dict[tuple[int, bytes], list[Setting]] = {}
        self._found: dict[Setting, tuple[Setting, Permutation | None]] = {}
        for setting in known:
            self._by_key.setdefault(self._key(setting), []).append(setting)

    def standard(self, placement: Placement) -> Placement:
        """The placement in the setting that stands for its own, with the least description of its sites."""
        setting = placement.setting
        if setting not in self._found:
            self._found[setting] = self._find(setting)
        standing, order = self._found[setting]
        occupied = placement.occupied
        if order is not None:
            occupied = tuple(sorted((z, order[site]) for z, site in occupied))
        return Placement(standing, canonical(setting.number, occupied))

    def _find(self, setting: Setting) -> tuple[Setting, Permutation | None]:
        others = self._by_key.setdefault(self._key(setting), [])
        if setting.number <= 2 and not others:
            others.append(Setting(setting.number))  # any cell is as good for P1 and P-1
        for other in others:
            turn = np.rint(other.to_standard @ np.linalg.inv(setting.to_standard)).astype(int)
            if (shift := _shift(setting.number, turn)) is not None:
                return other, site_permutation(setting.number, turn, shift)
        others.append(setting)
        return setting, None

    @staticmethod
    def _key(setting: Setting) -> tuple[int, bytes]:
        """Equal for settings with the same rotations."""
        rotations = setting.rotations.reshape(-1, 9)
        return setting.number, rotations[np.lexsort(rotations.T)].tobytes()


def constraint_of(atoms: int, placements: Sequence[Placement | None]) -> Constraint:
    """What holds crystals of so many atoms, by rising atomic number, to placements; None holds a crystal to nothing."""
    groups, metrics, points, orbits = zip(*(_hold(atoms, one) for one in placements), strict=True)
    return constrain(groups, metrics, points, orbits)


def _hold(atoms: int, placement: Placement | None) -> tuple[int, FloatArray, FloatArray, Orbits]:
    if placement is None:
        free = np.tile(np.eye(3), (atoms, 1, 1))
        return 0, np.eye(6), np.zeros((atoms, 3)), Orbits(np.arange(atoms), free, free)
    return placement.setting.number, placement.setting.metrics, *placement.orbits()
