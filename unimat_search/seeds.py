"""Randomness for generators: one stream a candidate, whatever was drawn before it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pymatgen.core import Composition


def candidate_stream(seed: int, composition: Composition, index: int) -> np.random.Generator:
    """Random numbers of the candidate `index` of a composition: the same for the same seed, composition and index."""
    return np.random.default_rng([seed, zlib.crc32(composition.alphabetical_formula.encode()), index])


def random_in_shell(rng: np.random.Generator, inner: float = 0.0, outer: float = 1.0) -> NDArray[np.float64]:
    """A point between two spheres around the origin, evenly in space. (3,)."""
    direction = rng.normal(size=3)
    return np.asarray(direction / np.linalg.norm(direction) * rng.uniform(inner**3, outer**3) ** (1 / 3))


def round_seed(seed: int, start: int) -> int:
    """Seed of the candidates from `start` on, where a generator is asked more than once: its own from the first on."""
    if start == 0:
        return seed
    return int(np.random.SeedSequence([seed, start]).generate_state(1, np.uint64)[0] >> 1)
