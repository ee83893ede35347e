"""Which sites of a space group the next orbit may be on, so that the whole composition still finds room."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from unimat_search.airss.symmetry import sites

Counts = tuple[tuple[int, int], ...]
"""Atomic number and amount of each element in a primitive cell, by rising number."""


def open_sites(number: int, occupied: Sequence[tuple[int, int]], z: int, left: int, counts: Counts) -> tuple[int, ...]:
    """Sites for the next orbit of an element.

    Args:
        number: Of the space group.
        occupied: Atomic number and site of the orbits before.
        z: Atomic number of the element.
        left: Atoms of it that are to be placed.
        counts: The whole composition; elements of higher atomic number come later.
    """
    table = sites(number)
    taken = frozenset(site for _, site in occupied if table[site].is_point)
    last = max((site for other, site in occupied if other == z), default=0)
    return _open_sites(number, taken, last, left, tuple(count for other, count in counts if other > z))


def has_room(number: int, counts: Counts) -> bool:
    """Whether a space group has sites for a composition."""
    amounts = tuple(amount for _, amount in counts)
    return _completes(number, frozenset(), 0, amounts[0], amounts[1:])


@lru_cache(maxsize=1_000_000)
def _open_sites(number: int, taken: frozenset[int], last: int, left: int, later: tuple[int, ...]) -> tuple[int, ...]:
    table = sites(number)
    return tuple(
        site
        for site in range(last, len(table))
        if table[site].multiplicity <= left
        and site not in taken
        and _completes(number, _with(number, taken, site), site, left - table[site].multiplicity, later)
    )


def _with(number: int, taken: frozenset[int], site: int) -> frozenset[int]:
    """Sites that can't take another orbit after this one is filled."""
    return taken | {site} if sites(number)[site].is_point else taken


@lru_cache(maxsize=1_000_000)
def _completes(number: int, taken: frozenset[int], last: int, left: int, later: tuple[int, ...]) -> bool:
    """Whether what is left of an element, and then the later elements, find sites."""
    if left == 0:
        return not later or _completes(number, taken, 0, later[0], later[1:])
    table = sites(number)
    return any(
        _completes(number, _with(number, taken, site), site, left - table[site].multiplicity, later)
        for site in range(len(table) - 1, last - 1, -1)
        if table[site].multiplicity <= left and site not in taken
    )
