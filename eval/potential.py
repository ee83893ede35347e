"""Potentials: geometries in, energies, forces and stresses out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from unimat_search.eval.sanity import Problem
from unimat_search.records import Outcome, first_line, one_line

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator
    from pymatgen.core import Structure


@dataclass(frozen=True)
class Crystals:
    """Geometries of a batch, one after the other, on one device.

    Attributes:
        numbers: Atomic numbers, int64, shape (atoms,).
        positions: Cartesian, angstrom, float64, shape (atoms, 3).
        lattices: Row vectors, angstrom, float64, shape (crystals, 3, 3).
        sizes: Atoms of each crystal, int64, shape (crystals,).
    """

    numbers: Tensor
    positions: Tensor
    lattices: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, structures: Sequence[Structure], device: str = "cpu") -> Crystals:
        """The geometries of pymatgen structures."""
        positions = np.concatenate([s.cart_coords for s in structures])
        lattices = np.array([s.lattice.matrix for s in structures])
        return cls(
            torch.tensor([site.specie.Z for s in structures for site in s], device=device),
            torch.tensor(positions, dtype=torch.float64, device=device),
            torch.tensor(lattices, dtype=torch.float64, device=device),
            torch.tensor([len(s) for s in structures], device=device),
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def owners(self) -> Tensor:
        """The crystal of each atom, shape (atoms,)."""
        return torch.arange(len(self.sizes), device=self.sizes.device).repeat_interleave(self.sizes)

    @property
    def volumes(self) -> Tensor:
        """Cubic angstrom, positive whatever the handedness, shape (crystals,)."""
        volumes: Tensor = torch.linalg.det(self.lattices).abs()
        return volumes

    def __getitem__(self, part: slice) -> Crystals:
        chosen = torch.zeros_like(self.sizes, dtype=torch.bool)
        chosen[part] = True
        atoms = chosen[self.owners]
        return Crystals(self.numbers[atoms], self.positions[atoms], self.lattices[part], self.sizes[part])


@dataclass(frozen=True, slots=True)
class Evaluations:
    """Points of a potential energy surface, one for each crystal of a batch.

    Attributes:
        energies: Total, eV, float64, shape (crystals,).
        forces: eV/angstrom, float64, shape (atoms, 3).
        stresses: eV/angstrom^3, ASE's sign (positive: the cell wants to shrink), float64, shape (crystals, 3, 3).
    """

    energies: Tensor
    forces: Tensor
    stresses: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Evaluations]) -> Evaluations:
        """One batch of several, in their order."""
        return cls(
            torch.cat([p.energies for p in parts]),
            torch.cat([p.forces for p in parts]),
            torch.cat([p.stresses for p in parts]),
        )


class Potential(Protocol):
    """Evaluates batches of geometries."""

    @property
    def name(self) -> str:
        """Potential and version, e.g. "chgnet-0.3.0"."""
        ...

    @property
    def device(self) -> str:
        """Where it wants its geometries: a torch device."""
        ...

    @property
    def capacity(self) -> float:
        """How much it evaluates best at once, in the units of `load`."""
        ...

    def load(self, n_atoms: int, volume: float) -> float:
        """What a crystal adds to a batch; `volume` in cubic angstrom."""
        ...

    def evaluate(self, crystals: Crystals) -> Evaluations:
        """Evaluate each geometry; may raise for the whole batch, which is then tried in parts."""
        ...


class EvaluationError(Exception):
    """A geometry that could not be evaluated.

    Attributes:
        outcome: What that means for its relaxation.
    """

    outcome = Outcome.RELAXER_FAILED


class ScfError(EvaluationError):
    """No self-consistent solution."""

    outcome = Outcome.SCF_NOT_CONVERGED


class OverdueError(EvaluationError):
    """The structure's time was over."""

    outcome = Outcome.TIME_LIMIT


def problem_of(error: Exception) -> Problem:
    """What an error in an evaluation, anybody's, means for a relaxation."""
    if isinstance(error, EvaluationError):
        return Problem(error.outcome, first_line(error))
    return Problem(Outcome.RELAXER_FAILED, one_line(error))


class AsePotential:
    """Any ASE calculator, one geometry after the other."""

    device = "cpu"
    capacity = 1.0

    def __init__(self, calculator: Calculator, name: str) -> None:
        self.calculator = calculator
        self.name = name

    def load(self, n_atoms: int, volume: float) -> float:  # noqa: ARG002
        """See `Potential.load`: one crystal, whatever its size."""
        return 1.0

    def evaluate(self, crystals: Crystals) -> Evaluations:
        """See `Potential.evaluate`."""
        return Evaluations.joined([self._evaluate(crystals[i : i + 1]) for i in range(len(crystals))])

    def _evaluate(self, crystal: Crystals) -> Evaluations:
        from ase import Atoms

        atoms = Atoms(
            numbers=crystal.numbers.numpy(),
            positions=crystal.positions.numpy(),
            cell=crystal.lattices[0].numpy(),
            pbc=True,
            calculator=self.calculator,
        )
        try:
            return Evaluations(
                torch.tensor([atoms.get_potential_energy()], dtype=torch.float64),
                torch.tensor(atoms.get_forces(), dtype=torch.float64),
                torch.tensor(atoms.get_stress(voigt=False)[None], dtype=torch.float64),
            )
        except Exception:
            if hasattr(self.calculator, "reset"):  # else it takes the same atoms for calculated the next time
                self.calculator.reset()
            raise
