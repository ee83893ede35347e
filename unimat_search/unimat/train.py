"""The trainer: one loop for every model, that can be stopped and gone on with at any step."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unimat_search.disk import whole
from unimat_search.locks import owned
from unimat_search.records import first_line
from unimat_search.unimat.batches import Batch, Batches
from unimat_search.unimat.checkpoint import (
    MODEL,
    PRIOR,
    begin_with,
    build,
    denoiser_class,
    load,
    load_model,
    part,
    restore,
    save,
    save_model,
)
from unimat_search.unimat.model import CrystalModel, has_bf16, usable_device
from unimat_search.unimat.optimizers import make_optimizers, optimizer_tensors, rate, restore_optimizers
from unimat_search.unimat.structures import StructureSet
from unimat_search.unimat.tables import at_least_one, from_table, to_table
from unimat_search.unimat.training_data import (
    DataConfig,
    find_placements,
    lacking_packages,
    training_sets,
    with_symmetry,
)

CHECKPOINT, LOG = "checkpoint.safetensors", "log.csv"


@dataclass(frozen=True)
class TrainingConfig:
    """How it is trained.

    Attributes:
        steps: Updates of the weights in all.
        sites: Sites in a batch.
        accumulate: Batches in an update.
        optimizer: adam, adamw or muon.
        lr: Highest learning rate.
        betas: Of Adam.
        weight_decay: Per unit of learning rate.
        warmup: Steps of linear warm-up.
        decay: Share of the steps, at the end, over which the rate falls to zero.
        clip: Largest norm of the gradient.
        ema: Decay of the weights' moving average, approached from below in the first steps.
        precision: "bf16", "float32", or "auto": bf16 where the device computes in it.
        seed: Of everything random.
        log_every: Steps between rows of the log.
        validate_every: Steps between validations.
        save_every: Seconds between checkpoints.
    """

    steps: int = 10_000
    sites: int = 2000
    accumulate: int = 2
    optimizer: str = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    warmup: int = 100
    decay: float = 0.3
    clip: float = 1.0
    ema: float = 0.999
    precision: str = "auto"
    seed: int = 0
    log_every: int = 20
    validate_every: int = 500
    save_every: float = 300.0

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "sites", "accumulate", "log_every", "validate_every", where="training")
        if self.precision not in ("auto", "bf16", "float32"):
            raise ValueError(f"training.precision must be auto, bf16 or float32, got {self.precision!r}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"training.{name} must be positive, got {getattr(self, name)}")
        for name in ("ema", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"training.{name} must be 0 to 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"training.seed must be from 0 to 2^63 - 1, got {self.seed}")


@dataclass(frozen=True)
class TrainConfig:
    """A whole run: the denoiser's name and settings, the data and the training."""

    denoiser: str = "slots"
    model: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


Score = Callable[[CrystalModel, StructureSet], dict[str, float]]
"""Further columns of a validation, from the averaged model and the structures set aside."""


class Trainer:
    """A model, its average, its optimizers and how far they are.

    Args:
        config: Of the run.
        train: What to train on.
        device: Where.
        init: A trained model whose weights are begun with.

    Raises:
        ValueError: If the model to begin with is none, or is of another kind or size.
    """

    def __init__(
        self, config: TrainConfig, train: StructureSet, *, device: str = "cpu", init: Path | None = None
    ) -> None:
        self.config, self.device = config, usable_device(device)
        training = config.training
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.model = build(config.denoiser, config.model)
        self.model.fit(train)
        if init:
            begin_with(self.model, init)
        self.model.to(self.device)
        self.ema = deepcopy(self.model).eval()
        self.optimizers = make_optimizers(
            self.model, training.optimizer, lr=training.lr, weight_decay=training.weight_decay, betas=training.betas
        )
        self.batches = Batches(train, sites=training.sites, seed=training.seed)
        self.autocast = training.precision == "bf16" or (training.precision == "auto" and has_bf16(self.device))
        self.step = 0
        self.data_sha256 = train.sha256
        self.rank, self.ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.parallel: nn.Module = self.model
        if self.ranks > 1:
            self.parallel = nn.parallel.DistributedDataParallel(self.model, broadcast_buffers=False)

    def update(self) -> dict[str, float]:
        """One step; the losses averaged over its batches."""
        training = self.config.training
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = training.lr * rate(
                    self.step, steps=training.steps, warmup=training.warmup, decay=training.decay
                )
        sums: dict[str, float] = {}
        total = 0.0
        for turn in range(training.accumulate):
            index = (self.step * training.accumulate + turn) * self.ranks + self.rank
            batch = self.batches[index].to(self.device)
            losses = self._losses(self.parallel, batch, index)
            share = batch.numbers.numel() / (training.sites * training.accumulate)
            (losses["loss"] * share).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * share
            total += share
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), training.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self._average(min(training.ema, self.step / (self.step + 10)))
        return {name: value / total for name, value in sums.items()} | {"gradient": float(norm)}

    @torch.no_grad()
    def validate(self, structures: StructureSet) -> dict[str, float]:
        """The averaged model's losses, with the same noise each time."""
        sums: dict[str, float] = {}
        batches = Batches(structures, sites=self.config.training.sites, seed=self.config.training.seed)
        for index in range(batches.per_epoch):
            batch = batches[index].to(self.device)
            for name, value in self._losses(self.ema, batch, -1 - index).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch)
        return {f"validation_{name}": value / len(structures) for name, value in sums.items()}

    def _losses(self, model: nn.Module, batch: Batch, index: int) -> dict[str, Tensor]:
        """Losses of a batch with the noise of its number (validation's are negative)."""
        key = [self.config.training.seed, max(index, 0), max(-index, 0)]
        noise_seed, dropout_seed = np.random.SeedSequence(key).generate_state(2).tolist()
        generator = torch.Generator(self.device).manual_seed(noise_seed)
        forked = [] if self.device.type == "cpu" else [self.device]
        with (
            torch.random.fork_rng(forked),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast),
        ):
            torch.manual_seed(dropout_seed)
            losses: dict[str, Tensor] = model(batch, generator)
        return losses

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def any_stops(self, stop: bool) -> bool:
        """Whether any process wants to stop: then all do."""
        if self.ranks == 1:
            return stop
        wish = torch.tensor(float(stop), device=self.device)
        torch.distributed.all_reduce(wish, torch.distributed.ReduceOp.MAX)
        return bool(wish)

    def save(self, path: Path) -> None:
        """Write all that going on needs."""
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        tensors |= {f"ema.{key}": value for key, value in self.ema.state_dict().items()}
        tensors |= {f"optimizer.{key}": value for key, value in optimizer_tensors(self.optimizers).items()}
        save(path, tensors, {"config": to_table(self.config), "step": self.step, **self.same_run()})

    def same_run(self) -> dict[str, Any]:
        """What must not change within a run: everything that its curve depends on but its length."""
        training = to_table(self.config.training)
        free = ("steps", "decay", "log_every", "validate_every", "save_every")
        return {
            "data_sha256": self.data_sha256,
            "processes": self.ranks,
            "denoiser": self.config.denoiser,
            "model": self.config.model,
            "training": {name: value for name, value in training.items() if name not in free},
        }

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of the same run.

        Raises:
            ValueError: If the checkpoint is of other data, another model or other settings; it names what differs.
        """
        tensors, header = load(path)
        for name, value in json.loads(json.dumps(self.same_run())).items():
            if header.get(name) != value:
                raise ValueError(f"{path} is of another run: its {name} differs; choose another folder")
        try:
            restore(self.model, part(tensors, "model"))
            restore(self.ema, part(tensors, "ema"))
            restore_optimizers(self.optimizers, part(tensors, "optimizer"))
        except (RuntimeError, KeyError, ValueError, IndexError) as error:
            raise ValueError(f"{path} is of another version: {first_line(error)}") from error
        self.step = int(header["step"])


def run(
    trainer: Trainer,
    validation: StructureSet,
    out: Path,
    *,
    max_minutes: float = math.inf,
    score: Score | None = None,
    say: Callable[[str], None] = print,
    watch: Callable[[dict[str, float]], None] | None = None,
) -> bool:
    """Train until the last step, the time limit or ctrl-C, saving as it goes.

    Args:
        trainer: At any step.
        validation: For the validation losses; may be empty.
        out: Folder of the log, the checkpoint and the model.
        max_minutes: Stop then.
        score: Further columns at each validation.
        say: Takes a line of progress.
        watch: Takes each row of the log.

    Returns:
        Whether the last step was reached.
    """
    training = trainer.config.training
    if trainer.rank == 0:
        cut_log(out / LOG, trainer.step)
    began = saved = time.monotonic()
    seen = 0
    with interruptible() as stopped:
        while trainer.step < training.steps:
            if trainer.any_stops(stopped() or time.monotonic() - began >= 60 * max_minutes):
                break
            losses = trainer.update()
            seen += 1
            last = trainer.step == training.steps
            validated = len(validation) > 0 and (last or trainer.step % training.validate_every == 0)
            if not (validated or last or trainer.step % training.log_every == 0):
                continue
            row = {"step": float(trainer.step), **losses}
            if trainer.rank == 0:
                if validated:
                    row |= trainer.validate(validation) | (score(trainer.ema, validation) if score else {})
                row["seconds_a_step"] = (time.monotonic() - began) / seen
                append_row(out / LOG, row)
                say("  ".join([_pace(trainer, began, seen), *(f"{name} {value:.4g}" for name, value in row.items())]))
                if watch:
                    watch(row)
                if time.monotonic() - saved > training.save_every:
                    trainer.save(out / CHECKPOINT)
                    saved = time.monotonic()
    if trainer.rank == 0:
        trainer.save(out / CHECKPOINT)
    return trainer.step >= training.steps


def _pace(trainer: Trainer, began: float, seen: int) -> str:
    """How far it is, and how long it will take."""
    steps = trainer.config.training.steps
    left = (time.monotonic() - began) / seen * (steps - trainer.step) / 60
    return f"of {steps}, {left:.1f} min left:"


def export(trainer: Trainer, path: Path, header: dict[str, Any]) -> None:
    """Write the averaged model alone, to sample from."""
    config = to_table(trainer.config)
    save_model(path, trainer.ema, {"config": config, "step": trainer.step, **header}, dtype=torch.bfloat16)


def train_run(
    config: TrainConfig,
    out: Path,
    *,
    data_dir: Path | None = None,
    init: Path | None = None,
    max_minutes: float = math.inf,
    device: str = "cpu",
    score: Score | None = None,
    watch: Callable[[dict[str, float]], None] | None = None,
    say: Callable[[str], None] = print,
) -> bool:
    """Train in a folder, from the checkpoint in it if there is one; write the model.

    Args:
        config: Of the run.
        out: Folder of the run.
        data_dir: Where public sets lie.
        init: A model file, or a run's folder, whose weights a new run begins with.
        max_minutes: See `run`.
        device: Where.
        score: See `run`.
        watch: See `run`.
        say: Takes lines of progress.

    Returns:
        Whether the last step was reached.

    Raises:
        ValueError: If the settings or the data are wrong, or the checkpoint is of another model.
    """
    if int(os.environ.get("RANK", "0")):
        say, watch = _nothing, None
    if init:
        load_model(init)  # a wrong file is to be said before minutes are spent on the data
    with processes(device) as mine, ExitStack() as stack:
        train, validation = training_sets(config.data, data_dir, seed=config.training.seed)
        aside = f"{len(validation)} set aside (whole compositions)"
        say(f"{len(train)} structures to train on, {aside}; sha256 {train.sha256[:16]}")
        symmetric = denoiser_class(config.denoiser).uses_symmetry
        if symmetric:
            train, validation = (with_symmetry(one, say=say) for one in (train, validation))
        trainer = Trainer(config, train, device=mine, init=init)
        if trainer.rank == 0:
            stack.enter_context(owned(out))
        if (out / CHECKPOINT).exists():
            trainer.restore(out / CHECKPOINT)
            say(f"going on at step {trainer.step}")
        if symmetric and trainer.ranks == 1:
            keep_prior(train, out, seed=config.training.seed, say=say)
        finished = run(trainer, validation, out, max_minutes=max_minutes, score=score, say=say, watch=watch)
        if trainer.rank == 0:
            export(trainer, out / MODEL, {"data_sha256": train.sha256, "structures": len(train)})
            if symmetric:
                keep_prior(train, out, seed=config.training.seed, say=say)
    return finished


def keep_prior(train: StructureSet, out: Path, *, seed: int, say: Callable[[str], None]) -> None:
    """Learn which placements the data have, once for the same data, and keep it beside the model."""
    if lacking_packages() or ((out / PRIOR).exists() and load(out / PRIOR)[1].get("data_sha256") == train.sha256):
        return
    from unimat_search.unimat.prior import learn_prior, save_prior

    say("learning which space groups and sites compositions have")
    placements = find_placements(train)
    if placements:
        prior = learn_prior(placements, seed=seed, say=say)
        save_prior(prior, out / PRIOR, {"data_sha256": train.sha256, "placements": len(placements)})


def _nothing(_: str) -> None:
    """Says nothing."""


def read_config(file: Path, *, steps: int | None = None) -> TrainConfig:
    """The settings of a run from a TOML file, maybe with other steps than it says.

    Raises:
        ValueError: If the file is no TOML, or a setting is unknown or wrong.
    """
    try:
        with file.open("rb") as opened:
            config = from_table(TrainConfig, tomllib.load(opened))
    except OSError as error:
        raise ValueError(f"{file} can't be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file} is not TOML: {error}") from error
    return replace(config, training=replace(config.training, steps=steps)) if steps else config


COLUMNS = (
    "step",
    *("loss", "coords", "cell", "gradient"),
    *("validation_loss", "validation_coords", "validation_cell", "match_rate"),
    "seconds_a_step",
)


def cut_log(path: Path, step: int) -> None:
    """Drop what a run wrote after the step that it goes on from."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with whole(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row for row in rows if float(row["step"]) <= step)


def append_row(path: Path, row: dict[str, float]) -> None:
    """Add a row to a CSV file of `COLUMNS`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        if new:
            writer.writeheader()
        writer.writerow({name: f"{value:.6g}" for name, value in row.items()})


@contextmanager
def processes(device: str) -> Iterator[str]:
    """Joins the processes that torchrun started, if it did; yields this one's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" else device
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turns ctrl-C and a polite kill into a question: was there one?"""
    caught: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _: caught.append(got)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
