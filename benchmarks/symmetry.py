"""How well space groups and sites are guessed, and what knowing them is worth: on known and on new prototypes.

python benchmarks/symmetry.py --data-dir DATA              # the weights that ship
python benchmarks/symmetry.py --data-dir DATA --model RUN  # a run's folder

Known prototypes: structures near the hull whose compositions were set aside in training. New ones: stable structures of
the MP-20 test split of 3 to 20 atoms whose space group, with the sizes of the orbits of each element, no training
structure has; the lists that results are published on, zero_shot/rq3.csv and new_prototypes.csv, are left out.
No sample is relaxed; a match is StructureMatcher's with 0.3, 0.5, 10.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import spglib
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from unimat_search.airss.symmetry import sites
from unimat_search.match_rate import crystal_of
from unimat_search.unimat.checkpoint import load_model, prior_of
from unimat_search.unimat.drawing import distinct_placements
from unimat_search.unimat.model import SampleSettings, Streams
from unimat_search.unimat.occupying import Counts
from unimat_search.unimat.placements import Placement, Settings, find_placement
from unimat_search.unimat.prior import PlacementPrior, load_prior
from unimat_search.unimat.sample import Crystal, as_structure, is_sound, sample, shipped_weights
from unimat_search.unimat.slot_model import SlotModel
from unimat_search.unimat.sources import read_source
from unimat_search.unimat.structures import StructureSet
from unimat_search.unimat.symmetric import SymmetricSampler
from unimat_search.unimat.train import read_config
from unimat_search.unimat.training_data import find_placements, training_sets

TOP = (1, 5, 10, 50)
NEAR_HULL = torch.tensor([np.nan, 1.0])
CONFIG = Path(__file__).parent.parent / "docs" / "training" / "slots.toml"


@dataclass(frozen=True)
class Known:
    """A known crystal and its placement."""

    structure: Structure
    placement: Placement

    @property
    def counts(self) -> Counts:
        """Its composition."""
        return tuple(sorted(Counter(self.placement.numbers.tolist()).items()))


@click.command()
@click.option("--data-dir", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="[default: the weights that ship]")
@click.option("--count", default=150, show_default=True, help="Known prototypes.")
@click.option("--samples", default=4, show_default=True, help="Of each crystal.")
@click.option("--seed", default=0, show_default=True)
def main(data_dir: Path, model: Path | None, count: int, samples: int, seed: int) -> None:
    """Print one table of guesses and one of samples."""
    path = model or shipped_weights()
    trained, header = load_model(path)
    assert isinstance(trained, SlotModel)
    prior = load_prior(prior_of(path))[0]
    train, aside = training_sets(read_config(CONFIG).data, data_dir, seed=0)
    kinds = {kind(one) for one in find_placements(train)}
    sets = {
        "known prototypes": known_prototypes(aside, prior, count, seed),
        "new prototypes": new_prototypes(data_dir, kinds, prior),
    }
    print(f"model at step {header['step']}; share of the crystals whose placement is among the first k guesses")
    print(
        "| | crystals | "
        + " | ".join(f"{k}" for k in TOP)
        + " | group 1 | group 5 | group 10 | given the group 1 | 10 |"
    )
    print("|" + "---|" * (len(TOP) + 7))
    for name, crystals in sets.items():
        print(f"| {name} | {len(crystals)} | " + " | ".join(f"{x:.2f}" for x in guesses(prior, crystals, seed)) + " |")
    print(f"\n{samples} samples of each; group: spglib finds the true one in the sample (0.1 angstrom)")
    print("| | held to | match % | one of all % | RMSE | sound % | group % |\n|" + "---|" * 7)
    for name, crystals in sets.items():
        for held in ("nothing", "sites that are drawn", "the true group, sites drawn", "the true group and sites"):
            row = matches(trained, prior, crystals, held, samples, seed)
            print(f"| {name} | {held} | " + " | ".join(row) + " |", flush=True)


def kind(placement: Placement) -> tuple[int, tuple[tuple[tuple[int, ...], int], ...]]:
    """A space group with the sizes of the orbits of each element, whatever the elements are."""
    table = sites(placement.setting.number)
    elements: dict[int, list[int]] = {}
    for z, site in placement.occupied:
        elements.setdefault(z, []).append(table[site].multiplicity)
    return placement.setting.number, tuple(sorted(Counter(tuple(sorted(sizes)) for sizes in elements.values()).items()))


def known_prototypes(aside: StructureSet, prior: PlacementPrior, count: int, seed: int) -> list[Known]:
    """Structures near the hull of a set, in random order, with their placements."""
    return placed(near_hull(aside, count, seed), prior)


def near_hull(aside: StructureSet, count: int, seed: int) -> StructureSet:
    """Structures near the hull of a set, of 3 to 20 atoms, in random order."""
    near = np.flatnonzero((aside.properties[:, 1] == 1) & (aside.num_sites >= 3) & (aside.num_sites <= 20))
    return aside.take(np.random.default_rng(seed).permutation(near)[:count])


def new_prototypes(data_dir: Path, kinds: Set[object], prior: PlacementPrior) -> list[Known]:
    """Stable structures of the test split of a kind that is not in training."""

    def column(name: str) -> set[str]:
        with (data_dir / "zero_shot" / name).open(newline="") as file:
            return {row["reduced_formula"] for row in csv.DictReader(file)}

    published = column("rq3.csv") | column("new_prototypes.csv")
    with (data_dir / "zero_shot" / "formulas.csv").open(newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if row["level"] != "seen" and row["reduced_formula"] not in published
        ]
    stable = {row["material_id"] for row in rows if float(row["e_above_hull"] or 1) < 1e-6}
    test = read_source("mp_20/test", data_dir).structures
    sizes = (test.num_sites >= 3) & (test.num_sites <= 20)
    chosen = [row for row, name in enumerate(test.ids) if name in stable and sizes[row]]
    return [
        one
        for one in placed(test.take(chosen), prior)
        if one.placement.setting.number > 1 and kind(one.placement) not in kinds
    ]


def placed(structures: StructureSet, prior: PlacementPrior) -> list[Known]:
    """Structures with their placements, without those that have none."""
    settings = Settings(prior.settings)
    found = []
    for one in structures:
        placement = find_placement(one.cells[0].astype(float), one.frac_coords.astype(float), one.numbers)
        crystal = as_structure(crystal_of(one))
        if placement is not None and isinstance(crystal, Structure):
            found.append(Known(crystal, settings.standard(placement)))
    return found


def guesses(prior: PlacementPrior, crystals: Sequence[Known], seed: int) -> Iterator[float]:
    """Shares found among the first guesses: of placements, of groups, and of placements given the group."""
    ranks = []
    for one in crystals:
        free = [drawn.placement for drawn in distinct_placements(prior, one.counts, np.random.default_rng(seed))]
        group = one.placement.setting.number
        told = distinct_placements(prior, one.counts, np.random.default_rng(seed), group=group, draws=100)
        groups = list(dict.fromkeys(placement.setting.number for placement in free))
        ranks.append((rank(free, one.placement), rank(groups, group), rank([x.placement for x in told], one.placement)))
    table = np.array(ranks)
    yield from ((table[:, 0] < k).mean() for k in TOP)
    yield from ((table[:, 1] < k).mean() for k in (1, 5, 10))
    yield from ((table[:, 2] < k).mean() for k in (1, 10))


def rank(items: Sequence[object], wanted: object) -> int:
    """Position in a list; very large if it is not there."""
    return items.index(wanted) if wanted in items else 1_000_000


def matches(
    model: SlotModel, prior: PlacementPrior, crystals: Sequence[Known], held: str, samples: int, seed: int
) -> list[str]:
    """The cells of a row."""
    distances, sound, group = outcomes(model, prior, crystals, held, samples, seed)
    matched = ~np.isnan(distances)
    shares = (matched.mean(), matched.any(1).mean(), sound.mean(), group.mean())
    one, any_of_all, sound_share, group_share = (f"{100 * share:.1f}" for share in shares)
    return [one, any_of_all, f"{np.nanmean(distances):.3f}", sound_share, group_share]


def outcomes(
    model: SlotModel, prior: PlacementPrior, crystals: Sequence[Known], held: str, samples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each sample, the distance from its crystal (NaN: no match), whether it is sound, and has its space group."""
    matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    distances = np.full((len(crystals), samples), np.nan)
    sound, group = np.zeros((2, len(crystals), samples), dtype=bool)
    for row, one in enumerate(crystals):
        streams = Streams([np.random.default_rng([seed, row, index]) for index in range(samples)])
        for index, made in enumerate(draw(model, prior, one, held, streams, seed)):
            sound[row, index] = is_sound(made)
            structure = as_structure(made)
            if isinstance(structure, Structure):
                found = matcher.get_rms_dist(one.structure, structure)  # type: ignore[no-untyped-call]
                distances[row, index] = np.nan if found is None else found[0]
                numbers = [site.specie.Z for site in structure]
                dataset = spglib.get_symmetry_dataset(
                    (structure.lattice.matrix, structure.frac_coords, numbers), symprec=0.1
                )
                group[row, index] = dataset is not None and dataset.number == one.placement.setting.number
    return distances, sound, group


def draw(model: SlotModel, prior: PlacementPrior, one: Known, held: str, streams: Streams, seed: int) -> list[Crystal]:
    """Samples of a crystal's composition."""
    n, numbers = len(streams.generators), torch.from_numpy(one.placement.numbers)
    if held == "nothing":
        return sample(model, [numbers] * n, streams, SampleSettings(), NEAR_HULL)
    group = None if held == "sites that are drawn" else one.placement.setting.number
    sampler = SymmetricSampler(model, prior, SampleSettings(), NEAR_HULL, group)
    if held == "the true group and sites":
        return sampler.sample(numbers, [one.placement] * n, streams)
    placements = sampler.placements(numbers, n, seed=seed)
    return sampler.sample(numbers, placements, streams) if placements else []


if __name__ == "__main__":
    main()
