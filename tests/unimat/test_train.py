from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from tests.unimat.crystals import TINY, random_set, tiny_model
from unimat_search.unimat.checkpoint import MODEL, PRIOR, load, load_model, save, save_model
from unimat_search.unimat.optimizers import OPTIMIZERS, rate
from unimat_search.unimat.sources import read_source, write_parquet
from unimat_search.unimat.train import (
    CHECKPOINT,
    LOG,
    TrainConfig,
    Trainer,
    TrainingConfig,
    append_row,
    keep_prior,
    read_config,
    run,
    train_run,
)
from unimat_search.unimat.training_data import DataConfig, training_sets, with_symmetry

DATA, ASIDE = random_set(5, 60), random_set(6, 10)
FAST = TrainingConfig(steps=8, sites=30, log_every=1, validate_every=4, warmup=2, precision="float32", lr=3e-3)


def quiet(_: str) -> None:
    pass


def config(denoiser: str = "slots", **training: Any) -> TrainConfig:
    return TrainConfig(denoiser=denoiser, model=TINY[denoiser], training=replace(FAST, **training))


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / LOG).open() as file:
        return [{k: v for k, v in row.items() if k != "seconds_a_step"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("denoiser", TINY)
def test_a_run_resumed_is_the_run_uninterrupted(denoiser: str, optimizer: str, tmp_path: Path) -> None:
    whole = Trainer(config(denoiser, optimizer=optimizer), DATA)
    assert run(whole, ASIDE, tmp_path / "whole", say=quiet)
    first = Trainer(config(denoiser, optimizer=optimizer), DATA)
    for _ in range(3):
        first.update()
    first.save(tmp_path / "halves" / CHECKPOINT)
    second = Trainer(config(denoiser, optimizer=optimizer), DATA)
    second.restore(tmp_path / "halves" / CHECKPOINT)
    append_row(tmp_path / "halves" / LOG, {"step": 3.0, "loss": 1.0})
    append_row(tmp_path / "halves" / LOG, {"step": 4.0, "loss": 9.0})  # after the checkpoint, before the kill
    assert run(second, ASIDE, tmp_path / "halves", say=quiet)
    assert curve(tmp_path / "halves")[1:] == curve(tmp_path / "whole")[3:]
    assert curve(tmp_path / "whole")[3]["validation_loss"]
    for one, same in zip(whole.ema.parameters(), second.ema.parameters(), strict=True):
        assert torch.equal(one, same)


@pytest.mark.parametrize("denoiser", TINY)
def test_the_loss_falls(denoiser: str, tmp_path: Path) -> None:
    few = DATA.take([0, 1, 2] * 10)
    trainer = Trainer(config(denoiser, steps=60, ema=0.9), few)
    before = trainer.validate(few)["validation_loss"]
    run(trainer, DATA.take([]), tmp_path, say=quiet)
    assert trainer.validate(few)["validation_loss"] < 0.9 * before


def test_a_time_limit_stops_and_the_rest_follows(tmp_path: Path) -> None:
    trainer = Trainer(config(), DATA)
    assert not run(trainer, ASIDE, tmp_path, max_minutes=0.0, say=quiet)
    assert trainer.step == 0
    again = Trainer(config(), DATA)
    again.restore(tmp_path / CHECKPOINT)
    assert run(again, ASIDE, tmp_path, say=quiet)


def test_an_interruption_saves(tmp_path: Path) -> None:
    trainer = Trainer(config(steps=10_000), DATA)

    def interrupt(_: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    assert not run(trainer, ASIDE, tmp_path, say=quiet, watch=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / CHECKPOINT).exists()
    assert trainer.step == 1


def test_a_checkpoint_of_another_run_is_refused_but_not_of_another_length(tmp_path: Path) -> None:
    Trainer(config(), DATA).save(tmp_path / CHECKPOINT)
    for other, data, what in (
        (config("unet"), DATA, "denoiser"),
        (config(), DATA.take(range(50)), "data_sha256"),
        (config(optimizer="adam"), DATA, "training"),
        (config(seed=1), DATA, "training"),
    ):
        with pytest.raises(ValueError, match=f"is of another run: its {what} differs"):
            Trainer(other, data).restore(tmp_path / CHECKPOINT)
    Trainer(config(steps=100, decay=0.1), DATA).restore(tmp_path / CHECKPOINT)


def test_the_noise_depends_on_seed_batch_and_purpose() -> None:
    def losses(seed: int, index: int) -> float:
        trainer = Trainer(config(seed=seed), DATA)
        with torch.no_grad():
            return float(trainer._losses(first.model, batch, index)["loss"])

    first = Trainer(config(), DATA)
    batch = first.batches[0]
    found = [losses(0, 0), losses(0, 1), losses(3, 0), losses(0, -1), losses(20240101, 0)]
    assert len(set(found)) == len(found)
    assert found[0] == losses(0, 0)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"training": {"steps": 0}}, "training.steps must be at least 1, got 0"),
        ({"training": {"precision": "fp8"}}, "training.precision must be"),
        ({"training": {"lr": -1.0}}, "training.lr must be positive"),
        ({"training": {"rate": 1.0}}, "unknown setting training.rate"),
        ({"training": {"seed": -1}}, "training.seed must be from 0"),
        ({"training": {"clip": 0.0}}, "training.clip must be positive"),
        ({"training": {"ema": 1.5}}, "training.ema must be 0 to 1"),
        ({"training": {"betas": [0.9]}}, "training.betas must have 2 values"),
        ({"training": {"betas": ["a", "b"]}}, "training.betas must be float"),
        ({"training": 3}, "training must be a table"),
        ({"model": "slots"}, "model must be dict"),
        ({"model": {"network": 3}}, "model.network must be a table"),
        ({"model": {"network": {"width": 100, "heads": 8}}}, "width must be a multiple of heads"),
        (
            {"denoiser": "unet", "model": {"network": {"width": 56, "head": 16}}},
            "width must be a multiple of 8 and of head",
        ),
        ({"data": {"train": "mp_20"}}, "data.train must be a list"),
        ({"denoiser": "net"}, "no denoiser 'net'"),
        ({"training": {"optimizer": "sgd"}}, "no optimizer 'sgd'"),
        ({"data": {"train": ["nowhere.parquet"]}}, "there is no data 'nowhere.parquet'"),
        ({"data": {"train": []}}, "data.train names no set"),
        ({"data": {"train": ["DATA"], "share": 1e-9}}, "no structure is left to train on"),
    ],
)
def test_wrong_settings_are_named_and_nothing_is_written(table: dict[str, Any], says: str, tmp_path: Path) -> None:
    write_parquet(DATA, tmp_path / "data.parquet")
    file = tmp_path / "run.toml"
    data = {"train": [str(tmp_path / "data.parquet")], "validation": 10}
    whole = {"model": TINY["slots"], "data": data} | table
    file.write_text(tomli_w.dumps(whole).replace("DATA", str(tmp_path / "data.parquet")))
    with pytest.raises(ValueError, match=says):
        train_run(read_config(file), tmp_path / "out", say=quiet)
    assert not (tmp_path / "out").exists()


def settings_file(folder: Path, **data: Any) -> Path:
    write_parquet(DATA, folder / "data.parquet")
    table = {
        "model": TINY["slots"],
        "data": {"train": [str(folder / "data.parquet")], "validation": 10, **data},
        "training": {"steps": 6, "sites": 30, "log_every": 1, "validate_every": 3},
    }
    file = folder / "run.toml"
    file.write_text(tomli_w.dumps(table))
    return file


def test_a_run_from_a_file_can_be_sampled_and_lengthened(tmp_path: Path) -> None:
    file = settings_file(tmp_path)
    assert train_run(read_config(file), tmp_path / "run", say=quiet)
    model, header = load_model(tmp_path / "run" / MODEL)
    assert header["step"] == 6
    assert header["structures"] < len(DATA)
    assert load_model(tmp_path / "run")[1] == header, "the run's folder means its model"
    assert len(header["data_sha256"]) == 64
    assert train_run(read_config(file, steps=9), tmp_path / "run", say=quiet)
    assert [row["step"] for row in curve(tmp_path / "run")] == [str(step) for step in range(1, 10)]
    assert sum(int(size) for size in model.composition_sizes) == len(model.composition_numbers)


def test_held_out_compositions_are_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "held.csv").write_text("reduced_formula\nNaCl\nLi2O\n")
    said: list[str] = []
    file = settings_file(tmp_path, hold_out=str(tmp_path / "held.csv"), validation=0)
    train_run(read_config(file), tmp_path / "run", say=said.append)
    held = {((11, 1), (17, 1)), ((3, 2), (8, 1))}
    usable = read_source(str(tmp_path / "data.parquet")).structures
    left = sum(key not in held for key in usable.keys)
    assert left < len(usable)
    assert said[0].startswith(f"{left} structures to train on, 0 set aside")


def test_compositions_of_a_set_are_held_out(tmp_path: Path) -> None:
    """As the weights that ship hold those of MP-20's test split out: by name, without a list of formulas."""
    usable = read_source(str(settings_file(tmp_path).with_name("data.parquet"))).structures
    (tmp_path / "mp_20").mkdir()
    test = usable.take(range(0, len(usable), 3))
    write_parquet(test, tmp_path / "mp_20" / "test.parquet")
    data = DataConfig(train=(str(tmp_path / "data.parquet"),), hold_out="mp_20/test", validation=0)
    train, _ = training_sets(data, tmp_path, seed=0)
    assert set(train.keys) == set(usable.keys) - set(test.keys)


def test_held_out_structures_and_hollow_ones_are_not_trained_on(tmp_path: Path) -> None:
    usable = read_source(str(settings_file(tmp_path).with_name("data.parquet"))).structures
    held = usable.take(range(0, len(usable), 2))
    write_parquet(held, tmp_path / "held.parquet")
    swollen = replace(usable, cells=usable.cells.copy())
    swollen.cells[1] *= 3
    write_parquet(swollen, tmp_path / "data.parquet")
    data = DataConfig(
        train=(str(tmp_path / "data.parquet"),),
        hold_out_sets=(str(tmp_path / "held.parquet"),),
        validation=0,
        largest_volume=5.0,
    )
    train, aside = training_sets(data, None, seed=0)
    assert not len(aside)
    assert set(train.ids) == set(usable.ids) - set(held.ids) - {usable.ids[1]}


def test_a_share_and_small_cells_alone_can_be_trained_on(tmp_path: Path) -> None:
    write_parquet(DATA, tmp_path / "data.parquet")
    source = (str(tmp_path / "data.parquet"),)
    whole, aside = training_sets(DataConfig(train=source, validation=10), None, seed=0)
    half, same = training_sets(DataConfig(train=source, validation=10, share=0.5), None, seed=0)
    assert same.ids == aside.ids
    assert set(half.ids) < set(whole.ids)
    assert len(half) == pytest.approx(len(whole) / 2, abs=8)
    small, _ = training_sets(DataConfig(train=source, validation=0, max_sites=4), None, seed=0)
    assert small.num_sites.max() <= 4
    with pytest.raises(ValueError, match=r"data\.share must be"):
        DataConfig(share=0.0)


def test_an_empty_list_of_held_out_formulas_is_refused(tmp_path: Path) -> None:
    for content in ("", "reduced_formula\n", "formula\nNaCl\n"):
        (tmp_path / "held.csv").write_text(content)
        config = read_config(settings_file(tmp_path, hold_out=str(tmp_path / "held.csv")))
        with pytest.raises(ValueError, match="holds no formula in a column reduced_formula"):
            train_run(config, tmp_path / "run", say=quiet)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    rates = [rate(step, steps=100, warmup=10, decay=0.2) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == pytest.approx([1.0] * 72)
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0.0
    assert math.isclose(rate(5, steps=10, warmup=0, decay=0.0), 1.0)


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path: Path) -> None:
    file = settings_file(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "unimat_search", "train"]
    done = subprocess.run([*command, str(file), "--out", str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(curve(tmp_path / "run")) == 6
    load_model(tmp_path / "run" / MODEL)


def test_training_and_sampling_import_nothing_that_a_bare_gpu_machine_lacks() -> None:
    code = (
        "import sys, unimat_search.unimat.train, unimat_search.unimat.sample; "
        "print(*({'pymatgen', 'ase', 'chgnet', 'spglib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_bare_machine_trains_without_space_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMAT_SEARCH_CACHE", str(tmp_path / "cache"))
    for module in ("train", "training_data"):
        monkeypatch.setattr(f"unimat_search.unimat.{module}.lacking_packages", lambda: "spglib")
    said: list[str] = []
    assert train_run(read_config(settings_file(tmp_path)), tmp_path / "run", say=said.append)
    assert "space groups are left out: spglib is not installed" in said
    assert not (tmp_path / "run" / PRIOR).exists()


def test_space_groups_are_looked_for_once_and_damaged_files_of_them_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIMAT_SEARCH_CACHE", str(tmp_path))
    said: list[str] = []
    first = with_symmetry(DATA, say=said.append)
    again = with_symmetry(DATA, say=said.append)
    assert said == ["looking for the space groups of 60 structures"]
    assert first.symmetry is not None
    assert again.symmetry is not None
    assert (first.symmetry.owner == again.symmetry.owner).all()
    (file,) = (tmp_path / "symmetry").iterdir()
    file.write_bytes(b"nothing")
    assert with_symmetry(DATA, say=said.append).symmetry is not None
    assert len(said) == 2


def test_a_prior_of_other_data_is_learnt_anew(tmp_path: Path) -> None:
    for seed in (1, 2):
        data = with_symmetry(random_set(seed, 10), say=quiet)
        keep_prior(data, tmp_path, seed=0, say=quiet)
        assert load(tmp_path / PRIOR)[1]["data_sha256"] == data.sha256


def test_a_run_begins_with_the_weights_of_another_model(tmp_path: Path) -> None:
    train_run(read_config(settings_file(tmp_path)), tmp_path / "first", say=quiet)
    old, _ = load_model(tmp_path / "first")
    settings = read_config(settings_file(tmp_path))
    data = random_set(9, 30, elements=(8, 26))
    trainer = Trainer(settings, data, init=tmp_path / "first")
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, dict(old.named_parameters())[name]), name
    assert torch.equal(trainer.model.cell_std, old.cell_std), "weights keep the scales that they were trained with"
    assert trainer.model.seen_compositions() == old.seen_compositions() | set(data.keys)
    assert trainer.model.seen_elements[[26, 8]].all()
    assert (trainer.model.seen_elements | old.seen_elements).equal(trainer.model.seen_elements)


def test_what_an_older_model_lacks_starts_without_effect(tmp_path: Path) -> None:
    """A file from before space groups were told gives the same velocities as it did."""
    model = tiny_model("slots", DATA)
    for name, parameter in model.named_parameters():
        if name in model.neutral:
            torch.nn.init.zeros_(parameter)
    header = {"config": {"denoiser": "slots", "model": TINY["slots"]}}
    tensors = {name: one for name, one in model.state_dict().items() if name not in model.neutral}
    save(tmp_path / "old.safetensors", tensors, header)
    again, _ = load_model(tmp_path / "old.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(again.named_parameters())[name]), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"denoiser": "unet"}, "a slots model; the settings name another denoiser"),
        ({"model": {"network": {**TINY["slots"]["network"], "width": 64}}}, "has a network of another size"),
    ],
)
def test_a_model_that_does_not_fit_is_not_begun_with(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    header = {"config": {"denoiser": "slots", "model": TINY["slots"]}}
    save_model(tmp_path / "old.safetensors", tiny_model("slots", DATA), header, dtype=torch.float32)
    wanted = TrainConfig(**{"denoiser": "slots", "model": TINY[settings.get("denoiser", "slots")], **settings})
    with pytest.raises(ValueError, match=message):
        Trainer(wanted, DATA, init=tmp_path / "old.safetensors")
