"""What a sample costs on one core, before and after fewer steps, and beside the U-Net; scaled to a core at 100 GFLOP/s.

python benchmarks/sampling.py            # the weights that ship, beside an untrained U-Net of the paper's ablation
python benchmarks/sampling.py --width 32
"""

from __future__ import annotations

import time

import click
import numpy as np
import torch
from pymatgen.core import Composition

from unimat_search.unimat.checkpoint import build, load_model
from unimat_search.unimat.model import CrystalModel, SampleSettings, Streams
from unimat_search.unimat.sample import UniMatGenerator, sample, shipped_weights
from unimat_search.unimat.slot_model import SlotModel

TEN_ATOMS = "Sr2Ti2O6"
BEFORE = 50
"""Steps that a sample took before."""


def seconds(model: CrystalModel, batch: int, steps: int) -> float:
    """Core seconds of a sample in a batch of ten-atom crystals."""
    numbers = torch.tensor([8] * 6 + [22] * 2 + [38] * 2)
    streams = Streams([np.random.default_rng([0, index]) for index in range(batch)])
    began = time.process_time()
    sample(model, [numbers] * batch, streams, SampleSettings(steps=steps), torch.full((2,), torch.nan), at_once=10**9)
    return (time.process_time() - began) / batch


def core_speed() -> float:
    """GFLOP/s of this core at float32 matrix products of the network's sizes."""
    left, right = torch.randn(640, 256), torch.randn(256, 1280)
    best = np.inf
    for _ in range(5):
        began = time.process_time()
        for _ in range(50):
            left @ right
        best = min(best, time.process_time() - began)
    return 50 * 2 * 640 * 256 * 1280 / best / 1e9


def asked(generator: UniMatGenerator, n: int) -> float:
    """Core seconds of a sample as the harness asks for them: one composition at a time."""
    began = time.process_time()
    for formula in ("Sr2Ti2O6", "Ca4Al2O4", "Li4Mn2O4"):
        list(generator.generate(Composition(formula), n, seed=0))
    return (time.process_time() - began) / n / 3


@click.command()
@click.option("--width", default=64, show_default=True, help="Of the U-Net (the paper: 64, 128, 256).")
def main(width: int) -> None:
    """Print the table; a U-Net's time does not depend on its weights, and is measured over 4 steps and scaled."""
    torch.set_num_threads(1)
    slots, _ = load_model(shipped_weights())
    unet = build("unet", {"network": {"width": width}}).eval()
    assert isinstance(slots, SlotModel)
    now = slots.default_steps
    seconds(slots, 8, 2)
    speed = core_speed()
    print(f"one core at {speed:.0f} GFLOP/s; ten atoms; core seconds a sample; the U-Net has width {width} and L = 20")
    print(f"| batch | {BEFORE} steps | {now} steps | the same at 100 GFLOP/s | U-Net, 256 steps |\n" + "|---" * 5 + "|")
    for batch in (1, 8, 64):
        before, after = seconds(slots, batch, BEFORE), seconds(slots, batch, now)
        slow = f"{seconds(unet, batch, 4) * 64:.0f}" if batch <= 8 else ""
        print(f"| {batch} | {before:.3f} | {after:.3f} | {after * speed / 100:.3f} | {slow} |", flush=True)
    for symmetric in (False, True):
        held = "held to drawn sites" if symmetric else "held to nothing"
        for n in (10, 50):
            cost = asked(UniMatGenerator(symmetric=symmetric), n)
            scaled = cost * speed / 100
            print(f"as the harness asks, {n} of a composition, {held}: {cost:.3f}, at 100 GFLOP/s {scaled:.3f}")


if __name__ == "__main__":
    main()
