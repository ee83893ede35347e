"""FIRE on positions and cell together, step by step as ASE takes them.

The variables are ASE's `FrechetCellFilter`'s: positions in the undeformed cell and the logarithm U of the
deformation gradient F = exp(U), scaled by the number of atoms, so that cell = cell_0 F^T. The logarithm is
kept rather than taken anew from the cell, and its gradient is one adjoint Frechet derivative instead of nine,
which is why this is not ASE's own filter: the same numbers at a tenth of the cost.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

FloatArray = NDArray[np.float64]


class CellDescent:
    """One structure's way down.

    Args:
        lattice: Row vectors, angstrom, shape (3, 3).
        positions: Cartesian, angstrom, shape (n, 3).
    """

    def __init__(self, lattice: FloatArray, positions: FloatArray) -> None:
        self._lattice_0 = np.array(lattice, dtype=float)
        self._x = np.vstack([positions, np.zeros((3, 3))])  # (n + 3, 3)
        self._fire = Fire(self._x.shape)

    @property
    def _deformation_log(self) -> FloatArray:
        return self._x[-3:] / (len(self._x) - 3)

    @property
    def lattice(self) -> FloatArray:
        """Row vectors now, angstrom, shape (3, 3)."""
        return np.asarray(self._lattice_0 @ expm(self._deformation_log).T)

    @property
    def positions(self) -> FloatArray:
        """Cartesian positions now, angstrom, shape (n, 3)."""
        return np.asarray(self._x[:-3] @ expm(self._deformation_log).T)

    def generalised_forces(self, forces: FloatArray, stress: FloatArray) -> FloatArray:
        """Forces on the variables, eV/angstrom, shape (n + 3, 3); the last three rows are the cell's.

        Args:
            forces: On the atoms, eV/angstrom, shape (n, 3).
            stress: eV/angstrom^3, shape (3, 3).
        """
        log = self._deformation_log
        deformation = expm(log)
        volume = abs(np.linalg.det(self._lattice_0 @ deformation.T))
        virial = -volume * (stress + stress.T) / 2
        cell_force = frechet_adjoint(log, virial @ np.linalg.inv(deformation.T))
        return np.vstack([forces @ deformation, cell_force / len(forces)])

    def step(self, generalised_forces: FloatArray) -> None:
        """Move one FIRE step along."""
        self._x = self._x + self._fire.displacement(generalised_forces)


class Fire:
    """The fast inertial relaxation engine: Bitzek et al., Phys. Rev. Lett. 97, 170201; ASE's constants.

    Args:
        shape: Of the variables.
    """

    MAX_STEP = 0.2
    """Longest displacement of all variables together, angstrom."""
    MAX_DT, START_DT = 1.0, 0.1
    START_ALPHA, ALPHA_FACTOR = 0.1, 0.99
    FASTER, SLOWER, PATIENCE = 1.1, 0.5, 5

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._velocity = np.zeros(shape)
        self._dt = self.START_DT
        self._alpha = self.START_ALPHA
        self._downhill = 0
        self._started = False

    def displacement(self, forces: FloatArray) -> FloatArray:
        """The next move for forces of the variables' shape, angstrom."""
        if self._started:
            self._mix(forces)
        self._started = True
        self._velocity = self._velocity + self._dt * forces
        move = self._dt * self._velocity
        length = float(np.linalg.norm(move))
        return move * (self.MAX_STEP / length) if length > self.MAX_STEP else move

    def _mix(self, forces: FloatArray) -> None:
        if np.vdot(forces, self._velocity) > 0:
            along = forces * (np.linalg.norm(self._velocity) / np.linalg.norm(forces))
            self._velocity = (1 - self._alpha) * self._velocity + self._alpha * along
            if self._downhill > self.PATIENCE:
                self._dt = min(self._dt * self.FASTER, self.MAX_DT)
                self._alpha *= self.ALPHA_FACTOR
            self._downhill += 1
        else:
            self._velocity = np.zeros_like(self._velocity)
            self._alpha = self.START_ALPHA
            self._dt *= self.SLOWER
            self._downhill = 0


def frechet_adjoint(log: FloatArray, gradient: FloatArray) -> FloatArray:
    """Gradient in U of a function of exp(U), from its gradient in exp(U); all shape (3, 3).

    The adjoint of the Frechet derivative of exp at U is that at U^T, which stands in the upper right block
    of exp([[U^T, G], [0, U^T]]) (Higham, Functions of Matrices, section 3.2).
    """
    block = np.zeros((6, 6))
    block[:3, :3] = block[3:, 3:] = log.T
    block[:3, 3:] = gradient
    return np.asarray(expm(block)[:3, 3:])
