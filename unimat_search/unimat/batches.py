"""Batches of structures with one number of sites each: no padding, and any batch can be made again from its number."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from unimat_search.unimat.orbits import Freedom, Symmetry
from unimat_search.unimat.structures import StructureSet


@dataclass(frozen=True)
class Batch:
    """Structures of n sites each.

    Attributes:
        numbers: Atomic numbers. (b, n) int64
        frac_coords: (b, n, 3)
        cells: Row vectors, angstrom. (b, 3, 3)
        properties: NaN where unknown. (b, 2)
        freedom: What symmetry leaves free, where it was looked for.
    """

    numbers: Tensor
    frac_coords: Tensor
    cells: Tensor
    properties: Tensor
    freedom: Freedom | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: Tensor) -> Batch:
        """These structures."""
        freedom = self.freedom.take(rows) if self.freedom else None
        return Batch(self.numbers[rows], self.frac_coords[rows], self.cells[rows], self.properties[rows], freedom)

    def to(self, device: str | torch.device) -> Batch:
        """The same on a device."""
        freedom = self.freedom.to(device) if self.freedom else None
        return Batch(
            self.numbers.to(device),
            self.frac_coords.to(device),
            self.cells.to(device),
            self.properties.to(device),
            freedom,
        )


def by_size(structures: StructureSet) -> dict[int, Batch]:
    """All structures, those of one number of sites together, in their order."""
    batches = {}
    for size in np.unique(structures.num_sites).tolist():
        some = structures.take(np.flatnonzero(structures.num_sites == size))
        batches[size] = Batch(
            numbers=torch.from_numpy(some.numbers.astype(np.int64)).view(-1, size),
            frac_coords=torch.from_numpy(some.frac_coords).view(-1, size, 3),
            cells=torch.from_numpy(some.cells),
            properties=torch.from_numpy(some.properties),
            freedom=_freedom(some.symmetry, size) if some.symmetry else None,
        )
    return batches


def _freedom(symmetry: Symmetry, size: int) -> Freedom:
    """Of structures of one size."""
    return Freedom(
        groups=torch.from_numpy(symmetry.groups.astype(np.int64)),
        metrics=torch.from_numpy(symmetry.metrics),
        owner=torch.from_numpy(symmetry.owner.astype(np.int64)).view(-1, size),
        moves=torch.from_numpy(symmetry.moves.astype(np.float32)).view(-1, size, 3, 3),
    )


class Batches:
    """An endless row of batches of about so many sites each; batch k depends on the seed and k alone.

    Args:
        structures: What to draw from; each is seen once an epoch.
        sites: Sites in a batch, the last of a size may have fewer.
        seed: Of the order.
    """

    def __init__(self, structures: StructureSet, *, sites: int, seed: int) -> None:
        if not len(structures) or sites < 1:
            raise ValueError(f"batches need structures and at least one site, got {len(structures)} and {sites}")
        self.seed = seed
        self._sizes = by_size(structures)
        self._lengths = {size: max(1, sites // size) for size in self._sizes}
        self.per_epoch = sum(-(-len(batch) // self._lengths[size]) for size, batch in self._sizes.items())
        self._epoch = lru_cache(maxsize=1)(self._order)

    def __getitem__(self, index: int) -> Batch:
        epoch, place = divmod(index, self.per_epoch)
        size, rows = self._epoch(epoch)[place]
        return self._sizes[size].take(rows)

    def _order(self, epoch: int) -> list[tuple[int, Tensor]]:
        """Number of sites and rows of each batch of one epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        batches = []
        for size, batch in self._sizes.items():
            rows = torch.from_numpy(rng.permutation(len(batch)))
            batches += [(size, part) for part in torch.split(rows, self._lengths[size])]
        return [batches[place] for place in rng.permutation(len(batches))]
