"""Was a known structure found? pymatgen's StructureMatcher, with its settings beside every figure."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from unimat_search.eval.sanity import structure_problem
from unimat_search.files import read_structures
from unimat_search.formats import ElementSet
from unimat_search.records import MatchSettings

log = logging.getLogger(__name__)

Known = Mapping[str, Sequence[tuple[str, Structure]]]
"""Named structures by reduced formula, as pymatgen writes it."""


@dataclass(frozen=True, slots=True)
class Match:
    """The best match among known structures.

    Attributes:
        name: Of the known structure.
        rms_dist: Root mean square displacement, normalised by (volume / atoms)^(1/3); dimensionless.
    """

    name: str
    rms_dist: float


def read_known(path: Path, element_sets: Collection[ElementSet]) -> Known:
    """Known structures of a file or folder with one of these sets of elements.

    Raises:
        ValueError: If the file can't be read.
    """
    known: dict[str, list[tuple[str, Structure]]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, structure in read_structures(path, element_sets=element_sets):
            problem = structure_problem(structure) if structure.is_ordered else None
            if problem or not structure.is_ordered:
                reason = problem.detail if problem else "a site is partly filled"
                log.warning("known structure %s in %s is left out: %s", name, path, reason)
                continue
            known.setdefault(structure.composition.reduced_formula, []).append((name, structure))
    return known


def structure_matcher(settings: MatchSettings) -> StructureMatcher:
    """Pymatgen's matcher with these tolerances."""
    return StructureMatcher(ltol=settings.ltol, stol=settings.stol, angle_tol=settings.angle_tol)


def best_match(structure: Structure, known: Known, settings: MatchSettings) -> Match | None:
    """The nearest known structure of the same composition that matches, or None."""
    matcher = structure_matcher(settings)
    matches = [
        Match(name, float(distances[0]))
        for name, other in known.get(structure.composition.reduced_formula, ())
        if (distances := matcher.get_rms_dist(structure, other)) is not None  # type: ignore[no-untyped-call]
    ]
    return min(matches, key=lambda match: match.rms_dist, default=None)
