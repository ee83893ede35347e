"""The paper's RQ2 on what one has: how a model's quality and cost depend on its width, its data and its cells."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unimat_search.disk import write_whole
from unimat_search.eval.report import Row, Section, number
from unimat_search.match_rate import match_rates
from unimat_search.unimat.checkpoint import MODEL, load_model
from unimat_search.unimat.model import SampleSettings
from unimat_search.unimat.sources import read_source
from unimat_search.unimat.structures import StructureSet
from unimat_search.unimat.train import LOG, TrainConfig, TrainingConfig, train_run
from unimat_search.unimat.training_data import DataConfig

BASE = TrainConfig(
    denoiser="slots",
    model={"network": {"width": 128, "layers": 4}},
    data=DataConfig(train=("mp_20/train",), validation=500, max_sites=20),
    training=TrainingConfig(steps=600, sites=1000, accumulate=2, optimizer="muon", lr=2e-3, validate_every=300),
)
"""What is varied; small enough for a few minutes on a processor."""

VALIDATION = "mp_20/val"


@dataclass(frozen=True)
class Variant:
    """One training run.

    Attributes:
        axis: What it varies: "width", "data" or "cells".
        width: Of the network.
        share: Of the training compositions.
        max_sites: Atoms of the largest cell.
    """

    axis: str
    width: int = 128
    share: float = 1.0
    max_sites: int = 20

    @property
    def name(self) -> str:
        """Of its folder; equal runs of two axes share one."""
        return f"width-{self.width}-share-{self.share:g}-sites-{self.max_sites}"

    def config(self, base: TrainConfig) -> TrainConfig:
        """The settings of its run."""
        network = base.model.get("network", {}) | {"width": self.width}
        data = replace(base.data, share=self.share, max_sites=self.max_sites)
        return replace(base, model=base.model | {"network": network}, data=data)


VARIANTS = (
    *(Variant("width", width=width) for width in (64, 128, 256)),
    *(Variant("data", share=share) for share in (1 / 16, 1 / 4, 1.0)),
    *(Variant("cells", max_sites=sites) for sites in (8, 12, 20)),
)


def reproduce(
    out: Path,
    data_dir: Path | None,
    *,
    base: TrainConfig = BASE,
    variants: Sequence[Variant] = VARIANTS,
    count: int = 300,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Train every variant, or go on with it, and find known structures again with it.

    Args:
        out: Folder: a run for each variant.
        data_dir: Where public sets lie.
        base: What is varied.
        variants: How.
        count: Known structures of new compositions, the same for all.
        device: Where.
        say: Takes lines of progress.

    Returns:
        A row for each variant.

    Raises:
        ValueError: If data are missing, or a folder holds another run.
    """
    train = read_source(base.data.train[0], data_dir, max_sites=base.data.max_sites).structures
    known = set(train.keys)
    validation = read_source(VALIDATION, data_dir, max_sites=base.data.max_sites).structures
    held = validation.where(lambda key: key not in known)
    held = held.take(range(min(count, len(held))))
    rows = []
    for variant in variants:
        folder = out / variant.name
        say(f"{variant.axis}: {variant.name}")
        if not train_run(variant.config(base), folder, data_dir=data_dir, device=device, say=say):
            raise KeyboardInterrupt
        rows.append({"axis": variant.axis, "variant": variant.name} | _measured(folder, held))
    write_whole(out / "rq2.json", json.dumps(rows, indent=1) + "\n")
    return rows


def _measured(folder: Path, held: StructureSet) -> dict[str, Any]:
    """Size, cost and quality of a trained model, measured once."""
    file = folder / "measured.json"
    model, header = load_model(folder / MODEL)
    asked = {"steps": header["step"], "known": len(held), "known_sha256": held.sha256}
    if file.is_file():
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if asked.items() <= kept.items():
            return kept
    with (folder / LOG).open(newline="") as lines:
        log = [row for row in csv.DictReader(lines) if row["validation_loss"]]
    rates = match_rates(model, held, samples=1, settings=SampleSettings(), seed=0)
    small = rates.take(held.num_sites <= 8)
    measured = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "structures": header["structures"],
        "seconds_a_step": float(log[-1]["seconds_a_step"]),
        "validation_loss": float(log[-1]["validation_loss"]),
        "match_rate": rates.rate(1),
        "match_rate_small": small.rate(1) if len(small.valid) else math.nan,
        "valid": float(rates.valid.mean()),
        **asked,
    }
    write_whole(file, json.dumps(measured, indent=1) + "\n")
    return measured


def sections(rows: Sequence[dict[str, Any]]) -> list[Section]:
    """A table for each axis."""
    tables: dict[str, list[Row]] = {}
    for row in rows:
        tables.setdefault(f"By {row['axis']}", []).append(
            {
                "run": row["variant"],
                "parameters": f"{row['parameters'] / 1e6:.2f} M",
                "structures": row["structures"],
                "steps": row["steps"],
                "s/step": number(row["seconds_a_step"], 2),
                "validation loss": number(row["validation_loss"]),
                "match rate": number(row["match_rate"]),
                "of cells to 8": number(row["match_rate_small"]),
                "valid": number(row["valid"]),
            }
        )
    return list(tables.items())


NOTES = """Match rate: share of known structures of compositions that were not trained on (MP-20's validation split)
that one unrelaxed sample matches (StructureMatcher 0.3, 0.5, 10). Validation loss: of each run's own compositions set
aside. The paper (arXiv:2311.09235, MP-20; valid structures, valid compositions, COV-R, COV-P, %): width 64: 95.7, 86.0,
99.8, 99.3; 128: 96.8, 86.7, 99.8, 99.5; 256: 97.2, 89.4, 99.8, 99.7."""
