"""Placements of a composition, drawn from the prior and put in the order in which to try them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from unimat_search.airss.symmetry import sites
from unimat_search.unimat.occupying import Counts, has_room, open_sites
from unimat_search.unimat.placements import FloatArray, Placement, canonical
from unimat_search.unimat.prior import PlacementPrior, Steps

DRAWS = 400
"""Placements that are drawn, before equal ones are put together."""

TEMPERATURE = 1.5
"""Flattens the prior when drawing, so that rare placements come up; the order of trying goes by the prior itself."""

HIT = 0.4
"""How often one sample on the right placement is the right crystal: what decides when the next placement is due."""


@dataclass(frozen=True)
class Drawn:
    """A placement and its probability.

    Attributes:
        placement: With the least description of its sites.
        log_likelihood: By the prior, given the composition.
    """

    placement: Placement
    log_likelihood: float


def distinct_placements(
    prior: PlacementPrior,
    counts: Counts,
    rng: np.random.Generator,
    *,
    group: int | None = None,
    cell: FloatArray | None = None,
    draws: int = DRAWS,
    temperature: float = TEMPERATURE,
) -> list[Drawn]:
    """Placements that a number of draws brings up, the likeliest first; equivalent ones once.

    Args:
        prior: What to draw from.
        counts: The composition of the cell.
        rng: Source of randomness.
        group: The one space group to draw from; None for all.
        cell: Row vectors, angstrom, Niggli-reduced, of a cell that the groups must allow (3, 3); None for any.
        draws: How often to draw.
        temperature: See `TEMPERATURE`.

    Returns:
        An empty list where no group of the prior has room for the composition, or allows the cell.
    """
    found: dict[Placement, float] = {}
    for score, placement in draw(prior, counts, draws, rng, group=group, cell=cell, temperature=temperature):
        number = placement.setting.number
        least = Placement(placement.setting, canonical(number, tuple(sorted(placement.occupied))))
        found[least] = max(score, found.get(least, -np.inf))
    return [Drawn(*one) for one in sorted(found.items(), key=lambda one: -one[1])]


def order_of_trying(drawn: Sequence[Drawn], *, hit: float = HIT) -> Iterator[Placement]:
    """Without end, the placement whose next sample is the likeliest to be the first that is right.

    Where a sample on the right placement is right with probability h, the m-th sample on a placement of probability p
    is the first right one with p h (1 - h)^(m - 1).
    """
    heap = [(-one.log_likelihood, place) for place, one in enumerate(drawn)]
    heapq.heapify(heap)
    while heap:
        score, place = heap[0]
        yield drawn[place].placement
        heapq.heapreplace(heap, (score - np.log(1 - hit), place))


@torch.no_grad()
def draw(
    prior: PlacementPrior,
    counts: Counts,
    n: int,
    rng: np.random.Generator,
    *,
    group: int | None = None,
    cell: FloatArray | None = None,
    temperature: float = 1.0,
) -> list[tuple[float, Placement]]:
    """Placements of one composition drawn with replacement, with their log-likelihoods; see `distinct_placements`."""
    usable = [
        group in (None, one.number) and has_room(one.number, counts) and (cell is None or one.allows(cell))
        for one in prior.settings
    ]
    if not any(usable):
        return []
    elements, amounts = (torch.tensor([[pair[part] for pair in counts]]).expand(n, -1) for part in (0, 1))
    tokens, whole = prior.composition(elements, amounts)
    logits = prior.setting_logits(whole[:1])[0].double()
    scores = F.log_softmax(logits.masked_fill(~torch.tensor(usable), -torch.inf), -1)
    setting = _choose((scores / temperature).expand(n, -1), rng)
    walk = _Walk(prior, counts, elements, amounts, tokens, whole, setting, temperature)
    for z, count in counts:
        walk.place(z, count, rng)
    total = (scores[setting] + walk.scores).tolist()
    return [
        (score, Placement(prior.settings[chosen], tuple(occupied)))
        for score, chosen, occupied in zip(total, setting.tolist(), walk.occupied, strict=True)
    ]


class _Walk:
    """The sites of n placements of one composition, orbit by orbit."""

    def __init__(
        self,
        prior: PlacementPrior,
        counts: Counts,
        elements: Tensor,
        amounts: Tensor,
        tokens: Tensor,
        whole: Tensor,
        setting: Tensor,
        temperature: float,
    ) -> None:
        self.prior, self.counts, self.temperature = prior, counts, temperature
        self.elements, self.amounts, self.tokens, self.whole, self.setting = elements, amounts, tokens, whole, setting
        self.numbers: list[int] = prior.groups[setting].tolist()
        self.keys = prior.site_keys(prior.groups[setting])
        self.before = torch.zeros(len(setting), 1, whole.shape[-1])
        self.scores = torch.zeros(len(setting), dtype=torch.float64)
        self.occupied: list[list[tuple[int, int]]] = [[] for _ in self.numbers]

    def place(self, z: int, count: int, rng: np.random.Generator) -> None:
        """Put all atoms of one element on sites."""
        left = [count] * len(self.numbers)
        while any(atoms > 0 for atoms in left):
            allowed = self._allowed(z, left)
            number = torch.full((len(left), 1), z)
            steps = Steps(
                self.elements, self.amounts, self.setting, number, number, torch.tensor(left)[:, None], allowed
            )
            logits = self.prior.site_logits(self.tokens, self.whole, self.keys, steps, self.before)[:, 0].double()
            scores = F.log_softmax(logits.masked_fill(~allowed[:, 0], -torch.inf), -1)
            site = _choose(scores / self.temperature, rng)
            unfinished = torch.tensor(left) > 0
            self.scores += torch.where(unfinished, scores.gather(1, site[:, None])[:, 0], 0.0)
            key = self.keys.gather(1, site[:, None, None].expand(-1, 1, self.keys.shape[-1]))
            added = self.prior.placed(self.prior.element(number) + key)
            self.before = self.before + added * unfinished[:, None, None]
            for row in torch.nonzero(unfinished)[:, 0].tolist():
                chosen = int(site[row])
                self.occupied[row].append((z, chosen))
                left[row] -= sites(self.numbers[row])[chosen].multiplicity

    def _allowed(self, z: int, left: Sequence[int]) -> Tensor:
        """(n, 1, most sites); those that are finished get the first site, which is ignored."""
        allowed = torch.zeros(len(left), 1, self.prior.most_sites, dtype=torch.bool)
        for row, (number, occupied, atoms) in enumerate(zip(self.numbers, self.occupied, left, strict=True)):
            options = open_sites(number, occupied, z, atoms, self.counts) if atoms else (0,)
            allowed[row, 0, list(options)] = True
        return allowed


def _choose(scores: Tensor, rng: np.random.Generator) -> Tensor:
    """One column of each row, with probabilities proportional to exp(scores). (n, m) -> (n,)."""
    bounds = F.softmax(scores, -1).cumsum(-1)
    drawn = torch.from_numpy(rng.random((len(scores), 1))) * bounds[:, -1:]
    return torch.searchsorted(bounds, drawn, right=True)[:, 0].clamp(max=scores.shape[1] - 1)
