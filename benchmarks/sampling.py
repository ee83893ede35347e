"""Samples a second: slots beside the U-Net, by steps and batch, and 100 samples of a ten-atom composition.

python benchmarks/sampling.py            # the weights that ship, beside an untrained U-Net of the paper's ablation
python benchmarks/sampling.py --width 32
"""

from __future__ import annotations

import time

import click
import numpy as np
import torch

from unimat_search.unimat.checkpoint import build, load_model
from unimat_search.unimat.model import CrystalModel, SampleSettings, Streams
from unimat_search.unimat.sample import UniMatGenerator, sample, shipped_weights

TEN_ATOMS = "Sr2Ti2O6"


def seconds(model: CrystalModel, batch: int, steps: int) -> float:
    """Wall seconds of one batch of ten-atom crystals."""
    numbers = torch.tensor([8] * 6 + [22] * 2 + [38] * 2)
    streams = Streams([np.random.default_rng([0, index]) for index in range(batch)])
    settings = SampleSettings(steps=steps)
    began = time.perf_counter()
    sample(model, [numbers] * batch, streams, settings, torch.tensor([np.nan, np.nan]), at_once=10**9)
    return time.perf_counter() - began


@click.command()
@click.option("--width", default=64, show_default=True, help="Of the U-Net (the paper: 64, 128, 256).")
def main(width: int) -> None:
    """Print the two tables. A U-Net's time does not depend on its weights; it is measured over 4 steps and scaled."""
    slots, _ = load_model(shipped_weights())
    unet = build("unet", {"network": {"width": width}}).eval()
    seconds(slots, 8, 2)
    print(f"{torch.get_num_threads()} threads; ten atoms; the U-Net has width {width} and L = 20")
    print(
        "| batch | slots 50 steps, samples/s | slots 20 steps | U-Net 256 steps | ratio 50 : 256 | ratio, equal steps |"
    )
    print("|---|---|---|---|---|---|")
    for batch in (1, 8, 32):
        fast = batch / seconds(slots, batch, 50)
        faster = batch / seconds(slots, batch, 20)
        slow = batch / (seconds(unet, batch, 4) * 64)
        print(
            f"| {batch} | {fast:.2f} | {faster:.2f} | {slow:.4f} | {fast / slow:.0f} | {fast * 50 / slow / 256:.0f} |",
            flush=True,
        )
    for batch in (100, 400):
        print(
            f"| {batch} | {batch / seconds(slots, batch, 50):.1f} | {batch / seconds(slots, batch, 20):.1f} | | | |",
            flush=True,
        )
    from pymatgen.core import Composition

    began = time.perf_counter()
    generator = UniMatGenerator()
    loaded = time.perf_counter()
    made = list(generator.generate(Composition(TEN_ATOMS), 100, seed=0))
    done = time.perf_counter()
    print(f"{len(made)} samples of {TEN_ATOMS}: {done - loaded:.1f} s, after {loaded - began:.1f} s to load the model")


if __name__ == "__main__":
    main()
