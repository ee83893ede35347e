"""How far a composition's structures lie above the convex hull of known phases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition
from scipy.optimize import linprog

BOUNDS = (0.0, 0.025, 0.1)
"""Of e_above_hull, eV/atom: stable below the first, metastable below the second (the UniMat paper's terms) and, in a
wider sense, the third."""

MAX_FACETS = 8
"""Elements up to which the hull's facets are enumerated; their number explodes with the dimension."""


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
    """Known phases, and the convex hull of their formation energies in every chemical system (pymatgen's).

    Elements are phases too, at zero.

    Attributes:
        reference: Says in words what the hull is made of; printed beside every number that comes from it.
        phases: In any order; of several of one composition the lowest counts.
    """

    reference: str
    phases: Iterable[Phase]
    _diagrams: dict[tuple[frozenset[str], str], PhaseDiagram | OneByOne] = field(
        default_factory=dict, compare=False, repr=False
    )

    def at(self, composition: Composition) -> HullPoint:
        """The hull at one composition."""
        elements = frozenset(el.symbol for el in composition.elements)
        formula = composition.reduced_formula
        whole = self._diagram(elements)
        known = formula in self._systems.get(elements, {})
        others = self._diagram(elements, without=formula) if known and len(elements) > 1 else whole
        energy = float(whole.get_hull_energy_per_atom(composition))
        competing = float(others.get_hull_energy_per_atom(composition)) if len(elements) > 1 else None
        products = {
            entry.composition.reduced_formula: float(amount)
            for entry, amount in others.get_decomposition(composition).items()
        }
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

    def _diagram(self, elements: frozenset[str], without: str = "") -> PhaseDiagram | OneByOne:
        key = (elements, without)
        if key not in self._diagrams:
            entries = [
                PDEntry(composition := Composition(formula), energy * composition.num_atoms)
                for system, phases in self._systems.items()
                if system <= elements
                for formula, energy in phases.items()
                if formula != without
            ]
            entries += [PDEntry(Composition(symbol), 0.0) for symbol in elements]
            self._diagrams[key] = PhaseDiagram(entries) if len(elements) <= MAX_FACETS else OneByOne(entries)
        return self._diagrams[key]


@dataclass(frozen=True)
class OneByOne:
    """A hull of many elements, asked at one composition after the other: a linear programme each.

    Attributes:
        entries: Elements among them.
    """

    entries: Sequence[PDEntry]

    def get_decomposition(self, composition: Composition) -> dict[PDEntry, float]:
        """The phases of lowest energy that make up a composition: the share of the atoms in each."""
        elements = composition.elements
        shares = np.array([[e.composition.get_atomic_fraction(el) for e in self.entries] for el in elements])
        wanted = [composition.get_atomic_fraction(el) for el in elements]
        found = linprog([entry.energy_per_atom for entry in self.entries], A_eq=shares, b_eq=wanted).x
        return {entry: float(x) for entry, x in zip(self.entries, found, strict=True) if x > 1e-9}

    def get_hull_energy_per_atom(self, composition: Composition) -> float:
        """Energy of these, eV/atom."""
        return sum(x * float(entry.energy_per_atom) for entry, x in self.get_decomposition(composition).items())


def elements_of(formula: str) -> frozenset[str]:
    """The symbols in a formula, without a parser's care and cost."""
    return frozenset(re.findall("[A-Z][a-z]?", formula))
