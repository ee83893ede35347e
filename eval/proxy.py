"""The benchmarks' proxy table of a set of crystals: validity, coverage, distributions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from unimat_search.disk import whole
from unimat_search.eval.coverage import COMPOSITION_LENGTH, Cutoffs, Fingerprints, composition_fingerprint, coverage
from unimat_search.eval.crystalnn import LENGTH, crystal_fingerprint
from unimat_search.eval.metrics import rate
from unimat_search.eval.parallel import Job, quiet, run_jobs
from unimat_search.eval.sanity import IN_FLIGHT, structure_problem
from unimat_search.eval.sets import distribution_distance, is_valid_composition, is_valid_structure
from unimat_search.fingerprint import FloatArray
from unimat_search.records import UserError, first_line

CHUNK = 64

LIBRARIES = ("matminer", "smact")

CURE = "pip install 'unimat-search[evaluate]'"

VERSION = 1
"""Of what is computed of a set: to be raised with every change of it, so that nothing is kept for longer."""


@dataclass(frozen=True)
class Facts:
    """What is to know of m crystals.

    Attributes:
        valid_structure: By the benchmarks' rule. (m,) bool
        sane: By our stricter one. (m,) bool
        valid_composition: By SMACT. (m,) bool
        density: Grams per cubic centimetre; NaN without a valid structure. (m,)
        num_elements: Different ones. (m,)
        structure: CrystalNN fingerprints, NaN where there is none. (m, 61)
        composition: Magpie fingerprints. (m, 132)
    """

    valid_structure: NDArray[np.bool_]
    sane: NDArray[np.bool_]
    valid_composition: NDArray[np.bool_]
    density: FloatArray
    num_elements: FloatArray
    structure: FloatArray
    composition: FloatArray

    @property
    def has_fingerprint(self) -> NDArray[np.bool_]:
        """Which crystals have a CrystalNN fingerprint. (m,)."""
        return np.asarray(np.isfinite(self.structure).all(axis=1))

    @property
    def valid(self) -> NDArray[np.bool_]:
        """As the benchmarks count: structure, composition, and a fingerprint. (m,)."""
        return self.valid_structure & self.valid_composition & self.has_fingerprint

    @property
    def fingerprints(self) -> Fingerprints:
        """Of the crystals that have both."""
        return Fingerprints(self.structure[self.has_fingerprint], self.composition[self.has_fingerprint])

    def save(self, file: Path) -> None:
        """Write a file, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file, alone=False) as partial, partial.open("wb") as opened:
            np.savez_compressed(opened, **asdict(self))

    @classmethod
    def load(cls, file: Path) -> Facts:
        """Read what `save` wrote."""
        with np.load(file) as kept:
            return cls(**kept)


def facts_of(structures: Sequence[Structure], *, workers: int = 1, kept_in: Path | None = None) -> Facts:
    """Of ordered structures of plain elements, however broken their geometries, in `workers` processes.

    One that no library takes, or that kills its process, is like one without a valid structure.

    Args:
        structures: The structures.
        workers: Processes.
        kept_in: File that has them, or gets them unless a process died.

    Raises:
        UserError: If matminer or SMACT are missing or broken.
    """
    if kept_in is not None:
        with suppress(OSError, ValueError, TypeError, BadZipFile):  # not there yet, or damaged
            return Facts.load(kept_in)
    _check_libraries()
    starts = iter(range(0, len(structures), CHUNK))

    def next_job() -> Job[int, Structure, Facts] | None:
        start = next(starts, None)
        if start is None:
            return None
        return Job(start, _facts_of_each, structures[start : start + CHUNK], lambda _: _LOST)

    parts = {job.tag: facts for job, facts in run_jobs(next_job, workers=workers)}
    rows = [_NO_ROWS, *(row for start in sorted(parts) for row in parts[start])]
    facts = Facts(**{f.name: np.concatenate([getattr(row, f.name) for row in rows]) for f in fields(Facts)})
    if kept_in is not None and not any(row is _LOST for row in rows):
        facts.save(kept_in)
    return facts


def _check_libraries() -> None:
    """See that a good crystal passes: with a broken library none would seem valid."""
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    try:
        with quiet():
            passes = _known_facts(salt).valid.all()
    except Exception as error:  # a library may raise anything
        raise UserError(f"matminer or SMACT can't be used ({first_line(error)}); {CURE}") from error
    if not passes:
        raise UserError(f"matminer or SMACT is broken: rock salt is no valid crystal to them; {CURE}")


def _facts_of_each(structures: Sequence[Structure]) -> list[Facts]:
    with quiet():
        return [_facts_of_one(structure) for structure in structures]


def _facts_of_one(structure: Structure) -> Facts:
    try:
        return _known_facts(structure)
    except ImportError:
        raise
    except Exception:  # libraries raise anything for what they were not made for
        return _NOTHING


def _known_facts(structure: Structure) -> Facts:
    valid = is_valid_structure(structure)
    return Facts(
        valid_structure=np.array([valid]),
        sane=np.array([valid and structure_problem(structure) is None]),
        valid_composition=np.array([is_valid_composition(structure.composition)]),
        density=np.array([structure.density if valid else np.nan], dtype=float),
        num_elements=np.array([len(structure.composition)], dtype=float),
        structure=_fingerprint(structure)[None] if valid else _NOTHING.structure,
        composition=composition_fingerprint(structure.composition)[None],
    )


def is_flat(structure: Structure) -> bool:
    """Whether a cell is so flat (`IN_FLIGHT`) that more neighbours than can be counted are near."""
    reduced = structure.lattice.get_lll_reduced_lattice()
    return bool(1 / np.linalg.norm(reduced.inv_matrix, axis=0).max() < IN_FLIGHT.min_height)


def _fingerprint(structure: Structure) -> FloatArray:
    """NaN without Voronoi cells, or where a cell is flat."""
    if is_flat(structure):
        return np.full(LENGTH, np.nan)
    try:
        return crystal_fingerprint(structure)
    except ValueError:
        return np.full(LENGTH, np.nan)


def _unknown(count: int) -> Facts:
    """Facts of crystals of which nothing is known."""
    no, unknown = np.zeros(count, dtype=bool), np.full(count, np.nan)
    prints = np.full((count, LENGTH), np.nan), np.full((count, COMPOSITION_LENGTH), np.nan)
    return Facts(no, no, no, unknown, unknown, *prints)


_NO_ROWS, _NOTHING, _LOST = _unknown(0), _unknown(1), _unknown(1)


def proxy_metrics(made: Facts, known: Facts, n_generated: int, cutoffs: Cutoffs) -> dict[str, Any]:
    """The table's numbers; shares are of `n_generated`, distances between distributions are of the valid crystals.

    Args:
        made: Of the generated crystals that could be read.
        known: Of the reference set.
        n_generated: All generated ones.
        cutoffs: For coverage.
    """
    recall, precision = coverage(made.fingerprints, known.fingerprints, n_generated, cutoffs)
    valid = made.valid
    return {
        "n_generated": n_generated,
        "n_read": len(valid),
        "valid_structure": rate(int(made.valid_structure.sum()), n_generated),
        "sane_structure": rate(int(made.sane.sum()), n_generated),
        "valid_composition": rate(int(made.valid_composition.sum()), n_generated),
        "valid": rate(int(valid.sum()), n_generated),
        "coverage_recall": recall,
        "coverage_precision": precision,
        "density_distance": distribution_distance(made.density[valid], known.density[known.valid_structure]),
        "num_elements_distance": distribution_distance(made.num_elements[valid], known.num_elements),
    }
