"""A crystal diffusion variational autoencoder, after CDVAE (Xie et al., arXiv:2110.06197), written for this harness.

As there: a graph network encodes a crystal into a latent vector, from which the number of atoms, the composition and
the cell are predicted, and which conditions a second, equivariant network that denoises coordinates by annealed
Langevin dynamics. Other than there: both networks are PaiNN; the cell is told from the volume that the composition
usually has, and shown to the encoder; elements are not denoised, and neither noise nor moves shift a crystal as a
whole; latent vectors are drawn by a flow that is learnt beside, given a composition or without, not from a normal
distribution; and each step of the dynamics adds as much noise as keeps its level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

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

FREE_RATE = 0.1
"""How often the flow of latent vectors learns without the composition."""

FLOW_DRAWS = 16
"""Points on the flow's paths that it learns from for each crystal: it costs little beside the graphs."""

FLOW_STEPS = 50


@dataclass(frozen=True)
class CdvaeConfig:
    """The model; weights of the losses are CDVAE's.

    Attributes:
        encoder: Size of the encoder.
        network: Of the decoder.
        latent: Length of the latent vector.
        flow_width: Width of the network that draws latent vectors.
        flow_layers: Its hidden layers.
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
    flow_width: int = 512
    flow_layers: int = 3
    levels: int = 50
    largest: float = 10.0
    smallest: float = 0.01
    beta: float = 0.01
    coords_weight: float = 10.0
    cell_weight: float = 10.0

    def __post_init__(self) -> None:
        at_least_one(self, "latent", "flow_width", "flow_layers", "levels", where="model")
        if not 0 < self.smallest <= self.largest:
            raise ValueError(
                f"model.smallest and model.largest must rise from above 0, got {self.smallest}, {self.largest}"
            )


class CdvaeModel(VolumeModel):
    """See the module's text."""

    config_class = CdvaeConfig
    default_steps = 240

    def __init__(self, config: CdvaeConfig) -> None:
        super().__init__()
        self.config = config
        width, latent = config.network.width, config.latent
        self.encoder = GraphNetwork(config.encoder, context=0)
        self.to_latent = _mlp(config.encoder.width + CELL_SIZE, width, 2 * latent)
        self.composition = nn.Embedding(MAX_ATOMIC_NUMBER + 1, width)
        self.size = nn.Embedding(MAX_SITES + 1, width)
        self.flow = _mlp(latent + 1 + width, *(config.flow_layers * [config.flow_width]), latent)
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

    @property
    def makes_compositions(self) -> bool:
        """From latent vectors."""
        return True

    def positions(self, sites: int) -> int:
        """Pairs weigh as much as sites from eight sites on."""
        return sites * max(1, sites // 8)

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """CDVAE's losses, and the flow's of the latent vector given the composition."""
        numbers, device = batch.numbers, batch.numbers.device
        cells = self.encode_cells(batch.cells, numbers)
        mean, log_std = self.encode(batch)
        latent = mean + log_std.exp() * torch.randn(mean.shape, generator=generator, device=device)  # (b, z)
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
            "flow": self._flow_loss(latent.detach(), numbers, generator),
        }
        config = self.config
        loss = config.coords_weight * parts["coords"] + config.cell_weight * parts["cell"]
        loss = loss + parts["sites"] + parts["composition"] + config.beta * parts["divergence"]
        return {"loss": loss + parts["flow"], **parts}

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the deviation of crystals' latent vectors. (b, z) each."""
        graph = neighbour_graph(batch.frac_coords, batch.cells, self.config.encoder)
        scalars, _ = self.encoder(batch.numbers, graph)
        seen = torch.cat([scalars.mean(1), self.encode_cells(batch.cells, batch.numbers)], dim=-1)
        mean, log_std = self.to_latent(seen).chunk(2, dim=-1)
        return mean, log_std.clamp(-8.0, 4.0)

    def describe(self, numbers: Tensor) -> Tensor:
        """Features of a composition and its number of atoms. (b, n) -> (b, w)."""
        size = numbers.new_tensor(min(numbers.shape[1], MAX_SITES))
        described: Tensor = self.composition(numbers).mean(1) + self.size(size)
        return described

    def _flow_loss(self, latent: Tensor, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error of the velocity on straight paths from noise (Lipman et al., arXiv:2210.02747)."""
        latent = latent.repeat(FLOW_DRAWS, 1)
        noise = torch.randn(latent.shape, generator=generator, device=latent.device)
        draws = torch.rand((2, len(latent), 1), generator=generator, device=latent.device)
        time, told = draws[0], draws[1] >= FREE_RATE
        described = told * self.describe(numbers).repeat(FLOW_DRAWS, 1)
        velocity = self._velocity((1 - time) * noise + time * latent, time, described)
        return F.mse_loss(velocity, latent - noise)

    def _velocity(self, latent: Tensor, time: Tensor, described: Tensor) -> Tensor:
        velocity: Tensor = self.flow(torch.cat([latent, time, described], dim=-1))
        return velocity

    def draw_latent(self, noise: Tensor, described: Tensor) -> Tensor:
        """Latent vectors from noise (b, z): those of a composition, or with features of zero those of any."""
        latent = noise
        for step in range(FLOW_STEPS):
            time = torch.full_like(noise[:, :1], (step + 0.5) / FLOW_STEPS)
            latent = latent + self._velocity(latent, time, described) / FLOW_STEPS
        return latent

    def predict_cells(self, latent: Tensor, numbers: Tensor) -> Tensor:
        """Standardised cells. (b, z), (b, n) -> (b, 6)."""
        predicted: Tensor = self.to_cell(torch.cat([latent, self.describe(numbers)], dim=-1))
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

        Steps are shared out evenly over the levels, at least one each, and a last one goes without noise. A step is of
        sigma squared, which leads to where the crystal is expected, and noise of sigma keeps the level; as published,
        sqrt(2) sigma would leave more than the network was trained on. Properties are not heeded: the model has no
        place for them.
        """
        if settings.sampler not in (None, "langevin"):
            raise ValueError(f"the cdvae model has no sampler {settings.sampler!r}; it has langevin")
        device, sites = numbers.device, numbers.shape[1]
        latent = self.draw_latent(streams.normal(self.config.latent).to(device), self.describe(numbers))
        cells = self.decode_cells(self.predict_cells(latent, numbers), numbers)
        to_frac = torch.linalg.inv(cells)
        frac_coords = streams.uniform(sites, 3).to(device)
        times = max(1, (settings.steps or self.default_steps) // len(self.sigmas))
        for sigma in self.sigmas:
            level = sigma.expand(len(numbers))
            for _ in range(times):
                noise = without_drift(streams.normal(sites, 3).to(device))
                way = self.moves(frac_coords, cells, numbers, latent, level) + noise
                frac_coords = frac_coords + (sigma * way) @ to_frac
        last = self.moves(frac_coords, cells, numbers, latent, level)
        return (frac_coords + (level[0] * last) @ to_frac) % 1.0, cells

    def compositions(self, streams: Streams) -> list[Tensor]:
        """Atomic numbers (n,) of latent vectors of any composition; `sample` draws a latent vector of it then."""
        noise = streams.normal(self.config.latent).to(self.sigmas.device)
        with torch.no_grad():
            latent = self.draw_latent(noise, noise.new_zeros(len(noise), self.config.network.width))
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


def _mlp(*widths: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in (nn.SiLU(), layer)][1:])


def cdvae(
    *, model: str | None = None, steps: int | None = None, retries: int = 5, device: str = "cpu"
) -> UniMatGenerator:
    """Samples of a CDVAE-style graph model: the weights that ship, or a model of your own.

    Args:
        model: A model file that `unimat-search train` wrote of a `cdvae` denoiser. [default: `shipped_weights`]
        steps: Of Langevin dynamics. [default: the model's own]
        retries: See `UniMatGenerator`.
        device: Where the model runs.

    Raises:
        ValueError: If the file is no model, or an option is out of range.
    """
    model = model or str(shipped_weights())
    return UniMatGenerator(model=model, steps=steps, near_hull="any", retries=retries, device=device)


def shipped_weights() -> Path:
    """The weights inside the package, trained without any composition of the MP-20 test split."""
    return Path(str(files("unimat_search.baselines").joinpath("weights", WEIGHTS)))
