"""Does a set of crystals cover another one? The benchmark's proxy metrics (CDVAE, Xie et al., arXiv:2110.06197)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition
from scipy.spatial.distance import cdist

FloatArray = NDArray[np.float64]

COMPOSITION_LENGTH = 132
"""Of a composition's fingerprint: six statistics of 22 properties."""

BLOCK = 1000
"""Rows of the matrix of distances that are held at once."""


@dataclass(frozen=True)
class Cutoffs:
    """Distances up to which a crystal covers another one.

    Attributes:
        structure: Between CrystalNN fingerprints.
        composition: Between standardised Magpie features.
    """

    structure: float
    composition: float


CUTOFFS = {"mp_20": Cutoffs(0.4, 10.0), "carbon_24": Cutoffs(0.2, 4.0), "perov_5": Cutoffs(0.2, 4.0)}
"""CDVAE's, by data set; those of MP-20 serve for others."""


@dataclass(frozen=True)
class Fingerprints:
    """Of a set of crystals, those that have both.

    Attributes:
        structure: `unimat_search.eval.crystalnn.crystal_fingerprint`. (m, 61)
        composition: `composition_fingerprint`. (m, 132)
    """

    structure: FloatArray
    composition: FloatArray


def coverage(made: Fingerprints, known: Fingerprints, n_generated: int, cutoffs: Cutoffs) -> tuple[float, float]:
    """Recall and precision (COV-R, COV-P).

    A crystal is covered if some crystal of the other set is near in structure, and some, maybe another one, in
    composition: so the benchmark counts.

    Args:
        made: Of the generated crystals that have fingerprints.
        known: Of the known ones.
        n_generated: All generated crystals, the broken ones too: the denominator of the precision.
        cutoffs: What is near.
    """
    if not len(made.structure):
        return 0.0, 0.0
    structure = _nearest(made.structure, known.structure)
    composition = _nearest(made.composition, known.composition)
    near = [(a <= cutoffs.structure) & (b <= cutoffs.composition) for a, b in zip(structure, composition, strict=True)]
    return float(near[1].mean()), float(near[0].sum() / n_generated)


def _nearest(first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray]:
    """From each row of one to the nearest of the other, and the other way round."""
    rows, columns = [], np.full(len(second), np.inf)
    for start in range(0, len(first), BLOCK):
        distances = cdist(first[start : start + BLOCK], second)
        rows.append(distances.min(axis=1))
        columns = np.minimum(columns, distances.min(axis=0))
    return np.concatenate(rows), columns


def composition_fingerprint(composition: Composition) -> FloatArray:
    """Magpie's features (Ward et al., npj Comput. Mater. 2, 16028), standardised as CDVAE's evaluation does. (132,)."""
    mean, deviation = _scale()
    return np.asarray(np.nan_to_num((magpie_features(composition) - mean) / deviation))


def magpie_features(composition: Composition) -> FloatArray:
    """Minimum, maximum, range, mean, deviation and mode of 22 properties of the elements; NaN if unknown. (132,)."""
    return np.array(_magpie(composition.reduced_formula))


@lru_cache(maxsize=100_000)
def _magpie(formula: str) -> Sequence[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        features: Sequence[float] = _featurizer().featurize(Composition(formula))
    return features


@cache
def _featurizer():  # type: ignore[no-untyped-def]  # noqa: ANN202 - matminer is untyped
    from matminer.featurizers.composition.composite import ElementProperty

    return ElementProperty.from_preset("magpie", impute_nan=False)


@cache
def _scale() -> tuple[FloatArray, FloatArray]:
    """Mean and deviation of each feature, as the cut-offs were published with; the file names its source."""
    table = json.loads((resources.files(__package__) / "composition_scale.json").read_text(encoding="utf-8"))
    return np.array(table["mean"]), np.array(table["deviation"])
