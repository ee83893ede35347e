"""Random sensible structures: a generator for the harness."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.airss.cell import expected_volume, random_lattice
from unimat_search.airss.placement import Arrangement, place, random_arrangement
from unimat_search.airss.symmetry import SpaceGroup, orders, sites, space_group
from unimat_search.records import FailedAttempt
from unimat_search.seeds import candidate_stream

FloatArray = NDArray[np.float64]

SWELLING = 1.01
"""Volume factor after each try that found no room."""

MAX_PACKING = 0.4
"""Part of the cell that spheres of the least distances may fill; random spheres jam at 0.64."""

SHORTEST = 0.7
"""Angstrom; no bond is shorter (H2: 0.74), whatever the radii say (helium's)."""

MAX_DRAWS = 200
"""Draws of a space group with fitting sites, or of a cell that is neither flat nor long."""


class RandomSearch:
    """Random structures with a target volume, least distances and symmetry.

    A space group is drawn among those with the wanted number of operations, a cell that it allows is
    scaled to a volume in the window, atoms are put on the group's sites and pushed apart until every pair
    keeps its least distance. What finds no room is tried again, in slowly growing volume, `max_tries` times.

    Args:
        min_operations: Fewest symmetry operations of the primitive cell.
        max_operations: Most symmetry operations.
        min_volume: Lower end of the volume window, relative to the sum of the elements' volumes.
        max_volume: Upper end.
        separation: Least distance of two atoms, relative to the sum of their covalent radii; see
            `least_distances`.
        max_tries: Cells tried for one structure before it is given up.

    Raises:
        ValueError: If a window is empty or a number is not positive.
    """

    def __init__(
        self,
        *,
        min_operations: int = 1,
        max_operations: int = 8,
        min_volume: float = 0.9,
        max_volume: float = 1.2,
        separation: float = 0.8,
        max_tries: int = 100,
    ) -> None:
        if not 1 <= min_operations <= max_operations:
            raise ValueError(f"min_operations {min_operations} to max_operations {max_operations} is no range from 1")
        if not 0 < min_volume <= max_volume:
            raise ValueError(f"min_volume {min_volume} to max_volume {max_volume} is no positive range")
        if not 0 < separation < 2:
            raise ValueError(f"separation must lie between 0 and 2 times the covalent radii, got {separation}")
        if max_tries < 1:
            raise ValueError(f"max_tries must be 1 or more, got {max_tries}")
        self.operations = (min_operations, max_operations)
        self.volume_window = (min_volume, max_volume)
        self.separation = separation
        self.max_tries = max_tries
        self.groups = [n for n, order in orders().items() if min_operations <= order <= max_operations]
        if not self.groups:
            raise ValueError(f"no space group has {min_operations} to {max_operations} operations")

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure | FailedAttempt]:
        """See `unimat_search.protocol.StructureGenerator.generate`; structure k does not depend on n."""
        symbols = sorted(el.symbol for el in composition.elements)
        counts = [int(composition[symbol]) for symbol in symbols]
        for index in range(n):
            yield self._structure(symbols, counts, candidate_stream(seed, composition, index))

    def least_distances(self, composition: Composition, volume: float) -> FloatArray:
        """Least distance of each pair of elements, angstrom, shape (n, n), elements in alphabetical order.

        They are lowered together where spheres of these diameters would fill more than `MAX_PACKING` of the
        cell: metals are far denser than their covalent radii allow.

        Args:
            composition: Of the whole cell.
            volume: Of the cell, cubic angstrom.
        """
        symbols = sorted(el.symbol for el in composition.elements)
        distances = np.maximum(self.separation * pair_radii(symbols), SHORTEST)
        counts = np.array([composition[symbol] for symbol in symbols])
        filled = float((counts * math.pi / 6 * distances.diagonal() ** 3).sum()) / volume
        return np.asarray(distances * min(1.0, (MAX_PACKING / filled) ** (1 / 3)))

    def _structure(
        self, symbols: Sequence[str], counts: Sequence[int], rng: np.random.Generator
    ) -> Structure | FailedAttempt:
        composition = Composition(dict(zip(symbols, counts, strict=True)))
        volume = expected_volume(composition) * rng.uniform(*self.volume_window)
        distances = self.least_distances(composition, volume)
        for _ in range(self.max_tries):
            drawn = self._draw_symmetry(counts, rng)
            if drawn is None:
                return FailedAttempt(
                    f"no space group drawn has sites for {composition.formula}; allow other operations"
                )
            group, arrangement = drawn
            lattice = _draw_lattice(group, volume, rng)
            placed = None if lattice is None else place(group, arrangement, lattice, distances, rng)
            if lattice is not None and placed:
                return _to_structure(symbols, lattice, *placed)
            volume *= SWELLING
        low, high = self.operations
        return FailedAttempt(
            f"no room for {sum(counts)} atoms with {low} to {high} symmetry operations in {self.max_tries} tries"
        )

    def _draw_symmetry(self, counts: Sequence[int], rng: np.random.Generator) -> tuple[SpaceGroup, Arrangement] | None:
        """A space group with sites for all atoms; None if none was found."""
        for _ in range(MAX_DRAWS):
            number = int(rng.choice(self.groups))
            arrangement = random_arrangement(sites(number), counts, rng)
            if arrangement:
                return space_group(number), arrangement
        return None


def _draw_lattice(group: SpaceGroup, volume: float, rng: np.random.Generator) -> FloatArray | None:
    draws = (random_lattice(group, volume, rng) for _ in range(MAX_DRAWS))
    return next((lattice for lattice in draws if lattice is not None), None)


def _to_structure(
    symbols: Sequence[str], lattice: FloatArray, coords: FloatArray, species: NDArray[np.int_]
) -> Structure:
    """Atoms sorted by element in the reduced, right-handed cell."""
    order = np.argsort(species, kind="stable")
    reduced = Lattice(lattice).get_lll_reduced_lattice().matrix
    return Structure(
        reduced * np.sign(np.linalg.det(reduced)),
        [symbols[i] for i in species[order]],
        coords[order] @ lattice,
        coords_are_cartesian=True,
        to_unit_cell=True,
    )


def pair_radii(symbols: Sequence[str]) -> FloatArray:
    """Sums of covalent radii (Cordero et al. 2008, as ASE has them), angstrom, shape (n, n)."""
    radii = np.array([covalent_radii[atomic_numbers[symbol]] for symbol in symbols])
    return np.asarray(radii[:, None] + radii)
