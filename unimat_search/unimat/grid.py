"""UniMat's representation: crystals as tensors over the periodic table (Yang et al., arXiv:2311.09235, section 2.1).

Position (l, h, w) of the tensor holds x, y, z of the l-th atom of the element in row h and group w, or null.
What the paper leaves open is chosen so:

- the f-block fills rows 8 and 9 (`elements.table_position`);
- coordinates are fractional, in [0, 1), and are not scaled; the null location is -1 on each axis, as in the paper;
- a slot is empty if the mean of its three numbers is below -1/2, half-way between the null location and the cell;
- the cell is given by the six numbers of `cell.cell_to_vector` instead of three lengths and three angles, because any
  six numbers then are a cell. Like lengths and angles they leave a rotation or reflection of the crystal open.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unimat_search.unimat.elements import GROUPS, MAX_ATOMIC_NUMBER, ROWS, SYMBOLS, table_position

NULL = -1.0
EMPTY_BELOW = -0.5


@dataclass(frozen=True)
class Sites:
    """The atoms of m crystals, one after the other.

    Attributes:
        owner: Which crystal each atom is of, rising. (s,) int64
        numbers: Atomic numbers. (s,) int64
        frac_coords: (s, 3)
    """

    owner: Tensor
    numbers: Tensor
    frac_coords: Tensor


@dataclass(frozen=True)
class Grid:
    """A part of the periodic table, and how many atoms of one element fit into a crystal.

    Attributes:
        depth: L, the most atoms of one element.
        rows: The rows that are there (1 to 9), H of them.
        groups: The groups that are there (1 to 18), W of them.
    """

    depth: int
    rows: tuple[int, ...] = tuple(range(1, ROWS + 1))
    groups: tuple[int, ...] = tuple(range(1, GROUPS + 1))

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, got {self.depth}")
        for name, places, last in (("rows", self.rows, ROWS), ("groups", self.groups, GROUPS)):
            if not places or len(set(places)) < len(places) or not all(1 <= place <= last for place in places):
                raise ValueError(f"{name} must be different numbers from 1 to {last}, got {places}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(L, H, W)."""
        return self.depth, len(self.rows), len(self.groups)

    def encode(self, sites: Sites, count: int) -> Tensor:
        """Crystals as tensors, like atoms in their order.

        Args:
            sites: Of all crystals.
            count: m, how many crystals there are.

        Returns:
            (m, L, H, W, 3), of the coordinates' type.

        Raises:
            ValueError: If an element is not in the grid, or a crystal has more than `depth` atoms of one.
        """
        size = self.depth * len(self.rows) * len(self.groups)
        tensor = sites.frac_coords.new_full((count * size, 3), NULL)
        tensor[sites.owner * size + self.places(sites)] = sites.frac_coords
        return tensor.view(count, *self.shape, 3)

    def places(self, sites: Sites) -> Tensor:
        """Flat position of each atom in its crystal's (L, H, W). (s,)."""
        place = self._table.to(sites.numbers.device)[sites.numbers]
        if bool((place < 0).any()):
            symbol = SYMBOLS[int(sites.numbers[place < 0][0])]
            raise ValueError(
                f"{symbol} is not in the grid of rows {self.rows} and groups {self.groups}; widen the grid"
            )
        rank = rank_among_like(sites)
        if bool((rank >= self.depth).any()):
            worst = int(rank.argmax())
            raise ValueError(
                f"{int(rank[worst]) + 1} atoms of {SYMBOLS[int(sites.numbers[worst])]} in one cell, the grid holds "
                f"{self.depth}; give it a depth of at least {int(rank[worst]) + 1}"
            )
        return rank * (len(self.rows) * len(self.groups)) + place

    def decode(self, tensor: Tensor) -> Sites:
        """The atoms of tensors; slots of no element are dropped.

        Args:
            tensor: (m, L, H, W, 3)

        Returns:
            Coordinates in [0, 1), ordered by crystal, then by slot, row and group.
        """
        elements = self._elements.to(tensor.device)
        occupied = (tensor.mean(-1) >= EMPTY_BELOW) & (elements > 0)
        owner, _, row, group = occupied.nonzero(as_tuple=True)
        return Sites(owner, elements[row, group], tensor[occupied] % 1.0)

    def occupancy(self, sites: Sites, count: int) -> Tensor:
        """1 where a slot is filled, 0 elsewhere: the condition of exact counts. (m, L, H, W)."""
        return (self.encode(sites, count)[..., 0] > NULL).to(sites.frac_coords.dtype)

    @cached_property
    def _table(self) -> Tensor:
        """Flat (H, W) position of each atomic number, -1 where it has none. (119,)."""
        table = torch.full((MAX_ATOMIC_NUMBER + 1,), -1)
        for number in range(1, MAX_ATOMIC_NUMBER + 1):
            row, group = table_position(number)
            if row in self.rows and group in self.groups:
                table[number] = self.rows.index(row) * len(self.groups) + self.groups.index(group)
        return table

    @cached_property
    def _elements(self) -> Tensor:
        """Atomic number at each position, 0 where there is no element. (H, W)."""
        table = self._table
        elements = torch.zeros(len(self.rows) * len(self.groups), dtype=torch.int64)
        elements[table[table >= 0]] = (table >= 0).nonzero().squeeze(-1)
        return elements.view(len(self.rows), len(self.groups))


def rank_among_like(sites: Sites) -> Tensor:
    """How many atoms of its element stand before each atom in its crystal. (s,)."""
    key = sites.owner * (MAX_ATOMIC_NUMBER + 1) + sites.numbers
    ordered, order = key.sort(stable=True)
    _, lengths = torch.unique_consecutive(ordered, return_counts=True)
    first = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - first
    return rank
