"""The periodic table as the models need it: symbols, periods and groups, without any heavy import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import gcd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymatgen.core import Composition

_SYMBOLS = """
X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu
Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr
Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
SYMBOLS = tuple(_SYMBOLS.split())
"""Symbol of each atomic number; the first is no element."""

MAX_ATOMIC_NUMBER = len(SYMBOLS) - 1
ROWS, GROUPS = 9, 18
_NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)

CompositionKey = tuple[tuple[int, int], ...]
"""A reduced composition: (atomic number, amount) by rising atomic number, amounts without a common divisor."""


def table_position(number: int) -> tuple[int, int]:
    """Row (1 to 9) and group (1 to 18) of an element.

    Rows 1 to 7 are the periods. The f-block fills rows 8 (La to Lu) and 9 (Ac to Lr) from group 3 on, 15 elements each,
    so that no two elements share a place (arXiv:2311.09235 leaves its arrangement open).

    Raises:
        ValueError: If there is no element with this atomic number.
    """
    if not 1 <= number <= MAX_ATOMIC_NUMBER:
        raise ValueError(f"no element has the atomic number {number}; it must be 1 to {MAX_ATOMIC_NUMBER}")
    period = next(row for row, last in enumerate(_NOBLE) if number <= last)
    place = number - _NOBLE[period - 1]
    if period >= 6 and 3 <= place <= 17:
        return period + 2, place
    empty = GROUPS - (_NOBLE[period] - _NOBLE[period - 1])
    group = place if place <= 2 and number != 2 else place + empty
    return period, group


def composition_numbers(composition: Composition) -> list[int]:
    """Atomic numbers of a cell's sites, rising. (n,)."""
    return sorted(el.Z for el, amount in composition.items() for _ in range(round(amount)))


def composition_key(numbers: Iterable[int]) -> CompositionKey:
    """The reduced composition of atoms, whatever their order and the number of formula units."""
    counts = Counter(int(number) for number in numbers)
    divisor = gcd(*counts.values())
    return tuple((number, counts[number] // divisor) for number in sorted(counts))
