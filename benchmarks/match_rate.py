"""Match rate on MP-20: how often unrelaxed samples of a composition are its known structure.

python benchmarks/match_rate.py --data-dir DATA                       # the weights that ship, 500 test structures
python benchmarks/match_rate.py --data-dir DATA --count 0             # all 9,046
python benchmarks/match_rate.py --data-dir DATA --steps 20 --steps 50 # by number of denoising steps
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import numpy as np
import torch

from unimat_search.eval.backends import usable_cores
from unimat_search.match_rate import match_rates
from unimat_search.unimat.checkpoint import load_model, prior_of
from unimat_search.unimat.model import SampleSettings
from unimat_search.unimat.prior import load_prior
from unimat_search.unimat.sample import shipped_weights
from unimat_search.unimat.sources import read_source

COLUMNS = ("steps", "haste", "guidance", "match@1 %", "RMSE", "match@20 %", "RMSE@20", "match@1 valid %",
           "valid %", "new formulas @1 %", "@20 %", "samples/s")  # fmt: skip


@click.command()
@click.option("--data-dir", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--source", default="mp_20/test", show_default=True, help="Known structures.")
@click.option("--model", type=click.Path(path_type=Path), help="[default: the weights that ship]")
@click.option("--count", default=500, show_default=True, help="Structures drawn at random; 0 for all.")
@click.option("--samples", default=20, show_default=True, help="Of each structure.")
@click.option("--steps", multiple=True, type=int, help="Denoising steps. Repeatable. [default: the model's]")
@click.option("--haste", multiple=True, type=float, help="Repeatable. [default: the model's]")
@click.option("--guidance", multiple=True, type=float, default=[0.0], help="Repeatable.")
@click.option("--anywhere", is_flag=True, help="Do not ask for structures near the hull.")
@click.option("--symmetric", is_flag=True, help="Draw space groups and sites, the likeliest first; one is the first.")
@click.option("--bf16", is_flag=True, help="Sample in bf16.")
@click.option("--seed", default=0, show_default=True)
def main(
    data_dir: Path,
    source: str,
    model: Path | None,
    count: int,
    samples: int,
    steps: tuple[int, ...],
    haste: tuple[float, ...],
    guidance: tuple[float, ...],
    anywhere: bool,
    symmetric: bool,
    bf16: bool,
    seed: int,
) -> None:
    """Print one row for each way of sampling, all on the same structures."""
    path = model or shipped_weights()
    trained, header = load_model(path)
    prior = load_prior(prior_of(path))[0] if symmetric else None
    known = read_source(source, data_dir).structures
    if count:
        known = known.take(
            np.sort(np.random.default_rng(seed).choice(len(known), min(count, len(known)), replace=False))
        )
    seen = trained.seen_compositions()
    new = np.array([key not in seen for key in known.keys])
    properties = torch.tensor([np.nan, np.nan if anywhere else 1.0])
    print(f"{source}: {len(known)} structures, {samples} samples each, StructureMatcher 0.3/0.5/10, no relaxation")
    print(f"{new.sum()} of them of formulas that the model was not trained on; model at step {header['step']}")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for step in steps or (None,):
        for hurry in haste or (None,):
            for weight in guidance:
                settings = SampleSettings(
                    steps=step, haste=hurry, guidance=weight, precision="bf16" if bf16 else "float32"
                )
                began = time.perf_counter()
                rates = match_rates(
                    trained,
                    known,
                    samples=samples,
                    settings=settings,
                    seed=seed,
                    properties=properties,
                    prior=prior,
                    workers=usable_cores(),
                )
                seconds = rates.sampling_seconds
                among = rates.take(new) if new.any() else None
                many = min(20, samples)
                one = rates.first(1) if symmetric else rates
                row = [
                    str(step or "default"),
                    "default" if hurry is None else f"{hurry:g}",
                    f"{weight:g}",
                    f"{100 * one.rate(1):.1f}",
                    f"{one.rms(1):.3f}",
                    f"{100 * rates.rate(many):.1f}",
                    f"{rates.rms(many):.3f}",
                    f"{100 * one.rate(1, valid_only=True):.1f}",
                    f"{100 * rates.valid.mean():.1f}",
                    f"{100 * (among.first(1) if symmetric else among).rate(1):.1f}" if among else "",
                    f"{100 * among.rate(many):.1f}" if among else "",
                    f"{rates.valid.size / seconds:.0f}",
                ]
                print("| " + " | ".join(row) + " |", flush=True)
                print(f"{time.perf_counter() - began:.0f} s with matching", file=sys.stderr)


if __name__ == "__main__":
    main()
