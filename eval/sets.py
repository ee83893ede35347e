"""What a set of crystals is worth, one definition each; a broken crystal counts in every denominator.

Structures are those that could be read; counts and denominators are the caller's, who knows what could not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition, Structure
from scipy.stats import wasserstein_distance

from unimat_search.eval.match import structure_matcher
from unimat_search.eval.unique import CLOSE, SAME, unite
from unimat_search.fingerprint import FloatArray, difference, fingerprint
from unimat_search.records import MatchSettings

BENCHMARK_DISTANCE, BENCHMARK_VOLUME = 0.5, 0.1
"""Angstrom and cubic angstrom: validity in the benchmarks (CDVAE, Xie et al., arXiv:2110.06197, appendix B)."""

OXIDATION_STATES = "smact14"
"""SMACT's first set, which the benchmarks' tables were made with."""

MAX_COMBINATIONS = 5_000_000
"""SMACT tries every combination of the elements' oxidation states: so many take seconds, a dozen elements' years."""


def is_valid_structure(structure: Structure) -> bool:
    """No two sites nearer than 0.5 angstrom, and some volume: the benchmarks' validity.

    A site's own images do not count, as there; `unimat_search.eval.sanity.structure_problem` is stricter.
    """
    if not (np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()):
        return False
    if abs(structure.volume) < BENCHMARK_VOLUME:
        return False
    apart = structure.distance_matrix[np.triu_indices(len(structure), 1)]
    return bool((apart >= BENCHMARK_DISTANCE).all())


def is_valid_composition(composition: Composition) -> bool:
    """Charge can be balanced with the anions the more electronegative, or all are metals, or it is one element.

    SMACT (Davies et al., J. Open Source Softw. 4, 1361 (2019)), as the benchmarks use it. What has more
    combinations of oxidation states than `MAX_COMBINATIONS` is not valid, unless all elements are metals.
    """
    return _smact_validity(composition.reduced_formula)


@lru_cache(maxsize=100_000)
def _smact_validity(formula: str) -> bool:
    from smact import Element, metals
    from smact.screening import smact_validity

    composition = Composition(formula)
    symbols = {el.symbol for el in composition.elements}
    states = [len(Element(symbol).oxidation_states_smact14 or ()) for symbol in symbols]
    if not symbols <= set(metals) and math.prod(states) > MAX_COMBINATIONS:
        return False
    return bool(smact_validity(composition, oxidation_states_set=OXIDATION_STATES))


def distribution_distance(made: FloatArray, known: FloatArray) -> float | None:
    """Wasserstein distance of a property's values in two sets, in its unit; None if one is empty."""
    return float(wasserstein_distance(made, known)) if len(made) and len(known) else None


def families(structures: Sequence[Structure]) -> list[list[int]]:
    """Positions of structures that are the same crystal, each family in the order of the input.

    The first member is the one that counts as unique.
    """
    by_formula: dict[str, list[int]] = {}
    for index, structure in enumerate(structures):
        by_formula.setdefault(structure.composition.reduced_formula, []).append(index)
    return sorted(
        sorted(rows[member] for member in family)
        for rows in by_formula.values()
        for family in unite([structures[row] for row in rows], [0.0] * len(rows))
    )


class KnownCrystals:
    """A data set to look crystals up in.

    Args:
        structures: By reduced formula.
    """

    def __init__(self, structures: Mapping[str, Sequence[Structure]]) -> None:
        self.structures = structures
        self._matcher = structure_matcher(SAME)
        self._known: dict[str, list[_Crystal]] = {}

    def __contains__(self, structure: object) -> bool:
        if not isinstance(structure, Structure):
            return False
        formula = structure.composition.reduced_formula
        others = self.structures.get(formula, ())
        if not others:
            return False
        if formula not in self._known:
            self._known[formula] = [_Crystal(other) for other in others]
        own = _Crystal(structure)
        return any(
            difference(own.fingerprint, other.fingerprint) <= CLOSE
            and self._matcher.fit(other.reduced, own.reduced, skip_structure_reduction=True)
            for other in self._known[formula]
        )


@dataclass(frozen=True)
class _Crystal:
    """What comparisons of a structure need of it, computed once and not before one needs it."""

    structure: Structure

    @cached_property
    def fingerprint(self) -> FloatArray:
        return fingerprint(self.structure)

    @cached_property
    def reduced(self) -> Structure:
        """As StructureMatcher begins every comparison: it takes most of the time off Carbon-24."""
        return self.structure.get_reduced_structure("niggli").get_primitive_structure()


def rms_distances(
    made: Sequence[Structure | None], known: Sequence[Structure], matcher: MatchSettings
) -> NDArray[np.float64]:
    """Distances of generated (rows) and known structures, in (volume / atoms)^(1/3). (m, k).

    NaN: no match, or None in the place of a structure.
    """
    fit = structure_matcher(matcher)
    table = np.full((len(made), len(known)), np.nan)
    for row, one in enumerate(made):
        for column, other in enumerate(known):
            found = fit.get_rms_dist(other, one) if one else None  # type: ignore[no-untyped-call]
            if found is not None:
                table[row, column] = found[0]
    return table


def match_everyone(distances: Sequence[NDArray[np.float64]], matcher: MatchSettings) -> tuple[float, float]:
    """Share of the known structures that some generated one matches, and the mean of the best distances.

    METRe and cRMSE (Martirossyan et al., arXiv:2509.12178): every polymorph of a composition is asked for by itself;
    what nothing matches counts with the matcher's own tolerance.

    Args:
        distances: `rms_distances` by composition.
        matcher: As given to `rms_distances`.
    """
    best = np.concatenate([np.where(np.isnan(one), np.inf, one).min(axis=0, initial=np.inf) for one in distances])
    matched = np.isfinite(best)
    return float(matched.mean()), float(np.where(matched, best, matcher.stol).mean())


def displacement(initial: Structure, final: Structure) -> float:
    """Root mean square displacement of the atoms in a relaxation, angstrom.

    Of fractional coordinates without their common shift, by the shortest way, in the final cell: what the cell's strain
    carries along does not count. Atoms keep their order.
    """
    moved = final.frac_coords - initial.frac_coords
    moved -= moved[0]  # a common shift first, so that none is wrapped apart from the others
    moved -= np.rint(moved)
    moved -= moved.mean(axis=0)
    return float(np.sqrt((np.linalg.norm(moved @ final.lattice.matrix, axis=1) ** 2).mean()))
