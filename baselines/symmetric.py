"""Symmetric random crystals by PyXtal (Fredericks et al., Comput. Phys. Commun. 261, 107810)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from pymatgen.core import Composition, Lattice, PeriodicSite, Structure

from unimat_search.airss.symmetry import space_group
from unimat_search.records import FailedAttempt
from unimat_search.seeds import candidate_stream


class PyxtalRandom:
    """Random crystals on the Wyckoff positions of a random space group, PyXtal's own volume and distances.

    Args:
        factor: Volume factor that PyXtal applies to its estimate from radii.
        max_tries: Space groups tried for one structure before it is given up.

    Raises:
        ModuleNotFoundError: If PyXtal is not installed; the message says how to install it.
        ValueError: If a number is not positive.
    """

    def __init__(self, *, factor: float = 1.1, max_tries: int = 200) -> None:
        try:
            import pyxtal  # noqa: F401
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("PyXtal is missing; pip install 'unimat-search[pyxtal]'") from error
        if not factor > 0 or max_tries < 1:
            raise ValueError(f"factor and max_tries must be positive, got {factor} and {max_tries}")
        self.factor = factor
        self.max_tries = max_tries

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure | FailedAttempt]:
        """See `unimat_search.protocol.StructureGenerator.generate`; structure k does not depend on n."""
        for index in range(n):
            yield self._structure(composition, candidate_stream(seed, composition, index))

    def _structure(self, composition: Composition, rng: np.random.Generator) -> Structure | FailedAttempt:
        for _ in range(self.max_tries):
            structure = self._try(composition, int(rng.integers(1, 231)), int(rng.integers(2**31)))
            if structure is not None and structure.composition == composition:
                return structure
        return FailedAttempt(f"PyXtal made no {composition.formula} in {self.max_tries} space groups")

    def _try(self, composition: Composition, number: int, seed: int) -> Structure | None:
        """One structure in one space group, as its primitive cell; None if it can't be."""
        from pyxtal import pyxtal
        from pyxtal.msg import Comp_CompatibilityError, VolumeError

        crystal = pyxtal()
        symbols = sorted(el.symbol for el in composition.elements)
        counts = [int(composition[symbol]) for symbol in symbols]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                crystal.from_random(
                    3,
                    number,
                    symbols,
                    counts,
                    factor=self.factor,
                    conventional=False,
                    max_count=1,
                    random_state=seed,
                )
            except (Comp_CompatibilityError, VolumeError, RuntimeError):
                return None
            return primitive_cell(crystal.to_pymatgen(), number) if crystal.valid else None


def primitive_cell(conventional: Structure, number: int) -> Structure:
    """A conventional cell in the standard setting of a space group, as its primitive cell."""
    lattice = Lattice(space_group(number).centring @ conventional.lattice.matrix)
    kept: list[PeriodicSite] = []
    for site in conventional:
        moved = PeriodicSite(site.species, site.coords, lattice, coords_are_cartesian=True, to_unit_cell=True)
        if not any(moved.species == other.species and moved.distance(other) < 1e-3 for other in kept):
            kept.append(moved)
    structure = Structure.from_sites(sorted(kept, key=lambda site: site.specie.symbol))
    return structure.get_reduced_structure("LLL")
