"""Random structures of one cell composition, many at once: settings and wishes into arrays, arrays into structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.airss.build import Built, Plan, Room, Wanted, build, make_room
from unimat_search.airss.compiled import random_state
from unimat_search.airss.occupation import occupations
from unimat_search.airss.settings import BuildSettings
from unimat_search.airss.symmetry import group_table
from unimat_search.records import FailedAttempt

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


MOST_ATOMS = 1000


@dataclass(frozen=True)
class Wish:
    """What one structure is to be like.

    Attributes:
        rng: Its source of randomness.
        volumes: Smallest and largest volume of the cell, cubic angstrom.
        separations: Least distance of each pair of elements, angstrom; 0 for none. (e, e)
        lattice: A given cell, row vectors, angstrom (3, 3); None for a random one.
        points: Given fractional coordinates in P1, atoms by element, NaN for atoms that start anywhere (n, 3); None
            if all do.
        moves: Displacements from there, Cartesian, angstrom. (n, 3); None for none.
        movable: Atoms that overlaps move. (n,); None if all are.
    """

    rng: np.random.Generator
    volumes: tuple[float, float]
    separations: FloatArray
    lattice: FloatArray | None = None
    points: FloatArray | None = None
    moves: FloatArray | None = None
    movable: tuple[bool, ...] | None = None

    @property
    def placed(self) -> tuple[bool, ...] | None:
        """Atoms that start at a given point. (n,); None if none does."""
        return None if self.points is None else tuple((~np.isnan(self.points[:, 0])).tolist())


def build_structures(
    symbols: Sequence[str],
    counts: Sequence[int],
    wishes: Sequence[Wish],
    settings: BuildSettings,
) -> list[Structure | FailedAttempt]:
    """A structure for each wish, or why there is none; they do not depend on each other.

    Args:
        symbols: Of the elements.
        counts: Atoms of each in the cell.
        wishes: One for each structure, with separations in the order of `symbols`.
        settings: How they are built.

    Raises:
        ValueError: If atoms are placed under symmetry.
    """
    if not wishes:
        return []
    if sum(counts) > MOST_ATOMS:
        return [FailedAttempt(f"{sum(counts)} atoms are too many; {MOST_ATOMS} are the most in one cell")] * len(wishes)
    kept = 0.0 if settings.slack_growth else 1 - settings.slack
    problems = [packing_problem(symbols, counts, wish, kept) for wish in wishes]
    first = wishes[0]
    plan = make_plan(tuple(counts), settings, first.lattice is not None, first.placed, first.movable)
    if plan is None:
        reason = f"no space group has sites for {_formula(symbols, counts)} with {settings.describe() or 'P1'}"
        return [FailedAttempt(problem or reason) for problem in problems]
    possible = [wish for wish, problem in zip(wishes, problems, strict=True) if not problem]
    built = build_arrays(plan, possible)
    results = iter(
        _structure(symbols, lattice, coords, species)
        if group >= 0
        else FailedAttempt(f"no room for {_formula(symbols, counts)} in {work:.1e} pairs of atoms looked at")
        for group, lattice, coords, species, work in zip(
            built.groups, built.lattices, built.coords, built.species, built.work, strict=True
        )
    )
    return [FailedAttempt(problem) if problem else next(results) for problem in problems]


@cache
def load_builder() -> None:
    """Load the compiled builder, or compile it on the first use on a machine, so that no structure's time counts it."""
    wish = Wish(np.random.default_rng(0), (8.0, 9.0), np.ones((1, 1)))
    build_structures(["H"], [1], [wish], BuildSettings())


def build_arrays(plan: Plan, wishes: Sequence[Wish]) -> Built:
    """The compiled builder on a batch of wishes."""
    b, n = len(wishes), len(plan.species)
    elements = int(plan.species.max()) + 1
    wanted = Wanted(
        states=np.array([random_state(wish.rng) for wish in wishes], dtype=np.uint64).reshape(b, 4),
        volumes=np.array([wish.volumes for wish in wishes], dtype=float).reshape(b, 2),
        least=np.array([wish.separations for wish in wishes], dtype=float).reshape(b, elements, elements),
        lattices=_stacked([wish.lattice for wish in wishes]),
        points=_stacked([wish.points for wish in wishes]),
        moves=_stacked([wish.moves for wish in wishes]),
    )
    built = Built(
        groups=np.zeros(b, dtype=np.int64),
        slacks=np.zeros(b),
        work=np.zeros(b, dtype=np.int64),
        lattices=np.zeros((b, 3, 3)),
        coords=np.zeros((b, n, 3)),
        species=np.zeros((b, n), dtype=np.int64),
    )
    build(plan, wanted, _room(n), built)
    return built


def _stacked(arrays: Sequence[FloatArray | None]) -> FloatArray:
    """(b, m, 3), m = 0 where there are none."""
    rows = [np.zeros((0, 3)) if array is None else array for array in arrays]
    return np.stack(rows) if rows else np.zeros((0, 0, 3))


@lru_cache(maxsize=256)
def make_plan(
    counts: tuple[int, ...],
    settings: BuildSettings,
    given_cell: bool = False,
    placed: tuple[bool, ...] | None = None,
    movable: tuple[bool, ...] | None = None,
) -> Plan | None:
    """What structures of a composition have in common; None if no space group can hold it.

    Raises:
        ValueError: If atoms are placed or held under symmetry, or the cell is given and the group is not P1.
    """
    groups = settings.space_groups()
    if groups != (1,) and (given_cell or placed or movable):
        raise ValueError("a given cell and given atoms go with one symmetry operation (P1) only")
    numbers, table = occupations(groups, counts, settings.extra_sites)
    if not numbers:
        return None
    atoms = sum(counts)
    return Plan(
        groups=group_table(numbers),
        weights=settings.group_weights(numbers),
        occupations=table,
        species=np.repeat(np.arange(len(counts)), counts).astype(np.int64),
        movable=np.array(movable or [True] * atoms),
        placed=np.array(placed or [False] * atoms),
        given_cell=given_cell,
        persistence=settings.persistence,
        constraints=np.array(settings.constraints, dtype=float),
        elongation=settings.elongation,
        flatness=settings.flatness,
        compact=settings.compact,
        shake=settings.shake,
        push=settings.push,
        step=settings.step,
        patience=settings.patience,
        slack=settings.slack,
        slack_growth=settings.slack_growth,
        overlap=-1.0 if settings.overlap is None else settings.overlap,
        adapt=settings.adapt and not given_cell,
        rash=settings.rash,
        budget=settings.budget,
    )


def packing_problem(symbols: Sequence[str], counts: Sequence[int], wish: Wish, kept: float = 1.0) -> str:
    """Why atoms can't keep their separations in so small a cell; empty if they may.

    Equal spheres fill at most pi / sqrt(18) of space (Hales, Ann. Math. 162, 1065), so n atoms that keep a distance d
    need n d^3 / sqrt(2).

    Args:
        symbols: Of the elements.
        counts: Atoms of each.
        wish: Volume and separations.
        kept: Part of the separations that slack leaves.
    """
    volume = wish.volumes[1]
    cases = [
        *((f"{symbol} atoms", n, d) for symbol, n, d in zip(symbols, counts, wish.separations.diagonal(), strict=True)),
        ("atoms", sum(counts), wish.separations.min()),
    ]
    for atoms, n, distance in cases:
        if n * (kept * distance) ** 3 > np.sqrt(2) * volume * (1 + 1e-9):
            return (
                f"{n} {atoms} can't keep {distance:.2f} angstrom apart in {volume:.1f} cubic angstrom; "
                "lower the separation or raise the volume"
            )
    return ""


@lru_cache(maxsize=8)
def _room(atoms: int) -> Room:
    return make_room(atoms)


def _structure(symbols: Sequence[str], lattice: FloatArray, coords: FloatArray, species: IntArray) -> Structure:
    return Structure(Lattice(lattice.copy()), [symbols[i] for i in species], coords)


def _formula(symbols: Sequence[str], counts: Sequence[int]) -> str:
    return Composition(dict(zip(symbols, counts, strict=True))).formula
