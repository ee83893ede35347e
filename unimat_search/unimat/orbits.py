"""Which atoms of a crystal its space group makes equivalent, and how far that leaves them and the cell free to move.

Column vectors throughout: an operation maps fractional coordinates x to W x + w. A metric tensor G = A A^T of row
vectors A is kept as the six numbers (xx, xy, xz, yy, yz, zz).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SYMPREC = 0.1
"""Tolerance within which atoms count as equivalent, angstrom: the benchmarks' own."""

UPPER = np.triu_indices(3)


@dataclass(frozen=True)
class Operations:
    """A space group in the cell of one crystal, and what it does to the crystal's atoms.

    Attributes:
        number: In the International Tables, 1 to 230.
        rotations: W. (g, 3, 3)
        images: The atom that each operation maps each atom onto. (g, n)
    """

    number: int
    rotations: IntArray
    images: IntArray


@dataclass(frozen=True)
class Orbits:
    """The orbits of n atoms, each moved by at most three parameters.

    Attributes:
        owner: First atom of the orbit that each atom belongs to. (n,)
        moves: Displacement of each atom, in fractional coordinates, by its orbit's parameters; columns of zeros for
            parameters that the orbit lacks. A parameter from 0 to 1 leads around the cell. (n, 3, 3)
        answers: Maps an atom's displacement to its share of the change of the orbit's parameters; the sum over the
            orbit is the projection onto what the group allows. (n, 3, 3)
    """

    owner: IntArray
    moves: FloatArray
    answers: FloatArray


def find_operations(
    cell: FloatArray, frac_coords: FloatArray, numbers: NDArray[np.uint8], symprec: float = SYMPREC
) -> Operations | None:
    """The space group of a crystal; None where spglib finds none, or one that does not map atoms onto atoms.

    Args:
        cell: Row vectors, angstrom. (3, 3)
        frac_coords: (n, 3)
        numbers: Atomic numbers. (n,)
        symprec: Tolerance, angstrom.
    """
    import spglib

    dataset = spglib.get_symmetry_dataset((cell, frac_coords, numbers), symprec=symprec)
    if dataset is None:
        return None
    images = np.zeros((len(dataset.rotations), len(numbers)), dtype=np.int64)
    for row, (rotation, translation) in enumerate(zip(dataset.rotations, dataset.translations, strict=True)):
        apart = (frac_coords @ rotation.T + translation)[:, None] - frac_coords
        distances = np.linalg.norm((apart - np.rint(apart)) @ cell, axis=-1)  # (n, n)
        distances[numbers[:, None] != numbers] = np.inf
        images[row] = distances.argmin(-1)
    if (np.sort(images, axis=1) != np.arange(len(numbers))).any():
        return None
    return Operations(int(dataset.number), dataset.rotations.astype(np.int64), images)


def find_orbits(operations: Operations) -> tuple[IntArray, FloatArray]:
    """The orbits of a crystal's atoms under its space group: `Orbits.owner` (n,) and `Orbits.moves` (n, 3, 3)."""
    owner = operations.images.min(0)
    moves = np.zeros((len(owner), 3, 3))
    for first in np.unique(owner):
        images = operations.images[:, first]
        projector = operations.rotations[images == first].mean(0)
        basis = fixed_lattice(projector)
        atoms, where = np.unique(images, return_index=True)
        for atom, rotation in zip(atoms, operations.rotations[where], strict=True):
            moves[atom] = rotation @ basis
    return owner, moves


def fixed_lattice(projector: FloatArray) -> FloatArray:
    """Whole vectors that span what a projector leaves in place, as columns; columns of zeros fill it up. (3, 3)."""
    return np.array(_fixed_lattice(tuple(np.round(projector, 6).ravel().tolist())))


@lru_cache(maxsize=10_000)
def _fixed_lattice(flat: tuple[float, ...]) -> list[list[float]]:
    projector = np.array(flat).reshape(3, 3)
    rank = round(np.trace(projector))
    if rank == 3:
        return np.eye(3).tolist()
    vectors = np.array(sorted(product(range(-3, 4), repeat=3), key=lambda vector: sum(x * x for x in vector)))
    vectors = vectors[(np.abs(vectors @ projector.T - vectors).max(1) < 1e-4) & (np.abs(vectors).sum(1) > 0)]
    basis = np.zeros((3, 3))
    if rank >= 1:
        basis[:, 0] = vectors[0]
    if rank == 2:
        areas = np.abs(np.cross(vectors[0], vectors)).sum(1)
        areas[areas == 0] = np.iinfo(areas.dtype).max
        basis[:, 1] = vectors[areas.argmin()]
    return basis.tolist()


def metric_projector(rotations: IntArray) -> FloatArray:
    """The average over a group's rotations, W^T G W, as a matrix on the six numbers of G. (6, 6)."""
    images = []
    for i, j in zip(*UPPER, strict=True):
        unit = np.zeros((3, 3))
        unit[i, j] = unit[j, i] = 1.0
        images.append(np.einsum("gji,jk,gkl->il", rotations, unit, rotations)[UPPER] / len(rotations))
    return np.stack(images, axis=1)


@dataclass(frozen=True)
class Symmetry:
    """Space groups of m structures with s sites in all, and what they leave free.

    Attributes:
        groups: Space group's number, 0 where it is not known. (m,) uint8
        metrics: See `metric_projector`; the identity where the group is not known. (m, 6, 6) float32
        owner: See `Orbits`, counted within the structure. (s,) int32
        moves: Likewise. (s, 3, 3) int8
    """

    groups: NDArray[np.uint8]
    metrics: NDArray[np.float32]
    owner: NDArray[np.int32]
    moves: NDArray[np.int8]

    def take(self, rows: IntArray, sites: IntArray) -> Symmetry:
        """Those of some structures, whose sites are given too."""
        return Symmetry(self.groups[rows], self.metrics[rows], self.owner[sites], self.moves[sites])


@dataclass(frozen=True)
class Freedom:
    """Space groups of b crystals of n atoms each, and what they leave free.

    Attributes:
        groups: Space group's number, 0 where it is not known. (b,) int64
        metrics: See `metric_projector`. (b, 6, 6)
        owner: See `Orbits`. (b, n) int64
        moves: Likewise. (b, n, 3, 3)
    """

    groups: Tensor
    metrics: Tensor
    owner: Tensor
    moves: Tensor

    @property
    def ranks(self) -> Tensor:
        """Parameters that each atom's orbit has, 0 to 3. (b, n)."""
        return (self.moves != 0).any(-2).sum(-1)

    @property
    def sizes(self) -> Tensor:
        """Atoms of each atom's orbit. (b, n)."""
        return (self.owner.unsqueeze(-1) == self.owner.unsqueeze(-2)).sum(-1)

    def displacements(self, parameters: Tensor) -> Tensor:
        """Displacements of the atoms by their orbits' parameters, which stand at its first atom. (b, n, 3)."""
        index = self.owner.unsqueeze(-1).expand_as(parameters)
        with torch.autocast(parameters.device.type, enabled=False):  # symmetry is exact or none
            return torch.einsum("bnxy,bny->bnx", self.moves, parameters.float().gather(1, index))

    def symmetric(self, metrics: Tensor) -> Tensor:
        """The nearest metric tensors that the groups leave as they are. (b, 3, 3) -> (b, 3, 3)."""
        rows, columns = UPPER
        flat = torch.einsum("bij,bj->bi", self.metrics, metrics[:, rows, columns])
        averaged = torch.empty_like(metrics)
        averaged[:, rows, columns] = flat
        averaged[:, columns, rows] = flat
        return averaged

    def take(self, rows: Tensor) -> Freedom:
        """That of some crystals."""
        return Freedom(self.groups[rows], self.metrics[rows], self.owner[rows], self.moves[rows])

    def to(self, device: str | torch.device) -> Freedom:
        """The same on a device."""
        return Freedom(*(x.to(device) for x in (self.groups, self.metrics, self.owner, self.moves)))


@dataclass(frozen=True)
class Constraint:
    """What holds b crystals of n atoms each to their space groups and sites.

    Attributes:
        freedom: What is left free.
        points: Where each atom may be. (b, n, 3)
        answers: See `Orbits`. (b, n, 3, 3)
    """

    freedom: Freedom
    points: Tensor
    answers: Tensor

    def place(self, parameters: Tensor) -> Tensor:
        """Coordinates by the parameters of each atom's orbit, which stand at its first atom. (b, n, 3)."""
        return self.points + self.freedom.displacements(parameters)

    def project(self, displacements: Tensor) -> Tensor:
        """The part of displacements that the groups allow. (b, n, 3) -> (b, n, 3)."""
        with torch.autocast(displacements.device.type, enabled=False):
            asked = torch.einsum("bnxy,bny->bnx", self.answers, displacements.float())
        index = self.freedom.owner.unsqueeze(-1).expand_as(asked)
        return self.freedom.displacements(torch.zeros_like(asked).scatter_add(1, index, asked))

    def to(self, device: str | torch.device) -> Constraint:
        """The same on a device."""
        return Constraint(self.freedom.to(device), self.points.to(device), self.answers.to(device))


def constrain(
    groups: Sequence[int], metrics: Sequence[FloatArray], points: Sequence[FloatArray], orbits: Sequence[Orbits]
) -> Constraint:
    """Crystals of one size held together.

    Args:
        groups: Space group of each.
        metrics: See `metric_projector`. (6, 6) each
        points: Where each atom may be. (n, 3) each
        orbits: Of each.
    """

    def stacked(arrays: Iterable[FloatArray]) -> Tensor:
        return torch.from_numpy(np.stack(list(arrays)).astype(np.float32))

    owner = torch.from_numpy(np.stack([one.owner for one in orbits]).astype(np.int64))
    freedom = Freedom(torch.tensor(list(groups)), stacked(metrics), owner, stacked(one.moves for one in orbits))
    return Constraint(freedom, stacked(points), stacked(one.answers for one in orbits))
