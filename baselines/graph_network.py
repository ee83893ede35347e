"""An equivariant graph network: scalars and vectors of each atom (PaiNN, Schuett et al., arXiv:2102.03150)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from unimat_search.unimat.elements import MAX_ATOMIC_NUMBER
from unimat_search.unimat.flow import shortest
from unimat_search.unimat.tables import at_least_one


@dataclass(frozen=True)
class GraphConfig:
    """Size of the network.

    Attributes:
        width: Features of an atom, and vectors of an atom.
        layers: Rounds of messages.
        neighbours: Nearest atoms, images included, that send one.
        distances: Radial basis functions.
        cutoff: Messages from here on are nothing, angstrom.
    """

    width: int = 128
    layers: int = 4
    neighbours: int = 20
    distances: int = 20
    cutoff: float = 8.0

    def __post_init__(self) -> None:
        at_least_one(self, "width", "layers", "neighbours", "distances", where="model.network")


@dataclass(frozen=True)
class Graph:
    """Neighbours of the atoms of b crystals of n sites each.

    Attributes:
        sender: Index of each neighbour. (b, n, k)
        direction: Unit vectors to them. (b, n, k, 3)
        basis: Radial basis of their distances. (b, n, k, distances)
        envelope: 1 nearby, 0 at the cutoff or the first atom that is left out. (b, n, k, 1)
    """

    sender: Tensor
    direction: Tensor
    basis: Tensor
    envelope: Tensor


def neighbour_graph(frac_coords: Tensor, cells: Tensor, config: GraphConfig) -> Graph:
    """The nearest neighbours of each atom among the 27 images of all.

    Args:
        frac_coords: (b, n, 3)
        cells: Row vectors, angstrom. (b, 3, 3)
        config: How many, and how they are described.
    """
    with torch.autocast(frac_coords.device.type, enabled=False):  # distances in full precision
        n = frac_coords.shape[1]
        images = torch.tensor(list(product((-1.0, 0.0, 1.0), repeat=3)), device=frac_coords.device)  # (27, 3)
        apart = shortest(frac_coords.unsqueeze(1) - frac_coords.unsqueeze(2))  # (b, n, n, 3) from the second index on
        vectors = (apart.unsqueeze(3) + images) @ cells[:, None, None]  # (b, n, n, 27, 3)
        distances = vectors.norm(dim=-1)
        distances[:, range(n), range(n), len(images) // 2] = torch.inf  # an atom is not its own neighbour
        count = min(config.neighbours, n * len(images) - 2)
        nearest, place = distances.flatten(2).topk(count + 1, largest=False)  # (b, n, k + 1)
        reach = nearest[..., count:, None].clamp(max=config.cutoff)  # what is left out sends nothing
        nearest, place = nearest[..., :count], place[..., :count]  # (b, n, k)
        chosen = vectors.flatten(2, 3).gather(2, place.unsqueeze(-1).expand(-1, -1, -1, 3))
        short = nearest.clamp(min=1e-3).unsqueeze(-1)
        centres = torch.linspace(0.0, config.cutoff, config.distances, device=frac_coords.device)
        width = config.cutoff / config.distances
        envelope = 0.5 * (torch.cos(math.pi * (short / reach).clamp(max=1.0)) + 1.0)
        return Graph(
            sender=place // len(images),
            direction=chosen / short,
            basis=torch.exp(-0.5 * ((short - centres) / width) ** 2),
            envelope=envelope,
        )


class GraphNetwork(nn.Module):
    """Scalars and vectors of each atom, from the elements, the geometry and a context."""

    def __init__(self, config: GraphConfig, context: int) -> None:
        super().__init__()
        self.config = config
        self.element = nn.Embedding(MAX_ATOMIC_NUMBER + 1, config.width)
        self.context = nn.Linear(context, config.width) if context else None
        self.messages = nn.ModuleList(Message(config) for _ in range(config.layers))
        self.updates = nn.ModuleList(Update(config.width) for _ in range(config.layers))

    def forward(self, numbers: Tensor, graph: Graph, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features of atoms.

        Args:
            numbers: Atomic numbers. (b, n)
            graph: Of the crystals.
            context: Of each crystal. (b, c)

        Returns:
            Scalars (b, n, w), which no rotation changes, and vectors (b, n, 3, w), which turn with the crystal.
        """
        scalars = self.element(numbers)
        if self.context is not None and context is not None:
            scalars = scalars + self.context(context).unsqueeze(1)
        vectors = scalars.new_zeros(*scalars.shape[:2], 3, scalars.shape[-1])
        for message, update in zip(self.messages, self.updates, strict=True):
            scalars, vectors = message(scalars, vectors, graph)
            scalars, vectors = update(scalars, vectors)
        return scalars, vectors


class Message(nn.Module):
    """What neighbours tell an atom."""

    def __init__(self, config: GraphConfig) -> None:
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width)
        self.of_sender = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * width))
        self.of_distance = nn.Linear(config.distances, 3 * width)
        self.scale = config.neighbours**-0.5

    def forward(self, scalars: Tensor, vectors: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """(b, n, w), (b, n, 3, w) -> the same."""
        b, n, k = graph.sender.shape
        width = scalars.shape[-1]
        rows = graph.sender.reshape(b, n * k, 1)
        sent = self.of_sender(self.norm(scalars)).gather(1, rows.expand(-1, -1, 3 * width)).view(b, n, k, -1)
        sent = sent * self.of_distance(graph.basis) * graph.envelope
        to_scalars, along, carried = sent.split(width, dim=-1)  # (b, n, k, w) each
        theirs = vectors.flatten(2).gather(1, rows.expand(-1, -1, 3 * width)).view(b, n, k, 3, width)
        moved = along.unsqueeze(3) * graph.direction.unsqueeze(-1) + carried.unsqueeze(3) * theirs
        return scalars + self.scale * to_scalars.sum(2), vectors + self.scale * moved.sum(2)


class Update(nn.Module):
    """What an atom makes of its scalars and vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, 2 * width, bias=False)
        self.gate = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """(b, n, w), (b, n, 3, w) -> the same."""
        one, other = self.mix(vectors).chunk(2, dim=-1)
        lengths = (other.square().sum(2) + 1e-8).sqrt()
        of_vectors, of_products, of_scalars = self.gate(torch.cat([scalars, lengths], dim=-1)).chunk(3, dim=-1)
        scalars = scalars + of_scalars + of_products * (one * other).sum(2)
        return scalars, vectors + of_vectors.unsqueeze(2) * one
