"""Structures a second in training: slots beside the U-Net, in float32 and bf16.

python benchmarks/training.py --data-dir DATA
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import torch

from unimat_search.unimat.cell import cell_to_vector, vector_to_cell
from unimat_search.unimat.grid import Grid
from unimat_search.unimat.model import has_bf16
from unimat_search.unimat.sources import read_source
from unimat_search.unimat.structures import StructureSet
from unimat_search.unimat.train import TrainConfig, Trainer, TrainingConfig

MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "slots, width 256, 6 layers (ships)": ("slots", {"network": {"width": 256, "layers": 6}}, 2000),
    "slots, width 160, 6 layers": ("slots", {"network": {"width": 160, "layers": 6}}, 2000),
    "U-Net, width 64, L = 20": ("unet", {"network": {"width": 64}, "depth": 20}, 40),
    "U-Net, width 32, L = 20": ("unet", {"network": {"width": 32, "head": 32}, "depth": 20}, 40),
}


def rate(
    structures: StructureSet, denoiser: str, model: dict[str, Any], sites: int, precision: str, seconds: float
) -> float:
    """Structures a second over about so many seconds of training, after two steps to warm up."""
    training = TrainingConfig(steps=10**6, sites=sites, accumulate=1, precision=precision)
    trainer = Trainer(TrainConfig(denoiser=denoiser, model=model, training=training), structures)
    for _ in range(2):
        trainer.update()
    seen, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        seen += len(trainer.batches[trainer.step])
        trainer.update()
    return seen / (time.perf_counter() - began)


def grid_rates(structures: StructureSet, chunk: int = 500) -> tuple[float, float]:
    """Structures a second into the whole table's tensor (L = 20) and back, cells included, on one core."""
    torch.set_num_threads(1)
    grid = Grid(20)
    parts = [
        structures.take(range(start, min(start + chunk, len(structures)))) for start in range(0, len(structures), chunk)
    ]
    sites = [part.sites() for part in parts]
    began = time.perf_counter()
    for part, mine in zip(parts, sites, strict=True):
        tensor = grid.encode(mine, len(part))
        vectors = cell_to_vector(torch.from_numpy(part.cells))
    encoded = time.perf_counter()
    for _ in parts:
        grid.decode(tensor)
        vector_to_cell(vectors)
    decoded = time.perf_counter()
    return len(structures) / (encoded - began), len(parts) * len(tensor) / (decoded - encoded)


@click.command()
@click.option("--data-dir", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--source", default="mp_20/val", show_default=True)
@click.option("--seconds", default=20.0, show_default=True, help="For each figure.")
def main(data_dir: Path, source: str, seconds: float) -> None:
    """Print the table."""
    structures = read_source(source, data_dir).structures
    precisions = ["float32"] + ["bf16"] * has_bf16(torch.device("cpu"))
    threads = torch.get_num_threads()
    encode, decode = grid_rates(structures)
    print(f"structures a second on one core: {encode:.0f} into the tensor, {decode:.0f} out of it")
    torch.set_num_threads(threads)
    print(f"training, {threads} threads; structures a second")
    print("| model | " + " | ".join(precisions) + " |\n|---|" + "---|" * len(precisions))
    for name, (denoiser, model, sites) in MODELS.items():
        rates = [rate(structures, denoiser, model, sites, precision, seconds) for precision in precisions]
        print(f"| {name} | " + " | ".join(f"{one:.1f}" for one in rates) + " |", flush=True)


if __name__ == "__main__":
    main()
