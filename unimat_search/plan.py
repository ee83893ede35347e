"""What a comparison is asked for: its settings, and the cells that these mean."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property

import tomli_w

from unimat_search.eval.hull_sources import NO_HULL
from unimat_search.eval.parallel import DEFAULT_CHUNK
from unimat_search.eval.sanity import FINAL
from unimat_search.formula import Formula, parse_formula, parse_units, share_out
from unimat_search.records import MatchSettings, RelaxSettings, Task, one_line
from unimat_search.registry import Spec, parse_all
from unimat_search.versions import versions

SETTINGS = "run.toml"

MANY = 2**63 - 1
"""The largest number that the store holds."""

MOST_ATOMS = 1000


@dataclass(frozen=True)
class CompareSettings:
    """Everything that decides a run's results.

    Attributes:
        formulas: Compositions, as the user wrote them.
        generators: Specifications `NAME[,key=value,...]`; the first one is the reference of the others.
        n: Candidates of each generator for each composition.
        formula_units: "1-4", "2", "1,2,4"; empty for every number that fits.
        max_atoms: Atoms in a cell at most.
        seed: Given to every generator.
        relaxer: Specification of the relaxer.
        relax: What is relaxed, and when that ends.
        chunk: Candidates of one task that a worker gets at once. A chunk is the same whatever the number of workers
            and however often a run was resumed, which is why results do not depend on either.
        reference: Path of known structures; empty for none.
        matcher: When a known structure counts as found.
        hull: What hull distances count from, see `unimat_search.eval.hull_sources.load_hull`.
        generator_time_limit: Seconds that a generator may be silent, until its first structure or between two.
        cell: Lengths (angstrom) and angles (degrees) of the cell in which all generators draw; empty for any cell.

    Raises:
        ValueError: If a value is out of range or named twice.
    """

    formulas: tuple[str, ...]
    generators: tuple[str, ...] = ("airss", "pyxtal")
    n: int = 20
    formula_units: str = ""
    max_atoms: int = 20
    seed: int = 0
    relaxer: str = "chgnet"
    relax: RelaxSettings = field(default_factory=RelaxSettings)
    chunk: int = DEFAULT_CHUNK
    reference: str = ""
    matcher: MatchSettings = field(default_factory=MatchSettings)
    hull: str = ""
    generator_time_limit: float = 3600.0
    cell: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.formulas:
            raise ValueError("no formula is given")
        if not self.generators:
            raise ValueError("no generator is given")
        for text in (*self.formulas, *self.generators, self.formula_units, self.relaxer, self.reference, self.hull):
            if not isinstance(text, str):
                raise ValueError(f"{text!r} must be text")
        for name, largest in (("n", MANY), ("max_atoms", MOST_ATOMS), ("seed", MANY), ("chunk", MANY)):
            value = getattr(self, name)
            least = 0 if name == "seed" else 1
            if not isinstance(value, int) or not least <= value <= largest:
                most = "" if largest == MANY else f" to {largest}"
                raise ValueError(f"{name} must be a whole number from {least}{most or ' on'}, got {value}")
        if not (math.isfinite(self.generator_time_limit) and self.generator_time_limit > 0):
            limit = self.generator_time_limit
            raise ValueError(f"generator_time_limit must be positive and finite (seconds), got {limit}")
        if self.relax.pressure and self.hull not in ("", NO_HULL):
            raise ValueError(f"hull {self.hull} is of no pressure, the run of {self.relax.pressure} GPa; leave it out")
        parse_all(self.generators)
        if self.cell:
            check_cell(self.cell)

    @property
    def hull_source(self) -> str:
        """The hull that is loaded: none under pressure, where phases were not relaxed."""
        return NO_HULL if self.relax.pressure else self.hull

    @cached_property
    def specs(self) -> tuple[Spec, ...]:
        """The generators, all different."""
        return parse_all(self.generators)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The generators' names in rows and tables."""
        return tuple(spec.label for spec in self.specs)

    def joined_by(self, generators: Sequence[str]) -> CompareSettings:
        """The same with further generators; those that it has stay where they are."""
        new = [generator for generator in generators if generator not in self.generators]
        return replace(self, generators=(*self.generators, *new))

    def to_toml(self, used: Mapping[str, str] | None = None) -> str:
        """The file `run.toml`: the settings, and the versions that they were used with: the present ones, or others."""
        return tomli_w.dumps({**asdict(self), "versions": dict(used or versions())})

    @classmethod
    def from_toml(cls, text: str) -> CompareSettings:
        """Read what `to_toml` wrote.

        Raises:
            ValueError: If it is damaged.
        """
        data = {k: v for k, v in tomllib.loads(text).items() if k in {f.name for f in fields(cls)}}
        try:
            for name in ("formulas", "generators", "cell"):
                data[name] = tuple(data.get(name, ()))
            data |= {"relax": RelaxSettings(**data["relax"]), "matcher": MatchSettings(**data["matcher"])}
            return cls(**data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{SETTINGS} is damaged: {one_line(error)}") from error


@dataclass(frozen=True)
class Search:
    """A composition with the cells that are tried.

    Attributes:
        formula: The composition.
        units: The numbers of formula units that may be tried.
        n: Candidates of each generator.
        cell: See `CompareSettings.cell`.
    """

    formula: Formula
    units: Sequence[int]
    n: int
    cell: tuple[float, ...] = ()

    @property
    def shares(self) -> list[tuple[int, int]]:
        """Formula units and candidates, where there is at least one."""
        return share_out(self.n, self.units)

    @property
    def cells(self) -> list[str]:
        """The formulas of all cells that may be tried, as in `Task`."""
        return [self.formula.cell(units).alphabetical_formula for units in self.units]

    def tasks(self, spec: Spec, seed: int, own: Sequence[tuple[int, int]] | None = None) -> list[Task]:
        """One task for each number of formula units.

        Args:
            spec: The generator's specification.
            seed: For the generator.
            own: The shares of a `FiniteGenerator`, which gives each structure in its own cell.
        """
        reduced, cells = self.formula.reduced_formula, dict(zip(self.units, self.cells, strict=True))
        searched = tuple(self.units) if own else ()
        return [
            Task(spec.label, reduced, units, cells[units], n, seed, spec.text, searched, self.cell)
            for units, n in own or self.shares
        ]


class Plan:
    """The searches of a comparison, made anew each time they are gone through: there may be a million.

    Args:
        settings: The comparison's.
    """

    def __init__(self, settings: CompareSettings) -> None:
        self._formulas = settings.formulas
        self._units = parse_units(settings.formula_units) if settings.formula_units else None
        self._n, self._max_atoms, self._cell = settings.n, settings.max_atoms, settings.cell

    def __len__(self) -> int:
        return len(self._formulas)

    def __iter__(self) -> Iterator[Search]:
        for text in self._formulas:
            formula = parse_formula(text)
            units = formula.formula_units(self._units, self._max_atoms)
            if self._cell:
                _check_room(formula, units, self._cell)
            yield Search(formula, units, self._n, self._cell)


def check_cell(cell: Sequence[float]) -> None:
    """Raises ValueError unless the lengths and angles are those of a cell."""
    numbers = ",".join(f"{x:g}" for x in cell)
    if len(cell) != 6 or not all(math.isfinite(x) and x > 0 for x in cell):
        raise ValueError(f"a cell is three lengths (angstrom) and three angles (degrees), all positive, got {numbers}")
    alpha, beta, gamma = cell[3:]
    if not (max(cell[3:]) < 180 and alpha + beta + gamma < 360 and 2 * max(cell[3:]) < alpha + beta + gamma):
        raise ValueError(f"no cell has the angles {alpha:g}, {beta:g} and {gamma:g} degrees")


def cell_volume(cell: Sequence[float]) -> float:
    """Of lengths and angles, cubic angstrom."""
    x, y, z = (math.cos(math.radians(angle)) for angle in cell[3:])
    return math.prod(cell[:3]) * math.sqrt(max(0.0, 1 - x * x - y * y - z * z + 2 * x * y * z))


def _check_room(formula: Formula, units: Sequence[int], cell: Sequence[float]) -> None:
    """Raises ValueError unless one number of formula units is searched, and the cell has room for its atoms."""
    if len(units) != 1:
        raise ValueError(f"a given cell holds one number of formula units of {formula.text}; give --formula-units too")
    check_room(cell, units[0] * formula.atoms_per_unit)


def check_room(cell: Sequence[float], atoms: int) -> None:
    """Raises ValueError unless the cell has a volume that so many atoms may have."""
    low, high = FINAL.volume_per_atom
    volume = cell_volume(cell) / atoms
    if not low <= volume <= high:
        numbers = ",".join(f"{x:g}" for x in cell)
        raise ValueError(
            f"the cell {numbers} has {volume:.3g} cubic angstrom for each of {atoms} atoms; "
            f"crystals have {low:g} to {high:g}"
        )


def plan(settings: CompareSettings) -> Plan:
    """The cells to search, candidates shared out over them.

    Raises:
        FormulaError: If a formula can't be used.
        ValueError: If one composition is asked for twice.
    """
    searches = Plan(settings)
    texts: dict[str, str] = {}
    for search in searches:
        formula = search.formula
        if formula.reduced_formula in texts:
            other = texts[formula.reduced_formula]
            raise ValueError(f"{formula.text!r} and {other!r} are one composition; ask for one of them")
        texts[formula.reduced_formula] = formula.text
    return searches
