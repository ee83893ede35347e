"""The best denoiser of slots that know nothing of each other: what the U-Net's noise is counted from.

Almost all slots of a crystal's tensor are null. A network that has to say so for each of them spends itself on it; this
says it exactly, by Bayes' rule, from how often each slot is filled in the data and where its atoms stand on each axis.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimat_search.unimat.diffusion import alpha_sigma
from unimat_search.unimat.grid import NULL, Grid

BINS = 40
"""Places on an axis, each a normal distribution as wide as they are apart."""

FAITH = 3.0
"""Atoms that the distribution over all slots counts for in each slot's own."""

LEAST = 1e-6
"""A slot that the data never fill is filled this often."""


class IndependentSlots(nn.Module):
    """Noise that belongs to a noisy tensor if its slots are independent.

    A slot is filled with its own frequency; a filled slot's three coordinates are independent, each drawn from that
    slot's own distribution on the axis; an empty slot is null.

    Args:
        grid: Of the tensors.
    """

    filled: Tensor
    weights: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.register_buffer("filled", torch.full(grid.shape, 0.5))
        self.register_buffer("weights", torch.full((*grid.shape, 3, BINS), 1 / BINS))

    def fit(self, tensors: Tensor) -> None:
        """Learn the frequencies from data. (m, L, H, W, 3)."""
        there = tensors[..., 0] > NULL
        self.filled.copy_(there.float().mean(0).clamp(LEAST, 1 - LEAST))
        bins = (tensors[there] * BINS).floor().long().clamp(0, BINS - 1)  # (atoms, 3)
        slot = there.nonzero(as_tuple=True)[1:]
        counts = torch.zeros_like(self.weights)
        for axis in range(3):
            place = (*slot, torch.full_like(slot[0], axis), bins[:, axis])
            counts.index_put_(place, torch.ones(len(bins)), accumulate=True)
        everywhere = counts.sum((0, 1, 2)) + LEAST  # (3, BINS)
        counts += FAITH * everywhere / everywhere.sum(-1, keepdim=True)
        self.weights.copy_(counts / counts.sum(-1, keepdim=True))

    def forward(self, tensor: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """The noise (b, L, H, W, 3) in a noisy tensor, and the probability that a slot is filled (b, L, H, W)."""
        alpha, sigma = (x.view(-1, 1, 1, 1, 1) for x in alpha_sigma(time))
        spread = 1 / BINS
        centres = (torch.arange(BINS, device=tensor.device, dtype=tensor.dtype) + 0.5) / BINS
        variance = (sigma.square() + (alpha * spread).square()).unsqueeze(-1)  # (b, 1, 1, 1, 1, 1)
        apart = tensor.unsqueeze(-1) - alpha.unsqueeze(-1) * centres  # (b, L, H, W, 3, BINS)
        scores = self.weights.log() - 0.5 * apart.square() / variance
        evidence = scores.logsumexp(-1) - 0.5 * variance[..., 0].log()
        posterior = scores.softmax(-1)
        pulled = alpha.unsqueeze(-1) * spread**2 * tensor.unsqueeze(-1)
        means = (centres * sigma.square().unsqueeze(-1) + pulled) / variance
        coords = (posterior * means).sum(-1)  # (b, L, H, W, 3)
        empty = -0.5 * (tensor - alpha * NULL).square() / sigma.square() - sigma.log()
        odds = (evidence - empty).sum(-1) + self.filled.log() - torch.log1p(-self.filled)
        there = torch.sigmoid(odds)
        expected = NULL + there.unsqueeze(-1) * (coords - NULL)
        return (tensor - alpha * expected) / sigma, there
