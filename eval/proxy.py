"""The benchmarks' proxy table of a set of crystals: validity, coverage, distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from unimat_search.eval.coverage import Cutoffs, Fingerprints, composition_fingerprint, coverage
from unimat_search.eval.crystalnn import LENGTH, crystal_fingerprint
from unimat_search.eval.metrics import rate
from unimat_search.eval.parallel import chunked, quiet
from unimat_search.eval.sanity import structure_problem
from unimat_search.eval.sets import distribution_distance, is_valid_composition, is_valid_structure
from unimat_search.fingerprint import FloatArray

CHUNK = 64


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
        partial = file.with_suffix(".partial.npz")
        np.savez_compressed(partial, **asdict(self))
        partial.replace(file)

    @classmethod
    def load(cls, file: Path) -> Facts:
        """Read what `save` wrote."""
        with np.load(file) as kept:
            return cls(**kept)


def facts_of(structures: Sequence[Structure], *, workers: int = 1) -> Facts:
    """Of ordered structures of plain elements, however broken their geometries, in `workers` processes."""
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="loky", inner_max_num_threads=1):
        parts = Parallel(n_jobs=workers)(delayed(_facts_of_chunk)(chunk) for chunk in chunked(structures, CHUNK))
    parts = parts or [_facts_of_chunk([])]
    return Facts(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Facts)})


def _facts_of_chunk(structures: Sequence[Structure]) -> Facts:
    count = len(structures)
    with quiet():
        valid = np.array([is_valid_structure(one) for one in structures], dtype=bool)
        pairs = list(zip(structures, valid, strict=True))
        return Facts(
            valid_structure=valid,
            sane=np.array([ok and structure_problem(one) is None for one, ok in pairs], dtype=bool),
            valid_composition=np.array([is_valid_composition(one.composition) for one in structures], dtype=bool),
            density=np.array([one.density if ok else np.nan for one, ok in pairs], dtype=float),
            num_elements=np.array([len(one.composition) for one in structures], dtype=float),
            structure=np.array([_fingerprint(one, ok=ok) for one, ok in pairs], dtype=float).reshape(count, LENGTH),
            composition=np.array([composition_fingerprint(one.composition) for one in structures]).reshape(count, 132),
        )


def _fingerprint(structure: Structure, *, ok: bool) -> FloatArray:
    try:
        return crystal_fingerprint(structure) if ok else np.full(LENGTH, np.nan)
    except ValueError:
        return np.full(LENGTH, np.nan)


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
        "density_distance": distribution_distance(made.density[valid], known.density),
        "num_elements_distance": distribution_distance(made.num_elements[valid], known.num_elements),
    }
