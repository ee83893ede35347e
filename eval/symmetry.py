"""Relaxation within a space group: forces projected on what its operations leave as it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import spglib
import torch
from numpy.typing import NDArray
from torch import Tensor

SYMPREC = 0.01
"""angstrom: pymatgen's usual tolerance."""


@dataclass(frozen=True, slots=True)
class Symmetry:
    """The operations of a crystal.

    Attributes:
        rotations: Cartesian, acting on columns, shape (operations, 3, 3).
        images: The atom that each atom is moved to, shape (operations, n).
    """

    rotations: Tensor
    images: Tensor

    @classmethod
    def of(
        cls,
        lattice: NDArray[np.float64],
        positions: NDArray[np.float64],
        numbers: NDArray[np.int_],
        device: str = "cpu",
    ) -> Symmetry | None:
        """Find the operations of a geometry; None if it has but the identity, or spglib finds no group.

        Args:
            lattice: Row vectors, angstrom, shape (3, 3).
            positions: Cartesian, angstrom, shape (n, 3).
            numbers: Atomic numbers, shape (n,).
            device: Where the tensors go.
        """
        fractional = positions @ np.linalg.inv(lattice)
        found = spglib.get_symmetry((lattice, fractional, numbers), symprec=SYMPREC)
        if found is None or len(found["rotations"]) == 1:
            return None
        moved = np.einsum("gij,nj->gni", found["rotations"], fractional) + found["translations"][:, None]
        images = np.array([_nearest(atoms, fractional, lattice, numbers) for atoms in moved])
        rotations = lattice.T @ found["rotations"] @ np.linalg.inv(lattice.T)
        return cls(
            torch.tensor(rotations, dtype=torch.float64, device=device),
            torch.tensor(images, device=device),
        )

    def project(self, forces: Tensor) -> Tensor:
        """The symmetric part of forces on a crystal's variables (`unimat_search.eval.descent`), shape (3 + n, 3)."""
        cell = (self.rotations.mT @ forces[:3] @ self.rotations).mean(0)
        return torch.cat([cell, (forces[3:][self.images] @ self.rotations).mean(0)])


def _nearest(
    moved: NDArray[np.float64], fractional: NDArray[np.float64], lattice: NDArray[np.float64], numbers: NDArray[np.int_]
) -> NDArray[np.int_]:
    """The atom of the same element that each moved atom comes to lie on."""
    apart = moved[:, None] - fractional  # (atom, its image, 3)
    distances = np.linalg.norm((apart - np.round(apart)) @ lattice, axis=2)
    distances[numbers[:, None] != numbers] = np.inf
    return np.asarray(distances.argmin(1))
