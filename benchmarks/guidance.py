"""What classifier-free guidance is worth: each property that can be asked for, at several weights.

python -m benchmarks.guidance --data-dir DATA              # the weights that ship
python -m benchmarks.guidance --data-dir DATA --model RUN  # a run's folder

Compositions near the hull that were set aside in training; all rows are on the same ones, with the same noise. Samples
are held to no symmetry. A match is StructureMatcher's with 0.3, 0.5, 10, before relaxing; the energy is that of the
first samples relaxed by CHGNet, above the known structure relaxed likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from pymatgen.core import Structure

from benchmarks.symmetry import CONFIG, near_hull
from unimat_search.eval.chgnet import chgnet_relaxer
from unimat_search.match_rate import VALID_DISTANCE, compare, crystal_of
from unimat_search.records import BENCHMARK_MATCH, RelaxSettings
from unimat_search.unimat.checkpoint import load_model
from unimat_search.unimat.model import SampleSettings, Streams
from unimat_search.unimat.sample import Crystal, as_structure, sample, shipped_weights
from unimat_search.unimat.structures import StructureSet
from unimat_search.unimat.train import read_config
from unimat_search.unimat.training_data import training_sets, with_symmetry

ASKED = ("near the hull", "near the hull, the formation energy", "near the hull, the space group")


@click.command()
@click.option("--data-dir", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="[default: the weights that ship]")
@click.option("--count", default=200, show_default=True, help="Compositions.")
@click.option("--samples", default=4, show_default=True, help="Of each.")
@click.option("--relax", default=40, show_default=True, help="Compositions whose first samples are relaxed.")
@click.option("--weight", "weights", multiple=True, type=float, default=(0.0, 0.5, 1.0, 2.0, 4.0), show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(
    data_dir: Path, model: Path | None, count: int, samples: int, relax: int, weights: tuple[float, ...], seed: int
) -> None:
    """Print one row for each property asked for and each weight."""
    trained, header = load_model(model or shipped_weights())
    _, aside = training_sets(read_config(CONFIG).data, data_dir, seed=0)
    known = with_symmetry(near_hull(aside, count, seed))
    print(f"model at step {header['step']}; {len(known)} compositions, {samples} samples of each, {relax} relaxed")
    reference = relaxed_energies([crystal_of(one) for one in known.take(list(range(relax)))])
    print("| asked for | weight | match % | valid % | converged % | median above known, meV/atom | mean below 1 eV |")
    print("|" + "---|" * 7)
    for asked in ASKED:
        for weight in weights:
            streams = Streams(
                [np.random.default_rng([seed, row, index]) for row in range(len(known)) for index in range(samples)]
            )
            atoms = [torch.from_numpy(one.numbers.astype(np.int64)) for one in known for _ in range(samples)]
            properties = wanted(known, asked).repeat_interleave(samples, 0)
            made = sample(trained, atoms, streams, SampleSettings(guidance=weight), properties)
            found = [compare(made[row * samples : (row + 1) * samples], crystal_of(one), BENCHMARK_MATCH)
                     for row, one in enumerate(known)]  # fmt: skip
            match = np.mean([~np.isnan(distances) for distances, _ in found])
            valid = np.mean([sound for _, sound in found])
            above = 1000 * (relaxed_energies(made[: relax * samples : samples]) - reference)
            there = above[~np.isnan(above)]
            cells = [f"{100 * match:.1f}", f"{100 * valid:.1f}", f"{100 * len(there) / relax:.0f}",
                     f"{np.median(there):.0f}", f"{there[there < 1000].mean():.0f}"]  # fmt: skip
            print(f"| {asked} | {weight:g} | " + " | ".join(cells) + " |", flush=True)


def wanted(known: StructureSet, asked: str) -> torch.Tensor:
    """What is asked for: formation energy, near the hull, space group. (m, 3)."""
    table = torch.full((len(known), 3), torch.nan)
    table[:, 1] = 1.0
    if asked.endswith("energy"):
        table[:, 0] = torch.from_numpy(known.properties[:, 0])
    if asked.endswith("group"):
        assert known.symmetry is not None
        groups = torch.from_numpy(known.symmetry.groups.astype(np.float32))
        table[:, 2] = groups.masked_fill(groups == 0, torch.nan)
    return table


def relaxed_energies(made: Sequence[Crystal]) -> np.ndarray:
    """Energies of crystals after relaxation, eV/atom; NaN where none was reached."""
    energies = np.full(len(made), np.nan)
    structures = [as_structure(one) for one in made]
    sound = [row for row, one in enumerate(structures) if isinstance(one, Structure) and one.is_valid(VALID_DISTANCE)]
    relaxer = chgnet_relaxer()
    chosen = [one for row in sound if isinstance(one := structures[row], Structure)]
    for result in relaxer.relax(chosen, RelaxSettings(time_limit=60.0)):
        if result.energy is not None and result.outcome.value == "converged":
            energies[sound[result.index]] = result.energy / len(made[sound[result.index]][0])
    return energies


if __name__ == "__main__":
    main()
