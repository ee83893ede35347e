"""What to train: variants of the slots model, each trained for the same core time from the same data, then compared.

python -m benchmarks.ablations --data-dir DATA                             # from random weights
python -m benchmarks.ablations --data-dir DATA --init MODEL --variant ...  # from the weights of a model

All variants are timed first, in turns; each then gets as many updates as fit into the time, with the learning rate
falling over the last two fifths. Compositions set aside: the losses of `train`, and the share of samples that match the
known structure (StructureMatcher 0.3, 0.5, 10, before relaxing) held to nothing and told the true space group and
sites, these also for new prototypes (see symmetry.py). Errors are standard errors over the crystals.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.symmetry import Known, kind, known_prototypes, new_prototypes, outcomes
from unimat_search.unimat.checkpoint import prior_of
from unimat_search.unimat.prior import PlacementPrior, load_prior
from unimat_search.unimat.sample import shipped_weights
from unimat_search.unimat.slot_model import SlotModel
from unimat_search.unimat.structures import StructureSet
from unimat_search.unimat.train import TrainConfig, Trainer, read_config
from unimat_search.unimat.training_data import find_placements, training_sets, with_symmetry

CONFIG = Path(__file__).parent.parent / "docs" / "training" / "slots-symmetric.toml"
TIMED = 4
"""Updates of each variant that are timed, in turns."""

VARIANTS: Mapping[str, dict[str, Any]] = {
    "as it ships": {},
    "no symmetry told": {"symmetric_rate": 0.0},
    "a quarter held": {"symmetric_rate": 0.25},
    "three quarters held": {"symmetric_rate": 0.75},
    "properties dropped for 0.3": {"drop_rate": 0.3},
    "dropout 0.1": {"network": {"dropout": 0.1}},
    "coordinates weigh 30": {"coords_weight": 30.0},
    "width 384": {"network": {"width": 384}},
    "width 192": {"network": {"width": 192}},
    "4 layers": {"network": {"layers": 4}},
    "8 layers": {"network": {"layers": 8}},
    "4 frequencies": {"network": {"frequencies": 4}},
    "noise not assigned": {"assign": False},
}


@click.command()
@click.option("--data-dir", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--init", type=click.Path(exists=True, path_type=Path), help="Weights to begin with.")
@click.option("--minutes", default=8.0, show_default=True, help="Core minutes that each is trained for.")
@click.option("--count", default=400, show_default=True, help="Compositions set aside that are sampled.")
@click.option("--lr", default=1e-3, show_default=True)
@click.option("--variant", "names", multiple=True, type=click.Choice(list(VARIANTS)), help="[default: all]")
@click.option("--seed", default=0, show_default=True)
def main(
    data_dir: Path, init: Path | None, minutes: float, count: int, lr: float, names: Sequence[str], seed: int
) -> None:
    """Print one row for each variant."""
    base = read_config(CONFIG)
    train, aside = (with_symmetry(one) for one in training_sets(base.data, data_dir, seed=0))
    prior = load_prior(prior_of(shipped_weights()))[0]
    new = new_prototypes(data_dir, {kind(one) for one in find_placements(train)}, prior)
    known = known_prototypes(aside, prior, count, seed)
    chosen = {name: VARIANTS[name] for name in names or VARIANTS}
    configs = {name: varied(base, model, 1000, lr, seed) for name, model in chosen.items()}
    costs = seconds_an_update(configs, train, init)
    print(f"{minutes:g} core minutes each; {len(known)} known and {len(new)} new prototypes")
    print("| | million weights | updates | coords | cell | match % | told, known % | told, new % |\n|" + "---|" * 8)
    for name, model in chosen.items():
        updates = max(2, round(60 * minutes / costs[name]))
        trainer = Trainer(varied(base, model, updates, lr, seed), train, init=init)
        for _ in range(updates):
            trainer.update()
        print(f"| {name} | " + " | ".join(row(trainer, aside, known, new, prior, seed)) + " |", flush=True)


def varied(base: TrainConfig, model: dict[str, Any], updates: int, lr: float, seed: int) -> TrainConfig:
    """The settings with some of the model's changed, for so many updates."""
    network = {**base.model.get("network", {}), **model.get("network", {})}
    training = replace(base.training, steps=updates, warmup=min(20, updates // 4), ema=0.98, lr=lr, seed=seed)
    return replace(base, model={**base.model, **model, "network": network}, training=training)


def seconds_an_update(configs: Mapping[str, TrainConfig], train: StructureSet, init: Path | None) -> dict[str, float]:
    """Core seconds of an update of each, the least of a few in turns."""
    trainers = {name: Trainer(config, train, init=init) for name, config in configs.items()}
    least = dict.fromkeys(trainers, float("inf"))
    for _ in range(TIMED):
        for name, trainer in trainers.items():
            began = time.process_time()
            trainer.update()
            least[name] = min(least[name], time.process_time() - began)
    return least


def row(
    trainer: Trainer,
    aside: StructureSet,
    known: Sequence[Known],
    new: Sequence[Known],
    prior: PlacementPrior,
    seed: int,
) -> list[str]:
    """The cells of a variant's row."""
    model = trainer.ema
    assert isinstance(model, SlotModel)
    losses = trainer.validate(aside)
    weights = sum(parameter.numel() for parameter in model.parameters())
    shares = [
        (~np.isnan(outcomes(model, prior, crystals, held, samples, seed)[0])).mean(1)
        for crystals, held, samples in (
            (known, "nothing", 1),
            (known, "the true group and sites", 1),
            (new, "the true group and sites", 4),
        )
    ]
    return [
        f"{weights / 1e6:.1f}",
        str(trainer.step),
        f"{losses['validation_coords']:.4f}",
        f"{losses['validation_cell']:.3f}",
        *(f"{100 * share.mean():.1f} +- {100 * share.std() / np.sqrt(len(share)):.1f}" for share in shares),
    ]


if __name__ == "__main__":
    main()
