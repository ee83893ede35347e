"""CHGNet's graph of a batch of crystals, by tensor operations alone, on any device.

Every bond stands once. The first bonds, `n_short` of them, are those that angles are made of. A bond read
from its first atom to its second and the other way round makes two directed bonds: of n bonds, directed
bond d < n is the bond d as it stands, and directed bond n + d is its reverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from unimat_search.eval.potential import Crystals

CANDIDATES_AT_ONCE = 4_000_000
"""Candidate pairs that a neighbour search holds in memory, about 400 MB."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Atoms, bonds and angles of a batch; all indices count through the whole batch.

    Attributes:
        first: Where each bond starts, shape (bonds,).
        second: Where it ends, an atom or an image of one, shape (bonds,).
        vectors: From the first to the second atom, angstrom, float64, shape (bonds, 3).
        n_short: Bonds shorter than the bond graph's cutoff; they come first.
        angle_center: The atom that the two bonds of an angle share, shape (angles,).
        angle_first: One directed short bond, shape (angles,).
        angle_second: The other one, shape (angles,). Each pair of bonds stands once.
        angled: Bonds of crystals that have angles, shape (bonds,).
    """

    first: Tensor
    second: Tensor
    vectors: Tensor
    n_short: int
    angle_center: Tensor
    angle_first: Tensor
    angle_second: Tensor
    angled: Tensor


def build_graph(crystals: Crystals, atom_cutoff: float, bond_cutoff: float) -> Graph:
    """Build the graph of a batch.

    Args:
        crystals: The geometries; cells that are far from reduced cost time.
        atom_cutoff: Longest bond, angstrom.
        bond_cutoff: Bonds below it make angles, angstrom.

    Raises:
        ValueError: If an atom has no bond.
    """
    first, second, vectors = neighbour_list(crystals, atom_cutoff)
    short = (vectors * vectors).sum(1) < bond_cutoff**2
    order = torch.cat([short.nonzero(), (~short).nonzero()]).squeeze(1)
    first, second, vectors = first[order], second[order], vectors[order]
    n_short = int(short.sum())
    bonded = torch.zeros(len(crystals.numbers), dtype=torch.bool, device=first.device)
    bonded[first] = bonded[second] = True
    if not bool(bonded.all()):
        raise ValueError(f"{int((~bonded).sum())} atom(s) without a neighbour in {atom_cutoff} angstrom")
    centers = torch.cat([first[:n_short], second[:n_short]])
    angle_first, angle_second = _pairs_with_one_center(centers, len(crystals.numbers))
    angle_center = centers[angle_first]
    with_angles = torch.zeros(len(crystals), dtype=torch.bool, device=first.device)
    with_angles[crystals.owners[angle_center]] = True
    angled = with_angles[crystals.owners[first]]
    return Graph(first, second, vectors, n_short, angle_center, angle_first, angle_second, angled)


def neighbour_list(crystals: Crystals, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """All bonds up to `cutoff` (angstrom), each once.

    Returns:
        First atoms, second atoms, and the vectors from one to the other, float64.
    """
    inverse = torch.linalg.inv(crystals.lattices)
    heights = 1 / inverse.norm(dim=1)  # between opposite faces, (crystals, 3)
    reach = torch.floor(cutoff / heights + 0.5).long()  # images to look at, for differences in [-0.5, 0.5]
    translations, counts = _translations(crystals.lattices, reach)
    first, second = _pairs(crystals)
    owner = crystals.owners[first]
    difference = crystals.positions[second] - crystals.positions[first]
    nearest = difference - ((difference[:, None] @ inverse[owner]).round() @ crystals.lattices[owner]).squeeze(1)
    starts = (torch.cumsum(counts, 0) - counts)[owner]
    # An atom and its own image make a bond that the opposite image would give again; image 0 is the atom itself.
    halves = torch.where(first == second, counts[owner] // 2 + 1, 0)
    images = counts[owner] - halves
    parts = _parts(images)
    found = [_within(cutoff, nearest[p], translations, starts[p] + halves[p], images[p]) for p in parts]
    pairs = torch.cat([pair + part.start for part, (pair, _) in zip(parts, found, strict=True)])
    return first[pairs], second[pairs], torch.cat([vectors for _, vectors in found])


def _translations(lattices: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Lattice vectors of the boxes [-reach, reach]^3, crystal by crystal, and how many each crystal has."""
    sides = 2 * reach + 1
    counts = sides.prod(1)
    owner = torch.arange(len(lattices), device=lattices.device).repeat_interleave(counts)
    count, (b, c) = _counter(counts), sides[owner, 1:].unbind(1)
    image = torch.stack([count // (b * c), count // c % b, count % c], 1) - reach[owner]
    return (image.double()[:, None] @ lattices[owner]).squeeze(1), counts


def _pairs(crystals: Crystals) -> tuple[Tensor, Tensor]:
    """Pairs i <= j of atoms of one crystal, for all crystals."""
    atoms = torch.arange(len(crystals.numbers), device=crystals.numbers.device)
    ends = torch.cumsum(crystals.sizes, 0)[crystals.owners]
    first = atoms.repeat_interleave(ends - atoms)
    return first, first + _counter(ends - atoms)


def _counter(counts: Tensor) -> Tensor:
    """0, 1, ... counts[0] - 1, 0, 1, ... counts[1] - 1, and so on."""
    starts = torch.cumsum(counts, 0) - counts
    return torch.arange(int(counts.sum()), device=counts.device) - starts.repeat_interleave(counts)


def _parts(images: Tensor) -> list[slice]:
    """Slices of the pairs that keep the number of candidates within bounds."""
    if int(images.sum()) <= CANDIDATES_AT_ONCE:
        return [slice(0, len(images))]
    part = (torch.cumsum(images, 0) // CANDIDATES_AT_ONCE).cpu()
    edges = [0, *((part.diff() > 0).nonzero().squeeze(1) + 1).tolist(), len(images)]
    return [slice(a, b) for a, b in pairwise(edges)]


def _within(
    cutoff: float, nearest: Tensor, translations: Tensor, starts: Tensor, images: Tensor
) -> tuple[Tensor, Tensor]:
    """The images of pairs that lie within the cutoff: which pair, and the vector."""
    pair = torch.arange(len(nearest), device=nearest.device).repeat_interleave(images)
    vectors = nearest[pair] + translations[starts[pair] + _counter(images)]
    near = ((vectors * vectors).sum(1) <= cutoff**2).nonzero().squeeze(1)
    return pair[near], vectors[near]


def _pairs_with_one_center(centers: Tensor, n_atoms: int) -> tuple[Tensor, Tensor]:
    """Every pair of directed bonds that start at the same atom, once."""
    order = torch.argsort(centers, stable=True)
    counts = torch.bincount(centers, minlength=n_atoms)
    ends = torch.cumsum(counts, 0)[centers[order]]
    after = ends - 1 - torch.arange(len(order), device=order.device)
    position = torch.arange(len(order), device=order.device).repeat_interleave(after)
    return order[position], order[position + 1 + _counter(after)]
