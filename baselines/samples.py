"""Anybody's structures as a generator: what an outside tool wrote, scored without installing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import gcd
from pathlib import Path

import numpy as np
from pymatgen.core import Composition, Structure

from unimat_search.cells import in_cell, is_finite
from unimat_search.files import read_crystals
from unimat_search.formats import UNREAD
from unimat_search.records import FailedAttempt


class StructureFiles:
    """The structures of a file, a folder or an archive, in their order, or without a composition drawn from them.

    A structure serves a composition if its reduced formula is that one's: in the one cell that is asked for, as it is,
    as its primitive cell, or as a supercell of either, whichever has that number of atoms; where several numbers of
    formula units are searched, once: in its own cell, or if that is not searched in the smallest one that its primitive
    cell makes up. One that can't be read serves none.

    Args:
        path: See `unimat_search.files.read_crystals`.

    Raises:
        ValueError: If the path holds nothing of a known format, or a table in it is damaged.
    """

    def __init__(self, path: str) -> None:
        named = list(read_crystals(Path(path)))
        self.all = [one for _, one in named]
        self.structures: dict[str, list[Structure]] = {}
        for one in self.all:
            if isinstance(one, Structure):
                self.structures.setdefault(one.composition.reduced_formula, []).append(one)
        self.path = path
        unread = [f"{name}: {one.reason.removeprefix(UNREAD)}" for name, one in named if isinstance(one, FailedAttempt)]
        self._unread = f"; {len(unread)} can't be read, {unread[0]}" if unread else ""

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure | FailedAttempt]:  # noqa: ARG002
        """See `unimat_search.protocol.StructureGenerator.generate`."""
        yield from self._fitted(self._of(composition), composition, n)

    def shares(self, composition: Composition, formula_units: Sequence[int], n: int) -> list[tuple[int, int]]:
        """See `unimat_search.protocol.FiniteGenerator.shares`."""
        own = self._of(composition)[:n]
        counts = Counter(_home(one, composition, formula_units) for one in own)
        counts[formula_units[0]] += n - len(own)
        return sorted((units, count) for units, count in counts.items() if count)

    def generate_own(
        self, composition: Composition, n: int, formula_units: Sequence[int]
    ) -> Iterator[Structure | FailedAttempt]:
        """See `unimat_search.protocol.FiniteGenerator.generate_own`."""
        asked = gcd(*(int(amount) for amount in composition.values()))
        unit = composition / asked
        at_home = [one for one in self._of(composition) if _home(one, unit, formula_units) == asked]
        yield from self._fitted(at_home, composition, n)

    def _of(self, composition: Composition) -> list[Structure]:
        return self.structures.get(composition.reduced_formula, [])

    def _fitted(
        self, structures: Sequence[Structure], composition: Composition, n: int
    ) -> Iterator[Structure | FailedAttempt]:
        """The first n in the cell of a composition, or the reasons why they can't be."""
        for structure in structures[:n]:
            yield _fitted(structure, composition)
        held = len(self._of(composition))
        for _ in range(n - len(structures)):
            yield FailedAttempt(f"{self.path} holds {held} structures of {composition.reduced_formula}{self._unread}")

    def generate_freely(self, n: int, *, seed: int) -> list[Structure | FailedAttempt]:
        """N of the file's structures at random, none twice; what can't be read is among them."""
        lacking = FailedAttempt(f"{self.path} holds {len(self.all)} structures, {n} were asked for")
        drawn = [self.all[row] for row in np.random.default_rng(seed).permutation(len(self.all))[:n]]
        return drawn + [lacking] * (n - len(drawn))


def _fitted(structure: Structure, composition: Composition) -> Structure | FailedAttempt:
    """A structure in a cell of a composition, or the reason why it fits none."""
    if not is_finite(structure):
        return FailedAttempt("a coordinate or cell vector is not a finite number")
    if not _is_a_cell(structure):
        return FailedAttempt("the cell has no volume")
    fitted = in_cell(structure, int(composition.num_atoms))
    if fitted is None:
        return FailedAttempt(f"a cell of {len(structure)} atoms can't become one of {composition.formula}")
    return fitted


def _home(structure: Structure, unit: Composition, formula_units: Sequence[int]) -> int:
    """The number of formula units, of those that are searched, in which a structure is given."""
    own = round(len(structure) / unit.num_atoms)
    if own in formula_units:
        return own
    if not _is_a_cell(structure):
        return formula_units[0]
    primitive = round(len(structure.get_primitive_structure(tolerance=0.1)) / unit.num_atoms)
    fitting = (units for units in formula_units if units % primitive == 0)
    return next(fitting, formula_units[0])


def _is_a_cell(structure: Structure) -> bool:
    return is_finite(structure) and abs(structure.lattice.volume) >= 1e-3
