from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unimat_search.unimat import flow
from unimat_search.unimat.diffusion import (
    LOG_SNR_LIMIT,
    SAMPLERS,
    Denoise,
    Draw,
    Sampler,
    alpha_sigma,
    ancestral_step,
    bounded,
    ddim_step,
    diffuse,
    log_snr,
    predicted_data,
)

F64 = torch.float64
TIMES = st.floats(0.0, 1.0).map(lambda value: torch.tensor([value], dtype=F64))
POINT = torch.tensor([[0.3, -1.0, 0.7]], dtype=F64)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@given(TIMES)
def test_the_schedule_is_the_cosine_and_keeps_the_variance(time: Tensor) -> None:
    alpha, sigma = alpha_sigma(time)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(1, dtype=F64))
    assert abs(float(log_snr(time))) <= LOG_SNR_LIMIT
    if 1e-3 < time < 1 - 1e-3:
        assert torch.allclose(alpha, torch.cos(0.5 * math.pi * time), atol=1e-12)


def test_the_schedule_is_clipped_and_falls() -> None:
    times = torch.linspace(0, 1, 101, dtype=F64)
    values = log_snr(times)
    assert values[0] == pytest.approx(LOG_SNR_LIMIT)
    assert values[-1] == pytest.approx(-LOG_SNR_LIMIT)
    assert (values.diff() < 0).all()


@given(TIMES)
def test_noise_and_data_give_each_other(time: Tensor) -> None:
    data, noise = random(1, 5), random(1, 5, seed=1)
    if time < 0.99:
        assert torch.allclose(predicted_data(diffuse(data, noise, time), noise, time), data, atol=1e-9)


def test_an_ancestral_step_has_the_posteriors_mean_and_the_interpolated_variance() -> None:
    """q(x_s | x_t, x) of Gaussian diffusion in closed form (Ho et al. 2020, equations 6 and 7, for general alpha)."""
    now, then = torch.tensor([0.6], dtype=F64), torch.tensor([0.5], dtype=F64)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(now), alpha_sigma(then)
    data, noise = random(1, 4), random(1, 4, seed=1)
    x = diffuse(data, noise, now)
    ratio = alpha_t / alpha_s
    forward = sigma_t**2 - ratio**2 * sigma_s**2
    mean = ratio * sigma_s**2 / sigma_t**2 * x + alpha_s * forward / sigma_t**2 * data
    posterior = forward * sigma_s**2 / sigma_t**2
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    assert torch.allclose(ancestral_step(x, noise, now, then, zero), mean, atol=1e-12)
    for share in (0.0, 0.1, 1.0):
        spread = ancestral_step(x, noise, now, then, one, interpolation=share) - mean
        variance = torch.exp((1 - share) * posterior.log() + share * forward.log())
        assert torch.allclose(spread**2, variance.expand_as(spread), atol=1e-12)


def test_a_deterministic_step_keeps_the_noise() -> None:
    now, then = torch.tensor([0.8], dtype=F64), torch.tensor([0.2], dtype=F64)
    data, noise = random(1, 4), random(1, 4, seed=1)
    assert torch.allclose(ddim_step(diffuse(data, noise, now), noise, now, then), diffuse(data, noise, then))


def gaussian_denoiser(mean: float, std: float) -> Denoise:
    """The best denoiser of normal data: eps = sigma (x - alpha mean) / (alpha^2 std^2 + sigma^2)."""

    def denoise(x: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = (value.unsqueeze(-1) for value in alpha_sigma(time))
        return sigma * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    return denoise


def torus_sampler(denoise: Denoise, noise: Tensor, *, steps: int, draw: Draw) -> Tensor:  # noqa: ARG001
    """The flow's steps under the contract of the others: to the point on the torus, in one atom and a cell of three."""

    def velocity(coords: Tensor, cells: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        left = (1 - time).view(-1, 1)
        return flow.shortest(POINT % 1 - coords[:, 0]).unsqueeze(1) / left.unsqueeze(1), (POINT - cells) / left

    coords, cells = flow.euler(velocity, noise.unsqueeze(1) % 1, noise, steps=steps)
    assert torch.allclose(flow.shortest(coords[:, 0] - POINT), torch.zeros_like(cells), atol=1e-3)
    return cells


def point_denoiser(x: Tensor, time: Tensor) -> Tensor:
    alpha, sigma = (value.unsqueeze(-1) for value in alpha_sigma(time))
    return (x - alpha * POINT) / sigma


ALL: dict[str, Sampler] = {**SAMPLERS, "euler": torus_sampler}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("steps", [1, 2, 16])
def test_every_sampler_finds_the_only_point_there_is(name: str, steps: int) -> None:
    noise, streams = random(6, 3), iter(range(1000))
    found = ALL[name](point_denoiser, noise, steps=steps, draw=lambda: random(6, 3, seed=next(streams)))
    assert found.shape == noise.shape
    assert found.dtype == F64
    assert torch.allclose(found, POINT.expand_as(found), atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_no_sample_depends_on_those_beside_it_and_the_noise_is_left_alone(name: str) -> None:
    noise = random(6, 3)
    before = noise.clone()
    together = ALL[name](gaussian_denoiser(0.5, 0.2), noise, steps=8, draw=lambda: torch.ones(6, 3, dtype=F64))
    alone = ALL[name](gaussian_denoiser(0.5, 0.2), noise[2:3], steps=8, draw=lambda: torch.ones(1, 3, dtype=F64))
    assert torch.equal(noise, before)
    assert torch.allclose(together[2:3], alone, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_a_sampler_without_steps_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        ALL[name](point_denoiser, random(1, 3), steps=0, draw=lambda: random(1, 3))


@pytest.mark.parametrize(("name", "steps"), [("ancestral", 256), ("ddim", 64)])
def test_samples_of_normal_data_are_normal(name: str, steps: int) -> None:
    """4,000 samples: the mean's standard error is 0.003, that of the deviation 0.002."""
    seeds = iter(range(1, 1000))

    def draw() -> Tensor:
        return random(4000, 1, seed=next(seeds))

    found = SAMPLERS[name](gaussian_denoiser(0.5, 0.2), draw(), steps=steps, draw=draw)
    assert float(found.mean()) == pytest.approx(0.5, abs=0.015)
    assert float(found.std()) == pytest.approx(0.2, abs=0.015)


@given(st.integers(0, 2**32))
def test_noise_is_handed_to_like_atoms_by_the_shortest_way(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.tensor([[8, 8, 22, 8, 22, 8]])
    noise, coords = torch.rand(1, 6, 3, generator=generator), torch.rand(1, 6, 3, generator=generator)
    handed = flow.assign(noise, coords, numbers)
    for number in (8, 22):
        like = numbers[0] == number
        assert sorted(handed[0, like].tolist()) == sorted(noise[0, like].tolist())

    def way(points: Tensor) -> float:
        return float(flow.shortest(coords - points).square().sum())

    assert way(handed) <= way(noise) + 1e-6
    swapped = handed[:, [1, 0, 2, 3, 4, 5]]
    assert way(handed) <= way(swapped) + 1e-6


@given(st.integers(0, 2**32))
def test_the_shortest_way_is_short_and_leads_there(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    there, here = torch.rand(2, 4, 3, generator=generator, dtype=F64)
    way = flow.shortest(there - here)
    assert float(way.abs().max()) <= 0.5
    assert torch.allclose((here + way - there).round(), here + way - there, atol=1e-12)
    assert torch.allclose(flow.without_drift(way[None]).mean(1), torch.zeros(1, 3, dtype=F64), atol=1e-12)


def test_bounds_hold_the_data_and_leave_what_is_within() -> None:
    low, high = torch.tensor(-1.0, dtype=F64), torch.tensor(0.5, dtype=F64)
    x, time = random(6, 3), torch.full((6,), 0.7, dtype=F64)
    data = predicted_data(x, bounded(point_denoiser, low, high)(x, time), time)
    assert torch.allclose(data, POINT.clamp(-1.0, 0.5).expand_as(data))


def test_haste_never_leads_past_where_the_velocity_points() -> None:
    """A velocity straight to the point from anywhere: at any haste the last step ends there."""
    noise = random(6, 3)

    def velocity(coords: Tensor, cells: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        left = (1 - time).view(-1, 1, 1)
        return flow.shortest(POINT % 1 - coords) / left, torch.zeros_like(cells)

    for haste in (0.0, 5.0, 100.0):
        coords, _ = flow.euler(velocity, noise.unsqueeze(1) % 1, noise, steps=10, haste=haste)
        assert torch.allclose(flow.shortest(coords[:, 0] - POINT), torch.zeros_like(noise), atol=1e-6)
    free, _ = flow.euler(lambda x, c, _: (torch.ones_like(x) / 4, c), noise.unsqueeze(1) % 1, noise, steps=2, haste=1.0)
    expected = (noise % 1 + (0.5 + 0.5) / 4) % 1  # strides of 1/2 and min(1.5/2, 1/2)
    assert torch.allclose(free[:, 0], expected, atol=1e-12)
