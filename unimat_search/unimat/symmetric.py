"""Samples held to a space group and to sites, which a prior draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from unimat_search.unimat.drawing import distinct_placements, order_of_trying
from unimat_search.unimat.model import SampleSettings, Streams
from unimat_search.unimat.placements import FloatArray, Placement, constraint_of
from unimat_search.unimat.prior import MOST_ATOMS, PlacementPrior
from unimat_search.unimat.sample import Crystal
from unimat_search.unimat.slot_model import SlotModel

AT_ONCE = 128
"""Crystals that are sampled together."""


@dataclass(frozen=True)
class SymmetricSampler:
    """A model held to placements.

    Attributes:
        model: In evaluation mode.
        prior: Of the placements.
        settings: How to sample.
        properties: Asked for. (2,)
        group: The one space group to draw from; None for all.
    """

    model: SlotModel
    prior: PlacementPrior
    settings: SampleSettings
    properties: Tensor
    group: int | None = None

    def placements(self, numbers: Tensor, n: int, *, seed: int, cell: FloatArray | None = None) -> list[Placement]:
        """The first n placements to try, with repetitions; they do not depend on n.

        Args:
            numbers: Atomic numbers of the cell's atoms. (n,)
            n: How many.
            seed: Of the draws.
            cell: Row vectors, angstrom, Niggli-reduced, of a cell that the groups must allow (3, 3); None for any.

        Returns:
            An empty list where no group of the prior has room for the composition, or allows the cell.
        """
        if len(numbers) > MOST_ATOMS:
            return []
        counts = tuple(sorted(Counter(numbers.tolist()).items()))
        rng = np.random.default_rng([seed, *(x for pair in counts for x in pair)])
        drawn = distinct_placements(self.prior, counts, rng, group=self.group, cell=cell)
        return list(islice(order_of_trying(drawn), n))

    def sample(
        self, numbers: Tensor, placements: Sequence[Placement | None], streams: Streams, cell: FloatArray | None = None
    ) -> list[Crystal]:
        """A crystal on each placement, in a given cell or any; None holds a crystal to nothing.

        Args:
            numbers: Atomic numbers of all, rising. (n,)
            placements: b of them.
            streams: b of them.
            cell: As in `placements`.
        """
        crystals: list[Crystal] = []
        for start in range(0, len(placements), AT_ONCE):
            part = range(start, min(start + AT_ONCE, len(placements)))
            crystals += self._sample(numbers, [placements[row] for row in part], streams.take(part), cell)
        return crystals

    def _sample(
        self, numbers: Tensor, placements: Sequence[Placement | None], streams: Streams, cell: FloatArray | None
    ) -> list[Crystal]:
        device, count = self.properties.device, len(placements)
        with torch.no_grad(), self.settings.autocast(device):
            frac_coords, cells = self.model.sample_held(
                numbers.to(device).expand(count, -1),
                self.properties.expand(count, -1),
                constraint_of(len(numbers), placements).to(device),
                streams,
                self.settings,
                given=None if cell is None else torch.from_numpy(cell).float().to(device).expand(count, 3, 3),
            )
        return [(numbers, *crystal) for crystal in zip(frac_coords.cpu(), cells.cpu(), strict=True)]


def space_group_number(group: int | str) -> int:
    """The number of a space group from its number or its symbol.

    Raises:
        ValueError: If there is no such space group.
    """
    from pymatgen.symmetry.groups import SpaceGroup

    if isinstance(group, int) and not isinstance(group, bool) and 1 <= group <= 230:
        return group
    if isinstance(group, str):
        with suppress(ValueError):
            return int(SpaceGroup(group).int_number)
    raise ValueError(f"there is no space group {group!r}; give a number from 1 to 230, or a symbol as Fm-3m or P2_1/c")
