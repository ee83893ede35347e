"""What is known of volumes and distances before any search: from relaxed crystals, from examples, or from radii."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import combinations_with_replacement, product

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray
from pymatgen.core import Composition, Element, Structure

FloatArray = NDArray[np.float64]

SHORTEST = 0.7
"""Angstrom; no bond is shorter (H2: 0.74), whatever the radii say (helium's)."""

CLEAR_CHARGE = 0.5
"""Difference of electronegativities from which an element that is not balanced counts as a cation."""

MAX_CHOICES = 100_000
"""Sets of oxidation states that are looked at; a composition with more is taken as not balanced."""

NONMETALS = frozenset("H B C N O F Si P S Cl Ge As Se Br Sb Te I At".split())  # noqa: SIM905

Kind = str
"""An element and the sign of its likely charge: "Na+", "Cl-", "Ni0", or "C=" by itself."""


@dataclass(frozen=True)
class Expectation:
    """What a cell of some composition is likely to be.

    Attributes:
        volume: Of the cell, cubic angstrom.
        separations: Shortest distance of each pair of elements, angstrom. (e, e)
        origin: Where it comes from, one line.
    """

    volume: float
    separations: FloatArray
    origin: str


@cache
def knowledge() -> dict[str, dict[str, float]]:
    """The table that ships, made by `benchmarks/separations.py` from relaxed crystals of the Materials Project.

    "volumes": cubic angstrom an atom, by kind and by element; "separations": the distance that the nearest neighbours
    of two kinds exceed in nine of ten crystals, angstrom; "opposite" and "like": radii whose sums say the same of kinds
    of opposite charge, and of others, where the table has too few crystals.
    """
    table: dict[str, dict[str, float]] = json.loads((resources.files(__package__) / "knowledge.json").read_text())
    return table


def expect_from_table(composition: Composition) -> Expectation:
    """Volume and separations by the elements' likely charges, from the table that ships."""
    symbols, kinds = element_symbols(composition), likely_kinds(composition)
    table = knowledge()
    volumes = table["volumes"]
    average = sum(volumes.values()) / len(volumes)
    volume = sum(composition[symbol] * volumes.get(kinds[symbol], volumes.get(symbol, average)) for symbol in symbols)
    separations = pair_matrix(symbols, lambda a, b: _table_separation(kinds[a], kinds[b]))
    return Expectation(float(volume), separations, "the table of relaxed crystals")


def expect_from_radii(composition: Composition) -> Expectation:
    """Cubes of the covalent diameters, and sums of covalent radii (Cordero et al. 2008, as ASE has them)."""
    symbols = element_symbols(composition)
    volume = sum(composition[symbol] * (2 * covalent_radius(symbol)) ** 3 for symbol in symbols)
    separations = pair_matrix(symbols, lambda a, b: max(covalent_radius(a) + covalent_radius(b), SHORTEST))
    return Expectation(float(volume), separations, "covalent radii")


def expect_from_structures(composition: Composition, structures: Iterable[Structure]) -> Expectation:
    """The mean volume of the elements, and the shortest distance of each pair, in crystals that the user gives.

    What they do not tell is taken from the table, scaled to the volume of the given crystals.
    """
    table = expect_from_table(composition)
    symbols = element_symbols(composition)
    shortest: dict[tuple[str, str], float] = {}
    ratios = []
    for structure in structures:
        if not structure.is_ordered:
            raise ValueError(f"{structure.composition.formula} is disordered; give structures with whole atoms alone")
        ratios.append(structure.volume / expect_from_table(structure.composition).volume)
        for pair, distance in pair_minima(structure).items():
            shortest[pair] = min(distance, shortest.get(pair, np.inf))
    if not ratios:
        raise ValueError("no structure is given to take distances from")
    ratio = float(np.mean(ratios))
    known = pair_matrix(symbols, lambda a, b: shortest.get((min(a, b), max(a, b)), 0.0))
    separations = np.where(known > 0, known, table.separations * ratio ** (1 / 3))
    return Expectation(table.volume * ratio, separations, "the given structures")


def element_symbols(composition: Composition) -> list[str]:
    """In alphabetical order."""
    return sorted(element.symbol for element in composition.elements)


def pair_matrix(symbols: Sequence[str], value: Callable[[str, str], float]) -> FloatArray:
    """A symmetric matrix of a function of two symbols. (e, e)."""
    return np.array([[value(a, b) for b in symbols] for a in symbols])


def covalent_radius(symbol: str) -> float:
    """Angstrom."""
    return float(covalent_radii[atomic_numbers[symbol]])


def pair_minima(structure: Structure) -> dict[tuple[str, str], float]:
    """The shortest distance of each pair of elements, images included, angstrom; pairs in alphabetical order."""
    lattice = structure.lattice.get_lll_reduced_lattice()
    frac = lattice.get_fractional_coords(structure.cart_coords)
    apart = frac[:, None] - frac
    apart -= np.rint(apart)
    images = np.array(list(product((-1, 0, 1), repeat=3)))
    vectors = (apart[:, :, None] + images) @ lattice.matrix
    squares = np.einsum("ijkc,ijkc->ijk", vectors, vectors)
    squares[np.arange(len(frac)), np.arange(len(frac)), len(images) // 2] = np.inf
    distances = np.sqrt(squares.min(-1))
    symbols = np.array([site.specie.symbol for site in structure])
    return {
        (a, b): float(distances[np.ix_(symbols == a, symbols == b)].min())
        for a, b in combinations_with_replacement(sorted({*symbols.tolist()}), 2)
    }


def likely_kinds(composition: Composition) -> dict[str, Kind]:
    """The sign of each element's likely charge, by its symbol.

    Of the sets of common oxidation states that balance, the one with the most charge on the most electronegative
    elements. Where none does, the most electronegative element is an anion if it is a nonmetal, and elements that are
    much less electronegative are cations; metals among themselves are neutral.
    """
    reduced = composition.element_composition.reduced_composition
    return dict(_likely_kinds(tuple(sorted((el.symbol, int(n)) for el, n in reduced.items()))))


@cache
def _likely_kinds(amounts: tuple[tuple[str, int], ...]) -> tuple[tuple[str, Kind], ...]:
    symbols = [symbol for symbol, _ in amounts]
    counts = np.array([count for _, count in amounts])
    attraction = np.array([_electronegativity(symbol) for symbol in symbols])
    if len(symbols) == 1:
        return ((symbols[0], f"{symbols[0]}="),)
    choices = [Element(symbol).common_oxidation_states or (0,) for symbol in symbols]
    many = math.prod(map(len, choices)) > MAX_CHOICES
    states = np.zeros((1, len(symbols))) if many else np.array(list(product(*choices)))
    balanced = states[(states @ counts == 0) & (states != 0).any(axis=1)]
    if len(balanced):
        charges = balanced[np.argmin(balanced @ (counts * attraction))]
    else:
        highest = int(attraction.argmax())
        charges = np.zeros(len(symbols))
        if symbols[highest] in NONMETALS:
            charges[attraction < attraction[highest] - CLEAR_CHARGE] = 1
            charges[highest] = -1 if charges.any() else 0
    signs = ("0", "+", "-")
    return tuple((symbol, symbol + signs[int(np.sign(q))]) for symbol, q in zip(symbols, charges, strict=True))


def _electronegativity(symbol: str) -> float:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = Element(symbol).X
    return 0.0 if np.isnan(value) else float(value)


def _table_separation(a: Kind, b: Kind) -> float:
    table = knowledge()
    known = table["separations"].get(pair_key(a, b))
    if known:
        return known
    radii = table["opposite" if {a[-1], b[-1]} == {"+", "-"} else "like"]
    return max(SHORTEST, sum(radii.get(kind[:-1], covalent_radius(kind[:-1])) for kind in (a, b)))


def pair_key(a: Kind, b: Kind) -> str:
    """The name of a pair of kinds in the table."""
    return " ".join(sorted((a, b)))
