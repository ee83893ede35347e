"""The best denoiser of a crystal's slots, given what is believed of each: the U-Net changes these beliefs.

Almost all slots of a crystal's tensor are null, and atoms stand on few places. A network that has to say so spends
itself on it; this says it exactly, by Bayes' rule, from how many atoms of each element the data have, where the atoms
of each slot stand on each axis, and how many atoms there are in all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from unimat_search.unimat.diffusion import alpha_sigma
from unimat_search.unimat.grid import NULL, Grid

HALVES, BINS = 2, 20
"""Places on an axis, each a normal distribution as wide as they are apart: 0 is in the middle of the first half, 1/2 in
that of the second."""

SPREAD = 1 / (HALVES * BINS)

ORIGIN = -0.25 - SPREAD / 2
"""Coordinates are from here to less than one more."""

OCTANTS = HALVES**3
BELIEFS = 1 + OCTANTS + 3 * HALVES * BINS
"""Numbers that a network may add to the beliefs of a slot: to the logarithm of the odds that it is filled, and to those
of the probabilities of its octants and of its places on each axis."""

FAITH = 3.0
"""Atoms that the distribution over all slots counts for in each slot's own."""

LEAST = 1e-6
"""Probability of what the data never show."""

MOST_ATOMS = 255
"""Crystals of more atoms count as crystals of so many."""


@dataclass(frozen=True)
class Evidence:
    """What noisy numbers say of a tensor, before anything is believed.

    Attributes:
        places: Logarithm of the likelihood of each place on each axis. (b, L, H, W, 3, HALVES, BINS)
        means: Where the coordinate is to be expected if it is at that place. (b, L, H, W, 3, HALVES, BINS)
        empty: Logarithm of the likelihood of a null slot. (b, L, H, W)
    """

    places: Tensor
    means: Tensor
    empty: Tensor


class IndependentElements(nn.Module):
    """Beliefs of elements that know of each other only how many atoms there are in all.

    An element fills its first n slots, n from its own distribution; a filled slot is in one of the cell's octants, and
    within it its three coordinates are independent, all from that slot's own distributions; an empty slot is null. The
    number of atoms in all has the distribution of the data.

    Args:
        grid: Of the tensors.
    """

    amounts: Tensor
    sizes: Tensor
    octants: Tensor
    places: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        depth, rows, groups = grid.shape
        self.register_buffer("amounts", torch.full((rows * groups, depth + 1), 1 / (depth + 1)))
        self.register_buffer("sizes", torch.ones(MOST_ATOMS + 1))
        self.register_buffer("octants", torch.full((*grid.shape, OCTANTS), 1 / OCTANTS))
        self.register_buffer("places", torch.full((*grid.shape, 3, HALVES, BINS), 1 / BINS))

    def fit(self, tensors: Tensor) -> None:
        """Learn the distributions from data. (m, L, H, W, 3)."""
        there = tensors[..., 0] > NULL
        counts = there.sum(1).flatten(1)  # (m, H W)
        amounts = F.one_hot(counts, there.shape[1] + 1).float().mean(0).clamp(min=LEAST)
        self.amounts.copy_(amounts / amounts.sum(-1, keepdim=True))
        sizes = torch.bincount(counts.sum(1).clamp(max=MOST_ATOMS), minlength=MOST_ATOMS + 1) / len(tensors)
        alone = torch.zeros(1, MOST_ATOMS + 1)
        alone[:, 0] = 1.0
        for element in self.amounts:
            alone = _with(alone, element[None])
        ratio = sizes.clamp(min=LEAST) / alone[0].clamp(min=LEAST)
        self.sizes.copy_(ratio / ratio.max())
        bins = ((tensors[there] - ORIGIN) / SPREAD).floor().long().clamp(0, HALVES * BINS - 1)  # (atoms, 3)
        slot = there.nonzero(as_tuple=True)[1:]
        octants = torch.zeros_like(self.octants)
        octant = ((bins // BINS) * torch.tensor([HALVES**2, HALVES, 1])).sum(-1)
        octants.index_put_((*slot, octant), torch.ones(len(bins)), accumulate=True)
        self.octants.copy_(_shares(octants))
        places = torch.zeros_like(self.places).flatten(-2)
        for axis in range(3):
            place = (*slot, torch.full_like(slot[0], axis), bins[:, axis])
            places.index_put_(place, torch.ones(len(bins)), accumulate=True)
        self.places.copy_(_shares(places.view_as(self.places)))

    def evidence(self, tensor: Tensor, time: Tensor) -> Evidence:
        """See `Evidence`. (b, L, H, W, 3), (b,)."""
        alpha, sigma = (x.view(-1, 1, 1, 1, 1, 1, 1) for x in alpha_sigma(time))
        places = torch.arange(HALVES * BINS, device=tensor.device, dtype=tensor.dtype).view(HALVES, BINS)
        centres = ORIGIN + SPREAD * (places + 0.5)
        noisy = tensor[..., None, None]
        variance = sigma.square() + (alpha * SPREAD).square()
        empty = -0.5 * ((noisy - alpha * NULL) / sigma).square() - sigma.log()
        return Evidence(
            places=-0.5 * (noisy - alpha * centres).square() / variance - 0.5 * variance.log(),
            means=(centres * sigma.square() + alpha * SPREAD**2 * noisy) / variance,
            empty=empty.sum((-1, -2, -3)),
        )

    def expected(
        self, evidence: Evidence, given: Tensor | None = None, beliefs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What a tensor is to be expected to be.

        Args:
            evidence: What its noisy numbers say.
            given: 1 where a slot is known to be filled, 0 elsewhere (b, L, H, W); None where nothing is known.
            beliefs: See `BELIEFS`. (b, L, H, W, BELIEFS)

        Returns:
            The tensor (b, L, H, W, 3), and the probability that a slot is filled (b, L, H, W).
        """
        octants, places, odds = self.octants.log(), self.places.log(), -evidence.empty
        if beliefs is not None:
            octants = F.log_softmax(octants + beliefs[..., 1 : 1 + OCTANTS], -1)
            places = F.log_softmax(places + beliefs[..., 1 + OCTANTS :].unflatten(-1, places.shape[-3:]), -1)  # type: ignore[no-untyped-call]
            odds = odds + beliefs[..., 0]
        scores = places + evidence.places  # (b, L, H, W, 3, HALVES, BINS)
        x, y, z = scores.logsumexp(-1).unbind(-2)  # (b, L, H, W, HALVES) each
        sides = x[..., :, None, None] + y[..., None, :, None] + z[..., None, None, :]
        joint = octants.view(*octants.shape[:-1], HALVES, HALVES, HALVES) + sides
        posterior = joint.flatten(-3).softmax(-1).view_as(joint)
        halves = torch.stack([posterior.sum((-1, -2)), posterior.sum((-1, -3)), posterior.sum((-2, -3))], -2)
        coords = (halves * (scores.softmax(-1) * evidence.means).sum(-1)).sum(-1)  # (b, L, H, W, 3)
        filled = self._filled(odds + joint.flatten(-3).logsumexp(-1)) if given is None else given
        return NULL + filled.unsqueeze(-1) * (coords - NULL), filled

    def _filled(self, odds: Tensor) -> Tensor:
        """Probability that a slot is filled, from how much likelier its numbers are then, a logarithm. (b, L, H, W)."""
        b, depth = odds.shape[:2]
        scores = F.pad(odds.flatten(2).cumsum(1), (0, 0, 1, 0)).transpose(1, 2) + self.amounts.log()
        counts = given_the_sum(scores.softmax(-1).clamp(min=1e-12), self.sizes)  # (b, H W, L + 1)
        filled = counts[..., 1:].flip(-1).cumsum(-1).flip(-1)  # (b, H W, L)
        return filled.transpose(1, 2).view(b, depth, *odds.shape[2:])


def _shares(counts: Tensor) -> Tensor:
    """Of the last axis; each slot's own counts, and for `FAITH` atoms those of all slots. (L, H, W, ..., k)."""
    everywhere = counts.sum((0, 1, 2)) + LEAST
    counts = counts + FAITH * everywhere / everywhere.sum(-1, keepdim=True)
    return counts / counts.sum(-1, keepdim=True)


def given_the_sum(counts: Tensor, sizes: Tensor) -> Tensor:
    """Distributions of independent counts, given a weight for each value of their sum.

    Args:
        counts: Probability of 0 to k of each of e things. (b, e, k + 1)
        sizes: Weight of a sum of 0 to s; larger sums have none. (s + 1,)

    Returns:
        (b, e, k + 1)
    """
    b, e, _ = counts.shape
    before = counts.new_zeros(b, len(sizes))
    before[:, 0] = 1.0
    sums = [before]
    for thing in range(e - 1):
        sums.append(_with(sums[-1], counts[:, thing]))
    after = sizes.expand(b, -1)
    factors = []
    for thing in reversed(range(e)):
        ahead = _ahead(after, counts.shape[-1])  # (b, s + 1, k + 1)
        factors.append((sums[thing].unsqueeze(1) @ ahead)[:, 0])
        after = (ahead @ counts[:, thing].unsqueeze(-1))[..., 0]
        after = after / after.amax(-1, keepdim=True)
    given = counts * torch.stack(factors[::-1], 1)
    return given / given.sum(-1, keepdim=True)


def _with(sums: Tensor, counts: Tensor) -> Tensor:
    """Distribution of a sum after one more count is added to it. (b, s + 1), (b, k + 1) -> (b, s + 1)."""
    windows = F.pad(sums, (counts.shape[-1] - 1, 0)).unfold(-1, counts.shape[-1], 1)
    return (windows @ counts.flip(-1).unsqueeze(-1))[..., 0]


def _ahead(after: Tensor, k: int) -> Tensor:
    """What comes n further on, for n below k; zero beyond the end. (b, s) -> (b, s, k)."""
    return F.pad(after, (0, k - 1)).unfold(-1, k, 1)
