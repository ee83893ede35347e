"""Potentials: geometries in, energies, forces and stresses out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from unimat_search.eval.relax import BatchedRelaxer

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One point of a potential energy surface.

    Attributes:
        energy: Total, eV.
        forces: eV/angstrom, shape (n, 3).
        stress: eV/angstrom^3, ASE's sign (positive: the cell wants to shrink), shape (3, 3).
    """

    energy: float
    forces: FloatArray
    stress: FloatArray


class Potential(Protocol):
    """Evaluates batches of geometries."""

    @property
    def name(self) -> str:
        """Potential and version, e.g. "chgnet-0.3.0"."""
        ...

    def evaluate(self, batch: Sequence[Atoms]) -> list[Evaluation]:
        """Evaluate each geometry; may raise for the whole batch, which is then tried one by one."""
        ...


class AsePotential:
    """Any ASE calculator, one geometry after the other."""

    def __init__(self, calculator: Calculator, name: str) -> None:
        self.calculator = calculator
        self.name = name

    def evaluate(self, batch: Sequence[Atoms]) -> list[Evaluation]:
        """See `Potential.evaluate`."""
        return [self._evaluate(atoms) for atoms in batch]

    def _evaluate(self, atoms: Atoms) -> Evaluation:
        atoms = atoms.copy()
        atoms.calc = self.calculator
        return Evaluation(float(atoms.get_potential_energy()), atoms.get_forces(), atoms.get_stress(voigt=False))


def emt_relaxer() -> BatchedRelaxer:
    """ASE's effective medium theory: instant, for tests; Al, Cu, Ag, Au, Ni, Pd, Pt and a few more."""
    from ase.calculators.emt import EMT

    from unimat_search.eval.relax import BatchedRelaxer

    return BatchedRelaxer(AsePotential(EMT(), "ase-emt"))
