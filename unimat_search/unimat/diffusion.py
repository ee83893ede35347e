"""Gaussian diffusion in continuous time: the schedule, the noising, and the samplers.

Time runs from 0 (data) to 1 (noise). x_t = alpha x + sigma eps with alpha^2 + sigma^2 = 1; the denoiser predicts eps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

LOG_SNR_LIMIT = 20.0
"""Bounds of log(alpha^2 / sigma^2) (arXiv:2311.09235, table 4)."""

LOG_VARIANCE_INTERPOLATION = 0.1
"""Share of the larger log-variance in an ancestral step (arXiv:2311.09235, table 4)."""

Denoise = Callable[[Tensor, Tensor], Tensor]
"""eps of x_t (b, ...) at the times (b,)."""

Draw = Callable[[], Tensor]
"""Fresh standard normal numbers in the shape of x."""


class Sampler(Protocol):
    """Turns noise into samples."""

    def __call__(self, denoise: Denoise, noise: Tensor, *, steps: int, draw: Draw) -> Tensor:
        """Samples (b, ...) from standard normal noise (b, ...)."""
        ...


def log_snr(time: Tensor) -> Tensor:
    """The cosine schedule, -2 log tan(pi t / 2), clipped (Nichol and Dhariwal 2021; Kingma et al. 2021)."""
    edge = math.atan(math.exp(-0.5 * LOG_SNR_LIMIT)) * 2 / math.pi
    angle = (0.5 * math.pi) * time.clamp(edge, 1 - edge)
    return (-2 * torch.log(torch.tan(angle))).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)


def alpha_sigma(time: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of data and of noise at a time."""
    ratio = log_snr(time)
    return torch.sigmoid(ratio).sqrt(), torch.sigmoid(-ratio).sqrt()


def diffuse(data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """x_t of data and noise. (b, ...), (b, ...), (b,)."""
    alpha, sigma = (_like(x, data) for x in alpha_sigma(time))
    return alpha * data + sigma * noise


def predicted_data(x: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """The data that x_t and its predicted noise imply."""
    alpha, sigma = (_like(value, x) for value in alpha_sigma(time))
    return (x - sigma * noise) / alpha


def bounded(denoise: Denoise, low: Tensor, high: Tensor) -> Denoise:
    """A denoiser whose predicted data stay within bounds: at high noise a small error of eps is a huge one of the data.

    Args:
        denoise: Predicts eps.
        low: Least data, in a shape that fits x.
        high: Greatest data.
    """

    def within(x: Tensor, time: Tensor) -> Tensor:
        noise = denoise(x, time)
        data = predicted_data(x, noise, time)
        alpha, sigma = (_like(value, x) for value in alpha_sigma(time))
        moved = (x - alpha * data.clamp(low, high)) / sigma
        return torch.where((data < low) | (data > high), moved, noise)

    return within


def ancestral_step(
    x: Tensor,
    noise: Tensor,
    now: Tensor,
    then: Tensor,
    fresh: Tensor,
    *,
    interpolation: float = LOG_VARIANCE_INTERPOLATION,
) -> Tensor:
    """One step of the reverse process, from the time `now` to the earlier time `then`.

    The mean is that of q(x_s | x_t, x); the variance lies between its own, (1 - e^(lambda_t - lambda_s)) sigma_s^2, and
    the forward step's, (1 - e^(lambda_t - lambda_s)) sigma_t^2, interpolated in its logarithm (Ho et al., 2022,
    arXiv:2210.02303, section 2.1).

    Args:
        x: x_t. (b, ...)
        noise: Predicted. (b, ...)
        now: t. (b,)
        then: s < t. (b,)
        fresh: Standard normal numbers. (b, ...)
        interpolation: Share of the forward step's log-variance.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(now), alpha_sigma(then)
    ratio = log_snr(now) - log_snr(then)  # below zero
    kept = _like(torch.exp(ratio) * alpha_s / alpha_t, x)
    pulled = _like(-torch.expm1(ratio) * alpha_s, x)
    shared = 0.5 * torch.log(-torch.expm1(ratio))
    spread = torch.exp(shared + interpolation * sigma_t.log() + (1 - interpolation) * sigma_s.log())
    return kept * x + pulled * predicted_data(x, noise, now) + _like(spread, x) * fresh


def ddim_step(x: Tensor, noise: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """One deterministic step (Song et al., arXiv:2010.02502, equation 12 with no noise)."""
    alpha, sigma = (_like(value, x) for value in alpha_sigma(then))
    return alpha * predicted_data(x, noise, now) + sigma * noise


def ancestral(denoise: Denoise, noise: Tensor, *, steps: int, draw: Draw) -> Tensor:
    """Ancestral sampling, as in the paper (there with 256 steps)."""
    return _follow(denoise, noise, steps, lambda x, eps, now, then: ancestral_step(x, eps, now, then, draw()))


def ddim(denoise: Denoise, noise: Tensor, *, steps: int, draw: Draw) -> Tensor:  # noqa: ARG001
    """Deterministic sampling in few steps; draws nothing."""
    return _follow(denoise, noise, steps, ddim_step)


SAMPLERS: dict[str, Sampler] = {"ancestral": ancestral, "ddim": ddim}


def _follow(
    denoise: Denoise, x: Tensor, steps: int, advance: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """From time 1 to 0 in equal steps; the last one lands on the predicted data."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    times = torch.linspace(1.0, 0.0, steps + 1, device=x.device, dtype=x.dtype)[:, None].expand(-1, len(x))
    for now, then in pairwise(times[:-1]):
        x = advance(x, denoise(x, now), now, then)
    return predicted_data(x, denoise(x, times[-2]), times[-2])


def _like(values: Tensor, x: Tensor) -> Tensor:
    """(b,) -> (b, 1, ...), as many axes as x has."""
    return values.view(-1, *[1] * (x.ndim - 1))
