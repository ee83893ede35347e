"""An equivariant graph network: scalars and vectors of each atom (PaiNN, Schuett et al., arXiv:2102.03150)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from unimat_search.unimat.elements import MAX_ATOMIC_NUMBER
from unimat_search.unimat.flow import shortest
from unimat_search.unimat.tables import MOST, at_least_one


@dataclass(frozen=True)
class GraphConfig:
    """Size of the network.

    Attributes:
        width: Features of an atom, and vectors of an atom.
        told: Features of a message.
        layers: Rounds of messages.
        neighbours: Nearest atoms, images included, that send one.
        distances: Radial basis functions.
        cutoff: Messages from here on are nothing, angstrom.
    """

    width: int = 128
    told: int = 64
    layers: int = 4
    neighbours: int = 20
    distances: int = 12
    cutoff: float = 8.0

    def __post_init__(self) -> None:
        at_least_one(self, "width", "told", "layers", "neighbours", "distances", where="model.network", most=MOST)


@dataclass(frozen=True)
class Graph:
    """Pairs of atoms of b crystals of n sites each; what a pair's images contribute is summed.

    Attributes:
        radial: Radial basis of the distances, and one. (b, n, n, r)
        directed: The same times the unit vectors from the first atom to the second's images. (b, n, n, 3, r)
    """

    radial: Tensor
    directed: Tensor


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
        first_left_out = distances.flatten(2).kthvalue(count + 1).values  # (b, n)
        reach = first_left_out.clamp(max=config.cutoff)[..., None, None]  # from here on nothing is sent, smoothly
        envelope = 0.5 * (torch.cos(math.pi * (distances / reach).clamp(max=1.0)) + 1.0)  # (b, n, n, 27)
        distances = distances.clamp(1e-3, config.cutoff).unsqueeze(-1)
        centres = torch.linspace(0.0, config.cutoff, config.distances, device=frac_coords.device)
        basis = torch.exp(-0.5 * ((distances - centres) / (config.cutoff / config.distances)) ** 2)
        basis = envelope.unsqueeze(-1) * torch.cat([basis, torch.ones_like(distances)], dim=-1)  # (b, n, n, 27, r)
        return Graph(basis.sum(3), (vectors / distances).transpose(-1, -2) @ basis)


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
    """What neighbours tell an atom: a function of the distance times a feature of the neighbour, summed.

    The function is linear in the radial basis, so neighbours are summed first, and no edge has features of its own.
    """

    def __init__(self, config: GraphConfig) -> None:
        super().__init__()
        width, told = config.width, config.told
        self.norm = nn.LayerNorm(width)
        self.of_sender = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * told))
        self.of_vectors = nn.Linear(width, told, bias=False)
        self.of_distance = nn.Linear(config.distances + 1, 3 * told, bias=False)
        self.to_scalars = nn.Linear(told, width, bias=False)
        self.to_vectors = nn.Linear(told, width, bias=False)
        self.scale = config.neighbours**-0.5

    def forward(self, scalars: Tensor, vectors: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """(b, n, w), (b, n, 3, w) -> the same."""
        told, along, carried = (self.scale * self.of_sender(self.norm(scalars))).chunk(3, dim=-1)  # (b, n, t) each
        by_distance, by_direction, by_vector = self.of_distance.weight.t().chunk(3, dim=-1)  # (r, t) each
        theirs = carried.unsqueeze(2) * self.of_vectors(bounded(vectors))  # (b, n, 3, t)
        to_scalars = torch.einsum("bijr,bjt,rt->bit", graph.radial, told, by_distance)
        turned = torch.einsum("bijcr,bjt,rt->bict", graph.directed, along, by_direction)
        passed = torch.einsum("bijr,bjct,rt->bict", graph.radial, theirs, by_vector)
        return scalars + self.to_scalars(to_scalars), vectors + self.to_vectors(turned + passed)


class Update(nn.Module):
    """What an atom makes of its scalars and vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 2 * width, bias=False)
        self.gate = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """(b, n, w), (b, n, 3, w) -> the same."""
        one, other = self.mix(bounded(vectors)).chunk(2, dim=-1)
        lengths = (other.square().sum(2) + 1e-8).sqrt()
        gates = self.gate(torch.cat([self.norm(scalars), lengths], dim=-1))
        of_vectors, of_products, of_scalars = gates.chunk(3, dim=-1)
        scalars = scalars + of_scalars + of_products * (one * other).sum(2)
        return scalars, vectors + of_vectors.unsqueeze(2) * one


def bounded(vectors: Tensor) -> Tensor:
    """Vectors of each atom with a root mean square below one; those that symmetry leaves at nothing stay there."""
    return vectors * torch.rsqrt(vectors.square().mean((-2, -1), keepdim=True) + 0.01)
