"""Shaken structures: atoms displaced and the cell strained at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pymatgen.core import Structure

from unimat_search.seeds import random_in_shell


@dataclass(frozen=True)
class Shaking:
    """Relax-and-shake: displace every atom and strain the cell at random, relax again, keep what is lower.

    Attributes:
        times: Of each structure.
        amplitude: Largest displacement of an atom, angstrom.
        strain: Largest strain of the cell.
    """

    times: int = 0
    amplitude: float = 0.5
    strain: float = 0.05

    def __post_init__(self) -> None:
        if self.times < 0 or not self.amplitude >= 0 or not 0 <= self.strain < 0.5:
            raise ValueError(
                "shakes and amplitude must be 0 or more and the strain below 0.5, "
                f"got {self.times}, {self.amplitude} and {self.strain}"
            )


def shaken(structure: Structure, rng: np.random.Generator, shaking: Shaking) -> Structure:
    """A structure with each atom displaced within a sphere and the cell strained."""
    drawn = rng.uniform(-shaking.strain, shaking.strain, (3, 3))
    strain = np.diag(drawn.diagonal()) + (np.triu(drawn, 1) + np.triu(drawn, 1).T) / 2
    lattice = structure.lattice.matrix @ (np.eye(3) + strain)
    moves = np.array([random_in_shell(rng) for _ in structure]) * shaking.amplitude
    coords = structure.frac_coords @ lattice + moves
    return Structure(lattice, structure.species, coords, coords_are_cartesian=True, to_unit_cell=True)
