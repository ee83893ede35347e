"""Crystals of a given composition by flow matching over occupied slots."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unimat_search.unimat import flow
from unimat_search.unimat.batches import Batch
from unimat_search.unimat.cell import CELL_SIZE, cell_to_vector, vector_to_cell
from unimat_search.unimat.elements import MAX_ATOMIC_NUMBER
from unimat_search.unimat.grid import rank_among_like
from unimat_search.unimat.model import CrystalModel, SampleSettings, Streams, drop_properties, guided, moved
from unimat_search.unimat.slots import MAX_COUNT, SlotConfig, SlotDenoiser
from unimat_search.unimat.structures import StructureSet


@dataclass(frozen=True)
class SlotModelConfig:
    """The slot model.

    Attributes:
        network: Size of the denoiser.
        coords_weight: Weight of the coordinates' loss beside the cell's.
        drop_rate: How often training hides the properties.
        assign: Whether noise is handed to like atoms by the shortest way.
    """

    network: SlotConfig = field(default_factory=SlotConfig)
    coords_weight: float = 10.0
    drop_rate: float = 0.1
    assign: bool = True


class SlotModel(CrystalModel):
    """Flow matching from uniform coordinates and a normal cell around the composition's usual volume."""

    default_steps = 50
    default_haste = 15.0

    element_log_volumes: Tensor

    def __init__(self, config: SlotModelConfig) -> None:
        super().__init__()
        self.config = config
        self.denoiser = SlotDenoiser(config.network)
        self.register_buffer("element_log_volumes", torch.zeros(MAX_ATOMIC_NUMBER + 1))

    def fit(self, structures: StructureSet) -> None:
        """Learn the volume of an atom of each element, and the spread of the cells around it."""
        super().fit(structures)
        self.element_log_volumes.copy_(torch.from_numpy(fit_log_volumes(structures)))
        sizes = torch.from_numpy(structures.num_sites)
        rank = rank_among_like(structures.sites())
        self.denoiser.largest_size.fill_(min(int(sizes.max()), MAX_COUNT))
        self.denoiser.largest_count.fill_(min(int(rank.max()) + 1, MAX_COUNT))
        vectors = cell_to_vector(torch.from_numpy(structures.cells.astype(np.float64)))
        usual = torch.from_numpy(usual_log_volumes(structures, self.element_log_volumes.numpy()))
        vectors[:, 0] -= (usual + sizes.log()) / 3
        self.fit_cells(vectors)

    def positions(self, sites: int) -> int:
        """Its sites."""
        return sites

    def usual_size(self, numbers: Tensor) -> Tensor:
        """log(V / angstrom^3) / 3 to be expected of a cell of these atoms. (b, n) -> (b,)."""
        means: Tensor = self.element_log_volumes[numbers].mean(-1)
        return (means + math.log(numbers.shape[-1])) / 3

    def encode_cells(self, cells: Tensor, numbers: Tensor) -> Tensor:
        """Standardised vectors of cells. (b, 3, 3) -> (b, 6)."""
        vectors = cell_to_vector(cells)
        vectors[:, 0] -= self.usual_size(numbers)
        standardised: Tensor = (vectors - self.cell_mean) / self.cell_std
        return standardised

    def decode_cells(self, vectors: Tensor, numbers: Tensor) -> Tensor:
        """Cells of standardised vectors. (b, 6) -> (b, 3, 3)."""
        scaled = vectors * self.cell_std + self.cell_mean
        size = scaled[:, :1] + self.usual_size(numbers).unsqueeze(-1)
        return vector_to_cell(torch.cat([size, scaled[:, 1:]], dim=-1))

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared errors of the velocities: of the coordinates (squared length, in cells) and of the cells."""
        device = batch.numbers.device
        frac_coords = moved(batch.frac_coords, generator)
        noise = torch.rand(frac_coords.shape, generator=generator, device=device)
        if self.config.assign:
            noise = flow.assign(noise, frac_coords, batch.numbers)
        way = flow.without_drift(flow.shortest(frac_coords - noise))
        cells = self.encode_cells(batch.cells, batch.numbers)
        cells_noise = torch.randn(cells.shape, generator=generator, device=device)
        time = torch.rand(len(batch), generator=generator, device=device)
        known = drop_properties(self.standardised(batch.properties), self.config.drop_rate, generator)
        coords_velocity, cells_velocity = self.velocity(
            noise + time[:, None, None] * way, torch.lerp(cells_noise, cells, time[:, None]), time, batch.numbers, known
        )
        coords_loss = (coords_velocity - way).square().sum(-1).mean()
        cells_loss = (cells_velocity - (cells - cells_noise)).square().mean()
        return {
            "loss": self.config.coords_weight * coords_loss + cells_loss,
            "coords": coords_loss,
            "cell": cells_loss,
        }

    def velocity(
        self, frac_coords: Tensor, cells: Tensor, time: Tensor, numbers: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The denoiser's velocities of coordinates (b, n, 3) and standardised cells (b, 6)."""
        metric_cells = self.decode_cells(cells, numbers)
        coords_velocity, cells_velocity = self.denoiser(frac_coords, cells, metric_cells, time, numbers, known)
        return coords_velocity, cells_velocity

    def sample(
        self, numbers: Tensor, properties: Tensor, streams: Streams, settings: SampleSettings
    ) -> tuple[Tensor, Tensor]:
        """See `CrystalModel.sample`; the one sampler is "euler"."""
        frac_coords, cells = self._noise(numbers, streams)
        return self._follow(frac_coords, cells, numbers, properties, settings, start=0.0)

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
    ) -> tuple[Tensor, Tensor]:
        """Coordinates and cells (b, 3, 3) at time 1."""
        if settings.sampler not in (None, "euler"):
            raise ValueError(f"the slot model has no sampler {settings.sampler!r}; it has euler")
        known = self.standardised(properties)

        def velocity(frac_coords: Tensor, cells: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
            def predict(asked: Tensor) -> Tensor:
                coords_velocity, cells_velocity = self.velocity(frac_coords, cells, time, numbers, asked)
                return torch.cat([coords_velocity.flatten(1), cells_velocity], dim=-1)

            both = guided(predict, known, settings.guidance)
            return both[:, :-CELL_SIZE].view_as(frac_coords), both[:, -CELL_SIZE:]

        frac_coords, cells = flow.euler(
            velocity,
            frac_coords,
            cells,
            steps=settings.steps or self.default_steps,
            haste=self.default_haste if settings.haste is None else settings.haste,
            start=start,
        )
        return frac_coords, self.decode_cells(cells, numbers)


def usual_log_volumes(structures: StructureSet, log_volumes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logarithm of the volume per atom that each composition usually has, angstrom^3. (119,) -> (m,)."""
    sites = log_volumes[structures.numbers].astype(np.float64)
    return np.asarray(np.add.reduceat(sites, structures.offsets[:-1]) / structures.num_sites)


def fit_log_volumes(structures: StructureSet, *, cutoff: float = 0.8) -> NDArray[np.float32]:
    """Logarithm of the volume of an atom of each element, angstrom^3; a cell's mean is that of its volume per atom.

    Least squares with a weak pull to the mean, without the structures that a first fit misses by more than the cutoff
    (molecules and atoms in empty cells).

    Returns:
        (119,), the mean for elements that are not there.
    """
    rows = np.repeat(np.arange(len(structures)), structures.num_sites)
    shares = np.zeros((len(structures), MAX_ATOMIC_NUMBER + 1))
    np.add.at(shares, (rows, structures.numbers), 1.0)
    shares /= structures.num_sites[:, None]
    volumes = np.log(structures.volumes_per_atom)
    mean = np.median(volumes)
    kept = np.ones(len(structures), dtype=bool)
    fitted = np.zeros(MAX_ATOMIC_NUMBER + 1)
    for _ in range(2):
        x, y = shares[kept], volumes[kept] - mean
        fitted = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
        kept = np.abs(volumes - mean - shares @ fitted) < cutoff
    log_volumes: NDArray[np.float32] = (fitted + mean).astype(np.float32)
    return log_volumes
