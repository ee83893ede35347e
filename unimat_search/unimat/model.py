"""What every generative model of crystals is to its trainer and its sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from unimat_search.records import first_line
from unimat_search.unimat.batches import Batch
from unimat_search.unimat.cell import CELL_SIZE
from unimat_search.unimat.elements import MAX_ATOMIC_NUMBER, CompositionKey, composition_key
from unimat_search.unimat.structures import PROPERTIES, StructureSet


@dataclass(frozen=True)
class SampleSettings:
    """How to sample.

    Attributes:
        steps: Times that the denoiser is asked; None for the model's own choice.
        sampler: Name of a sampler that the model has; None for the model's own choice.
        guidance: Weight w of the properties asked for, eps(1 + w) - w eps without them (0: plain conditioning).
        haste: Coordinates of a flow run ahead by 1 + haste * t; None for the model's own choice.
        precision: float32 or bf16, of the matrix products.
    """

    steps: int | None = None
    sampler: str | None = None
    guidance: float = 0.0
    haste: float | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"precision must be float32 or bf16, got {self.precision!r}")

    def autocast(self, device: torch.device) -> torch.autocast:
        """The precision, as a context."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")


@dataclass(frozen=True)
class Streams:
    """One stream of random numbers a sample, so that no sample depends on those beside it.

    Attributes:
        generators: One for each sample.
    """

    generators: Sequence[np.random.Generator] = field(default_factory=list)

    def take(self, rows: Sequence[int]) -> Streams:
        """Those of these samples."""
        return Streams([self.generators[row] for row in rows])

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers. (b, *shape)."""
        drawn = [generator.standard_normal(shape, dtype=np.float32) for generator in self.generators]
        return torch.from_numpy(np.stack(drawn))

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1). (b, *shape)."""
        return torch.from_numpy(np.stack([generator.random(shape, dtype=np.float32) for generator in self.generators]))


class CrystalModel(nn.Module, ABC):
    """A denoiser, what it denoises, and how."""

    neutral: frozenset[str] = frozenset()
    """Parameters that older files lack, and that have no effect before they are trained."""

    uses_symmetry = False
    """Whether training looks for the space groups of its data."""

    properties_mean: Tensor
    properties_std: Tensor
    cell_mean: Tensor
    cell_std: Tensor
    seen_elements: Tensor
    composition_sizes: Tensor
    composition_numbers: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen_elements", torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.bool))
        self.register_buffer("composition_sizes", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("composition_numbers", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("properties_mean", torch.zeros(len(PROPERTIES)))
        self.register_buffer("properties_std", torch.ones(len(PROPERTIES)))
        self.register_buffer("cell_mean", torch.zeros(CELL_SIZE))
        self.register_buffer("cell_std", torch.ones(CELL_SIZE))

    def fit(self, structures: StructureSet) -> None:
        """Learn the scales of the data, its elements and its compositions before training."""
        self.seen_elements[torch.from_numpy(np.unique(structures.numbers).astype(np.int64))] = True
        self.composition_sizes = torch.from_numpy(structures.num_sites.astype(np.int16))
        self.composition_numbers = torch.from_numpy(structures.numbers.copy())
        for column in range(len(PROPERTIES)):
            known = structures.properties[:, column][~np.isnan(structures.properties[:, column])]
            self.properties_mean[column] = float(known.mean()) if len(known) else 0.0
            self.properties_std[column] = float(known.std()) if len(known) else 0.0

    def fit_cells(self, vectors: Tensor) -> None:
        """Learn the spread of the cells. (m, 6)."""
        self.cell_mean.copy_(vectors.mean(0))
        self.cell_std.copy_(vectors.std(0, unbiased=False).clamp(min=1e-3))

    @torch.no_grad()
    def inherit(self, other: CrystalModel) -> None:
        """Take the weights and scales of a trained model; `fit` comes before.

        Elements and compositions of both count as seen.

        Args:
            other: Of the same class; each of its parameters has the shape of this model's.
        """
        mine = dict(self.named_parameters())
        for name, parameter in other.named_parameters():
            mine[name].copy_(parameter)
        self.inherit_scales(other)
        own = self.seen_compositions()
        further = [part for part in other._compositions() if composition_key(part.tolist()) not in own]
        sizes = torch.tensor([len(part) for part in further], dtype=self.composition_sizes.dtype)
        self.composition_sizes = torch.cat([self.composition_sizes, sizes])
        self.composition_numbers = torch.cat([self.composition_numbers, *further])
        self.seen_elements |= other.seen_elements

    def inherit_scales(self, other: CrystalModel) -> None:
        """Take the scales that the other's weights were trained with, where it had any."""
        known = other.properties_std > 0
        self.properties_mean[known] = other.properties_mean[known]
        self.properties_std[known] = other.properties_std[known]
        self.cell_mean.copy_(other.cell_mean)
        self.cell_std.copy_(other.cell_std)

    def compositions(self, streams: Streams) -> list[Tensor]:
        """Atomic numbers (n,) drawn from the compositions of the training data, one for each stream."""
        parts = self._compositions()
        return [parts[int(generator.integers(len(parts)))].long() for generator in streams.generators]

    def seen_compositions(self) -> frozenset[CompositionKey]:
        """The reduced compositions of the training data."""
        return frozenset(composition_key(part.tolist()) for part in self._compositions())

    def _compositions(self) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = torch.split(self.composition_numbers, self.composition_sizes.tolist())
        return parts

    def standardised(self, properties: Tensor) -> Tensor:
        """Properties in the denoiser's units; NaN of those that the training data said nothing of. (b, 2).

        A third column, the space group, is left out.
        """
        scaled = (properties[:, : len(PROPERTIES)] - self.properties_mean) / self.properties_std
        return scaled.masked_fill(self.properties_std == 0, torch.nan)

    def knows(self, name: str) -> bool:
        """Whether the training data had different values of a property."""
        return bool(self.properties_std[PROPERTIES.index(name)] > 0)

    @property
    def makes_compositions(self) -> bool:
        """Whether `compositions` are the model's own making, not the training data's."""
        return False

    @abstractmethod
    def positions(self, sites: int) -> int:
        """Positions that the denoiser computes for a crystal of so many sites: what memory is reckoned by."""

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Training losses averaged over a batch; "loss" is what is minimised, the others are its parts."""

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses: what data-parallel training wraps."""
        return self.loss(batch, generator)

    @abstractmethod
    def sample(
        self, numbers: Tensor, properties: Tensor, streams: Streams, settings: SampleSettings
    ) -> tuple[Tensor, Tensor]:
        """Crystals of given atoms.

        Args:
            numbers: Atomic numbers. (b, n)
            properties: Asked for, NaN where nothing is. (b, 2)
            streams: b of them.
            settings: How.

        Returns:
            Fractional coordinates in [0, 1), NaN of atoms that the model did not place (b, n, 3), and
            cells as row vectors, angstrom (b, 3, 3).
        """


def drop_properties(properties: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Forget each property with this probability, and all of them with it again, for classifier-free guidance."""
    device = properties.device
    some = torch.rand(properties.shape, generator=generator, device=device) < rate
    every = torch.rand(properties.shape[:1], generator=generator, device=device) < rate
    return properties.masked_fill(some | every.unsqueeze(-1), torch.nan)


def guided(predict: Callable[[Tensor], Tensor], known: Tensor, weight: float) -> Tensor:
    """Classifier-free guidance, (1 + w) eps(x, c, aux) - w eps(x, c) (arXiv:2311.09235, section 2.3).

    Args:
        predict: The denoiser's answer, given the properties.
        known: The properties asked for. (b, 2)
        weight: w.
    """
    asked = predict(known)
    if weight == 0.0:
        return asked
    return (1 + weight) * asked - weight * predict(torch.full_like(known, torch.nan))


def moved(frac_coords: Tensor, generator: torch.Generator) -> Tensor:
    """Crystals shifted at random and inverted half of the time, not wrapped. (b, n, 3) -> (b, n, 3)."""
    count, device = len(frac_coords), frac_coords.device
    mirror = 1 - 2 * (torch.rand(count, 1, 1, generator=generator, device=device) < 0.5).float()
    return mirror * frac_coords + torch.rand(count, 1, 3, generator=generator, device=device)


def usable_device(name: str) -> torch.device:
    """A device that this machine has.

    Raises:
        ValueError: If it has none of this name.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"the device {name!r} can't be used ({first_line(error)}); use cpu") from error
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(asked and asked())
