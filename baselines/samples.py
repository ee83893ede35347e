"""Anybody's structures as a generator: what an outside tool wrote, scored without installing it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pymatgen.core import Composition, Structure

from unimat_search.cells import in_cell
from unimat_search.files import read_crystals
from unimat_search.records import FailedAttempt


class StructureFiles:
    """The structures of a file, a folder or an archive, in their order, or without a composition drawn from them.

    A structure serves a composition if its reduced formula is that one's: as it is, as its primitive cell, or as a
    supercell of either, whichever has the asked number of atoms. One that can't be read serves none. For another
    number of formula units, the first structure comes first again.

    Args:
        path: See `unimat_search.files.read_crystals`.

    Raises:
        ValueError: If the path holds nothing of a known format, or a table in it is damaged.
    """

    finite = True

    def __init__(self, path: str) -> None:
        self.all = [one for _, one in read_crystals(Path(path))]
        self.structures: dict[str, list[Structure]] = {}
        for one in self.all:
            if isinstance(one, Structure):
                self.structures.setdefault(one.composition.reduced_formula, []).append(one)
        self.path = path

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure | FailedAttempt]:  # noqa: ARG002
        """See `unimat_search.protocol.StructureGenerator.generate`."""
        own = self.structures.get(composition.reduced_formula, [])
        for structure in own[:n]:
            yield _fitted(structure, composition)
        for _ in range(n - len(own)):
            yield FailedAttempt(f"{self.path} holds {len(own)} structures of {composition.reduced_formula}")

    def generate_freely(self, n: int, *, seed: int) -> list[Structure | FailedAttempt]:
        """N of the file's structures at random, none twice; what can't be read is among them."""
        lacking = FailedAttempt(f"{self.path} holds {len(self.all)} structures, {n} were asked for")
        drawn = [self.all[row] for row in np.random.default_rng(seed).permutation(len(self.all))[:n]]
        return drawn + [lacking] * (n - len(drawn))


def _fitted(structure: Structure, composition: Composition) -> Structure | FailedAttempt:
    """A structure in a cell of a composition, or the reason why it fits none."""
    if not (np.isfinite(structure.frac_coords).all() and np.isfinite(structure.lattice.matrix).all()):
        return FailedAttempt("a coordinate or cell vector is not a finite number")
    if abs(structure.lattice.volume) < 1e-3:
        return FailedAttempt("the cell has no volume")
    fitted = in_cell(structure, int(composition.num_atoms))
    if fitted is None:
        return FailedAttempt(f"a cell of {len(structure)} atoms can't become one of {composition.formula}")
    return fitted
