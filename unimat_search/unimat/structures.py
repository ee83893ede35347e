"""Many structures as flat arrays: what the models train on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from unimat_search.unimat.elements import CompositionKey, composition_key
from unimat_search.unimat.grid import Sites
from unimat_search.unimat.orbits import Symmetry

PROPERTIES = ("formation_energy_per_atom", "near_hull")
"""What guidance may ask for: eV/atom, and 1 within `NEAR_HULL` of the hull, 0 above."""

NEAR_HULL = 0.08
"""Energy above the hull under which a structure counts as near it, eV/atom: the bound of the data set MP-20."""


@dataclass(frozen=True)
class StructureSet:
    """Structures one after the other.

    Attributes:
        ids: Name of each structure, m of them.
        numbers: Atomic numbers of all sites. (s,) uint8
        frac_coords: In [0, 1). (s, 3) float32
        cells: Row vectors, angstrom, Niggli-reduced. (m, 3, 3) float32
        properties: `PROPERTIES` of each structure, NaN where unknown. (m, 2) float32
        offsets: Where each structure's sites begin, and the end of the last. (m + 1,) int64
        symmetry: Their space groups, where these were looked for.
    """

    ids: tuple[str, ...]
    numbers: NDArray[np.uint8]
    frac_coords: NDArray[np.float32]
    cells: NDArray[np.float32]
    properties: NDArray[np.float32]
    offsets: NDArray[np.int64]
    symmetry: Symmetry | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_sites(self) -> NDArray[np.int64]:
        """Sites of each structure. (m,)."""
        sizes: NDArray[np.int64] = np.diff(self.offsets)
        return sizes

    @cached_property
    def keys(self) -> tuple[CompositionKey, ...]:
        """Reduced composition of each structure."""
        return tuple(composition_key(self.numbers[start:end]) for start, end in self._spans())

    @property
    def volumes_per_atom(self) -> NDArray[np.float64]:
        """Cubic angstrom. (m,)."""
        volumes: NDArray[np.float64] = np.abs(np.linalg.det(self.cells.astype(float)))
        return volumes / self.num_sites

    @property
    def sha256(self) -> str:
        """Of all that the models see: compositions, coordinates, cells and properties, in order."""
        digest = hashlib.sha256()
        for array in (self.offsets, self.numbers, self.frac_coords, self.cells, self.properties):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def sites(self) -> Sites:
        """All atoms, for the grid."""
        return Sites(
            owner=torch.repeat_interleave(torch.arange(len(self)), torch.from_numpy(self.num_sites)),
            numbers=torch.from_numpy(self.numbers.astype(np.int64)),
            frac_coords=torch.from_numpy(self.frac_coords),
        )

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> StructureSet:
        """These structures, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        sizes = self.num_sites[rows]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        sites = np.repeat(self.offsets[rows] - offsets[:-1], sizes) + np.arange(offsets[-1])
        return StructureSet(
            ids=tuple(self.ids[row] for row in rows),
            numbers=self.numbers[sites],
            frac_coords=self.frac_coords[sites],
            cells=self.cells[rows],
            properties=self.properties[rows],
            offsets=offsets,
            symmetry=self.symmetry.take(rows, sites) if self.symmetry else None,
        )

    def where(self, wanted: Callable[[CompositionKey], bool]) -> StructureSet:
        """The structures whose reduced composition is wanted."""
        return self.take([row for row, key in enumerate(self.keys) if wanted(key)])

    def __iter__(self) -> Iterator[StructureSet]:
        """One structure at a time."""
        return (self.take([row]) for row in range(len(self)))

    def _spans(self) -> Iterator[tuple[int, int]]:
        return zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True)


def concatenate(sets: Sequence[StructureSet]) -> StructureSet:
    """Structures of several sets; of those with one id, the first."""
    seen: set[str] = set()
    kept = []
    for one in sets:
        kept.append(one.take([row for row, name in enumerate(one.ids) if name not in seen]))
        seen.update(one.ids)
    sizes = np.concatenate([one.num_sites for one in kept])
    return StructureSet(
        ids=tuple(name for one in kept for name in one.ids),
        numbers=np.concatenate([one.numbers for one in kept]),
        frac_coords=np.concatenate([one.frac_coords for one in kept]),
        cells=np.concatenate([one.cells for one in kept]),
        properties=np.concatenate([one.properties for one in kept]),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
    )


def split_by_composition(structures: StructureSet, count: int, *, seed: int) -> tuple[StructureSet, StructureSet]:
    """Set aside about `count` structures for validation; no reduced composition is on both sides.

    Returns:
        The rest, and those set aside.
    """
    compositions = sorted(set(structures.keys))
    order = np.random.default_rng(seed).permutation(len(compositions))
    sizes = Counter(structures.keys)
    aside: set[CompositionKey] = set()
    total = 0
    for index in order:
        if total >= count:
            break
        aside.add(compositions[index])
        total += sizes[compositions[index]]
    return structures.where(lambda key: key not in aside), structures.where(aside.__contains__)
