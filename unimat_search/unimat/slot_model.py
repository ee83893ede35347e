"""Crystals of a given composition by flow matching over occupied slots."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from unimat_search.unimat import flow
from unimat_search.unimat.batches import Batch
from unimat_search.unimat.cell import CELL_SIZE
from unimat_search.unimat.elements import MAX_ATOMIC_NUMBER
from unimat_search.unimat.grid import rank_among_like
from unimat_search.unimat.model import CrystalModel, SampleSettings, Streams, drop_properties, guided, moved
from unimat_search.unimat.orbits import Constraint, Freedom
from unimat_search.unimat.slots import MAX_COUNT, SlotConfig, SlotDenoiser
from unimat_search.unimat.structures import StructureSet
from unimat_search.unimat.volume_model import VolumeModel


@dataclass(frozen=True)
class SlotModelConfig:
    """The slot model.

    Attributes:
        network: Size of the denoiser.
        coords_weight: Weight of the coordinates' loss beside the cell's.
        drop_rate: How often training hides the properties, the space group among them.
        symmetric_rate: Share of the crystals that training holds to their symmetry: noise on the sites of their space
            group, in a cell that it allows.
        assign: Whether noise is handed to like atoms by the shortest way.
    """

    network: SlotConfig = field(default_factory=SlotConfig)
    coords_weight: float = 10.0
    drop_rate: float = 0.1
    symmetric_rate: float = 0.5
    assign: bool = True


class SlotModel(VolumeModel):
    """Flow matching from uniform coordinates and a normal cell around the composition's usual volume."""

    default_steps = 18
    default_haste = 15.0

    config_class = SlotModelConfig

    neutral = frozenset({"denoiser.space_group.weight", "denoiser.rank.weight", "denoiser.orbit.weight"})

    uses_symmetry = True

    def __init__(self, config: SlotModelConfig) -> None:
        super().__init__()
        self.config = config
        self.denoiser = SlotDenoiser(config.network)

    def fit(self, structures: StructureSet) -> None:
        """Learn the cells and volumes of the data, and how large its crystals are."""
        super().fit(structures)
        rank = rank_among_like(structures.sites())
        self.denoiser.largest_size.fill_(min(int(structures.num_sites.max()), MAX_COUNT))
        self.denoiser.largest_count.fill_(min(int(rank.max()) + 1, MAX_COUNT))

    def inherit_scales(self, other: CrystalModel) -> None:
        """The sizes up to which the other's tables were trained too."""
        super().inherit_scales(other)
        assert isinstance(other, SlotModel)
        for mine, theirs in (
            (self.denoiser.largest_size, other.denoiser.largest_size),
            (self.denoiser.largest_count, other.denoiser.largest_count),
        ):
            mine.copy_(torch.maximum(mine, theirs))

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared errors of the velocities: of the coordinates (squared length, in cells) and of the cells."""
        device = batch.numbers.device
        frac_coords = moved(batch.frac_coords, generator)
        noise = torch.rand(frac_coords.shape, generator=generator, device=device)
        cells = self.encode_cells(batch.cells, batch.numbers)
        cells_noise = torch.randn(cells.shape, generator=generator, device=device)
        time = torch.rand(len(batch), generator=generator, device=device)
        known = with_group(self.standardised(batch.properties), batch.freedom.groups if batch.freedom else None)
        known = drop_properties(known, self.config.drop_rate, generator)
        sites, alike = None, batch.numbers
        if batch.freedom:
            held = torch.rand(len(batch), generator=generator, device=device) < self.config.symmetric_rate
            held &= batch.freedom.groups > 0
            sites = site_features(batch.freedom) * held[:, None, None]
            noise = torch.where(held[:, None, None], frac_coords + batch.freedom.displacements(noise), noise)
            symmetric = self.symmetric_cells(cells_noise, batch.numbers, batch.freedom)
            cells_noise = torch.where(held[:, None], symmetric, cells_noise)
            alike = alike + (MAX_ATOMIC_NUMBER + 1) * batch.freedom.owner * held[:, None]  # noise stays in its orbit
        if self.config.assign:
            noise = flow.assign(noise, frac_coords, alike)
        way = flow.without_drift(flow.shortest(frac_coords - noise))
        cells_then = torch.lerp(cells_noise, cells, time[:, None])
        coords_velocity, cells_velocity = self.velocity(
            noise + time[:, None, None] * way, cells_then, time, batch.numbers, known, sites
        )
        coords_loss = (coords_velocity - way).square().sum(-1).mean()
        cells_loss = (cells_velocity - (cells - cells_noise)).square().mean()
        return {
            "loss": self.config.coords_weight * coords_loss + cells_loss,
            "coords": coords_loss,
            "cell": cells_loss,
        }

    def velocity(
        self,
        frac_coords: Tensor,
        cells: Tensor,
        time: Tensor,
        numbers: Tensor,
        known: Tensor,
        sites: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The denoiser's velocities of coordinates (b, n, 3) and standardised cells (b, 6)."""
        metric_cells = self.decode_cells(cells, numbers)
        coords_velocity, cells_velocity = self.denoiser(frac_coords, cells, metric_cells, time, numbers, known, sites)
        return coords_velocity, cells_velocity

    def sample(
        self,
        numbers: Tensor,
        properties: Tensor,
        streams: Streams,
        settings: SampleSettings,
        *,
        given: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `CrystalModel.sample`; the one sampler is "euler".

        Cells may be given, as row vectors, angstrom, Niggli-reduced as in training (b, 3, 3).
        """
        frac_coords, cells = self._noise(numbers, streams)
        return self._follow(frac_coords, cells, numbers, properties, settings, start=0.0, given=given)

    def sample_held(
        self,
        numbers: Tensor,
        properties: Tensor,
        constraint: Constraint,
        streams: Streams,
        settings: SampleSettings,
        *,
        given: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Crystals held to a space group and to sites: noise on the sites, and no stride but what the group allows.

        Args:
            numbers: Atomic numbers. (b, n)
            properties: Asked for, NaN where nothing is. (b, 2)
            constraint: Of b crystals.
            streams: b of them.
            settings: How.
            given: Cells, as in `sample`.

        Returns:
            As `sample`.
        """
        noise, cells_noise = self._noise(numbers, streams)
        properties = with_group(properties, constraint.freedom.groups)
        cells = self.symmetric_cells(cells_noise, numbers, constraint.freedom)
        return self._follow(
            constraint.place(noise), cells, numbers, properties, settings, start=0.0, constraint=constraint, given=given
        )

    def renew(
        self,
        numbers: Tensor,
        frac_coords: Tensor,
        cells: Tensor,
        properties: Tensor,
        streams: Streams,
        settings: SampleSettings,
        *,
        start: float,
    ) -> tuple[Tensor, Tensor]:
        """Crystals taken back to a time on the path, as in training, and led from there to time 1 again.

        Args:
            numbers: Atomic numbers. (b, n)
            frac_coords: (b, n, 3)
            cells: Row vectors, angstrom, Niggli-reduced as in training. (b, 3, 3)
            properties: Asked for, NaN where nothing is. (b, 2)
            streams: b of them.
            settings: How; steps are those of the whole path.
            start: The time: 0 forgets the crystal, near 1 keeps it.

        Returns:
            As `sample`.
        """
        noise, cells_noise = self._noise(numbers, streams)
        if self.config.assign:
            noise = flow.assign(noise, frac_coords, numbers)
        way = flow.without_drift(flow.shortest(frac_coords - noise))
        cells_then = torch.lerp(cells_noise, self.encode_cells(cells, numbers), start)
        return self._follow(noise + start * way, cells_then, numbers, properties, settings, start=start)

    def _noise(self, numbers: Tensor, streams: Streams) -> tuple[Tensor, Tensor]:
        """Coordinates (b, n, 3) and standardised cells (b, 6) at time 0."""
        uniform = streams.uniform(numbers.shape[1], 3).to(numbers.device)
        return uniform, streams.normal(CELL_SIZE).to(numbers.device)

    def _follow(
        self,
        frac_coords: Tensor,
        cells: Tensor,
        numbers: Tensor,
        properties: Tensor,
        settings: SampleSettings,
        *,
        start: float,
        constraint: Constraint | None = None,
        given: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Coordinates and cells (b, 3, 3) at time 1; a given cell is approached from the noise as training does."""
        if settings.sampler not in (None, "euler"):
            raise ValueError(f"the slot model has no sampler {settings.sampler!r}; it has euler")
        known = with_group(self.standardised(properties), properties[:, 2] if properties.shape[1] > 2 else None)

        sites = site_features(constraint.freedom) if constraint else None
        to_given = None if given is None else self.encode_cells(given, numbers) - cells

        def velocity(frac_coords: Tensor, cells: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
            def predict(asked: Tensor) -> Tensor:
                coords_velocity, cells_velocity = self.velocity(frac_coords, cells, time, numbers, asked, sites)
                return torch.cat([coords_velocity.flatten(1), cells_velocity], dim=-1)

            both = guided(predict, known, settings.guidance)
            coords_velocity = both[:, :-CELL_SIZE].view_as(frac_coords)
            cells_velocity = both[:, -CELL_SIZE:] if to_given is None else to_given
            return constraint.project(coords_velocity) if constraint else coords_velocity, cells_velocity

        def settle(cells: Tensor) -> Tensor:
            return self.symmetric_cells(cells, numbers, constraint.freedom) if constraint and given is None else cells

        frac_coords, cells = flow.euler(
            velocity,
            frac_coords,
            cells,
            steps=settings.steps or self.default_steps,
            haste=self.default_haste if settings.haste is None else settings.haste,
            start=start,
            settle=settle,
        )
        return frac_coords, self.decode_cells(cells, numbers) if given is None else given


def with_group(known: Tensor, groups: Tensor | None) -> Tensor:
    """Properties with the space group beside them; NaN where it is 0 or not known. (b, 2), (b,) -> (b, 3)."""
    if groups is None:
        return F.pad(known, (0, 1), value=torch.nan)
    numbers = groups.to(known.dtype)
    return torch.cat([known, numbers.masked_fill(numbers == 0, torch.nan).unsqueeze(-1)], dim=-1)


def site_features(freedom: Freedom) -> Tensor:
    """What the denoiser is told of each atom's site: see `SlotDenoiser.forward`. (b, n, 2)."""
    return torch.stack([freedom.ranks + 1, freedom.sizes], dim=-1) * (freedom.groups > 0)[:, None, None]
