"""Structures that several tests of the harness share."""

from __future__ import annotations

import numpy as np
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.airss import RandomSearch
from unimat_search.records import FailedAttempt

ROCK_SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])

HOPELESS = {
    "two atoms on one spot": Structure(Lattice.cubic(4), ["Na", "Cl"], [[0.0, 0, 0], [0.0, 0, 0]]),
    "an isolated atom": Structure(Lattice.cubic(7.6), ["Na", "Cl", "Cl"], [[0.0, 0, 0], [0.1, 0, 0], [0.55, 0.5, 0.5]]),
    "a cell of 200 angstrom": Structure(Lattice.cubic(200), ["Na", "Cl"], [[0.0, 0, 0], [0.01, 0.01, 0]]),
    "not a number": Structure(Lattice.cubic(4), ["Na", "Cl"], [[0.0, 0, 0], [np.nan, 0, 0]]),
    "no volume": Structure(
        Lattice.from_parameters(3, 3, 3, 60, 60, 119.99), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]]
    ),
}


def random_structures(formula: str, n: int, seed: int = 0) -> list[Structure]:
    """What random search makes of a formula, failures left out."""
    attempts = RandomSearch().generate(Composition(formula), n, seed=seed)
    return [attempt for attempt in attempts if not isinstance(attempt, FailedAttempt)]
