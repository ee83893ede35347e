"""The denoiser of occupied slots: a transformer that sees a crystal through the periodic differences of its atoms.

UniMat's tensor holds 3,240 positions for the ten atoms of a usual cell (arXiv:2311.09235 leaves that to future work).
With the composition given only the occupied slots carry information, so these alone are tokens. Like atoms are
exchangeable: a slot's index within its element means nothing, so the network does not see it (permuting like atoms
permutes the result, without any augmentation), but it sees how many slots of the element are filled. Coordinates enter
as differences only, so no translation matters; the cell enters as numbers that no rotation changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from unimat_search.unimat.cell import CELL_SIZE
from unimat_search.unimat.elements import GROUPS, MAX_ATOMIC_NUMBER, ROWS, table_position
from unimat_search.unimat.flow import shortest, without_drift
from unimat_search.unimat.structures import PROPERTIES
from unimat_search.unimat.tables import MOST, at_least_one

MAX_COUNT = 64
"""Atoms that the tables of sizes and counts have room for."""

LAST_GROUP, MAX_ORBIT = 230, 48
"""Space groups, and the most atoms of an orbit in a primitive cell."""


@dataclass(frozen=True)
class SlotConfig:
    """Size of the network.

    Attributes:
        width: Features of a token.
        layers: Blocks of attention and feed-forward.
        heads: Attention heads.
        frequencies: Periodic Fourier features of a pair: sine and cosine of 1 to so many turns, on three axes.
        distances: Radial basis functions of a pair's shortest distance.
        cutoff: Where the last of them stands, angstrom.
        dropout: On both branches of a block.
    """

    width: int = 256
    layers: int = 6
    heads: int = 8
    frequencies: int = 8
    distances: int = 16
    cutoff: float = 8.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        at_least_one(self, "width", "layers", "heads", "frequencies", "distances", where="model.network", most=MOST)
        if self.width % self.heads:
            raise ValueError(f"model.network.width must be a multiple of heads ({self.heads}), got {self.width}")

    @property
    def pair_size(self) -> int:
        """Features of a pair of atoms."""
        return 6 * self.frequencies + self.distances


class SlotDenoiser(nn.Module):
    """Velocity of coordinates and cell from a noisy crystal, its composition and the time.

    Attributes:
        largest_size: Atoms of the largest crystal in training; larger ones are seen as if they had so many.
        largest_count: Likewise, atoms of one element.
    """

    largest_size: Tensor
    largest_count: Tensor
    places: Tensor

    def __init__(self, config: SlotConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.element = nn.Embedding(MAX_ATOMIC_NUMBER + 1, width)
        self.row = nn.Embedding(ROWS + 1, width)
        self.group = nn.Embedding(GROUPS + 1, width)
        self.count = nn.Embedding(MAX_COUNT + 1, width)
        self.size = nn.Embedding(MAX_COUNT + 1, width)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.cell = nn.Sequential(nn.Linear(CELL_SIZE, width), nn.SiLU(), nn.Linear(width, width))
        self.known = nn.Linear(2 * len(PROPERTIES), width)
        self.blocks = nn.ModuleList(SlotBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.to_coords = nn.Linear(width, 3)
        self.to_cell = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, CELL_SIZE))
        self.space_group = nn.Embedding(LAST_GROUP + 1, width)
        self.rank = nn.Embedding(5, width)
        self.orbit = nn.Embedding(MAX_ORBIT + 1, width)
        for table in (self.element, self.row, self.group, self.count, self.size):
            nn.init.normal_(table.weight, std=0.5)
        for table in (self.space_group, self.rank, self.orbit):
            nn.init.zeros_(table.weight)
        for parameter in (*self.to_coords.parameters(), *self.to_cell[-1].parameters()):
            nn.init.zeros_(parameter)
        self.register_buffer("largest_size", torch.tensor(MAX_COUNT))
        self.register_buffer("largest_count", torch.tensor(MAX_COUNT))
        places = [(0, 0)] + [table_position(number) for number in range(1, MAX_ATOMIC_NUMBER + 1)]
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def forward(
        self,
        frac_coords: Tensor,
        cell: Tensor,
        metric_cell: Tensor,
        time: Tensor,
        numbers: Tensor,
        known: Tensor,
        sites: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See the module's text.

        Args:
            frac_coords: (b, n, 3)
            cell: Standardised cell vectors. (b, 6)
            metric_cell: The same cells as row vectors, angstrom. (b, 3, 3)
            time: 0 (noise) to 1 (data). (b,)
            numbers: Atomic numbers. (b, n)
            known: Properties asked for, standardised, and the space group's number; NaN where nothing is asked. (b, 3)
            sites: Of each atom, one more than the parameters that its orbit has (1 to 4), and the orbit's size; 0 where
                symmetry does not hold the crystal. (b, n, 2)

        Returns:
            Velocities of the coordinates (b, n, 3) and of the standardised cell vectors (b, 6).
        """
        pairs = pair_features(frac_coords, metric_cell, self.config)  # (b, n, n, pair_size)
        if torch.is_autocast_enabled(pairs.device.type):
            pairs = pairs.to(torch.get_autocast_dtype(pairs.device.type))  # once for all blocks
        tokens = self.tokens(numbers)  # (b, n, width)
        if sites is None:
            sites = torch.zeros_like(numbers).unsqueeze(-1).expand(-1, -1, 2)
        tokens = tokens + self.rank(sites[..., 0]) + self.orbit(sites[..., 1].clamp(max=MAX_ORBIT))
        size = torch.full_like(numbers[:, 0], numbers.shape[1]).clamp(max=self.largest_size)
        told = self.known(property_features(known[:, :-1])) + self.space_group(known[:, -1].nan_to_num().long())
        condition = self.time(time_features(time)) + self.cell(cell) + told + self.size(size)  # (b, width)
        condition = F.silu(condition + tokens.mean(1))
        for block in self.blocks:
            tokens = block(tokens, pairs, condition)
        tokens = self.norm(tokens)
        coords = without_drift(self.to_coords(tokens))
        return coords.float(), self.to_cell(torch.cat([tokens.mean(1), condition], dim=-1)).float()

    def tokens(self, numbers: Tensor) -> Tensor:
        """What an atom knows before it sees the others: its element, and how many of them there are. (b, n, width)."""
        counts = (numbers.unsqueeze(-1) == numbers.unsqueeze(-2)).sum(-1).clamp(max=self.largest_count)
        row, group = self.places[numbers].unbind(-1)
        tokens: Tensor = self.element(numbers) + self.row(row) + self.group(group) + self.count(counts)
        return tokens


class SlotBlock(nn.Module):
    """Attention over atoms, and over what lies between them; then a feed-forward layer.

    A head's weight of a pair is its usual product of query and key, plus the product of a filter that the asking atom
    makes with the pair's periodic features: a trigonometric polynomial of the difference, chosen by the token. The same
    weights average the pairs' features into the result.
    """

    def __init__(self, config: SlotConfig) -> None:
        super().__init__()
        self.heads = config.heads
        width, pair = config.width, config.pair_size
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 6 * width)
        self.ask = nn.Linear(width, 3 * width + config.heads * pair)
        self.answer = nn.Linear(width + config.heads * pair, width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, tokens: Tensor, pairs: Tensor, condition: Tensor) -> Tensor:
        """Tokens (b, n, width), pairs (b, n, n, pair), condition (b, width) -> tokens."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(condition).unsqueeze(1).chunk(6, dim=-1)
        heard = self.attend(torch.addcmul(shift1, self.norm(tokens), 1 + scale1), pairs)
        tokens = torch.addcmul(tokens, self.dropout(heard), 1 + gate1)
        hidden = F.relu(self.widen(torch.addcmul(shift2, self.norm(tokens), 1 + scale2))).square()
        return torch.addcmul(tokens, self.dropout(self.narrow(hidden)), 1 + gate2)

    def attend(self, tokens: Tensor, pairs: Tensor) -> Tensor:
        """One round of attention. (b, n, width)."""
        b, n, width = tokens.shape
        pair, head = pairs.shape[-1], width // self.heads
        asked, filters = self.ask(tokens).split([3 * width, self.heads * pair], dim=-1)
        query, key, value = asked.view(b, n, 3, self.heads, head).permute(2, 0, 3, 1, 4)  # (b, heads, n, head) each
        filters = filters.view(b, n, self.heads, pair)
        near = torch.matmul(filters, pairs.transpose(-1, -2)) / math.sqrt(pair)  # (b, n, heads, n)
        like = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(head)  # (b, heads, n, n)
        weights = torch.softmax(like + near.transpose(1, 2), dim=-1)
        weights = weights.to(value.dtype)
        values = torch.matmul(weights, value).transpose(1, 2).reshape(b, n, width)
        between = torch.matmul(weights.transpose(1, 2), pairs).reshape(b, n, self.heads * pair)
        answer: Tensor = self.answer(torch.cat([values, between], dim=-1))
        return answer


def property_features(known: Tensor) -> Tensor:
    """Properties with 0 for what is not known, and which ones are. (b, p) -> (b, 2 p)."""
    return torch.cat([known.nan_to_num(), (~known.isnan()).float()], dim=-1)


def time_features(time: Tensor, *, size: int = 64) -> Tensor:
    """Sines and cosines of the time at geometric frequencies. (b,) -> (b, size)."""
    frequencies = torch.exp(torch.linspace(0.0, math.log(200.0), size // 2, device=time.device, dtype=time.dtype))
    angles = time.unsqueeze(-1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def pair_features(frac_coords: Tensor, cells: Tensor, config: SlotConfig) -> Tensor:
    """What the network knows of a pair of atoms: where the second lies as the first sees it.

    Args:
        frac_coords: (b, n, 3)
        cells: Row vectors, angstrom. (b, 3, 3)
        config: How many features.

    Returns:
        Sines and cosines of the difference's turns, and radial basis functions of the shortest distance between the
        first atom and an image of the second that is not itself. (b, n, n, pair_size)
    """
    differences = frac_coords.unsqueeze(1) - frac_coords.unsqueeze(2)  # (b, n, n, 3): j as seen from i
    turns = torch.arange(1, config.frequencies + 1, device=frac_coords.device, dtype=frac_coords.dtype)
    angles = (2 * math.pi * differences).unsqueeze(-1) * turns  # (b, n, n, 3, frequencies)
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    distances = shortest_distances(differences, cells).unsqueeze(-1)  # (b, n, n, 1)
    spacing = config.cutoff / config.distances
    centres = spacing * torch.arange(1, config.distances + 1, device=frac_coords.device, dtype=frac_coords.dtype)
    radial = torch.exp(-0.5 * ((distances - centres) / spacing).square())
    return torch.cat([waves, radial], dim=-1)


def shortest_distances(differences: Tensor, cells: Tensor) -> Tensor:
    """Distance to the nearest image but the atom itself, angstrom. (b, n, n, 3), (b, 3, 3) -> (b, n, n)."""
    steps = torch.arange(-1, 2, device=cells.device, dtype=cells.dtype)
    images = torch.cartesian_prod(steps, steps, steps)  # (27, 3)
    n = differences.shape[1]
    with torch.autocast(cells.device.type, enabled=False):
        cartesian = torch.einsum("bijx,bxy->bijy", shortest(differences), cells)  # (b, n, n, 3)
        shifts = images @ cells  # (b, 27, 3)
        squares = (
            cartesian.square().sum(-1).unsqueeze(-1)
            + 2 * torch.matmul(cartesian.flatten(1, 2), shifts.transpose(-1, -2)).view(-1, n, n, len(images))
            + shifts.square().sum(-1)[:, None, None, :]
        )  # (b, n, n, 27)
    itself = torch.eye(n, device=cells.device, dtype=torch.bool)
    squares[:, itself, 13] = torch.inf
    nearest: Tensor = squares.amin(-1).clamp(min=1e-8).sqrt()
    return nearest
