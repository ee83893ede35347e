from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from tests.unimat.crystals import TINY, random_set, tiny_model
from unimat_search.baselines.cdvae import CdvaeModel, _apportioned, cdvae
from unimat_search.baselines.graph_network import GraphConfig, neighbour_graph
from unimat_search.testing import check_generator
from unimat_search.unimat.batches import Batch, by_size
from unimat_search.unimat.checkpoint import build, save_model
from unimat_search.unimat.flow import shortest, without_drift
from unimat_search.unimat.model import SampleSettings, Streams
from unimat_search.unimat.sample import sample_freely

DATA = random_set(5, 40)


@pytest.fixture(scope="module")
def model() -> CdvaeModel:
    built = tiny_model("cdvae", DATA)
    assert isinstance(built, CdvaeModel)
    return built


def envelope(distance: float, reach: float) -> float:
    return 0.5 * (math.cos(math.pi * min(distance / reach, 1.0)) + 1.0)


def test_neighbours_are_the_nearest_images() -> None:
    """In a simple cubic crystal: six at the edge, twelve at the diagonal of a face; eight corners are left out."""
    graph = neighbour_graph(torch.zeros(1, 1, 3), 3.0 * torch.eye(3).unsqueeze(0), GraphConfig(neighbours=18))
    reach = 3 * 3**0.5
    counted = 6 * envelope(3, reach) + 12 * envelope(3 * 2**0.5, reach)
    assert graph.radial[0, 0, 0, -1].item() == pytest.approx(counted, rel=1e-5)
    assert graph.directed.abs().max().item() == pytest.approx(0.0, abs=1e-5)  # a centre of inversion


def test_directions_lead_to_the_neighbour() -> None:
    """Two atoms in a wide cell, across its border: 2 angstrom apart, along the first edge."""
    frac_coords = torch.tensor([[[0.05, 0.0, 0.0], [0.95, 0.0, 0.0]]])
    config = GraphConfig(neighbours=2, distances=16, cutoff=8.0)
    graph = neighbour_graph(frac_coords, torch.diag(torch.tensor([20.0, 30.0, 30.0])).unsqueeze(0), config)
    assert graph.radial[0, 0, 1, -1].item() == pytest.approx(envelope(2, 8), rel=1e-5)
    assert graph.directed[0, 0, 1, :, -1].tolist() == pytest.approx([-envelope(2, 8), 0, 0], rel=1e-5)
    assert graph.directed[0, 1, 0, :, -1].tolist() == pytest.approx([envelope(2, 8), 0, 0], rel=1e-5)
    assert graph.radial[0, 0, 1, :-1].argmax().item() == round(2 / (8 / 15))
    assert graph.radial[0, 0, 0].abs().max().item() == 0.0


def moves(model: CdvaeModel, batch: Batch) -> Tensor:
    with torch.no_grad():
        latent, _ = model.encode(batch)
        sigma = torch.full((len(batch),), 0.5)
        return model.moves(batch.frac_coords, batch.cells, batch.numbers, latent, sigma)


def test_moves_turn_with_the_crystal_and_heed_no_origin(model: CdvaeModel) -> None:
    batch = by_size(DATA)[4]
    turn = torch.from_numpy(Rotation.random(rng=np.random.default_rng(1)).as_matrix()).float()
    expected = moves(model, batch)
    turned = Batch(batch.numbers, batch.frac_coords, batch.cells @ turn, batch.properties)
    assert torch.allclose(moves(model, turned), expected @ turn, atol=1e-4)
    shifted = Batch(batch.numbers, batch.frac_coords + 0.3, batch.cells, batch.properties)
    assert torch.allclose(moves(model, shifted), expected, atol=1e-4)
    order = torch.tensor([2, 0, 3, 1])
    permuted = Batch(batch.numbers[:, order], batch.frac_coords[:, order], batch.cells, batch.properties)
    assert torch.allclose(moves(model, permuted), expected[:, order], atol=1e-4)
    assert expected.abs().max() > 1e-3


def test_a_crystal_can_be_learnt_by_heart() -> None:
    """One crystal, a few hundred steps: little noise is undone, and samples have its cell."""
    drawn = (random_set(seed, 1, elements=(11, 17), most=1) for seed in range(99))
    structure = next(one for one in drawn if len(one.numbers) == 2)
    crystal = by_size(structure)[2].take(torch.zeros(32, dtype=torch.long))
    torch.manual_seed(0)
    size = {"width": 32, "layers": 2, "neighbours": 8, "distances": 24}
    noise = {"levels": 4, "largest": 0.3, "smallest": 0.1}
    model = build("cdvae", {"encoder": size, "network": size, "latent": 8} | noise)
    model.fit(structure)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(300):
        loss = model.loss(crystal, generator)
        optimizer.zero_grad()
        loss["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss["coords"].detach()))
    assert np.mean(losses[-50:]) < 0.6 * np.mean(losses[:50])
    streams = Streams([np.random.default_rng(index) for index in range(8)])
    with torch.no_grad():
        _, cells = model.eval().sample(crystal.numbers[:8], crystal.properties[:8], streams, SampleSettings(steps=8))
    volume = abs(np.linalg.det(structure.cells[0]))
    assert torch.linalg.det(cells).numpy() == pytest.approx(np.full(8, volume), rel=0.1)


def test_exact_moves_lead_to_the_crystal(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network that knows the crystal the loss is nothing, and Langevin dynamics ends there."""
    structure = random_set(3, 30).take([1])
    crystal = next(iter(by_size(structure).values())).take(torch.zeros(6, dtype=torch.long))
    model = build("cdvae", TINY["cdvae"] | {"levels": 10, "largest": 0.5, "smallest": 0.01})
    assert isinstance(model, CdvaeModel)
    model.fit(structure)

    def exact(frac_coords: Tensor, cells: Tensor, numbers: Tensor, latent: Tensor, sigma: Tensor) -> Tensor:  # noqa: ARG001
        apart = crystal.frac_coords - frac_coords
        way = without_drift(shortest(apart - apart[:, :1])) @ cells
        return (way / sigma[:, None, None]).clamp(-10, 10)  # only what is near is known

    monkeypatch.setattr(model, "moves", exact)
    streams = Streams([np.random.default_rng(index) for index in range(6)])
    with torch.no_grad():
        assert float(model.loss(crystal, torch.Generator().manual_seed(0))["coords"]) < 1e-3
        made, cells = model.eval().sample(crystal.numbers, crystal.properties, streams, SampleSettings(steps=50))
    apart = made - crystal.frac_coords
    away = shortest(apart - apart[:, :1]) @ cells
    assert len(crystal.numbers[0]) > 1
    assert away.norm(dim=-1).max() < 1e-4  # the last step is without noise


def test_noise_is_what_langevin_dynamics_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a score each step adds its own level's variance."""
    structure = random_set(3, 30).take([1])
    count = 3000
    crystals = next(iter(by_size(structure).values())).take(torch.zeros(count, dtype=torch.long))
    model = build("cdvae", TINY["cdvae"] | {"levels": 3, "largest": 0.4, "smallest": 0.1})
    assert isinstance(model, CdvaeModel)
    model.fit(structure)
    monkeypatch.setattr(model, "moves", lambda frac_coords, *_: torch.zeros_like(frac_coords))
    streams = Streams([np.random.default_rng(index) for index in range(count)])
    again = Streams([np.random.default_rng(index) for index in range(count)])
    with torch.no_grad():
        made, cells = model.eval().sample(crystals.numbers, crystals.properties, streams, SampleSettings(steps=6))
    again.normal(model.config.latent)
    sites = crystals.numbers.shape[1]
    walked = shortest(made - again.uniform(sites, 3)) @ cells
    variance = 2 * (0.4**2 + 0.2**2 + 0.1**2) * (1 - 1 / sites)  # two steps a level, the common shift taken off
    assert walked.square().mean().item() == pytest.approx(variance, rel=0.1)


def test_free_samples_have_atoms_of_the_training_set(model: CdvaeModel) -> None:
    streams = Streams([np.random.default_rng(index) for index in range(6)])
    made = sample_freely(model, streams, SampleSettings(steps=8), torch.tensor([np.nan, np.nan]))
    assert len(made) == 6
    for numbers, frac_coords, _ in made:
        assert len(numbers) >= 1
        assert frac_coords.shape == (len(numbers), 3)
        assert set(numbers.tolist()) <= {3, 8, 11, 17, 20}


def test_shares_become_atoms() -> None:
    assert _apportioned(torch.tensor([0.0, 0.6, 0.3, 0.1]), 3).tolist() == [1, 1, 2]
    assert _apportioned(torch.tensor([0.0, 0.5, 0.5]), 4).tolist() == [1, 1, 2, 2]
    assert len(_apportioned(torch.tensor([0.1] * 10), 7)) == 7


def test_it_is_a_generator_like_any_other(model: CdvaeModel, tmp_path: Path) -> None:
    file = tmp_path / "cdvae.safetensors"
    save_model(file, model, {"config": {"denoiser": "cdvae", "model": TINY["cdvae"]}}, dtype=torch.float32)
    check_generator(cdvae(model=str(file), steps=40), "Na2Cl2")


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"model\.smallest"):
        build("cdvae", {"smallest": 2.0, "largest": 1.0})
    with pytest.raises(ValueError, match=r"model\.network\.layers"):
        build("cdvae", {"network": {"layers": 0}})
