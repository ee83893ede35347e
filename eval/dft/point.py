"""One point of a potential energy surface by DFT: what every code is asked, and what is put right for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from pymatgen.core import Structure

from unimat_search.eval.dft.settings import DftSettings, initial_moments, kpoint_grid
from unimat_search.eval.potential import Crystals, Evaluations, OverdueError

if TYPE_CHECKING:
    FloatArray = NDArray[np.float64]

CUTOFF_STEP = 0.05
"""Relative change of the cutoff by which the energy's slope in it is taken."""

FIXED_CELL = "fixed_cell"
"""Property of a structure whose cell is but a box."""


class Point(NamedTuple):
    """Total energy (eV), and if asked forces (eV/angstrom, (n, 3)) and stress (eV/angstrom^3, ASE's sign, (3, 3))."""

    energy: float
    forces: FloatArray | None = None
    stress: FloatArray | None = None


@dataclass(frozen=True)
class Setup:
    """What one calculation is asked for.

    Attributes:
        settings: Of all calculations.
        cutoff: Of the plane waves, eV.
        kpoints: Gamma-centred divisions.
        moments: To start from, Bohr magnetons, for each site; None for no spin.
        left: Seconds that are left, when it is called.
    """

    settings: DftSettings
    cutoff: float
    kpoints: tuple[int, int, int]
    moments: tuple[float, ...] | None
    left: Callable[[], float]

    @classmethod
    def of(cls, structure: Structure, spacing: float, settings: DftSettings, left: Callable[[], float]) -> Setup:
        """For a crystal, k-points no farther apart than `spacing` (1/angstrom); for a molecule in a box one k-point."""
        symbols = [site.specie.symbol for site in structure]
        moments = initial_moments(symbols, structure.site_properties.get("magmom"), settings)
        in_a_box = structure.properties.get(FIXED_CELL, False)
        grid = (1, 1, 1) if in_a_box else kpoint_grid(structure.lattice.matrix, spacing)
        return cls(settings, settings.cutoff, grid, moments, left)

    def check(self) -> None:
        """Look at the clock, once an iteration.

        Raises:
            OverdueError: If no time is left.
        """
        if self.left() <= 0:
            raise OverdueError("its time was over during an iteration")


class Engine(Protocol):
    """A code at work on one crystal: geometries of the same atoms, one after the other."""

    def evaluate(self, atoms: Atoms, *, gradients: bool = True) -> Point:
        """Energy, and with `gradients` forces and stress.

        Raises:
            ScfError: If there is no self-consistent solution in the allowed number of iterations.
            OverdueError: If no time is left.
        """
        ...

    def band_gap(self) -> float:
        """Of the last geometry, eV; 0 in a metal."""
        ...


class DftCode(Protocol):
    """A program that does DFT."""

    @property
    def name(self) -> str:
        """Program, version and pseudopotentials."""
        ...

    def missing(self, symbols: Collection[str]) -> list[str]:
        """Elements that it has no data for."""
        ...

    def engine(self, setup: Setup) -> Engine:
        """Begin with a crystal."""
        ...


class DftPotential:
    """The energy surface of one crystal at fixed k-points, as `BatchedRelaxer` wants it.

    At a fixed cutoff a larger cell has more plane waves; the stress of a code that keeps their number lacks what these
    gain (Pulay stress: Francis and Payne, J. Phys.: Condens. Matter 2, 4395). What it lacks,
    2/3 dE/d ln(cutoff) / V, is added; the slope comes from two more energies of the first geometry, a constant of
    the atoms to a good approximation.

    Args:
        code: The program.
        setup: What it is asked for.
        start: The crystal at first.
    """

    device = "cpu"
    capacity = 1.0

    def __init__(self, code: DftCode, setup: Setup, start: Structure) -> None:
        self.name = code.name
        self._code = code
        self._setup = setup
        self._lattice_0 = np.array(start.lattice.matrix)
        self._slope: float | None = None if setup.settings.pulay else 0.0
        self._engine = code.engine(setup)

    def load(self, n_atoms: int, volume: float) -> float:  # noqa: ARG002
        """See `unimat_search.eval.potential.Potential.load`."""
        return 1.0

    def evaluate(self, crystals: Crystals) -> Evaluations:
        """See `unimat_search.eval.potential.Potential.evaluate`."""
        lattice = self._as_at_first(crystals.lattices[0].numpy())
        atoms = Atoms(crystals.numbers.numpy(), crystals.positions.numpy(), cell=lattice, pbc=True)
        point = self._engine.evaluate(atoms)
        assert point.forces is not None
        assert point.stress is not None
        if self._slope is None:
            self._slope = cutoff_slope(self._code, self._setup, atoms)
        stress = point.stress + 2 / 3 * self._slope / atoms.get_volume() * np.eye(3)
        return Evaluations(
            torch.tensor([point.energy], dtype=torch.float64),
            torch.tensor(point.forces, dtype=torch.float64),
            torch.tensor(stress[None], dtype=torch.float64),
        )

    def band_gap(self) -> float:
        """Of the last geometry, eV."""
        return self._engine.band_gap()

    def _as_at_first(self, lattice: FloatArray) -> FloatArray:
        """The same lattice in vectors that follow those of the first geometry: the k-points belong to these."""
        change = np.round(lattice @ np.linalg.inv(self._lattice_0))
        return np.asarray(np.linalg.solve(change, lattice)) if abs(abs(np.linalg.det(change)) - 1) < 0.1 else lattice


def cutoff_slope(code: DftCode, setup: Setup, atoms: Atoms) -> float:
    """DE/d ln(cutoff) of a geometry, eV; negative."""
    low, high = (
        code.engine(replace(setup, cutoff=setup.cutoff * factor)).evaluate(atoms, gradients=False).energy
        for factor in (1 - CUTOFF_STEP, 1 + CUTOFF_STEP)
    )
    return (high - low) / math.log((1 + CUTOFF_STEP) / (1 - CUTOFF_STEP))


def band_gap(eigenvalues: FloatArray, fermi_level: float) -> float:
    """Lowest empty above highest filled state, eV; 0 where a band is filled at some k-points only.

    Args:
        eigenvalues: EV, ascending, shape (spins, k-points, bands).
        fermi_level: eV.
    """
    filled = (eigenvalues < fermi_level).sum(2)  # (spins, k-points)
    if (filled != filled[:, :1]).any() or not filled.any() or (filled == eigenvalues.shape[2]).any():
        return 0.0
    counts = filled[:, 0].tolist()
    lowest = min(bands[:, n].min() for bands, n in zip(eigenvalues, counts, strict=True))
    highest = max(bands[:, n - 1].max() for bands, n in zip(eigenvalues, counts, strict=True) if n)
    return max(0.0, float(lowest - highest))


def to_atoms(structure: Structure) -> Atoms:
    """A structure as ASE has it."""
    numbers: Sequence[int] = [site.specie.Z for site in structure]
    return Atoms(numbers, structure.cart_coords, cell=structure.lattice.matrix, pbc=True)
