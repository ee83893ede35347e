"""What a plug-in must be: a source of candidate structures, or a way to relax them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pymatgen.core import Composition, Lattice, Structure

    from unimat_search.records import FailedAttempt, Record, Relaxation, RelaxSettings


@runtime_checkable
class StructureGenerator(Protocol):
    """A source of candidate structures."""

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure | FailedAttempt]:
        """Yield `n` candidates with exactly this cell composition.

        Args:
            composition: Of the whole cell (Na4Cl4, not NaCl), integer amounts.
            n: How many; a generator that ends early has failed the rest.
            seed: The same seed gives the same structures, whatever was generated before.

        Yields:
            A structure, or a `FailedAttempt` with the reason where none could be made.
        """
        ...


@runtime_checkable
class LearningGenerator(StructureGenerator, Protocol):
    """A generator that learns from what was relaxed: it is asked in rounds, of `round_size` if it has one.

    In all it is asked for as many candidates as any other.
    """

    def observe(self, records: Sequence[Record]) -> None:
        """See what became of the candidates of one cell composition, before `generate` is called for more of it.

        Args:
            records: All its finished candidates, with structures, in the order of their generation; empty before the
                first. They replace what was observed before: what is generated next depends on them, on the
                composition and on the seed alone (and not on seconds, if runs are to repeat).
        """
        ...


@runtime_checkable
class FiniteGenerator(StructureGenerator, Protocol):
    """A generator that has so many structures and no more, each in a cell of its own, as files have.

    Where a composition is searched in one cell, `generate` gives them in that cell, in their order. Where it is
    searched in cells of several numbers of formula units, each structure is asked for once, in its own cell.
    """

    def shares(self, composition: Composition, formula_units: Sequence[int], n: int) -> list[tuple[int, int]]:
        """How many of its first `n` structures of a composition it gives in which cell; `n` in all.

        Args:
            composition: One reduced formula unit.
            formula_units: Numbers of formula units that are searched.
            n: How many are asked for; what it lacks counts too, in any cell.

        Returns:
            (formula units, structures) where there is at least one.
        """
        ...

    def generate_own(
        self, composition: Composition, n: int, formula_units: Sequence[int]
    ) -> Iterator[Structure | FailedAttempt]:
        """Yield the first `n` structures whose own cell is the one asked for.

        Args:
            composition: Of the whole cell.
            n: How many, as `shares` said.
            formula_units: As in `shares`.
        """
        ...


@runtime_checkable
class CellGenerator(StructureGenerator, Protocol):
    """A generator that can also draw the atoms in a cell that is given (`--cell`)."""

    def generate_in_cell(
        self, composition: Composition, n: int, lattice: Lattice, *, seed: int
    ) -> Iterator[Structure | FailedAttempt]:
        """Yield `n` candidates with exactly this composition in exactly this cell.

        Args:
            composition: Of the whole cell.
            n: How many.
            lattice: The cell; candidates have its lengths and angles.
            seed: As in `generate`.
        """
        ...


@runtime_checkable
class FreeGenerator(StructureGenerator, Protocol):
    """A generator that also makes crystals without being given a composition (`reproduce rq1` and `rq4`).

    An attribute `makes_compositions = False` says that it draws them from data, and does not make them.
    """

    def generate_freely(self, n: int, *, seed: int) -> Iterable[Structure | FailedAttempt]:
        """Give `n` crystals of any composition; what is lacking has failed.

        Args:
            n: How many.
            seed: The same seed gives the same structures.
        """
        ...


@runtime_checkable
class Relaxer(Protocol):
    """Drives structures to a local minimum of its potential energy surface."""

    @property
    def name(self) -> str:
        """Names the potential and its version: energies under one name can be compared."""
        ...

    def relax(self, structures: Iterable[Structure], settings: RelaxSettings) -> Iterator[Relaxation]:
        """Relax every structure, and yield each result as it comes, in any order.

        A structure that can't be relaxed is a `Relaxation` with its reason, never an exception.
        The input is left untouched.
        """
        ...


@runtime_checkable
class ReferencedRelaxer(Relaxer, Protocol):
    """A relaxer that says what its elemental references are made of: too dear to try all simple crystals."""

    @property
    def reference_settings(self) -> RelaxSettings:
        """When the relaxation of an elemental crystal ends."""
        ...

    def reference_structures(self, symbol: str) -> tuple[list[tuple[str, Structure]], str]:
        """Named structures of an element, of which the lowest counts, and where they come from, in words."""
        ...
