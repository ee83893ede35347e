"""Random structures as a seed file asks for them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition, Structure

from unimat_search.airss.candidates import Wish, build_structures, load_builder
from unimat_search.airss.knowledge import Expectation, expect_from_structures, expect_from_table
from unimat_search.airss.seedfile import Seed, SeedError, SeedText, SpeciesLine
from unimat_search.airss.settings import MOST_NUMBER, BuildSettings
from unimat_search.airss.symmetry import orders
from unimat_search.files import read_structures
from unimat_search.records import FailedAttempt
from unimat_search.seeds import candidate_stream, random_in_shell

FloatArray = NDArray[np.float64]

SPREAD = 0.05
"""Volumes lie so far around the wanted one, unless TARGVOL or VOL gives them."""

AUTO_SEPARATION = 0.9
"""Separations of AUTO, relative to the shortest distances that are known."""

MAX_DRAWS = 1000
BATCH = 32

VALENCE = {
    **dict.fromkeys(("H", "Li", "Na", "K"), 1),
    **dict.fromkeys(("He", "Be", "Mg", "Ca", "Ba"), 2),
    **dict.fromkeys(("B", "Al", "Ga"), 3),
    **dict.fromkeys(("C", "Si", "Ge", "Sn"), 4),
    **dict.fromkeys(("N", "P", "As"), 5),
    **dict.fromkeys(("O", "S", "Se"), 6),
    **dict.fromkeys(("F", "Cl", "I"), 7),
    **dict.fromkeys(("Ne", "Ar", "Kr", "Xe"), 8),
}
"""Valence electrons as OCTET counts them."""


@dataclass(frozen=True)
class Draw:
    """One structure's share of chance in what a seed leaves open.

    Attributes:
        seed: Its lists expanded.
        symbols: Elements in alphabetical order.
        counts: Atoms of each.
        settings: How it is built.
        wish: Volume, separations, given cell and points.
    """

    seed: Seed
    symbols: tuple[str, ...]
    counts: tuple[int, ...]
    settings: BuildSettings
    wish: Wish

    @property
    def kind(self) -> tuple[object, ...]:
        """What structures that are built together have in common."""
        wish = self.wish
        return self.symbols, self.counts, self.settings, wish.lattice is None, wish.placed, wish.movable


class SeedSearch:
    """Random search as an AIRSS seed file says, for compositions that it allows.

    Args:
        seed_file: The `.cell` file.
        like: A file or folder of structures that AUTO takes volume and separations from; else those of known crystals.
        by_count: Draw the number of operations first, then a group with so many, as the original does.

    Raises:
        SeedError: If the file is wrong, or asks for what is not supported.
        ValueError: If `like` can't be read.
    """

    def __init__(self, seed_file: str | Path, *, like: str = "", by_count: bool = False) -> None:
        try:
            text = Path(seed_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SeedError(f"{seed_file} can't be read as a seed file: {error}") from error
        try:
            self.text = SeedText.parse(text)
        except SeedError as error:
            raise SeedError(f"{seed_file}: {error}") from error
        self.by_count = by_count
        examples = [structure for _, structure in read_structures(Path(like))] if like else []
        self._expect: Callable[[Composition], Expectation] = (
            (lambda composition: expect_from_structures(composition, examples)) if examples else expect_from_table
        )
        load_builder()

    @property
    def formula(self) -> str | None:
        """The seed's reduced formula, None if its composition varies; of elements "O", not "O2"."""
        counts = self._unit()
        if counts is None:
            return None
        each = gcd(*counts.values())
        unit = Composition({symbol: amount // each for symbol, amount in counts.items()})
        return "".join(re.sub(r"(?<=[a-zA-Z])1$", "", part) for part in unit.formula.split())

    @property
    def formula_units(self) -> str:
        """Reduced formulas in the cell, as a list of numbers; empty if the composition varies."""
        counts = self._unit()
        if counts is None:
            return ""
        low, high = self._expanded(np.random.default_rng(0)).units or (1, 1)
        each = gcd(*counts.values())
        return ",".join(str(each * units) for units in range(low, high + 1))

    def _unit(self) -> dict[str, int] | None:
        """Atoms of one unit of the seed, None if they vary."""
        seed = self._expanded(np.random.default_rng(0))
        fixed = all(line.number[0] == line.number[1] for line in seed.species)
        if seed.atoms or self.text.varies or not fixed or _changes_composition(seed):
            return None
        return _counted(seed.species, [line.number[0] for line in seed.species])

    def describe(self) -> str:
        """The volume that the seed means, one line: VARVOL counts one atom of each line."""
        rng = np.random.default_rng(0)
        drawn = self._draw(rng)
        low, high = drawn.wish.volumes
        cell = Composition(dict(zip(drawn.symbols, drawn.counts, strict=True)))
        reduced, units = cell.get_reduced_composition_and_factor()
        mean = (low + high) / 2
        return (
            f"for example {cell.formula} in {mean:.2f} cubic angstrom, {mean / units:.2f} for each "
            f"{reduced.reduced_formula}, {mean / cell.num_atoms:.2f} for each atom"
        )

    def structures(self, indices: Sequence[int], *, seed: int) -> list[Structure | FailedAttempt]:
        """The structures with these numbers; none depends on the others."""
        rngs = [np.random.default_rng([seed, *self._own_seed(), index]) for index in indices]
        return _build([self._try(rng, None) for rng in rngs])

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure | FailedAttempt]:
        """See `unimat_search.protocol.StructureGenerator.generate`; structure k does not depend on n."""
        for start in range(0, n, BATCH):
            streams = (candidate_stream(seed, composition, index) for index in range(start, min(start + BATCH, n)))
            yield from _build([self._try(rng, composition) for rng in streams])

    def _own_seed(self) -> tuple[int, ...]:
        return self._expanded(np.random.default_rng(0)).seed

    def _expanded(self, rng: np.random.Generator) -> Seed:
        seed = self.text.expand(rng)
        return replace(seed, settings=replace(seed.settings, by_count=self.by_count))

    def _try(self, rng: np.random.Generator, composition: Composition | None) -> Draw | FailedAttempt:
        try:
            return self._draw(rng, composition)
        except ValueError as error:
            return FailedAttempt(str(error))

    def _draw(self, rng: np.random.Generator, composition: Composition | None = None) -> Draw:
        """Everything that a seed leaves open, drawn."""
        seed = self._expanded(rng)
        settings = seed.settings
        if composition is not None and (problem := _changes_composition(seed)):
            raise SeedError(problem)
        if composition is None:
            numbers = draw_numbers(seed, rng)
            units = 1
            if seed.units:
                units = int(rng.integers(seed.units[0], seed.units[1] + 1))
            else:
                settings, units = _on_general_positions(settings, rng)
            counts = _counted(seed.species, [units * n for n in numbers])
        else:
            counts = {element.symbol: int(n) for element, n in sorted(composition.items(), key=lambda x: x[0].symbol)}
            numbers = [line.number[0] for line in seed.species]
            units = max(1, sum(counts.values()) // max(1, sum(numbers)))
        symbols = tuple(counts)
        amounts = tuple(counts.values())
        if sum(amounts) > MOST_NUMBER:
            raise ValueError(f"the seed means a cell of {sum(amounts)} atoms, more than {MOST_NUMBER}")
        cell = Composition(dict(counts))
        expected = self._expect(cell) if seed.auto or seed.auto_volume else None
        separations = _separations(seed, symbols, expected, rng)
        volumes = _volumes(seed, cell, separations, expected, rng)
        points, moves, movable = _points(seed, symbols, amounts, numbers, units, rng)
        lattice = _given_lattice(seed, volumes, rng)
        if lattice is not None:
            volumes = (abs(float(np.linalg.det(lattice))),) * 2
        wish = Wish(rng, volumes, separations, lattice, points, moves, movable)
        return Draw(seed, symbols, amounts, settings, wish)


def _changes_composition(seed: Seed) -> str:
    """Why a seed can't be asked for a composition; empty if it can."""
    if seed.vacancies[0]:
        return "VACANCIES change the composition; build such structures with airss generate"
    if seed.units is None and seed.settings.space_groups() != (1,):
        return "without NFORM the number of atoms depends on the symmetry; add #NFORM=1 to the seed"
    return ""


def draw_numbers(seed: Seed, rng: np.random.Generator) -> list[int]:
    """Atoms of each line in a formula unit.

    Raises:
        ValueError: If FOCUS or OCTET were never met.
    """
    for _ in range(MAX_DRAWS):
        if seed.atoms:
            total = int(rng.integers(seed.atoms[0], seed.atoms[1] + 1))
            cuts = sorted(rng.integers(0, total + 1, len(seed.species) - 1).tolist())
            numbers = np.diff([0, *cuts, total]).tolist()
        else:
            numbers = [int(rng.integers(line.number[0], line.number[1] + 1)) for line in seed.species]
        counts = _counted(seed.species, numbers)
        if not counts or (seed.distinct and len(counts) != seed.distinct):
            continue
        if seed.octet and _valence(counts) % 8:
            continue
        return [int(n) for n in numbers]
    raise ValueError(f"no composition of the seed has what FOCUS and OCTET ask for in {MAX_DRAWS} draws")


def _valence(counts: Mapping[str, int]) -> int:
    unknown = sorted(set(counts) - set(VALENCE))
    if unknown:
        raise ValueError(f"OCTET knows no valence electrons of {', '.join(unknown)}")
    return sum(VALENCE[symbol] * n for symbol, n in counts.items())


def _counted(species: Sequence[SpeciesLine], numbers: Sequence[int]) -> dict[str, int]:
    """Atoms of each element, in alphabetical order."""
    counts: Counter[str] = Counter()
    for line, n in zip(species, numbers, strict=True):
        counts[line.symbol] += n
    return {symbol: counts[symbol] for symbol in sorted(counts) if counts[symbol]}


def _on_general_positions(settings: BuildSettings, rng: np.random.Generator) -> tuple[BuildSettings, int]:
    """Without NFORM the atoms are the asymmetric unit: a number of operations, and groups that have it."""
    numbers = settings.space_groups()
    weights = settings.group_weights(numbers)
    chosen = numbers[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]
    order = orders()[chosen]
    alike = tuple(number for number in numbers if orders()[number] == order)
    return replace(settings, groups=alike, extra_sites=0), order


def _separations(
    seed: Seed, symbols: Sequence[str], expected: Expectation | None, rng: np.random.Generator
) -> FloatArray:
    """Least distance of each pair of elements: as named, as known, from radii, or the default. (e, e)."""
    named = {(a, b): window for a, b, window in seed.pairs}
    radii = {line.symbol: line.radius for line in seed.species}
    least = np.zeros((len(symbols), len(symbols)))
    for i, a in enumerate(symbols):
        for j, b in enumerate(symbols[: i + 1]):
            window = named.get((min(a, b), max(a, b)), seed.separation)
            if (min(a, b), max(a, b)) not in named and radii.get(a, 0) > 0 and radii.get(b, 0) > 0:
                window = (radii[a] + radii[b],) * 2
            if expected and seed.auto:
                window = (AUTO_SEPARATION * float(expected.separations[i, j]),) * 2
            least[i, j] = least[j, i] = rng.uniform(*window) if window else 0.0
    return least


def _volumes(
    seed: Seed, cell: Composition, separations: FloatArray, expected: Expectation | None, rng: np.random.Generator
) -> tuple[float, float]:
    """Smallest and largest volume of the cell, cubic angstrom.

    Raises:
        SeedError: If the seed gives none.
    """
    atoms, lines = cell.num_atoms, len(seed.species)
    per_atom = 1 / lines if not seed.atoms else 1.0
    if expected:
        return expected.volume * (1 - SPREAD), expected.volume * (1 + SPREAD)
    if seed.cell_volume:
        volume = rng.uniform(*seed.cell_volume)
        return volume, volume
    if seed.target_volume:
        volume = (seed.set_volume or rng.uniform(*seed.target_volume)) * per_atom * atoms
        return volume, volume
    if seed.set_volume:
        volume = seed.set_volume * per_atom * atoms
    elif seed.lattice:
        volume = abs(float(np.linalg.det(np.array(seed.lattice)))) * per_atom * atoms
    elif all(line.volume for line in seed.species):
        volume = float(
            sum({line.symbol: line.volume for line in seed.species}[el.symbol] * n for el, n in cell.items())
        )
    elif seed.packing:
        symbols = sorted(element.symbol for element in cell.elements)
        filled = sum(cell[symbol] * np.pi / 6 * separations[i, i] ** 3 for i, symbol in enumerate(symbols))
        volume = float(filled) / seed.packing
    else:
        raise SeedError("the seed gives no volume; add #VARVOL=, #TARGVOL=, a lattice block, or #MINSEP=... AUTO")
    return volume * (1 - SPREAD), volume * (1 + SPREAD)


def _given_lattice(seed: Seed, volumes: tuple[float, float], rng: np.random.Generator) -> FloatArray | None:
    """The seed's own cell, scaled or strained; None for a random one."""
    if seed.cell == "free":
        return None
    if seed.lattice is None:
        raise SeedError("FIX, CFIX, ABFIX and CELLAMP want a lattice block")
    lattice = np.array(seed.lattice)
    factor = rng.uniform(*volumes) / abs(np.linalg.det(lattice))
    if seed.cell == "ab":
        lattice[:2] *= np.sqrt(factor)
    elif seed.cell == "c":
        lattice[2] *= factor
    elif seed.cell == "strained":
        drawn = rng.uniform(-seed.strain, seed.strain, (3, 3))
        lattice = lattice @ (np.eye(3) + np.diag(drawn.diagonal()) + (np.triu(drawn, 1) + np.triu(drawn, 1).T) / 2)
    return lattice


def _points(
    seed: Seed,
    symbols: Sequence[str],
    counts: Sequence[int],
    numbers: Sequence[int],
    units: int,
    rng: np.random.Generator,
) -> tuple[FloatArray | None, FloatArray | None, tuple[bool, ...] | None]:
    """Where atoms start (n, 3), NaN for anywhere, displacements (n, 3), and which may move; None if all are alike."""
    if not any(line.position or not line.movable for line in seed.species):
        return None, None, None
    rows = [
        (line.symbol, line.position or (np.nan,) * 3, _displacement(line, rng), line.movable)
        for line, n in zip(seed.species, numbers, strict=True)
        for _ in range(n * units)
    ]
    rows.sort(key=lambda row: symbols.index(row[0]))
    if len(rows) != sum(counts):
        raise SeedError("positions are given for another number of atoms than the composition has")
    _, points, moves, movable = zip(*rows, strict=True)
    return np.array(points), np.array(moves), movable


def _displacement(line: SpeciesLine, rng: np.random.Generator) -> FloatArray:
    """From the given place, Cartesian, angstrom. (3,)."""
    if max(line.box) >= 0:
        return np.asarray(np.clip(line.box, 0, None) * rng.uniform(-0.5, 0.5, 3))
    low, high = (max(reach, 0.0) for reach in line.reach)
    return random_in_shell(rng, low, high)


def _build(draws: Sequence[Draw | FailedAttempt]) -> list[Structure | FailedAttempt]:
    """Structures of many draws, those alike together."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, draw in enumerate(draws):
        if isinstance(draw, Draw):
            groups.setdefault(draw.kind, []).append(index)
    made: dict[int, Structure | FailedAttempt] = {}
    for indices in groups.values():
        alike = [draw for draw in (draws[i] for i in indices) if isinstance(draw, Draw)]
        first = alike[0]
        built: Sequence[Structure | FailedAttempt]
        try:
            built = build_structures(first.symbols, first.counts, [draw.wish for draw in alike], first.settings)
        except ValueError as error:
            built = [FailedAttempt(str(error))] * len(alike)
        for index, draw, structure in zip(indices, alike, built, strict=True):
            made[index] = finish(structure, draw.seed, draw.wish.rng) if isinstance(structure, Structure) else structure
    return [draw if isinstance(draw, FailedAttempt) else made[index] for index, draw in enumerate(draws)]


def finish(structure: Structure, seed: Seed, rng: np.random.Generator) -> Structure | FailedAttempt:
    """Take out VACANCIES, and let atoms swap places (PERMUTE)."""
    missing, symbol = seed.vacancies
    if missing:
        sites = [i for i, site in enumerate(structure) if symbol in ("", site.specie.symbol)]
        if len(sites) < missing or len(structure) == missing:
            return FailedAttempt(f"{missing} vacancies are too many for {structure.composition.formula}")
        structure.remove_sites(rng.choice(sites, missing, replace=False).tolist())
    if seed.permute:
        sites = [
            i
            for i, site in enumerate(structure)
            if seed.permute == ("*",) or site.specie.symbol in seed.permute
            if rng.random() < seed.permuted
        ]
        symbols = [structure[i].specie.symbol for i in sites]
        for i, k in zip(sites, rng.permutation(len(sites)), strict=True):
            structure.replace(i, symbols[int(k)])
        structure.sort(key=lambda site: site.specie.symbol)
    return structure
