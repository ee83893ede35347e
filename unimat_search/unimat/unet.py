"""UniMat's own denoiser: a 3-D U-Net over (L, H, W), convolution and attention interleaved (arXiv:2311.09235, table 4).

The two axes of the periodic table shrink by three at each level, 9 -> 3 -> 1 and 18 -> 6 -> 2 on the whole table; the
axis of like atoms keeps its length. Convolution weighs neighbours in the table, attention joins a level's positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from unimat_search.unimat.cell import CELL_SIZE
from unimat_search.unimat.slots import property_features, time_features
from unimat_search.unimat.structures import PROPERTIES
from unimat_search.unimat.tables import MOST, at_least_one


@dataclass(frozen=True)
class UNetConfig:
    """Size of the network; the paper's is width 256 (64 and 128 in its ablation), three blocks a level.

    Attributes:
        width: Channels of the first level; the levels have 1, 2 and 4 times as many.
        blocks: Residual blocks at each level, on the way down and on the way up.
        levels: How often the table's axes shrink, plus one.
        head: Channels of an attention head.
        dropout: In the residual blocks.
    """

    width: int = 64
    blocks: int = 3
    levels: int = 3
    head: int = 64
    dropout: float = 0.1

    def __post_init__(self) -> None:
        at_least_one(self, "width", "blocks", "levels", "head", where="model.network", most=MOST)
        if self.width % 8 or self.width % min(self.head, self.width):
            raise ValueError(f"model.network.width must be a multiple of 8 and of head ({self.head}), got {self.width}")


class UNet(nn.Module):
    """What it says of each slot, and noise of the cell, from both noisy ones, the time and what is known.

    Args:
        config: Size.
        outputs: Numbers that it says of each slot.
    """

    def __init__(self, config: UNetConfig, outputs: int) -> None:
        super().__init__()
        widths = [config.width * 2**level for level in range(config.levels)]
        embedding = 4 * config.width
        self.time = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.cell = nn.Sequential(nn.Linear(CELL_SIZE, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.known = nn.Linear(2 * len(PROPERTIES), embedding)
        self.enter = nn.Conv3d(3 + 3 + 1 + CELL_SIZE, widths[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        skips, width = [widths[0]], widths[0]
        for level, wide in enumerate(widths):
            level_blocks = nn.ModuleList()
            for _ in range(config.blocks):
                level_blocks.append(Stage(width, wide, embedding, config))
                width = wide
                skips.append(width)
            self.down.append(level_blocks)
            if level < config.levels - 1:
                self.shrink.append(nn.Conv3d(width, width, 3, stride=(1, 3, 3), padding=(1, 0, 0)))
                skips.append(width)
        self.middle = Stage(width, width, embedding, config)
        for level, wide in reversed(list(enumerate(widths))):
            level_blocks = nn.ModuleList()
            for _ in range(config.blocks + 1):
                level_blocks.append(Stage(width + skips.pop(), wide, embedding, config))
                width = wide
            self.up.append(level_blocks)
            if level:
                self.grow.append(nn.Conv3d(width, width, 3, padding=1))
        self.leave = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), zero(nn.Conv3d(width, outputs, 1)))
        self.to_cell = nn.Sequential(
            nn.Linear(width + embedding, embedding), nn.SiLU(), zero(nn.Linear(embedding, CELL_SIZE))
        )

    def forward(
        self, tensor: Tensor, cell: Tensor, time: Tensor, expected: Tensor, filled: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See the class.

        Args:
            tensor: Noisy coordinates and null locations. (b, L, H, W, 3)
            cell: Noisy standardised cells; every position is told all six numbers. (b, 6)
            time: (b,)
            expected: What the tensor is to be expected to be, before the network says anything. (b, L, H, W, 3)
            filled: Likewise, the probability that each slot is filled. (b, L, H, W)
            known: Properties asked for, standardised, NaN where nothing is asked. (b, 2)

        Returns:
            Of each slot (b, L, H, W, outputs), and noise of the cells (b, 6).
        """
        embedding = (
            self.time(time_features(time)) + self.cell(cell) + self.known(property_features(known))
        )  # (b, embedding)
        broadcast = cell[:, None, None, None, :].expand(*tensor.shape[:-1], CELL_SIZE)
        x = self.enter(
            torch.cat([tensor, expected, filled.unsqueeze(-1), broadcast], dim=-1).movedim(-1, 1)
        )  # (b, width, L, H, W)
        skips = [x]
        for level, blocks in enumerate(self.down):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, embedding)
                skips.append(x)
            if level < len(self.shrink):
                x = self.shrink[level](pad_to_thirds(x))
                skips.append(x)
        x = self.middle(x, embedding)
        for level, blocks in enumerate(self.up):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(torch.cat([x, skips.pop()], dim=1), embedding)
            if level < len(self.grow):
                x = self.grow[level](F.interpolate(x, size=skips[-1].shape[2:]))
        pooled = torch.cat([x.mean((2, 3, 4)), embedding], dim=-1)
        return self.leave(x).movedim(1, -1).float(), self.to_cell(pooled).float()


class Stage(nn.Module):
    """A residual block of two convolutions, told the time, then attention over all positions."""

    def __init__(self, inside: int, outside: int, embedding: int, config: UNetConfig) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, inside), nn.SiLU(), nn.Conv3d(inside, outside, 3, padding=1))
        self.modulate = nn.Linear(embedding, 2 * outside)
        self.norm = nn.GroupNorm(8, outside)
        self.second = nn.Sequential(
            nn.SiLU(), nn.Dropout(config.dropout), zero(nn.Conv3d(outside, outside, 3, padding=1))
        )
        self.skip = nn.Identity() if inside == outside else nn.Conv3d(inside, outside, 1)
        self.attention = Attention(outside, outside // min(config.head, config.width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(b, inside, L, H, W) -> (b, outside, L, H, W)."""
        scale, shift = self.modulate(F.silu(embedding))[:, :, None, None, None].chunk(2, dim=1)
        hidden = self.second(self.norm(self.first(x)) * (1 + scale) + shift)
        attended: Tensor = self.attention(self.skip(x) + hidden)
        return attended


class Attention(nn.Module):
    """Self-attention over the positions of a tensor, added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, width)
        self.ask = nn.Linear(width, 3 * width)
        self.answer = zero(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(b, width, L, H, W) -> the same."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (b, positions, width)
        query, key, value = self.ask(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(query, key, value)  # (b, heads, positions, head)
        answer: Tensor = self.answer(heard.transpose(1, 2).flatten(2))
        return x + answer.transpose(1, 2).view_as(x)


def pad_to_thirds(x: Tensor) -> Tensor:
    """Zeros after the last row and group until both counts are multiples of three. (b, c, L, H, W)."""
    return F.pad(x, (0, -x.shape[-1] % 3, 0, -x.shape[-2] % 3))


def zero(module: nn.Module) -> nn.Module:
    """The module with all weights at zero, so that what it ends begins as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
