"""A crystal diffusion variational autoencoder, after CDVAE (Xie et al., arXiv:2110.06197), written for this harness.

As there: a graph network encodes a crystal into a latent vector, from which the number of atoms, the composition and
the cell are predicted, and which conditions a second, equivariant network that denoises coordinates by annealed
Langevin dynamics. Other than there: both networks are PaiNN; the cell is told from the volume that the composition
usually has; elements are not denoised, and neither noise nor moves shift a crystal as a whole; and a prior of the
latent vector given the composition is learnt beside, so that a composition can be asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib.resources import files

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from unimat_search.baselines.graph_network import GraphConfig, GraphNetwork, neighbour_graph
from unimat_search.unimat.batches import Batch
from unimat_search.unimat.cell import CELL_SIZE
from unimat_search.unimat.elements import MAX_ATOMIC_NUMBER
from unimat_search.unimat.flow import shortest, without_drift
from unimat_search.unimat.model import SampleSettings, Streams
from unimat_search.unimat.sample import UniMatGenerator
from unimat_search.unimat.structures import StructureSet
from unimat_search.unimat.tables import at_least_one
from unimat_search.unimat.volume_model import VolumeModel

WEIGHTS = "cdvae-zero-shot.safetensors"
MAX_SITES = 64
"""Numbers of atoms that can be predicted."""


@dataclass(frozen=True)
class CdvaeConfig:
    """The model; weights of the losses are CDVAE's.

    Attributes:
        encoder: Size of the encoder.
        network: Of the decoder.
        latent: Length of the latent vector.
        levels: Levels of noise.
        largest: Standard deviation of the largest, angstrom.
        smallest: Of the smallest.
        beta: Weight of the latent vector's divergence from a standard normal one.
        coords_weight: Of the coordinates' loss.
        cell_weight: Of the cell's.
    """

    encoder: GraphConfig = field(default_factory=lambda: GraphConfig(layers=2))
    network: GraphConfig = field(default_factory=GraphConfig)
    latent: int = 128
    levels: int = 50
    largest: float = 10.0
    smallest: float = 0.01
    beta: float = 0.01
    coords_weight: float = 10.0
    cell_weight: float = 10.0

    def __post_init__(self) -> None:
        at_least_one(self, "latent", "levels", where="model")
        if not 0 < self.smallest <= self.largest:
            raise ValueError(
                f"model.smallest and model.largest must rise from above 0, got {self.smallest}, {self.largest}"
            )


class CdvaeModel(VolumeModel):
    """See the module's text."""

    config_class = CdvaeConfig
    default_steps = 500

    def __init__(self, config: CdvaeConfig) -> None:
        super().__init__()
        self.config = config
        width, latent = config.network.width, config.latent
        self.encoder = GraphNetwork(config.encoder, context=0)
        self.to_latent = _mlp(config.encoder.width, width, 2 * latent)
        self.composition = nn.Embedding(MAX_ATOMIC_NUMBER + 1, width)
        self.prior = _mlp(width, 2 * width, 2 * latent)
        self.to_sites = _mlp(latent, width, MAX_SITES + 1)
        self.to_composition = _mlp(latent, width, MAX_ATOMIC_NUMBER + 1)
        self.to_cell = _mlp(latent + width, width, CELL_SIZE)
        self.decoder = GraphNetwork(config.network, context=latent + 1)
        self.to_moves = nn.Linear(width, 1, bias=False)
        levels = torch.linspace(math.log(config.largest), math.log(config.smallest), config.levels)
        self.register_buffer("sigmas", levels.exp(), persistent=False)

    sigmas: Tensor

    def fit(self, structures: StructureSet) -> None:
        """As any model; cells must not be larger than it can say."""
        if structures.num_sites.max() > MAX_SITES:
            raise ValueError(f"cells of more than {MAX_SITES} atoms can't be trained on; set data.max_sites")
        super().fit(structures)

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """CDVAE's losses, and the likelihood of the latent vector given the composition."""
        numbers, device = batch.numbers, batch.numbers.device
        mean, log_std = self.encode(batch)
        drawn = torch.randn(mean.shape, generator=generator, device=device)
        latent = mean + log_std.exp() * drawn  # (b, z)
        cells = self.encode_cells(batch.cells, numbers)
        level = torch.randint(len(self.sigmas), (len(batch),), generator=generator, device=device)
        noise = without_drift(torch.randn(batch.frac_coords.shape, generator=generator, device=device))
        sigma = self.sigmas[level]  # (b,)
        with torch.autocast(device.type, enabled=False):  # hundredths of an angstrom need more than bf16's eight bits
            noisy = batch.frac_coords + (sigma[:, None, None] * noise) @ torch.linalg.inv(batch.cells)
            target = without_drift(shortest(batch.frac_coords - noisy) @ batch.cells) / sigma[:, None, None]
        moves = self.moves(noisy, batch.cells, numbers, latent, sigma)
        parts = {
            "coords": 0.5 * (moves - target).square().sum(-1).mean(),
            "cell": F.mse_loss(self.predict_cells(latent, numbers), cells),
            "sites": F.cross_entropy(self.to_sites(latent), numbers.new_full((len(batch),), numbers.shape[1])),
            "composition": F.cross_entropy(
                self.to_composition(latent).unsqueeze(2).expand(-1, -1, numbers.shape[1]), numbers
            ),
            "divergence": 0.5 * (mean.square() + (2 * log_std).exp() - 2 * log_std - 1).sum(-1).mean(),
            "prior": self._surprise(latent.detach(), numbers),
        }
        config = self.config
        loss = config.coords_weight * parts["coords"] + config.cell_weight * parts["cell"]
        loss = loss + parts["sites"] + parts["composition"] + config.beta * parts["divergence"]
        return {"loss": loss + config.beta * parts["prior"], **parts}

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the deviation of crystals' latent vectors. (b, z) each."""
        graph = neighbour_graph(batch.frac_coords, batch.cells, self.config.encoder)
        scalars, _ = self.encoder(batch.numbers, graph)
        mean, log_std = self.to_latent(scalars.mean(1)).chunk(2, dim=-1)
        return mean, log_std.clamp(-8.0, 4.0)

    def latent_prior(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The same, from the composition alone. (b, n) -> (b, z) each."""
        mean, log_std = self.prior(self.composition(numbers).mean(1)).chunk(2, dim=-1)
        return mean, log_std.clamp(-8.0, 4.0)

    def _surprise(self, latent: Tensor, numbers: Tensor) -> Tensor:
        mean, log_std = self.latent_prior(numbers)
        return (0.5 * ((latent - mean) / log_std.exp()).square() + log_std).sum(-1).mean()

    def predict_cells(self, latent: Tensor, numbers: Tensor) -> Tensor:
        """Standardised cells. (b, z), (b, n) -> (b, 6)."""
        predicted: Tensor = self.to_cell(torch.cat([latent, self.composition(numbers).mean(1)], dim=-1))
        return predicted

    def moves(self, frac_coords: Tensor, cells: Tensor, numbers: Tensor, latent: Tensor, sigma: Tensor) -> Tensor:
        """The way back to the crystal in units of sigma, Cartesian: sigma times the score. (b, n, 3)."""
        graph = neighbour_graph(frac_coords, cells, self.config.network)
        context = torch.cat([latent, sigma.log().unsqueeze(-1)], dim=-1)
        _, vectors = self.decoder(numbers, graph, context)
        way = without_drift(self.to_moves(vectors).squeeze(-1))
        return way * torch.rsqrt(1.0 + sigma**2)[:, None, None]  # no way is longer than half a cell

    def sample(
        self,
        numbers: Tensor,
        properties: Tensor,  # noqa: ARG002
        streams: Streams,
        settings: SampleSettings,
    ) -> tuple[Tensor, Tensor]:
        """See `CrystalModel.sample`: annealed Langevin dynamics (Song and Ermon, arXiv:1907.05600).

        Steps are shared out evenly over the levels, at least one each, and a last one goes without noise. Properties
        are not heeded: the model has no place for them.
        """
        if settings.sampler not in (None, "langevin"):
            raise ValueError(f"the cdvae model has no sampler {settings.sampler!r}; it has langevin")
        device, sites = numbers.device, numbers.shape[1]
        mean, log_std = self.latent_prior(numbers)
        latent = mean + log_std.exp() * streams.normal(self.config.latent).to(device)
        cells = self.decode_cells(self.predict_cells(latent, numbers), numbers)
        to_frac = torch.linalg.inv(cells)
        frac_coords = streams.uniform(sites, 3).to(device)
        times = max(1, (settings.steps or self.default_steps) // len(self.sigmas))
        for sigma in self.sigmas:
            level = sigma.expand(len(numbers))
            for _ in range(times):
                noise = streams.normal(sites, 3).to(device)
                way = self.moves(frac_coords, cells, numbers, latent, level) + math.sqrt(2) * without_drift(noise)
                frac_coords = frac_coords + (sigma * way) @ to_frac
        last = self.moves(frac_coords, cells, numbers, latent, level)
        return (frac_coords + (level[0] * last) @ to_frac) % 1.0, cells

    def compositions(self, streams: Streams) -> list[Tensor]:
        """Atomic numbers (n,) of latent vectors drawn from the standard normal prior."""
        device = self.sigmas.device
        latent = streams.normal(self.config.latent).to(device)
        sites = 1 + self.to_sites(latent)[:, 1:].argmax(-1)
        shares = self.to_composition(latent).masked_fill(~self.seen_elements, -torch.inf).softmax(-1)
        return [_apportioned(share.cpu(), int(count)) for share, count in zip(shares, sites, strict=True)]


def _apportioned(shares: Tensor, count: int) -> Tensor:
    """So many atoms, of elements by their shares: whole parts, then largest remainders. (119,) -> (n,)."""
    expected = shares * count
    whole = expected.floor()
    rest = count - int(whole.sum())
    whole[(expected - whole).topk(rest).indices] += 1
    return torch.repeat_interleave(torch.arange(len(shares)), whole.long())


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


def cdvae(
    *, model: str | None = None, steps: int | None = None, retries: int = 5, device: str = "cpu"
) -> UniMatGenerator:
    """The generator `cdvae`.

    Args:
        model: A model file that `unimat-search train` wrote of a `cdvae` denoiser. [default: the weights that ship,
            trained without any composition of the MP-20 test split]
        steps: Of Langevin dynamics. [default: the model's own]
        retries: See `UniMatGenerator`.
        device: Where the model runs.

    Raises:
        ValueError: If the file is no model, or an option is out of range.
    """
    shipped = files("unimat_search.baselines").joinpath("weights", WEIGHTS)
    if model is None and not shipped.is_file():
        raise ValueError("no weights ship for it yet; train some (docs/training/cdvae.toml) and give model=FILE")
    return UniMatGenerator(model=model or str(shipped), steps=steps, near_hull="any", retries=retries, device=device)
