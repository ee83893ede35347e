"""Random sensible structures: a generator for the harness."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.airss.cell import expected_volume, random_lattice
from unimat_search.airss.placement import place, random_arrangement
from unimat_search.airss.symmetry import orders, sites, space_group
from unimat_search.records import FailedAttempt

FloatArray = NDArray[np.float64]

SWELLING = 1.02
"""Volume factor after each try that found no room."""


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
        separation: Least distance of two atoms, relative to the sum of their covalent radii.
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
        name = zlib.crc32(composition.alphabetical_formula.encode())
        for index in range(n):
            yield self._structure(symbols, counts, np.random.default_rng([seed, name, index]))

    def _structure(
        self, symbols: Sequence[str], counts: Sequence[int], rng: np.random.Generator
    ) -> Structure | FailedAttempt:
        separations = self.separation * pair_radii(symbols)
        volume = expected_volume(Composition(dict(zip(symbols, counts, strict=True))))
        volume *= rng.uniform(*self.volume_window)
        for _ in range(self.max_tries):
            structure = self._try(symbols, counts, volume, separations, rng)
            if structure:
                return structure
            volume *= SWELLING
        low, high = self.operations
        return FailedAttempt(
            f"no room for {sum(counts)} atoms with {low} to {high} symmetry operations in {self.max_tries} tries"
        )

    def _try(
        self,
        symbols: Sequence[str],
        counts: Sequence[int],
        volume: float,
        separations: FloatArray,
        rng: np.random.Generator,
    ) -> Structure | None:
        number = int(rng.choice(self.groups))
        group = space_group(number)
        arrangement = random_arrangement(sites(number), counts, rng)
        lattice = random_lattice(group, volume, rng)
        if arrangement is None or lattice is None:
            return None
        placed = place(group, arrangement, lattice, separations, rng)
        if placed is None:
            return None
        coords, species = placed
        order = np.argsort(species, kind="stable")
        reduced = Lattice(lattice).get_lll_reduced_lattice().matrix
        return Structure(
            reduced * np.sign(np.linalg.det(reduced)),  # right-handed
            [symbols[i] for i in species[order]],
            coords[order] @ lattice,
            coords_are_cartesian=True,
            to_unit_cell=True,
        )


def pair_radii(symbols: Sequence[str]) -> FloatArray:
    """Sums of covalent radii (Cordero et al. 2008, as ASE has them), angstrom, shape (n, n)."""
    radii = np.array([covalent_radii[atomic_numbers[symbol]] for symbol in symbols])
    return np.asarray(radii[:, None] + radii)
