"""How random structures are built: everything but what is in the cell and how large it is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources

import numpy as np

from unimat_search.airss.cell import random_metric
from unimat_search.airss.compiled import random_state
from unimat_search.airss.symmetry import orders, space_group

ORDERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 48)
"""Numbers of operations that a primitive cell can have."""

SOHNCKE = "1 3-5 16-24 75-80 89-98 143-146 149-155 168-173 177-182 195-199 207-214"
"""Space groups without operations of the second kind, 65 of them."""


@dataclass(frozen=True)
class BuildSettings:
    """How random structures are built.

    Attributes:
        operations: Fewest and most symmetry operations of the primitive cell.
        groups: Numbers of the space groups to draw from; () for all with the wanted operations.
        rank: First and last place of the space group among the most frequent ones of known crystals; P1 alone is always
            allowed.
        symmorphic: Only groups without screw axes and glide planes.
        chiral: Only groups that have no mirror image of their own (Sohncke groups).
        by_count: Draw the number of operations first, then a group, as AIRSS's buildcell does; else each group is as
            likely as any other.
        persistence: Draws in one space group before another one is drawn: with many, groups in which atoms hardly find
            room are as frequent as the others.
        extra_sites: An element's inequivalent sites beyond the fewest that its atoms need; None for any number.
        constraints: Of a, b, c, alpha, beta, gamma of the conventional cell: 0 is free, -1 equal among those marked so;
            an angle in degrees.
        elongation: 0.01 allows any edges (longest by shortest 4 at 0.4), 1 makes them equal.
        flatness: Least volume of a cell whose edges are scaled to one; 1 is right-angled.
        compact: Whether cells are reduced.
        shake: Atoms are displaced up to so far before they are pushed, angstrom, which breaks the symmetry.
        push: Whether overlapping atoms are pushed apart; else the draw is rejected.
        step: Part of a pair's overlap that one push takes away.
        patience: Pushes without 2 % less overlap before a draw is given up.
        slack: Part of the separations that may be missing at first.
        slack_growth: Added to it after each 200,000 pairs of atoms that were looked at.
        overlap: Largest energy per atom of soft spheres with the separations as diameters, which are then relaxed;
            None for no such relaxation.
        adapt: Whether the cell's shape takes part in it.
        rash: Where overlap is left, displace atoms by up to so far, angstrom, and relax again; 0 for not at all.
        budget: Pairs of atoms looked at before a structure is given up; ten million take a fifth of a second.

    Raises:
        ValueError: If a value is out of range; the message names it.
    """

    operations: tuple[int, int] = (1, 1)
    groups: tuple[int, ...] = ()
    rank: tuple[int, int] = (1, 230)
    symmorphic: bool = False
    chiral: bool = False
    by_count: bool = False
    persistence: int = 20
    extra_sites: int | None = 0
    constraints: tuple[float, ...] = (0.0,) * 6
    elongation: float = 0.4
    flatness: float = 0.5
    compact: bool = True
    shake: float = 0.0
    push: bool = True
    step: float = 0.7
    patience: int = 120
    slack: float = 0.0
    slack_growth: float = 0.0
    overlap: float | None = None
    adapt: bool = False
    rash: float = 0.0
    budget: int = 30_000_000

    def __post_init__(self) -> None:
        first, last = self.operations
        if not 1 <= first <= last or not any(first <= order <= last for order in ORDERS):
            raise ValueError(
                f"operations must be a number or range that holds one of {', '.join(map(str, ORDERS))}, "
                f"got {first}-{last}"
            )
        if not 1 <= self.rank[0] <= self.rank[1]:
            raise ValueError(f"rank must be a range from 1, got {self.rank[0]}-{self.rank[1]}")
        for number in self.groups:
            if not 1 <= number <= 230:
                raise ValueError(f"space groups have the numbers 1 to 230, got {number}")
        for name, low, high in (
            ("elongation", 0.01, 1),
            ("flatness", 0, 0.99),
            ("shake", 0, math.inf),
            ("rash", 0, math.inf),
            ("slack", 0, 0.9),
            ("slack_growth", 0, 1),
            ("step", 0.001, 2),
            ("overlap", 0, math.inf),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must be {low} to {high}, got {value}")
        for name in ("patience", "budget", "persistence"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.extra_sites is not None and self.extra_sites < 0:
            raise ValueError(f"extra_sites must be 0 or more, got {self.extra_sites}")

    def space_groups(self) -> tuple[int, ...]:
        """The numbers of the groups to draw from.

        Raises:
            ValueError: If none is left.
        """
        first, last = self.operations
        chosen = self.groups or tuple(n for n, order in orders().items() if first <= order <= last)
        ranked = set(ranking()[self.rank[0] - 1 : self.rank[1]])
        sohncke = set(parse_numbers(SOHNCKE))
        kept = tuple(
            number
            for number in chosen
            if (number in ranked or self.groups or self.operations == (1, 1))
            and (not self.chiral or number in sohncke)
            and (not self.symmorphic or not space_group(number).translations.any())
            and (not any(self.constraints) or self._has_metric(number))
        )
        if not kept:
            raise ValueError(f"no space group is left by {self.describe()}; widen them")
        return kept

    def group_weights(self, numbers: tuple[int, ...]) -> np.ndarray:
        """Probabilities of the groups, added up. (m,)."""
        weights = np.ones(len(numbers))
        if self.by_count and not self.groups:
            own = [orders()[number] for number in numbers]
            weights = np.array([1 / own.count(order) for order in own])
        return np.cumsum(weights)

    def describe(self) -> str:
        """What differs from the defaults, one line."""
        return ", ".join(
            f"{f.name} {getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) != f.default
        )

    def _has_metric(self, number: int) -> bool:
        """Whether cells under the constraints keep them when they are made to fit a space group."""
        group, metric = space_group(number), np.empty((3, 3))
        uncentring = np.asarray(np.linalg.inv(group.centring), dtype=np.float64)
        one = np.eye(3)[None]
        for seed in range(3):
            found = random_metric(
                random_state(np.random.default_rng(seed)),
                one,
                group.centring,
                uncentring,
                np.array(self.constraints, dtype=np.float64),
                self.elongation,
                self.flatness,
                metric,
            )
            if not found or not np.allclose(group.symmetrised(metric), metric, rtol=0, atol=1e-6 * metric.max()):
                return False
        return True


@cache
def ranking() -> tuple[int, ...]:
    """Space groups by how many known crystals have them, the most frequent first.

    Counted by `benchmarks/space_group_ranks.py` over the stable crystals of the Materials Project; groups that none has
    follow by their number.
    """
    counts: dict[str, int] = json.loads((resources.files(__package__) / "ranks.json").read_text())
    return tuple(sorted(range(1, 231), key=lambda number: (-counts.get(str(number), 0), number)))


MOST_NUMBER = 10_000
"""In a list of numbers; no space group and no count of atoms needs more."""


def parse_numbers(text: str) -> list[int]:
    """Whole numbers and ranges: "1 3-5" or "1,3-5".

    Raises:
        ValueError: If the text is something else.
    """
    numbers: list[int] = []
    for part in text.replace(",", " ").split():
        low, high = parse_whole_range(part)
        numbers.extend(range(low, high + 1))
    return numbers


LARGEST = 1e6
"""Of any number; lengths, volumes and times beyond it overflow somewhere and mean nothing."""


def parse_number(text: str) -> float:
    """A number.

    Raises:
        ValueError: If the text is something else, or the number beyond what a crystal may need.
    """
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None
    if not abs(value) <= LARGEST:
        raise ValueError(f"{text!r} must be a number of {LARGEST:.0f} at most")
    return value


def parse_range(text: object) -> tuple[float, float]:
    """A number, or a range `a-b` of positive numbers.

    Raises:
        ValueError: If the text is something else, or a number beyond what a crystal may need.
    """
    first, dash, last = str(text).strip().partition("-")
    low, high = parse_number(first), parse_number(last if dash else first)
    if not low <= high:
        raise ValueError(f"the range {text!r} is empty")
    return low, high


def parse_whole_range(text: object) -> tuple[int, int]:
    """A whole number, or a range of them.

    Raises:
        ValueError: If the text is something else, or the number beyond what a cell may need.
    """
    low, high = parse_range(text)
    if not high <= MOST_NUMBER:
        raise ValueError(f"{text!r} is more than {MOST_NUMBER}")
    if low != int(low) or high != int(high):
        raise ValueError(f"{text!r} is no whole number and no range of them")
    return int(low), int(high)
