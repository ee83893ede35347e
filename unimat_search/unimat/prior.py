"""p(space group, setting, sites | composition): the placements that crystals of a composition are likely to have.

A small autoregressive network. It chooses the setting, which names the space group, and then the site of one orbit
after the other: elements by rising atomic number, the orbits of an element in the order of `airss.symmetry.sites`.
Sites from which the composition can't be completed have no probability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from unimat_search.airss.symmetry import sites
from unimat_search.unimat.checkpoint import load, save
from unimat_search.unimat.elements import GROUPS, MAX_ATOMIC_NUMBER, ROWS, table_position
from unimat_search.unimat.occupying import Counts, open_sites
from unimat_search.unimat.placements import Placement, Setting

MOST_ATOMS = 64
"""Amounts of an element that the tables have room for."""

SITE_FEATURES = 9
GROUP_COUNT = 231

WIDTH, DROPOUT = 128, 0.2
EPOCHS, BATCH, LR, WEIGHT_DECAY = 6, 512, 2e-3, 0.05


@dataclass(frozen=True)
class Steps:
    """Placements as the network reads them: b of them, of at most k orbits and e elements; 0 fills up.

    Attributes:
        elements: Atomic numbers of the composition. (b, e)
        amounts: Atoms of each. (b, e)
        setting: Position in the prior's list. (b,)
        number: Atomic number of each orbit. (b, k)
        site: Its site within the group. (b, k)
        left: Atoms of its element that are to be placed, before it. (b, k)
        allowed: Sites that it may be on. (b, k, most sites)
    """

    elements: Tensor
    amounts: Tensor
    setting: Tensor
    number: Tensor
    site: Tensor
    left: Tensor
    allowed: Tensor

    def take(self, rows: Tensor) -> Steps:
        """Some of them, no longer than they need."""
        k = int((self.number[rows] > 0).sum(1).max())
        orbits = (x[rows, :k] for x in (self.number, self.site, self.left, self.allowed))
        return Steps(self.elements[rows], self.amounts[rows], self.setting[rows], *orbits)


class PlacementPrior(nn.Module):
    """See the module's text.

    Args:
        settings: What it chooses from.
        width: Features.
        dropout: Of the hidden layers.
    """

    places: Tensor
    features: Tensor
    groups: Tensor

    def __init__(self, settings: Sequence[Setting], *, width: int = WIDTH, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.settings = tuple(settings)
        numbers = [setting.number for setting in settings]
        self.most_sites = max(len(sites(number)) for number in numbers)
        self.element = nn.Embedding(MAX_ATOMIC_NUMBER + 1, width, padding_idx=0)
        self.row = nn.Embedding(ROWS + 1, width)
        self.group = nn.Embedding(GROUPS + 1, width)
        self.amount = nn.Embedding(MOST_ATOMS + 1, width)
        self.size = nn.Embedding(MOST_ATOMS + 1, width)
        self.read = _mlp(width, width, dropout)
        self.mix = _mlp(2 * width, width, dropout)
        self.space_group = nn.Embedding(GROUP_COUNT, width)
        self.setting = nn.Embedding(len(settings), width)
        self.ask_setting = _mlp(width, width, dropout)
        self.site = nn.Embedding(GROUP_COUNT * self.most_sites, width)
        self.site_features = nn.Linear(SITE_FEATURES, width)
        self.placed = _mlp(width, width, dropout)
        self.ask_site = _mlp(4 * width, width, dropout)
        for table in (self.space_group, self.setting, self.site):
            nn.init.normal_(table.weight, std=0.1)
        places = [(0, 0)] + [table_position(number) for number in range(1, MAX_ATOMIC_NUMBER + 1)]
        self.register_buffer("places", torch.tensor(places), persistent=False)
        self.register_buffer("groups", torch.tensor(numbers), persistent=False)
        features = torch.zeros(GROUP_COUNT, self.most_sites, SITE_FEATURES)
        for number in set(numbers):
            features[number, : len(sites(number))] = _features(number)
        self.register_buffer("features", features, persistent=False)

    def log_likelihood(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """Of the settings, and of the sites given these. (b,) each."""
        tokens, whole = self.composition(steps.elements, steps.amounts)
        chosen = F.log_softmax(self.setting_logits(whole), -1).gather(1, steps.setting[:, None])[:, 0]
        keys = self.site_keys(self.groups[steps.setting])
        theirs = keys.gather(1, steps.site.unsqueeze(-1).expand(-1, -1, keys.shape[-1]))
        there = steps.number > 0
        placed = (self.placed(self.element(steps.number) + theirs) * there.unsqueeze(-1)).cumsum(1)
        before = F.pad(placed, (0, 0, 1, 0))[:, :-1]
        logits = self.site_logits(tokens, whole, keys, steps, before)
        scores = F.log_softmax(logits.masked_fill(~steps.allowed, -1e9), -1)
        return chosen, (scores.gather(2, steps.site.unsqueeze(-1))[..., 0] * there).sum(1)

    def composition(self, elements: Tensor, amounts: Tensor) -> tuple[Tensor, Tensor]:
        """What each element is among the others (b, e, width), and all together (b, width)."""
        row, group = self.places[elements].unbind(-1)
        there = (elements > 0).unsqueeze(-1)
        tokens = self.element(elements) + self.row(row) + self.group(group)
        tokens = self.read(tokens + self.amount(amounts.clamp(max=MOST_ATOMS))) * there
        total = tokens.sum(1, keepdim=True) + self.size(amounts.sum(1).clamp(max=MOST_ATOMS)).unsqueeze(1)
        tokens = tokens + self.mix(torch.cat([tokens, total.expand_as(tokens)], -1)) * there
        return tokens, total[:, 0] + tokens.sum(1)

    def setting_logits(self, whole: Tensor) -> Tensor:
        """(b, width) -> (b, settings)."""
        keys = self.setting.weight + self.space_group(self.groups)
        logits: Tensor = self.ask_setting(whole) @ keys.T
        return logits

    def site_keys(self, group: Tensor) -> Tensor:
        """(b,) -> (b, most sites, width)."""
        index = group[:, None] * self.most_sites + torch.arange(self.most_sites, device=group.device)
        keys: Tensor = self.site(index) + self.site_features(self.features[group])
        return keys

    def site_logits(self, tokens: Tensor, whole: Tensor, keys: Tensor, steps: Steps, before: Tensor) -> Tensor:
        """(b, k, most sites), from what stands on sites before each orbit (b, k, width)."""
        which = (steps.number.unsqueeze(-1) == steps.elements.unsqueeze(1)).to(tokens.dtype)  # (b, k, e)
        mine = which @ tokens + self.amount(steps.left.clamp(max=MOST_ATOMS))
        setting = self.setting(steps.setting) + self.space_group(self.groups[steps.setting])
        wide = [x.unsqueeze(1).expand_as(mine) for x in (whole, setting)]
        logits: Tensor = self.ask_site(torch.cat([mine, before, *wide], -1)) @ keys.transpose(1, 2)
        return logits

    def steps(self, placements: Sequence[Placement]) -> Steps:
        """Placements in settings of this prior, for `log_likelihood`."""
        position = {setting: index for index, setting in enumerate(self.settings)}
        rows = [_read(placement) for placement in placements]
        allowed = np.zeros((len(rows), max(len(row.number) for row in rows), self.most_sites), dtype=bool)
        allowed[..., 0] = True
        for place, row in enumerate(rows):
            for step, options in enumerate(row.allowed):
                allowed[place, step, 0] = False
                allowed[place, step, options] = True
        setting = torch.tensor([position[placement.setting] for placement in placements])
        elements, amounts, number, site, left = (
            _padded([getattr(row, name) for row in rows]) for name in ("elements", "amounts", "number", "site", "left")
        )
        return Steps(elements, amounts, setting, number, site, left, torch.from_numpy(allowed))


@dataclass(frozen=True)
class _Row:
    """One placement of `Steps`."""

    elements: list[int]
    amounts: list[int]
    number: list[int]
    site: list[int]
    left: list[int]
    allowed: list[list[int]]


def _read(placement: Placement) -> _Row:
    table = sites(placement.setting.number)
    amounts: dict[int, int] = {}
    for z, site in placement.occupied:
        amounts[z] = amounts.get(z, 0) + table[site].multiplicity
    counts: Counts = tuple(amounts.items())
    row = _Row(list(amounts), list(amounts.values()), [], [], [], [])
    left = dict(amounts)
    for k, (z, site) in enumerate(placement.occupied):
        row.number.append(z)
        row.site.append(site)
        row.left.append(left[z])
        row.allowed.append(list(open_sites(placement.setting.number, placement.occupied[:k], z, left[z], counts)))
        left[z] -= table[site].multiplicity
    return row


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    table = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return torch.from_numpy(table)


def _features(number: int) -> Tensor:
    """Of a group's sites: how many atoms, also beside the most, their freedom, whether one orbit fills it. (s, 9)."""
    table = sites(number)
    largest = max(site.multiplicity for site in table)
    rows = []
    for site in table:
        rank = round(float(np.trace(site.projector)))
        size = [np.log(site.multiplicity), site.multiplicity / largest, np.log(largest), site.is_point]
        rows.append([*size, *(rank == r for r in range(4)), len(table) / 10])
    return torch.tensor(np.array(rows, dtype=np.float32))


def _mlp(inputs: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 2 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * width, width))


def learn_prior(
    placements: Sequence[Placement], *, seed: int, epochs: float = EPOCHS, say: Callable[[str], None] = print
) -> PlacementPrior:
    """A prior trained on placements by AdamW, the learning rate falling to zero; few epochs, since prototypes repeat.

    Args:
        placements: In standard settings (`placements.Settings`).
        seed: Of everything random.
        epochs: How often each placement is seen.
        say: Takes lines of progress.
    """
    settings = sorted({one.setting for one in placements}, key=lambda setting: (setting.number, setting.basis))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = PlacementPrior(settings)
        data = prior.steps(placements)
        optimizer = torch.optim.AdamW(prior.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
        batches = -(-len(placements) // BATCH)
        total = max(1, round(batches * epochs))
        order = torch.randperm(len(placements))
        loss = 0.0
        for step in range(total):
            if step % batches == 0:
                order = torch.randperm(len(placements))
                if step:
                    say(f"sites and groups: epoch {step // batches} of {epochs:g}, loss {loss:.3f}")
            for group in optimizer.param_groups:
                group["lr"] = LR * min(1.0, (step + 1) / 100, (total - step) / total)
            place = step % batches
            chosen, placed = prior.log_likelihood(data.take(order[place * BATCH : (place + 1) * BATCH]))
            negative = -(chosen.mean() + placed.mean())
            loss = float(negative.detach())
            optimizer.zero_grad()
            negative.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
            optimizer.step()
    return prior.eval()


def save_prior(prior: PlacementPrior, path: Path, header: Mapping[str, Any]) -> None:
    """Write a prior: weights in bf16, and the settings that it chooses from."""
    settings = [[setting.number, *setting.basis] for setting in prior.settings]
    weights = {name: parameter.to(torch.bfloat16) for name, parameter in prior.named_parameters()}
    save(path, weights, {"settings": settings, **header})


def load_prior(path: Path) -> tuple[PlacementPrior, str | None]:
    """A prior to draw from, and the sha256 of the data that it was learnt from.

    Raises:
        ValueError: If the file is not a prior of this version.
    """
    tensors, header = load(path)
    try:
        settings = [Setting(int(row[0]), tuple(int(x) for x in row[1:])) for row in header["settings"]]
        if not settings or not all(map(_is_setting, settings)):
            raise ValueError("its settings are not space groups in cells")
        with torch.device("meta"):
            wanted = {name: one.shape for name, one in PlacementPrior(settings).named_parameters()}
        if {name: one.shape for name, one in tensors.items()} != wanted:
            raise ValueError("its weights are not those of its settings")
        if not all(one.isfinite().all() for one in tensors.values()):
            raise ValueError("it holds a value that is not a finite number")
        prior = PlacementPrior(settings)
        prior.load_state_dict({name: one.float() for name, one in tensors.items()})
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path} is not a table of placements of this version: {error}") from error
    return prior.eval(), header.get("data_sha256")


def _is_setting(setting: Setting) -> bool:
    """Whether there is such a group, and the basis is that of a primitive cell."""
    return (
        1 <= setting.number < GROUP_COUNT
        and len(setting.basis) == 9
        and max(map(abs, setting.basis)) < 10
        and round(abs(float(np.linalg.det(np.reshape(setting.basis, (3, 3)))))) == 1
    )
