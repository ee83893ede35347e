"""The way down: positions and cells of a batch of crystals as optimizers see them, and the optimizers.

The variables are ASE's `FrechetCellFilter`'s: positions in the undeformed cell and the logarithm U of the
deformation gradient F = exp(U), scaled by the number of atoms, so that cell = cell_0 F^T. The logarithm is
kept rather than taken anew from the cell, and its gradient is one adjoint Frechet derivative instead of nine.

Every tensor here counts crystals in its first dimension. The variables of a crystal are rows of three: first the
cell's three, then one for each atom, then rows of zeros up to the largest crystal of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

CELL_ROWS = 3


@dataclass(frozen=True)
class Variables:
    """Where the crystals of a batch are.

    Attributes:
        x: Variables, angstrom, shape (crystals, rows, 3).
        lattices_0: The undeformed cells, row vectors, angstrom, shape (crystals, 3, 3).
        sizes: Atoms of each crystal, shape (crystals,).
    """

    x: Tensor
    lattices_0: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, lattice: Tensor, positions: Tensor) -> Variables:
        """One crystal: row vectors (3, 3) and Cartesian positions (n, 3), angstrom."""
        x = torch.cat([positions.new_zeros(CELL_ROWS, 3), positions])
        return cls(x[None], lattice[None], torch.tensor([len(positions)], device=x.device))

    @property
    def is_atom(self) -> Tensor:
        """Which rows are atoms, shape (crystals, rows - 3)."""
        return torch.arange(self.x.shape[1] - CELL_ROWS, device=self.x.device) < self.sizes[:, None]

    @property
    def deformation_logs(self) -> Tensor:
        """U, shape (crystals, 3, 3)."""
        return self.x[:, :CELL_ROWS] / self.sizes[:, None, None]

    @cached_property
    def deformations(self) -> Tensor:
        """F, shape (crystals, 3, 3)."""
        deformations: Tensor = torch.linalg.matrix_exp(self.deformation_logs)
        return deformations

    @cached_property
    def lattices(self) -> Tensor:
        """Cells now, row vectors, angstrom, shape (crystals, 3, 3)."""
        return self.lattices_0 @ self.deformations.mT

    @property
    def volumes(self) -> Tensor:
        """Cubic angstrom, shape (crystals,)."""
        volumes: Tensor = torch.linalg.det(self.lattices).abs()
        return volumes

    @property
    def positions(self) -> Tensor:
        """All atoms' positions now, crystal by crystal, angstrom, shape (atoms, 3)."""
        return (self.x[:, CELL_ROWS:] @ self.deformations.mT)[self.is_atom]

    def forces(self, forces: Tensor, stresses: Tensor) -> Tensor:
        """Forces on the variables, eV/angstrom, shape (crystals, rows, 3).

        Args:
            forces: On the atoms, eV/angstrom, shape (atoms, 3).
            stresses: eV/angstrom^3, shape (crystals, 3, 3).
        """
        deformations = self.deformations
        padded = torch.zeros_like(self.x[:, CELL_ROWS:])
        padded[self.is_atom] = forces
        virials = -self.volumes[:, None, None] * (stresses + stresses.mT) / 2
        cell = frechet_adjoint(self.deformation_logs, virials @ torch.linalg.inv(deformations).mT)
        return torch.cat([cell / self.sizes[:, None, None], padded @ deformations], 1)

    def keep(self, which: Tensor) -> Variables:
        """The chosen crystals alone; `which` is a mask."""
        return Variables(self.x[which], self.lattices_0[which], self.sizes[which])

    def join(self, other: Variables) -> Variables:
        """These crystals, then the other's."""
        rows = max(self.x.shape[1], other.x.shape[1])
        return Variables(
            torch.cat([padded_rows(self.x, rows), padded_rows(other.x, rows)]),
            torch.cat([self.lattices_0, other.lattices_0]),
            torch.cat([self.sizes, other.sizes]),
        )


def padded_rows(x: Tensor, rows: int) -> Tensor:
    """Rows of zeros behind the others, shape (crystals, rows, 3)."""
    return F.pad(x, (0, 0, 0, rows - x.shape[1]))


def dots(a: Tensor, b: Tensor) -> Tensor:
    """Scalar products crystal by crystal, shape (crystals,)."""
    return (a * b).flatten(1).sum(1)


def shortened(moves: Tensor, lengths: Tensor, longest: Tensor | float) -> Tensor:
    """Moves scaled down where their lengths, shape (crystals,), exceed the longest allowed."""
    factors: Tensor = (longest / lengths).clamp(max=1)
    return moves * factors[:, None, None]


def frechet_adjoint(logs: Tensor, gradients: Tensor) -> Tensor:
    """Gradients in U of functions of exp(U), from their gradients in exp(U); all shape (..., 3, 3).

    The adjoint of the Frechet derivative of exp at U is that at U^T, which stands in the upper right block
    of exp([[U^T, G], [0, U^T]]) (Higham, Functions of Matrices, section 3.2).
    """
    blocks = logs.new_zeros(*logs.shape[:-2], 6, 6)
    blocks[..., :3, :3] = blocks[..., 3:, 3:] = logs.mT
    blocks[..., :3, 3:] = gradients
    exponential: Tensor = torch.linalg.matrix_exp(blocks)
    return exponential[..., :3, 3:]


class Optimizer(Protocol):
    """Moves a batch downhill; keeps what it remembers of each crystal, in the batch's order."""

    def step(self, x: Tensor, forces: Tensor, energies: Tensor, sizes: Tensor) -> Tensor:
        """Return the next variables.

        Args:
            x: Variables, shape (crystals, rows, 3).
            forces: On them, eV/angstrom.
            energies: eV, shape (crystals,).
            sizes: Atoms of each crystal.
        """
        ...

    def stands(self, energies: Tensor, sizes: Tensor) -> Tensor:
        """Whether each crystal's last step is going to stand, or to be taken back, shape (crystals,)."""
        ...

    def keep(self, which: Tensor) -> None:
        """Forget the other crystals; `which` is a mask."""
        ...

    def join(self, x: Tensor) -> None:
        """Make room for more crystals, behind the others, and for as many rows as `x` has.

        Args:
            x: Their variables, shape (new crystals, rows, 3).
        """
        ...


@dataclass
class _Memory:
    """Tensors that count crystals in their first dimension."""

    def kept(self, which: Tensor) -> Self:
        return replace(self, **{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def joined(self, n: int, rows: int) -> Self:
        """Zeros for `n` more crystals; room for `rows` rows."""
        return replace(self, **{f.name: _grown(getattr(self, f.name), n, f.metadata, rows) for f in fields(self)})


ROWS = {"rows": 1}
"""Marks a memory of shape (crystals, rows, 3)."""
SQUARE = {"rows": 3}
"""Marks a memory of shape (crystals, 3 rows, 3 rows)."""


def _grown(memory: Tensor, n: int, shape: Mapping[str, int], rows: int) -> Tensor:
    if shape == ROWS:
        memory = padded_rows(memory, rows)
    elif shape == SQUARE:
        more = 3 * rows - memory.shape[1]
        memory = F.pad(memory, (0, more, 0, more))
    return torch.cat([memory, memory.new_zeros(n, *memory.shape[1:])])


@dataclass
class _FireMemory(_Memory):
    velocity: Tensor = field(metadata=ROWS)
    dt: Tensor
    alpha: Tensor
    downhill: Tensor
    started: Tensor


class Fire:
    """The fast inertial relaxation engine: Bitzek et al., Phys. Rev. Lett. 97, 170201; ASE's constants and steps."""

    MAX_STEP = 0.2
    """Longest displacement of all variables together, angstrom."""
    MAX_DT, START_DT = 1.0, 0.1
    START_ALPHA, ALPHA_FACTOR = 0.1, 0.99
    FASTER, SLOWER, PATIENCE = 1.1, 0.5, 5

    def __init__(self, device: str = "cpu") -> None:
        zero = torch.zeros(0, dtype=torch.float64, device=device)
        self._memory = _FireMemory(zero.view(0, 0, 3), zero, zero, zero.long(), zero.bool())

    def keep(self, which: Tensor) -> None:
        """See `Optimizer.keep`."""
        self._memory = self._memory.kept(which)

    def join(self, x: Tensor) -> None:
        """See `Optimizer.join`."""
        self._memory = self._memory.joined(*x.shape[:2])

    def stands(self, energies: Tensor, sizes: Tensor) -> Tensor:  # noqa: ARG002
        """See `Optimizer.stands`: every step does."""
        return torch.ones_like(sizes, dtype=torch.bool)

    def restart(self, which: Tensor) -> None:
        """Forget what was learnt of some crystals; `which` is a mask."""
        self._memory = replace(self._memory, started=self._memory.started & ~which)

    def step(self, x: Tensor, forces: Tensor, energies: Tensor, sizes: Tensor) -> Tensor:  # noqa: ARG002
        """See `Optimizer.step`."""
        m = self._memory
        power = dots(forces, m.velocity)
        down = m.started & (power > 0)
        hurry = down & (m.downhill > self.PATIENCE)
        along = forces * _nan_free(m.velocity.flatten(1).norm(dim=1) / forces.flatten(1).norm(dim=1))[:, None, None]
        alpha = m.alpha[:, None, None]
        velocity = torch.where(down[:, None, None], (1 - alpha) * m.velocity + alpha * along, 0)
        slowed = torch.where(m.started, m.dt * self.SLOWER, self.START_DT)
        dt = torch.where(hurry, (m.dt * self.FASTER).clamp(max=self.MAX_DT), torch.where(down, m.dt, slowed))
        alpha = torch.where(hurry, m.alpha * self.ALPHA_FACTOR, torch.where(down, m.alpha, self.START_ALPHA))
        velocity = velocity + dt[:, None, None] * forces
        downhill = torch.where(down, m.downhill + 1, 0)
        self._memory = _FireMemory(velocity, dt, alpha, downhill, torch.ones_like(m.started))
        move = dt[:, None, None] * velocity
        return x + shortened(move, move.flatten(1).norm(dim=1), self.MAX_STEP)


def _nan_free(ratio: Tensor) -> Tensor:
    return torch.nan_to_num(ratio, nan=0.0, posinf=0.0)


@dataclass
class _BfgsMemory(_Memory):
    z: Tensor = field(metadata=ROWS)
    slope: Tensor = field(metadata=ROWS)
    energy: Tensor
    inverse: Tensor = field(metadata=SQUARE)
    taught: Tensor
    radius: Tensor
    failures: Tensor
    near: Tensor
    newton: Tensor


NOISE = 2e-6
"""Rise of the energy that does not count, eV/atom: float32 in a network's energy."""


class Bfgs:
    """FIRE into the basin, quasi-Newton steps that may not climb to its bottom, FIRE again where these fail.

    Far from a minimum, where a crystal ends depends on how it moves, and quasi-Newton steps end higher than FIRE's
    more often than lower; near it they save most of the steps. The inverse Hessian is kept in full, learnt
    from FIRE's last steps on, scaled at first and updated by the BFGS formula where the curvature along a step
    is positive (Nocedal and Wright, Numerical Optimization, equations 6.17 and 6.20). The cell's variables are
    scaled so that their curvature resembles an atom's whatever the size of the cell. A step that raises the
    energy is taken back and its length is cut; a crystal that fails `PATIENCE` times goes on with FIRE, from
    the lowest point of its descent.

    Args:
        device: Of the tensors.
        noise: Rise of the energy that does not count, eV/atom.
    """

    NEAR = 2.0
    """Largest force below which the curvature is worth learning, eV/angstrom."""
    BASIN = 0.5
    """Largest force below which a crystal is taken to be in its basin, eV/angstrom."""
    CURVATURE = 70.0
    """Before anything is learnt, eV/angstrom^2: ASE's."""
    START_RADIUS, MAX_RADIUS = 0.1, 0.3
    """Longest move of an atom in a step, angstrom."""
    LONGER, SHORTER = 1.5, 0.3
    PATIENCE = 8
    CELL = 2.0
    """How far a strain of 1 moves an atom, angstrom, as the scale of the cell's variables."""

    def __init__(self, device: str = "cpu", noise: float = NOISE) -> None:
        self._noise = noise
        zero = torch.zeros(0, dtype=torch.float64, device=device)
        rows, square, flag = zero.view(0, 0, 3), zero.view(0, 0, 0), zero.bool()
        self._memory = _BfgsMemory(rows, rows, zero, square, flag, zero, zero.long(), flag, flag)
        self._fire = Fire(device)

    def keep(self, which: Tensor) -> None:
        """See `Optimizer.keep`."""
        self._memory = self._memory.kept(which)
        self._fire.keep(which)

    def join(self, x: Tensor) -> None:
        """See `Optimizer.join`."""
        self._memory = self._memory.joined(*x.shape[:2])
        self._fire.join(x)

    def stands(self, energies: Tensor, sizes: Tensor) -> Tensor:
        """See `Optimizer.stands`."""
        return ~self._memory.newton | (energies <= self._memory.energy + self._noise * sizes)

    def step(self, x: Tensor, forces: Tensor, energies: Tensor, sizes: Tensor) -> Tensor:
        """See `Optimizer.step`."""
        m = self._memory
        scale = torch.ones_like(x[:, :, :1])
        scale[:, :CELL_ROWS] = (self.CELL / sizes.sqrt())[:, None, None]
        z, slope = x * scale, forces / scale
        largest = forces.norm(dim=2).amax(1)
        fell = self.stands(energies, sizes)
        inverse, taught = self._learnt(z - m.z, m.slope - slope, fell & (m.near | m.newton))
        failures = torch.where(fell, m.failures, m.failures + 1)
        cut = (z - m.z).norm(dim=2).amax(1) * self.SHORTER
        radius = torch.where(fell, (m.radius * self.LONGER).clamp(max=self.MAX_RADIUS), cut)
        radius = torch.where(m.newton, radius, self.START_RADIUS)
        z = torch.where(fell[:, None, None], z, m.z)
        slope = torch.where(fell[:, None, None], slope, m.slope)
        energy = torch.where(fell, energies, m.energy)
        newton = (m.newton | (largest < self.BASIN)) & (failures < self.PATIENCE)
        near = largest < self.NEAR
        self._memory = _BfgsMemory(z, slope, energy, inverse, taught, radius, failures, near, newton)
        move = (inverse @ slope.flatten(1)[:, :, None]).view_as(z)
        by_newton: Tensor = (z + shortened(move, move.norm(dim=2).amax(1), radius)) / scale
        self._fire.restart(m.newton)
        by_fire = self._fire.step(z / scale, slope * scale, energies, sizes)
        return torch.where(newton[:, None, None], by_newton, by_fire)

    def _learnt(self, s: Tensor, y: Tensor, learns: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse Hessians after the steps `s` changed the gradients by `y`, and which of them know anything."""
        s, y = s.flatten(1), y.flatten(1)
        sy = (s * y).sum(1)
        learns = learns & (sy > 1e-3 * s.norm(dim=1) * y.norm(dim=1))
        taught = self._memory.taught
        scale = torch.where(learns, sy / (y * y).sum(1), 1 / self.CURVATURE)[:, None, None]
        eye = torch.eye(s.shape[1], dtype=s.dtype, device=s.device)
        inverse = torch.where(taught[:, None, None], self._memory.inverse, eye * scale)
        rho = torch.where(learns, 1 / sy, 0)[:, None, None]
        hy = (inverse @ y[:, :, None]).squeeze(2)
        along = 1 + rho * (y * hy).sum(1)[:, None, None]
        cross = s[:, :, None] * hy[:, None, :]
        updated = inverse + rho * (along * s[:, :, None] * s[:, None, :] - cross - cross.mT)
        return torch.where(learns[:, None, None], updated, inverse), taught | learns


OPTIMIZERS: dict[str, Callable[[str, float], Optimizer]] = {
    "bfgs": Bfgs,
    "fire": lambda device, _: Fire(device),
}
"""By name, from the device and the rise of the energy that does not count."""
