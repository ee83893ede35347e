"""Randomness for generators: one stream a candidate, whatever was drawn before it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Composition


def candidate_stream(seed: int, composition: Composition, index: int) -> np.random.Generator:
    """Random numbers of the candidate `index` of a composition: the same for the same seed, composition and index."""
    return np.random.default_rng([seed, zlib.crc32(composition.alphabetical_formula.encode()), index])
