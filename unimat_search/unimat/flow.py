"""Flow matching on the torus: straight paths from noise to crystals, and the steps that follow them.

Coordinates start uniform on the torus and move along the shortest wrapped line; cells start normal and move straight
(Lipman et al., arXiv:2210.02747; on the torus for crystals Miller et al., arXiv:2406.04713).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from unimat_search.unimat.elements import MAX_ATOMIC_NUMBER

Velocity = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of coordinates (b, n, 3) and cells (b, c) at the times (b,), in units of the whole path."""


def shortest(differences: Tensor) -> Tensor:
    """Differences on the torus by the shortest way, in [-1/2, 1/2]."""
    return differences - differences.round()


def without_drift(differences: Tensor) -> Tensor:
    """Differences of n atoms less what all have in common: a crystal has no origin. (b, n, 3) -> (b, n, 3)."""
    return differences - differences.mean(1, keepdim=True)


def assign(noise: Tensor, frac_coords: Tensor, numbers: Tensor) -> Tensor:
    """Hand the noise's points to the atoms so that like atoms have the least way to go in all.

    Points are exchangeable among like atoms, so the law of the noise is untouched, but paths no longer cross (minibatch
    optimal transport within one crystal; Klein et al., arXiv:2306.15030).

    Args:
        noise: (b, n, 3)
        frac_coords: (b, n, 3)
        numbers: Atomic numbers, or any others that are equal where atoms may be exchanged. (b, n)

    Returns:
        The noise in another order. (b, n, 3)
    """
    from scipy.optimize import linear_sum_assignment

    ways = shortest(frac_coords.unsqueeze(2) - noise.unsqueeze(1)).square().sum(-1)  # (b, n, n)
    unlike = numbers.unsqueeze(2) != numbers.unsqueeze(1)
    costs = (ways + MAX_ATOMIC_NUMBER * unlike).cpu().numpy()
    order = np.stack([linear_sum_assignment(cost)[1] for cost in costs])
    return torch.gather(noise, 1, torch.from_numpy(order).to(noise.device).unsqueeze(-1).expand_as(noise))


def euler(
    velocity: Velocity,
    frac_coords: Tensor,
    cells: Tensor,
    *,
    steps: int,
    haste: float = 0.0,
    start: float = 0.0,
    settle: Callable[[Tensor], Tensor] = lambda cells: cells,
) -> tuple[Tensor, Tensor]:
    """Follow a velocity to time 1 in equal steps.

    Args:
        velocity: What to follow.
        frac_coords: Noise, or somewhere on the path. (b, n, 3)
        cells: Likewise. (b, c)
        steps: How many for the whole path from time 0.
        haste: Coordinates run ahead by 1 + haste * t ("anti-annealing", Miller et al. 2024), which sharpens the modes,
            but never past where the velocity would lead by time 1.
        start: The time at which coordinates and cells are.
        settle: What becomes of the cells after each step: the nearest that a constraint allows.

    Returns:
        Coordinates, wrapped into [0, 1), and cells.

    Raises:
        ValueError: If there is no step, or no path left.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 <= start < 1:
        raise ValueError(f"the start must be at least 0 and less than 1, got {start}")
    count = max(1, round(steps * (1 - start)))
    width = (1 - start) / count
    for step in range(count):
        now = start + step * width
        stride = min((1 + haste * now) * width, 1 - now)
        time = torch.full(frac_coords.shape[:1], now, device=cells.device, dtype=cells.dtype)
        coords_velocity, cells_velocity = velocity(frac_coords, cells, time)
        frac_coords = (frac_coords + stride * coords_velocity) % 1.0
        cells = settle(cells + cells_velocity * width)
    return frac_coords, cells
