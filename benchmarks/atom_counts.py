"""How many atoms a model without a composition gives its crystals, and how many of these are valid.

python benchmarks/atom_counts.py --model RUN -n 400
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
import numpy as np
import torch
from pymatgen.core import Structure

from unimat_search.match_rate import VALID_DISTANCE
from unimat_search.unimat.checkpoint import load_model
from unimat_search.unimat.model import SampleSettings, Streams
from unimat_search.unimat.sample import as_structure, sample_freely


@click.command()
@click.option("--model", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("-n", "n", default=400, show_default=True)
@click.option("--steps", type=int, help="[default: the model's own]")
@click.option("--seed", default=0, show_default=True)
def main(model: Path, n: int, steps: int | None, seed: int) -> None:
    """Print the counts."""
    trained, header = load_model(model)
    streams = Streams([np.random.default_rng([seed, index]) for index in range(n)])
    made = sample_freely(trained, streams, SampleSettings(steps=steps), torch.full((2,), torch.nan))
    counts = Counter(len(numbers) for numbers, _, _ in made)
    structures = [as_structure(one) for one in made]
    valid = sum(isinstance(one, Structure) and one.is_valid(VALID_DISTANCE) for one in structures)
    sizes = np.array([len(numbers) for numbers, _, _ in made])
    print(f"step {header['step']}: {n} samples of {sizes.mean():.1f} +- {sizes.std():.1f} atoms, {valid / n:.3f} valid")
    print(", ".join(f"{share / n:.3f} with {atoms}" for atoms, share in counts.most_common(6)))


if __name__ == "__main__":
    main()
