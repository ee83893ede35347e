"""How far a composition's structures lie above the convex hull of known phases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition
from scipy.optimize import linprog

from unimat_search.records import UserError

BOUNDS = (-0.005, 0.005, 0.025, 0.1)
"""Of e_above_hull, eV/atom: below the hull, where a structure is lower than all phases of the reference; on it, stable;
metastable (the UniMat paper's bound), and that in a wider sense. A known phase found again lies at zero up to where its
relaxation stopped, so nothing is counted by the sign."""

STABLE = BOUNDS[1]
"""A structure below it counts as stable."""

LEAST = 1e-9
"""Smaller shares in a mixture are rounding."""


class HullError(UserError):
    """A hull that can't be had; the message is one line."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A known phase.

    Attributes:
        reduced_formula: As pymatgen writes it.
        formation_energy_per_atom: eV/atom.
    """

    reduced_formula: str
    formation_energy_per_atom: float


@dataclass(frozen=True, slots=True)
class HullPoint:
    """The hull at one composition, eV/atom of formation.

    Attributes:
        energy: Of the hull; `e_above_hull` counts from here.
        competing: Of the hull without the phases of this composition; `decomposition_energy` counts from here.
            None for an element, which can't decompose.
        products: The phases that this composition decomposes into, by reduced formula: the share of the atoms in each.
        known: Whether a phase of this composition is among those that the hull is made of.
    """

    energy: float
    competing: float | None
    products: Mapping[str, float]
    known: bool

    def e_above_hull(self, formation_energy_per_atom: float) -> float:
        """Distance from the hull of all phases; negative where the structure is below every known one. eV/atom."""
        return formation_energy_per_atom - self.energy

    def decomposition_energy(self, formation_energy_per_atom: float) -> float | None:
        """Distance from the hull of the phases of other compositions, eV/atom; None for an element.

        Bartel et al., npj Comput. Mater. 6, 97 (2020).
        """
        return None if self.competing is None else formation_energy_per_atom - self.competing


@dataclass(frozen=True)
class Hull:
    """Known phases, and the convex hull of their formation energies in every chemical system.

    The hull at a composition is the lowest energy that a mixture of phases has there, found by a linear programme
    (HiGHS): the same as pymatgen's phase diagrams, without their facets, whose number explodes with that of elements.
    Elements are phases too, at zero.

    Attributes:
        reference: Says in words what the hull is made of; printed beside every number that comes from it.
        phases: In any order; of several of one composition the lowest counts.
    """

    reference: str
    phases: Iterable[Phase]
    _kept: dict[frozenset[str], _Entries] = field(default_factory=dict, compare=False, repr=False)

    def at(self, composition: Composition) -> HullPoint:
        """The hull at one composition."""
        elements = frozenset(el.symbol for el in composition.elements)
        formula = composition.reduced_formula
        known = formula in self._systems.get(elements, {})
        if len(elements) == 1:
            energy, products = self._mixture(composition, elements)
            return HullPoint(energy, None, products, known)
        competing, products = self._mixture(composition, elements, without=formula)
        energy, _ = self._mixture(composition, elements) if known else (competing, products)
        return HullPoint(energy, competing, products, known)

    @cached_property
    def _systems(self) -> dict[frozenset[str], dict[str, float]]:
        """The lowest formation energy of each reduced formula, by set of elements."""
        systems: dict[frozenset[str], dict[str, float]] = {}
        for phase in self.phases:
            formula, energy = phase.reduced_formula, phase.formation_energy_per_atom
            own = systems.setdefault(elements_of(formula), {})
            own[formula] = min(energy, own.get(formula, energy))
        return systems

    def _mixture(
        self, composition: Composition, elements: frozenset[str], without: str = ""
    ) -> tuple[float, dict[str, float]]:
        """The lowest energy of phases that make up a composition, eV/atom, and the share of the atoms in each."""
        if elements not in self._kept:
            self._kept[elements] = self._entries(elements)
        entries = self._kept[elements]
        used = entries.formulas != without
        wanted = [composition.get_atomic_fraction(symbol) for symbol in entries.symbols]
        found = linprog(entries.energies[used], A_eq=entries.shares[:, used], b_eq=wanted)
        if not found.success:
            raise HullError(f"no hull at {composition.reduced_formula}: {found.message}")
        mixture = {str(name): float(x) for name, x in zip(entries.formulas[used], found.x, strict=True) if x > LEAST}
        return float(found.fun), mixture

    def _entries(self, elements: frozenset[str]) -> _Entries:
        phases = {Composition(symbol).reduced_formula: 0.0 for symbol in elements}
        for system, own in self._systems.items():
            if system <= elements:
                phases |= {name: min(energy, phases.get(name, energy)) for name, energy in own.items()}
        symbols = sorted(elements)
        compositions = [Composition(name) for name in phases]
        shares = np.array([[one.get_atomic_fraction(symbol) for one in compositions] for symbol in symbols])
        return _Entries(symbols, np.array(list(phases)), shares, np.array(list(phases.values())))


@dataclass(frozen=True)
class _Entries:
    """The m phases of a chemical system of e elements: shares of their atoms (e, m), energies in eV/atom (m,)."""

    symbols: list[str]
    formulas: NDArray[np.str_]
    shares: NDArray[np.float64]
    energies: NDArray[np.float64]


def elements_of(formula: str) -> frozenset[str]:
    """The symbols in a formula, without a parser's care and cost."""
    return frozenset(re.findall("[A-Z][a-z]?", formula))
