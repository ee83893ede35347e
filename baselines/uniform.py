"""The floor: uniform random coordinates in a random cell, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase.data import covalent_radii
from pymatgen.core import Composition, Element, Lattice, Species, Structure

from unimat_search.seeds import candidate_stream


class UniformRandom:
    """Uniform random atoms in a random cell: edges in any ratio up to 1 : 2, angles from 60 to 120 degrees.

    Args:
        low: The smallest volume, times the cubes of the covalent diameters (Cordero et al. 2008, as ASE has them).
        high: The largest.

    Raises:
        ValueError: If the volumes are no range.
    """

    def __init__(self, *, low: float = 0.5, high: float = 1.5) -> None:
        if not 0 < low <= high:
            raise ValueError(f"low and high must be a range of positive volumes, got {low} and {high}")
        self.low, self.high = low, high

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
        """See `unimat_search.protocol.StructureGenerator.generate`; structure k does not depend on n."""
        species = _species(composition)
        usual = sum((2 * covalent_radii[el.Z]) ** 3 for el in species)
        for index in range(n):
            rng = candidate_stream(seed, composition, index)
            volume = usual * rng.uniform(self.low, self.high)
            yield Structure(_random_cell(rng).scale(volume), species, rng.random((len(species), 3)))

    def generate_in_cell(self, composition: Composition, n: int, lattice: Lattice, *, seed: int) -> Iterator[Structure]:
        """See `unimat_search.protocol.CellGenerator`."""
        species = _species(composition)
        for index in range(n):
            yield Structure(lattice, species, candidate_stream(seed, composition, index).random((len(species), 3)))


def _species(composition: Composition) -> list[Element | Species]:
    """The element of each atom."""
    return [el for el in sorted(composition.elements) for _ in range(int(composition[el]))]


def _random_cell(rng: np.random.Generator) -> Lattice:
    while True:
        lengths, angles = rng.uniform(1, 2, 3), rng.uniform(60, 120, 3)
        cosines = np.cos(np.radians(angles))
        if 1 - (cosines**2).sum() + 2 * cosines.prod() > 0.1:  # the angles close to a cell that is not flat
            return Lattice.from_parameters(*lengths.tolist(), *angles.tolist())
