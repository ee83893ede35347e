from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Structure
from safetensors.torch import save_file

from tests.unimat.crystals import TINY, random_set, tiny_model
from unimat_search.records import FailedAttempt
from unimat_search.testing import check_generator
from unimat_search.unimat.batches import Batch, Batches, by_size
from unimat_search.unimat.cell import cell_to_vector, vector_to_cell
from unimat_search.unimat.checkpoint import build, load_model, save_model
from unimat_search.unimat.diffusion import alpha_sigma, diffuse
from unimat_search.unimat.grid import Grid
from unimat_search.unimat.grid_model import GridModel
from unimat_search.unimat.independent import (
    BELIEFS,
    BINS,
    HALVES,
    OCTANTS,
    ORIGIN,
    SPREAD,
    IndependentElements,
    given_the_sum,
)
from unimat_search.unimat.model import CrystalModel, SampleSettings, Streams, drop_properties
from unimat_search.unimat.sample import UniMatGenerator, as_structure, is_sound, sample, sample_freely
from unimat_search.unimat.slot_model import SlotModel, with_group
from unimat_search.unimat.slots import SlotDenoiser, shortest_distances
from unimat_search.unimat.train import TrainConfig, Trainer, TrainingConfig
from unimat_search.unimat.training_data import with_symmetry
from unimat_search.unimat.volume_model import fit_log_volumes

DENOISERS = tuple(TINY)
DATA = random_set(5, 40)
ANYTHING = torch.tensor([np.nan, np.nan])
FEW = SampleSettings(steps=4)


def streams(*keys: int) -> Streams:
    return Streams([np.random.default_rng(key) for key in keys])


@pytest.fixture(params=DENOISERS)
def model(request: pytest.FixtureRequest) -> CrystalModel:
    return tiny_model(request.param, DATA)


def test_losses_are_finite_and_have_gradients_everywhere(model: CrystalModel) -> None:
    model.train()
    for batch in by_size(with_symmetry(DATA, say=lambda _: None)).values():
        losses = model.loss(batch, torch.Generator().manual_seed(0))
        assert {"loss", "coords", "cell"} <= set(losses)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_losses_depend_on_the_generators_seed_alone(model: CrystalModel) -> None:
    batch = by_size(DATA)[4]
    with torch.no_grad():
        first, again, other = (float(model.loss(batch, torch.Generator().manual_seed(s))["loss"]) for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_samples_have_the_atoms_asked_for_and_cells_with_volume(model: CrystalModel) -> None:
    atoms = [torch.tensor(mine) for mine in ([11, 17], [3, 8, 8], [11, 17], [20, 8, 3, 3])]
    made = sample(model, atoms, streams(1, 2, 3, 4), FEW, ANYTHING)
    for asked, (numbers, frac_coords, cell) in zip(atoms, made, strict=True):
        assert torch.equal(numbers, asked)
        assert frac_coords.shape == (len(asked), 3)
        placed = frac_coords[~frac_coords.isnan()]
        assert isinstance(model, GridModel) or placed.numel() == frac_coords.numel()
        assert ((placed >= 0) & (placed < 1)).all()
        assert float(torch.linalg.det(cell)) > 0


def test_a_sample_depends_on_its_stream_and_not_on_its_batch(model: CrystalModel) -> None:
    atoms = [torch.tensor([11, 17, 8])] * 5
    together = sample(model, atoms, streams(1, 2, 3, 4, 5), FEW, ANYTHING)
    alone = sample(model, atoms[:1], streams(3), FEW, ANYTHING)[0]
    small = sample(model, atoms, streams(1, 2, 3, 4, 5), FEW, ANYTHING, at_once=3)[2]
    for other in (alone, small):
        for one, same in zip(together[2], other, strict=True):
            assert torch.allclose(one, same, atol=1e-4, equal_nan=True)
    assert not torch.allclose(together[0][1], together[1][1], atol=1e-2)


@pytest.mark.parametrize("denoiser", ["slots", "unet"])
def test_guidance_asks_more_loudly(denoiser: str) -> None:
    model = tiny_model(denoiser, DATA)
    atoms = [torch.tensor([11, 17, 8])]
    asked = torch.tensor([-3.0, 1.0])

    def cell(settings: SampleSettings, properties: torch.Tensor) -> torch.Tensor:
        return sample(model, atoms, streams(1), settings, properties)[0][2]

    plain, louder = cell(FEW, asked), cell(replace(FEW, guidance=2.0), asked)
    free, free_louder = cell(FEW, ANYTHING), cell(replace(FEW, guidance=2.0), ANYTHING)
    assert not torch.allclose(plain, free, atol=1e-4)
    assert not torch.allclose(plain, louder, atol=1e-4)
    assert torch.allclose(free, free_louder, atol=1e-4)


def test_properties_that_the_data_do_not_tell_are_never_asked_for(tmp_path: Path) -> None:
    silent = replace(
        DATA, properties=np.stack([np.full(len(DATA), np.nan), np.ones(len(DATA))], axis=1, dtype=np.float32)
    )
    model = tiny_model("slots", silent)
    assert not model.knows("formation_energy_per_atom")
    assert not model.knows("near_hull")
    assert model.standardised(torch.tensor([[-1.0, 0.0]])).isnan().all()
    path = tmp_path / "silent.safetensors"
    save_model(path, model, {"config": {"denoiser": "slots", "model": TINY["slots"]}}, dtype=torch.float32)
    UniMatGenerator(model=str(path))
    with pytest.raises(ValueError, match="trained without formation energies"):
        UniMatGenerator(model=str(path), formation_energy=-1.0)
    with pytest.raises(ValueError, match="trained without distances from the hull"):
        UniMatGenerator(model=str(path), near_hull=False)


def test_properties_are_dropped_at_the_rate_asked_for() -> None:
    properties = torch.zeros(20_000, 2)
    dropped = drop_properties(properties, 0.1, torch.Generator().manual_seed(0)).isnan()
    assert float(dropped[:, 0].float().mean()) == pytest.approx(0.19, abs=0.015)  # 1 - 0.9^2
    assert float(dropped.all(1).float().mean()) == pytest.approx(0.1 + 0.9 * 0.01, abs=0.01)
    assert not drop_properties(properties, 0.0, torch.Generator()).isnan().any()


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_a_model_comes_back_from_its_file(denoiser: str, tmp_path: Path) -> None:
    model = tiny_model(denoiser, DATA)
    file = tmp_path / "model.safetensors"
    save_model(file, model, {"config": {"denoiser": denoiser, "model": TINY[denoiser]}}, dtype=torch.float32)
    back, header = load_model(file)
    assert header["config"]["denoiser"] == denoiser
    first, again = (sample(one, [torch.tensor([11, 17])], streams(1), FEW, ANYTHING)[0] for one in (model, back))
    assert all(torch.allclose(one, same, 0, 0, equal_nan=True) for one, same in zip(first, again, strict=True))
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("content", [b"", b"junk" * 10, None])
def test_what_is_no_model_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    if content is None:
        save_file({"x": torch.zeros(1)}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is not a checkpoint"):
        load_model(file)
    with pytest.raises(ValueError, match="there is no checkpoint"):
        load_model(tmp_path / "nowhere")


def test_a_model_of_another_version_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    model = tiny_model("slots", DATA)
    save_model(file, model, {"config": {"denoiser": "slots", "model": {}}}, dtype=torch.float32)
    with pytest.raises(ValueError, match="is not a model of this version"):
        load_model(file)


def test_unknown_denoisers_and_settings_are_named() -> None:
    with pytest.raises(ValueError, match="no denoiser 'net'; there are cdvae, slots, unet"):
        build("net", {})
    with pytest.raises(ValueError, match=r"unknown setting model\.network\.breadth; there are width"):
        build("slots", {"network": {"breadth": 3}})
    with pytest.raises(ValueError, match=r"model\.network\.width must be int, got 'wide'"):
        build("slots", {"network": {"width": "wide"}})


# The denoiser of slots: its symmetries


def crystal(seed: int) -> tuple[SlotModel, Batch]:
    model = tiny_model("slots", DATA)
    assert isinstance(model, SlotModel)
    return model, by_size(random_set(seed, 30))[5]


def velocity(model: SlotModel, batch: Batch, coords: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    cells = model.encode_cells(batch.cells, batch.numbers)
    time = torch.linspace(0, 1, len(batch))
    return model.velocity(coords, cells, time, batch.numbers, with_group(model.standardised(batch.properties), None))


def test_translations_and_whole_turns_change_nothing() -> None:
    model, batch = crystal(1)
    first = velocity(model, batch, batch.frac_coords)
    turns = torch.randint(-2, 3, batch.frac_coords.shape, generator=torch.Generator().manual_seed(0))
    moved = velocity(model, batch, batch.frac_coords + torch.tensor([0.3, 0.9, -0.2]) + turns)
    for one, same in zip(first, moved, strict=True):
        assert float(one.detach().abs().max()) > 1e-3
        assert torch.allclose(one, same, atol=1e-4)


def test_the_order_of_atoms_is_the_results_order() -> None:
    model, batch = crystal(2)
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = Batch(batch.numbers[:, order], batch.frac_coords[:, order], batch.cells, batch.properties)
    (coords, cell), (coords_, cell_) = (
        velocity(model, batch, batch.frac_coords),
        velocity(model, shuffled, shuffled.frac_coords),
    )
    assert torch.allclose(coords[:, order], coords_, atol=1e-5)
    assert torch.allclose(cell, cell_, atol=1e-5)


def test_rotations_change_nothing() -> None:
    model, batch = crystal(3)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    turned = replace(batch, cells=batch.cells @ rotation)
    for one, same in zip(
        velocity(model, batch, batch.frac_coords), velocity(model, turned, batch.frac_coords), strict=True
    ):
        assert torch.allclose(one, same, atol=1e-4)


def test_coordinates_never_drift() -> None:
    model, batch = crystal(4)
    coords, _ = velocity(model, batch, batch.frac_coords)
    assert torch.allclose(coords.mean(1), torch.zeros(len(batch), 3), atol=1e-6)


def test_shortest_distances_are_pymatgens() -> None:
    for batch in by_size(random_set(6, 20)).values():
        differences = batch.frac_coords.unsqueeze(1) - batch.frac_coords.unsqueeze(2)
        found = shortest_distances(differences, batch.cells)
        for row in range(len(batch)):
            structure = Structure(batch.cells[row].numpy(), batch.numbers[row].tolist(), batch.frac_coords[row].numpy())
            expected = structure.distance_matrix
            away = ~np.eye(len(structure), dtype=bool)
            assert np.allclose(found[row].numpy()[away], expected[away], atol=1e-4)
            assert found[row, 0, 0] == pytest.approx(min(structure.lattice.abc), abs=1e-4)


def test_larger_crystals_than_any_in_training_are_seen_as_the_largest() -> None:
    model = tiny_model("slots", DATA)
    denoiser = model.denoiser
    assert isinstance(denoiser, SlotDenoiser)
    assert int(denoiser.largest_size) == int(DATA.num_sites.max())
    assert int(denoiser.largest_count) == 2
    made = sample(model, [torch.full((70,), 11)], streams(0), FEW, ANYTHING)
    assert torch.isfinite(made[0][1]).all()


def test_volumes_of_elements_come_back() -> None:
    structures = random_set(7, 200)
    log_volumes = np.log(np.linspace(5, 40, 119))
    means = np.add.reduceat(log_volumes[structures.numbers], structures.offsets[:-1]) / structures.num_sites
    wanted = np.exp(means) * structures.num_sites
    scale = (wanted / np.abs(np.linalg.det(structures.cells.astype(float)))) ** (1 / 3)
    scaled = replace(structures, cells=(structures.cells * scale[:, None, None]).astype(np.float32))
    present = sorted(set(structures.numbers.tolist()))
    assert fit_log_volumes(scaled)[present] == pytest.approx(log_volumes[present], abs=0.1)


# Without a composition


@pytest.mark.parametrize("denoiser", ["slots", "unet"])
def test_compositions_are_drawn_from_the_training_data(denoiser: str) -> None:
    """Where a model must be told of one."""
    model = tiny_model(denoiser, DATA)
    made = sample_freely(model, streams(*range(20)), FEW, ANYTHING)
    known = {tuple(sorted(one.numbers.tolist())) for one in DATA}
    drawn = {tuple(sorted(numbers.tolist())) for numbers, _, _ in made}
    assert len(made) == 20
    assert len(drawn) > 3
    if denoiser == "slots":  # the untrained grid leaves atoms out
        assert drawn <= known


def test_an_unconditional_grid_makes_its_own() -> None:
    model = build("unet", TINY["unet"] | {"condition": "none"})
    model.fit(DATA)
    model.eval()
    made = sample_freely(model, streams(*range(6)), FEW, ANYTHING)
    again = sample_freely(model, streams(*range(6)), FEW, ANYTHING)
    assert [numbers.tolist() for numbers, _, _ in made] == [numbers.tolist() for numbers, _, _ in again]
    assert all(len(numbers) for numbers, _, _ in made)
    conditional = tiny_model("unet", DATA)
    assert isinstance(conditional, GridModel)
    with pytest.raises(ValueError, match="makes its own compositions"):
        sample(model, [torch.tensor([11, 17])], streams(0), FEW, ANYTHING)
    with pytest.raises(ValueError, match="conditional on counts"):
        conditional.sample_free(ANYTHING.expand(1, -1), streams(0), FEW)


@pytest.mark.parametrize("condition", ["none", "counts"])
def test_what_the_unet_is_told(condition: str) -> None:
    model = build("unet", TINY["unet"] | {"condition": condition})
    assert isinstance(model, GridModel)
    told = model.given(torch.tensor([[11, 11, 17]]))
    if condition == "none":
        assert told is None
    else:
        assert told is not None
        sodium, chlorine = [2, 0], [2, 3]
        assert told[0].nonzero().tolist() == [[0, *sodium], [0, *chlorine], [1, *sodium]]


def test_elements_that_know_nothing_of_each_other_are_denoised_by_bayes() -> None:
    """By brute force: the mean of many data, weighted by how likely each gives the noisy slot."""
    elements = IndependentElements(Grid(1, (2,), (14,)))
    generator = torch.Generator().manual_seed(0)
    data = 0.4 * torch.rand(40_000, 1, 1, 1, 3, generator=generator).square() + ORIGIN
    data[25_000:] += 0.5  # each coordinate tells of the two others
    data[:10_000] = -1.0
    elements.fit(data)
    assert elements.amounts[0].tolist() == pytest.approx([0.25, 0.75])
    for moment in (0.2, 0.5, 0.8):
        time = torch.tensor([moment])
        alpha, sigma = alpha_sigma(time)
        x = diffuse(data[12_345:12_346], torch.tensor([[[[[0.3, -0.4, 0.1]]]]]), time)
        weights = torch.softmax(-0.5 * ((x - alpha * data) / sigma).square().sum(-1).flatten(), 0)
        expected = (weights[:, None] * data.view(-1, 3)).sum(0)
        evidence = elements.evidence(x, time)
        mean, filled = elements.expected(evidence)
        assert torch.allclose(mean.flatten(), expected, atol=0.03)
        assert float(filled) == pytest.approx(float(weights[10_000:].sum()), abs=0.02)
        mean, filled = elements.expected(evidence, torch.zeros(1, 1, 1, 1))
        assert mean.flatten().tolist() == [-1.0] * 3
        assert float(filled) == 0.0
        doubts = torch.zeros(1, 1, 1, 1, BELIEFS)
        doubts[..., 0] = -200.0
        assert float(elements.expected(evidence, beliefs=doubts)[1]) < 1e-6
        there = torch.zeros(1, 1, 1, 1, BELIEFS)
        there[..., 0], there[..., 1], there[..., 1 + OCTANTS + 10 :: HALVES * BINS] = 900.0, 900.0, 900.0
        mean, filled = elements.expected(evidence, beliefs=there)
        assert float(filled) > 1 - 1e-6
        assert torch.allclose(mean, torch.zeros(3), atol=SPREAD)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 3), st.integers(0, 8))
def test_counts_given_their_sum_are_those_of_all_combinations(seed: int, things: int, most: int, largest: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.rand(2, things, most + 1, generator=generator).softmax(-1)
    sizes = torch.rand(largest + 1, generator=generator) + 0.01
    expected = torch.zeros_like(counts)
    for combination in itertools.product(range(most + 1), repeat=things):
        if sum(combination) <= largest:
            chosen = counts[:, range(things), combination]
            expected[:, range(things), combination] += (chosen.prod(-1) * sizes[sum(combination)]).unsqueeze(-1)
    expected /= expected.sum(-1, keepdim=True)
    assert torch.allclose(given_the_sum(counts, sizes), expected, atol=1e-5)


def test_the_unet_makes_crystals_of_as_many_atoms_as_the_data_have() -> None:
    """Already untrained, when it adds nothing: all have five atoms, of whatever elements."""
    mixed = random_set(3, 400)
    five = mixed.take(np.flatnonzero(mixed.num_sites == 5).tolist())
    model = build("unet", TINY["unet"] | {"condition": "none"})
    assert isinstance(model, GridModel)
    model.fit(five)
    made = sample_freely(model.eval(), streams(*range(40)), SampleSettings(steps=64), ANYTHING)
    assert sum(len(numbers) == 5 for numbers, _, _ in made) >= 38


def test_without_augmentation_the_order_of_atoms_is_of_no_account() -> None:
    model = build("unet", TINY["unet"] | {"augment": False})
    model.fit(DATA)
    batch = by_size(DATA)[5]
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    shuffled = replace(batch, numbers=batch.numbers[:, order], frac_coords=batch.frac_coords[:, order])
    with torch.no_grad():
        one, same = (float(model.loss(b, torch.Generator().manual_seed(0))["loss"]) for b in (batch, shuffled))
    assert one == pytest.approx(same, rel=1e-5)


@pytest.mark.slow
def test_an_unconditional_grid_learns_how_many_atoms_five_crystals_have() -> None:
    five = random_set(4, 5, elements=(3, 8, 17), most=1)
    config = TrainConfig(
        denoiser="unet",
        model={
            "network": {"width": 32, "blocks": 1, "head": 32, "dropout": 0.0},
            "depth": 1,
            "rows": [2, 3],
            "groups": [1, 16, 17],
            "condition": "none",
            "augment": False,
        },
        training=TrainingConfig(steps=400, sites=80, lr=2e-3, ema=0.98, precision="float32", accumulate=1),
    )
    trainer = Trainer(config, five.take(list(range(5)) * 8))
    for _ in range(config.training.steps):
        trainer.update()
    made = sample_freely(trainer.ema.eval(), streams(*range(60)), SampleSettings(steps=64), ANYTHING)
    wanted = {tuple(sorted(one.numbers.tolist())) for one in five}
    right = [tuple(sorted(numbers.tolist())) in wanted for numbers, _, _ in made]
    assert np.mean(right) > 0.6


# The generator


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_model(
        path, tiny_model("slots", DATA), {"config": {"denoiser": "slots", "model": TINY["slots"]}}, dtype=torch.bfloat16
    )
    return path


def test_the_generator_keeps_the_contract(file: Path) -> None:
    check_generator(UniMatGenerator(model=str(file), steps=3), "Na2Cl2")


def test_elements_that_the_model_never_saw_are_named(file: Path) -> None:
    made = list(UniMatGenerator(model=str(file), steps=3).generate(Composition("NaPo"), 2, seed=0))
    assert made == [FailedAttempt("the model has never seen Po")] * 2


@pytest.mark.parametrize(
    ("options", "says"),
    [({"near_hull": "near"}, "near_hull"), ({"steps": 0}, "steps"), ({"model": "nowhere"}, "there is no checkpoint")],
)
def test_wrong_options_are_named(file: Path, options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        UniMatGenerator(**({"model": str(file)} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (torch.eye(3) * torch.nan, "not finite"),
        (torch.eye(3) * 0.5, "cubic angstrom an atom"),
        (torch.diag(torch.tensor([0.2, 10.0, 10.0])), "thin"),
    ],
)
def test_what_is_no_crystal_is_a_reason(cell: torch.Tensor, says: str) -> None:
    made = as_structure((torch.tensor([11, 17]), torch.rand(2, 3), cell))
    assert isinstance(made, FailedAttempt)
    assert says in made.reason


# Batches


def test_an_epoch_shows_every_structure_once_and_batches_come_back() -> None:
    batches = Batches(DATA, sites=12, seed=3)
    epoch = [batches[index] for index in range(batches.per_epoch)]
    assert sum(map(len, epoch)) == len(DATA)
    assert all(batch.numbers.numel() <= 12 for batch in epoch)
    cells = torch.cat([batch.cells for batch in epoch])
    assert len(torch.unique(cells, dim=0)) == len(DATA)
    late = batches[batches.per_epoch + 2]
    assert torch.equal(Batches(DATA, sites=12, seed=3)[batches.per_epoch + 2].cells, late.cells)
    assert torch.equal(batches[1].cells, epoch[1].cells)
    with pytest.raises(ValueError, match="batches need structures"):
        Batches(DATA.take([]), sites=12, seed=3)


def test_cells_and_distances_are_exact_in_low_precision_too() -> None:
    batch = by_size(DATA)[4]
    differences = batch.frac_coords.unsqueeze(1) - batch.frac_coords.unsqueeze(2)

    def computed() -> tuple[torch.Tensor, ...]:
        vectors = cell_to_vector(batch.cells)
        return vectors, vector_to_cell(vectors), shortest_distances(differences, batch.cells)

    exact = computed()
    with torch.autocast("cpu", torch.bfloat16):
        low = computed()
    assert all(torch.equal(one, same) for one, same in zip(exact, low, strict=True))


def test_a_renewed_crystal_keeps_what_its_start_leaves() -> None:
    """Near time 1 almost nothing moves, by time 0 everything is forgotten; atoms and seeds are kept."""
    generator = UniMatGenerator(steps=20)
    made = list(generator.generate(Composition("Sr2Ti2O6"), 6, seed=0))
    structures = [one for one in made if isinstance(one, Structure)]
    assert len(structures) == 6

    def renewed(start: float, seed: int) -> list[Structure]:
        results = generator.renew(structures, [start] * 6, streams(*range(seed, seed + 6)))
        return [one for one in results if isinstance(one, Structure)]

    def found(others: list[Structure]) -> int:
        return sum(StructureMatcher().fit(a, b) for a, b in zip(structures, others, strict=True))

    assert all(one.composition == structures[0].composition for one in renewed(0.5, 7))
    assert renewed(0.5, 7) == renewed(0.5, 7)
    assert renewed(0.5, 7) != renewed(0.5, 17)
    assert found(renewed(0.95, 7)) == 6
    assert found(renewed(0.0, 7)) < 4


def test_a_renewed_crystal_does_not_depend_on_its_cell() -> None:
    """The same lattice by other vectors gives the same crystal: it is reduced first."""
    generator = UniMatGenerator(steps=10)
    structure = next(one for one in generator.generate(Composition("NaCl"), 1, seed=0) if isinstance(one, Structure))
    skewed = structure.copy()
    skewed.make_supercell([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    first, second = (generator.renew([one], [0.9], streams(3))[0] for one in (structure, skewed))
    assert isinstance(first, Structure)
    assert isinstance(second, Structure)
    assert first.lattice.parameters == pytest.approx(second.lattice.parameters, abs=0.02)
    assert StructureMatcher().fit(first, second)


def test_only_a_model_with_a_path_renews(tmp_path: Path) -> None:
    file = tmp_path / "unet.safetensors"
    header = {"config": {"denoiser": "unet", "model": TINY["unet"]}}
    save_model(file, tiny_model("unet", DATA), header, dtype=torch.float32)
    generator = UniMatGenerator(model=str(file))
    with pytest.raises(ValueError, match="slots model can"):
        generator.renew([], [], streams())


def test_overlapping_atoms_are_no_sound_sample() -> None:
    cell = torch.eye(3) * 4.0

    def sound(numbers: list[int], places: list[list[float]], cell: torch.Tensor = cell) -> bool:
        return is_sound((torch.tensor(numbers), torch.tensor(places), cell))

    assert sound([11, 17], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    assert not sound([11, 11], [[0.1, 0, 0], [0.1, 0, 0]])
    assert not sound([11, 17], [[0.99, 0, 0], [0.2, 0, 0]]), "across the face: 0.84 angstrom"
    assert sound([1, 1], [[0.99, 0, 0], [0.18, 0, 0]]), "0.76 angstrom: molecular hydrogen"
    assert not sound([11], [[np.nan, 0, 0]])
    assert not sound([11], [[0.0, 0, 0]], torch.diag(torch.tensor([0.8, 9.0, 9.0]))), "its own image"


def test_samples_that_are_not_sound_are_drawn_again() -> None:
    """Few steps leave atoms on each other; retries draw these alone anew, whatever stands beside them."""
    compositions = [torch.tensor([56, 28, 28, 15, 15, *[8] * 8])] * 12
    once, again = (UniMatGenerator(steps=3, retries=retries) for retries in (0, 8))
    first, second = (generator.sample(compositions, streams(*range(12))) for generator in (once, again))
    bad = [row for row, one in enumerate(first) if not is_sound(one)]
    assert 0 < len(bad) < 12
    assert sum(not is_sound(one) for one in second) < len(bad)
    for row in set(range(12)) - set(bad):
        assert torch.equal(first[row][1], second[row][1])
    alone = again.sample(compositions[:1], streams(bad[0]))[0]
    assert torch.allclose(alone[1], second[bad[0]][1], atol=1e-4)
    with pytest.raises(ValueError, match="retries must be 0 or more, got -1"):
        UniMatGenerator(retries=-1)
