"""The ways to share a cell's atoms out over the sites of space groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np

from unimat_search.airss.build import Occupations
from unimat_search.airss.symmetry import sites

MAX_OPTIONS = 500
"""Ways of one element in one group that are kept, those with the fewest orbits first."""

Parts = tuple[int, ...]


def occupations(
    numbers: Sequence[int], counts: Sequence[int], extra_sites: int | None
) -> tuple[tuple[int, ...], Occupations]:
    """The space groups that can hold a cell's atoms, and how.

    Args:
        numbers: Of space groups.
        counts: Atoms of each element in the primitive cell.
        extra_sites: Orbits of an element beyond the fewest that it needs (ADJGEN); None for any number.

    Returns:
        The groups among `numbers` that can, and the table of their options.
    """
    kept: list[int] = []
    table: list[tuple[Parts, ...]] = []
    for number in numbers:
        options = group_options(number, tuple(counts), extra_sites)
        if options:
            kept.append(number)
            table.extend(options)
    parts = [option for options in table for option in options]
    return tuple(kept), Occupations(
        first_option=np.cumsum([0, *map(len, table)]).astype(np.int64),
        first_part=np.cumsum([0, *map(len, parts)]).astype(np.int64),
        parts=np.array([part for option in parts for part in option], dtype=np.int64),
    )


@lru_cache(maxsize=100_000)
def group_options(number: int, counts: tuple[int, ...], extra_sites: int | None) -> tuple[tuple[Parts, ...], ...]:
    """For each element the multiplicities that its atoms may have in a space group; () if not all fit together."""
    room = site_room(number)
    extra = extra_sites
    for _ in range(max(counts) + 1):
        options = tuple(element_options(count, room, extra) for count in counts)
        if not all(options):
            return ()
        if _fit(options, Counter(), room):
            return options
        if extra is None:
            return ()
        extra += 1  # elements compete for sites that hold one orbit each
    return ()


def site_room(number: int) -> dict[int, float]:
    """How many orbits of each multiplicity a space group has room for, the largest first."""
    room: dict[int, float] = {}
    for site in sorted(sites(number), key=lambda site: -site.multiplicity):
        room[site.multiplicity] = room.get(site.multiplicity, 0) + (1 if site.is_point else math.inf)
    return room


def element_options(count: int, room: Mapping[int, float], extra_sites: int | None) -> tuple[Parts, ...]:
    """Multiplicities, falling, that add up to `count`, with at most `extra_sites` more of them than the fewest."""
    classes = tuple(room.items())
    found: list[Parts] = []
    fewest = None
    for length in range(1, count + 1):
        if fewest is not None and extra_sites is not None and length > fewest + extra_sites:
            break
        for parts in _partitions(count, length, classes):
            fewest = length if fewest is None else fewest
            found.append(parts)
            if len(found) == MAX_OPTIONS:
                return tuple(found)
    return tuple(found)


def _partitions(count: int, length: int, room: tuple[tuple[int, float], ...]) -> Iterator[Parts]:
    """Falling multiplicities, `length` of them, that add up to `count`."""
    if not _possible(count, length, room):
        return
    if not room:
        yield ()
        return
    multiplicity, places = room[0]
    for times in range(int(min(places, count // multiplicity, length)), -1, -1):
        for others in _partitions(count - times * multiplicity, length - times, room[1:]):
            yield (multiplicity,) * times + others


@lru_cache(maxsize=1_000_000)
def _possible(count: int, length: int, room: tuple[tuple[int, float], ...]) -> bool:
    """Whether there are such multiplicities."""
    if not room or not count or not length:
        return count == length == 0
    if not length * room[-1][0] <= count <= length * room[0][0]:
        return False
    multiplicity, places = room[0]
    return any(
        _possible(count - times * multiplicity, length - times, room[1:])
        for times in range(int(min(places, count // multiplicity, length)), -1, -1)
    )


def _fit(options: Sequence[Sequence[Parts]], used: Counter[int], room: Mapping[int, float]) -> bool:
    """Whether one option of each element can stand beside the others."""
    if not options:
        return True
    for option in options[0]:
        together = used + Counter(option)
        if all(places <= room[multiplicity] for multiplicity, places in together.items()) and _fit(
            options[1:], together, room
        ):
            return True
    return False
