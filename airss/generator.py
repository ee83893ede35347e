"""Random sensible structures of a composition: a generator for the harness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.airss.candidates import Wish, build_structures, load_builder
from unimat_search.airss.knowledge import (
    Expectation,
    element_symbols,
    expect_from_radii,
    expect_from_structures,
    expect_from_table,
)
from unimat_search.airss.settings import BuildSettings, parse_numbers, parse_range, parse_whole_range
from unimat_search.files import read_structures
from unimat_search.records import FailedAttempt, did_you_mean
from unimat_search.seeds import candidate_stream

FloatArray = NDArray[np.float64]

BATCH = 16
"""Structures that are built at once."""


class RandomSearch:
    """Random structures in the manner of AIRSS.

    A space group is drawn among those with the wanted number of operations, then a cell that it allows, scaled to a
    volume in the window; atoms are put on the group's sites and pushed apart until every pair keeps its separation.
    What finds no room is drawn anew, with slowly growing slack.

    Args:
        operations: Symmetry operations of the primitive cell: a number, or a range `2-4`.
        volume: Window of the cell's volume, relative to the expected one.
        separation: Of each pair of elements, relative to the expected one; of a range, each pair of each structure gets
            its own.
        expect: Where volume and separations are expected from: "table" (of relaxed crystals, by likely charge) or
            "radii" (covalent).
        like: A file or folder of structures that they are taken from instead.
        extra_sites: See `BuildSettings`; "any" for any number.
        options: Other fields of `BuildSettings`.

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    def __init__(
        self,
        *,
        operations: str | int = "2-4",
        volume: str | float = "0.95-1.05",
        separation: str | float = 0.9,
        expect: str = "table",
        like: str = "",
        slack_growth: float = 0.01,
        extra_sites: str | int = 0,
        rank: str | int = "1-230",
        **options: Any,  # noqa: ANN401 - checked below
    ) -> None:
        self.settings = BuildSettings(
            operations=parse_whole_range(operations),
            rank=(1, rank) if isinstance(rank, int) else parse_whole_range(rank),
            extra_sites=None if extra_sites == "any" else _whole("extra_sites", extra_sites),
            slack_growth=slack_growth,
        )
        self.settings = replace(self.settings, **_known(options))
        self.settings.space_groups()
        self.volume = _positive("volume", volume)
        self.separation = _positive("separation", separation)
        self._expect = _expectation(expect, like)
        load_builder()

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure | FailedAttempt]:
        """See `unimat_search.protocol.StructureGenerator.generate`; structure k does not depend on n."""
        for start in range(0, n, BATCH):
            yield from self.structures(composition, range(start, min(start + BATCH, n)), seed=seed)

    def structures(
        self, composition: Composition, indices: Sequence[int], *, seed: int
    ) -> list[Structure | FailedAttempt]:
        """The structures with these numbers; none depends on the others."""
        return self.from_streams(composition, [candidate_stream(seed, composition, index) for index in indices])

    def from_streams(
        self, composition: Composition, streams: Sequence[np.random.Generator]
    ) -> list[Structure | FailedAttempt]:
        """A structure of each stream of random numbers; none depends on the others."""
        symbols = element_symbols(composition)
        counts = [int(composition[symbol]) for symbol in symbols]
        expected = self._expect(composition)
        return build_structures(symbols, counts, [self._wish(rng, expected) for rng in streams], self.settings)

    def generate_in_cell(
        self, composition: Composition, n: int, lattice: Lattice, *, seed: int
    ) -> Iterator[Structure | FailedAttempt]:
        """See `unimat_search.protocol.CellGenerator`: atoms anywhere (P1), pushed apart."""
        matrix = np.array(lattice.matrix)
        for start in range(0, n, BATCH):
            indices = range(start, min(start + BATCH, n))
            streams = [candidate_stream(seed, composition, index) for index in indices]
            yield from self.in_cells(composition, [matrix] * len(streams), streams)

    def in_cells(
        self, composition: Composition, lattices: Sequence[FloatArray], streams: Sequence[np.random.Generator]
    ) -> list[Structure | FailedAttempt]:
        """Random atoms (P1) in given cells, separations scaled with the room that these leave.

        Args:
            composition: Of the cell.
            lattices: Row vectors, angstrom. (3, 3) each
            streams: Random numbers, one for each cell.
        """
        symbols = element_symbols(composition)
        expected = self._expect(composition)
        wishes = []
        for lattice, rng in zip(lattices, streams, strict=True):
            volume = abs(float(np.linalg.det(lattice)))
            scale = min(1.0, (volume / expected.volume) ** (1 / 3))
            wish = self._wish(rng, expected)
            wishes.append(
                replace(wish, volumes=(volume, volume), separations=scale * wish.separations, lattice=lattice)
            )
        counts = [int(composition[symbol]) for symbol in symbols]
        return build_structures(symbols, counts, wishes, replace(self.settings, operations=(1, 1), compact=False))

    def _wish(self, rng: np.random.Generator, expected: Expectation) -> Wish:
        volume = rng.uniform(*self.volume) * expected.volume
        factors = np.triu(rng.uniform(*self.separation, expected.separations.shape))
        factors = factors + np.triu(factors, 1).T
        return Wish(rng, (volume, volume), factors * expected.separations)


def standard(**options: Any) -> RandomSearch:  # noqa: ANN401
    """Random search as practitioners run it: 2 to 4 operations, known volumes and separations."""
    return RandomSearch(**options)


def dense(**options: Any) -> RandomSearch:  # noqa: ANN401
    """Random search from dense starts, at about 60 % of the expected volume: `airss` and `airss:dense` alike.

    It finds most known crystals: the relaxation expands the cell; from so steep a start it gets over barriers that hold
    a start at the right volume.
    """
    return RandomSearch(**{"volume": "0.5-0.7", **options})


def wide(**options: Any) -> RandomSearch:  # noqa: ANN401
    """Random search in all space groups evenly, sites occupied in any way: for crystals of high symmetry."""
    return RandomSearch(**{"operations": "1-48", "extra_sites": "any", "persistence": 100_000, **options})


def paper(**options: Any) -> RandomSearch:  # noqa: ANN401
    """Random search as in GNoME and UniMat, as far as their texts tell (Merchant et al., Nature 624, 80, Methods).

    Volumes of 0.4 to 1.2 times an estimate from atomic radii, here cubes of the covalent diameters; soft spheres, here
    of covalent diameters that shrink until they find room; 2 to 4 operations.
    """
    return RandomSearch(**{"volume": "0.4-1.2", "expect": "radii", "separation": 1.0, **options})


def _expectation(expect: str, like: str) -> Callable[[Composition], Expectation]:
    if like:
        structures = [structure for _, structure in read_structures(Path(like))]
        return lambda composition: expect_from_structures(composition, structures)
    sources = {"table": expect_from_table, "radii": expect_from_radii}
    if expect not in sources:
        raise ValueError(f"expect must be {' or '.join(sources)}, got {expect!r}")
    return sources[expect]


def _known(options: dict[str, Any]) -> dict[str, Any]:
    defaults = {f.name: f.default for f in fields(BuildSettings)}
    return {name: _option(name, value, defaults) for name, value in options.items()}


def _option(name: str, value: Any, defaults: dict[str, Any]) -> Any:  # noqa: ANN401 - what TOML and the shell give
    if name not in defaults:
        known = ("separation", "volume", "expect", "like", *defaults)
        raise ValueError(f"unknown option {name!r}; there are {', '.join(known)}{did_you_mean(name, known)}")
    if name == "groups":
        return tuple(parse_numbers(" ".join(map(str, value)) if isinstance(value, list) else str(value)))
    if name == "constraints":
        if not isinstance(value, list | tuple) or len(value) != 6:
            raise ValueError(f"constraints must be six numbers, [a, b, c, alpha, beta, gamma], got {value!r}")
        return tuple(float(x) for x in value)
    wanted = bool if isinstance(defaults[name], bool) else int if isinstance(defaults[name], int) else float
    if isinstance(value, bool) != (wanted is bool) or not isinstance(value, (wanted, int)):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[wanted]
        raise ValueError(f"{name} must be {kind}, got {value!r}")
    return value


def _positive(name: str, value: str | float) -> tuple[float, float]:
    low, high = parse_range(value)
    if not low > 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return low, high


def _whole(name: str, value: str | int) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise ValueError(f"{name} must be a whole number or any, got {value!r}") from error
