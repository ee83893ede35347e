"""UniMat as published: Gaussian diffusion of the whole tensor and the cell (Yang et al., arXiv:2311.09235)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unimat_search.unimat.batches import Batch
from unimat_search.unimat.cell import CELL_SIZE, cell_to_vector, vector_to_cell
from unimat_search.unimat.diffusion import SAMPLERS, alpha_sigma, bounded, diffuse
from unimat_search.unimat.elements import GROUPS, ROWS
from unimat_search.unimat.grid import EMPTY_BELOW, Grid, Sites
from unimat_search.unimat.independent import BELIEFS, ORIGIN, SPREAD, IndependentElements
from unimat_search.unimat.model import CrystalModel, SampleSettings, Streams, drop_properties, guided, moved
from unimat_search.unimat.structures import StructureSet
from unimat_search.unimat.tables import MOST, at_least_one
from unimat_search.unimat.unet import UNet, UNetConfig

LIMITS = ((-1.0, -5.0), (1.0, 5.0))
"""Bounds of sampled data: of coordinates and null locations, and of standardised cells."""

CONDITIONS = ("none", "counts")


@dataclass(frozen=True)
class GridModelConfig:
    """The published model.

    Attributes:
        network: Size of the U-Net.
        depth: L, the most atoms of one element.
        rows: Rows of the periodic table, H of them.
        groups: Groups of the periodic table, W of them.
        condition: What the denoiser is told of the composition: "none", or the exact "counts" (L, H, W). "none"
            generates the composition too.
        drop_rate: How often training hides the properties.
        coords_weight: Weight of the slots' loss, a mean over all of them, beside the cell's: few slots are filled.
        augment: Whether training shifts and inverts crystals and shuffles like atoms at random; else like atoms are
            ordered by their coordinates. Not where atoms stand on special positions: they would lose these.
    """

    network: UNetConfig = field(default_factory=UNetConfig)
    depth: int = 20
    rows: tuple[int, ...] = tuple(range(1, ROWS + 1))
    groups: tuple[int, ...] = tuple(range(1, GROUPS + 1))
    condition: str = "counts"
    drop_rate: float = 0.1
    coords_weight: float = 1.0
    augment: bool = True

    def __post_init__(self) -> None:
        at_least_one(self, "depth", where="model", most=MOST)
        if self.condition not in CONDITIONS:
            raise ValueError(f"condition must be one of {', '.join(CONDITIONS)}, got {self.condition!r}")


class GridModel(CrystalModel):
    """Diffusion of atoms and null slots over the periodic table, with the cell beside them."""

    default_steps = 256

    config_class = GridModelConfig

    def __init__(self, config: GridModelConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = Grid(config.depth, config.rows, config.groups)
        self.elements = IndependentElements(self.grid)
        self.denoiser = UNet(config.network, BELIEFS)

    def fit(self, structures: StructureSet) -> None:
        """Learn the spread of the cells, and what each slot holds by itself."""
        super().fit(structures)
        self.fit_cells(cell_to_vector(torch.from_numpy(structures.cells.astype(np.float64))))
        sites = structures.sites()
        coords = _around_origin(sites.frac_coords)
        if self.config.augment:
            coords = torch.rand(coords.shape, generator=torch.Generator().manual_seed(0)) + ORIGIN
        order = _by_place(coords)
        order = order[sites.owner[order].argsort(stable=True)]
        sites = Sites(sites.owner, sites.numbers[order], coords[order])
        self.elements.fit(self.grid.encode(sites, len(structures)))

    def inherit_scales(self, other: CrystalModel) -> None:
        """What each slot holds by itself too.

        Raises:
            ValueError: If the other has another grid.
        """
        super().inherit_scales(other)
        assert isinstance(other, GridModel)
        if other.grid != self.grid:
            raise ValueError(f"the model to begin with has the grid {other.grid}, the settings {self.grid}")
        self.elements.load_state_dict(other.elements.state_dict())

    @property
    def makes_compositions(self) -> bool:
        """If it is told of none."""
        return self.config.condition == "none"

    def positions(self, sites: int) -> int:  # noqa: ARG002
        """The whole grid, whatever the crystal."""
        return int(np.prod(self.grid.shape))

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared errors of the predicted noise of tensor and cell, where there is little noise those of the data.

        That is a weight of min(SNR, 1) / SNR (Hang et al., arXiv:2303.09556): else the last digits of the coordinates
        outweigh which slots are filled.

        Where `augment` asks for it, data are augmented as in the paper by shuffling like atoms, and by the translations
        and the inversion that its rotations become in fractional coordinates.
        """
        device, count = batch.numbers.device, len(batch)
        coords = _around_origin(moved(batch.frac_coords, generator) if self.config.augment else batch.frac_coords)
        order = _by_place(coords)
        if self.config.augment:
            order = torch.rand(order.shape, generator=generator, device=device).argsort(1)
        numbers = batch.numbers.gather(1, order)
        coords = coords.gather(1, order.unsqueeze(-1).expand_as(coords))
        tensor = self.grid.encode(_sites(numbers, coords), count)
        cells = (cell_to_vector(batch.cells) - self.cell_mean) / self.cell_std
        time = torch.rand(count, generator=generator, device=device)
        noise = torch.randn(tensor.shape, generator=generator, device=device)
        cells_noise = torch.randn(cells.shape, generator=generator, device=device)
        known = drop_properties(self.standardised(batch.properties), self.config.drop_rate, generator)
        predicted, cells_predicted = self.predict(
            diffuse(tensor, noise, time), diffuse(cells, cells_noise, time), time, self.given(numbers), known
        )
        alpha, sigma = alpha_sigma(time)
        weight = (sigma / alpha).square().clamp(max=1.0)
        coords_loss = (weight * (predicted - noise).square().flatten(1).mean(1)).mean()
        cells_loss = (weight * (cells_predicted - cells_noise).square().mean(1)).mean()
        return {"loss": self.config.coords_weight * coords_loss + cells_loss, "coords": coords_loss, "cell": cells_loss}

    def predict(
        self, tensor: Tensor, cells: Tensor, time: Tensor, given: Tensor | None, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The noise of tensor and cell: the tensor's by Bayes' rule from beliefs that the network changes."""
        evidence = self.elements.evidence(tensor, time)
        with torch.no_grad():
            alone = self.elements.expected(evidence, given)
        beliefs, cells_noise = self.denoiser(tensor, cells, time, *alone, known)
        expected, _ = self.elements.expected(evidence, given, beliefs)
        alpha, sigma = (x.view(-1, 1, 1, 1, 1) for x in alpha_sigma(time))
        return (tensor - alpha * expected) / sigma, cells_noise

    def given(self, numbers: Tensor) -> Tensor | None:
        """What the denoiser is told of the composition. (b, n) -> (b, L, H, W), or None."""
        if self.config.condition == "none":
            return None
        sites = _sites(numbers, torch.zeros(*numbers.shape, 3, device=numbers.device))
        return self.grid.occupancy(sites, len(numbers))

    def sample(
        self, numbers: Tensor, properties: Tensor, streams: Streams, settings: SampleSettings
    ) -> tuple[Tensor, Tensor]:
        """See `CrystalModel.sample`: the slots of the composition are read, whatever the others hold.

        Raises:
            ValueError: If the model is not conditional.
        """
        if self.config.condition == "none":
            raise ValueError("this model makes its own compositions; sample it without a formula")
        sites = _sites(numbers, torch.zeros(*numbers.shape, 3, device=numbers.device))
        tensor, cells = self._sample(self.given(numbers), properties, streams, settings)
        slots = tensor.flatten(1, 3)[sites.owner, self.grid.places(sites)]
        empty = slots.mean(-1, keepdim=True) < EMPTY_BELOW
        frac_coords = (slots % 1.0).masked_fill(empty, torch.nan)
        return frac_coords.view(*numbers.shape, 3), cells

    def sample_free(self, properties: Tensor, streams: Streams, settings: SampleSettings) -> tuple[Sites, Tensor]:
        """Crystals of whatever composition comes: atoms and cells (b, 3, 3).

        Raises:
            ValueError: If the model is conditional.
        """
        if self.config.condition != "none":
            raise ValueError(f"this model is conditional on {self.config.condition}: give it a composition")
        tensor, cells = self._sample(None, properties, streams, settings)
        return self.grid.decode(tensor), cells

    def _sample(
        self, given: Tensor | None, properties: Tensor, streams: Streams, settings: SampleSettings
    ) -> tuple[Tensor, Tensor]:
        """Tensors (b, L, H, W, 3) and cells (b, 3, 3)."""
        name = settings.sampler or "ancestral"
        if name not in SAMPLERS:
            raise ValueError(f"no sampler {name!r}; there are {', '.join(SAMPLERS)}")
        known, device = self.standardised(properties), properties.device
        positions = 3 * int(np.prod(self.grid.shape))

        def draw() -> Tensor:
            return streams.normal(positions + CELL_SIZE).to(device)

        def denoise(x: Tensor, time: Tensor) -> Tensor:
            tensor, cells = x[:, :positions].view(-1, *self.grid.shape, 3), x[:, positions:]
            return guided(
                lambda asked: _joined(self.predict(tensor, cells, time, given, asked)), known, settings.guidance
            )

        low, high = (torch.tensor([bound] * positions + [cell] * CELL_SIZE, device=device) for bound, cell in LIMITS)
        x = SAMPLERS[name](bounded(denoise, low, high), draw(), steps=settings.steps or self.default_steps, draw=draw)
        cells = vector_to_cell(x[:, positions:] * self.cell_std + self.cell_mean)
        return x[:, :positions].view(-1, *self.grid.shape, 3), cells


def _around_origin(frac_coords: Tensor) -> Tensor:
    """Coordinates from `ORIGIN` to less than one more, so that neither what stands at 0 nor at 1/2 is torn apart."""
    return (frac_coords - ORIGIN) % 1.0 + ORIGIN


def _by_place(frac_coords: Tensor) -> Tensor:
    """The order of atoms by x, then y, then z, each in steps of `SPREAD`. (b, n, 3) -> (b, n)."""
    steps = ((frac_coords - ORIGIN) / SPREAD).floor()
    x, y, z = steps.unbind(-1)
    return ((x / SPREAD + y) / SPREAD + z).argsort(dim=-1, stable=True)


def _sites(numbers: Tensor, frac_coords: Tensor) -> Sites:
    """The atoms of crystals of n atoms each."""
    count, n = numbers.shape
    owner = torch.arange(count, device=numbers.device).repeat_interleave(n)
    return Sites(owner, numbers.flatten(), frac_coords.flatten(0, 1))


def _joined(predicted: tuple[Tensor, Tensor]) -> Tensor:
    """Tensor and cell as one row of numbers. (b, L, H, W, 3), (b, 6) -> (b, 3 L H W + 6)."""
    return torch.cat([predicted[0].flatten(1), predicted[1]], dim=-1)
