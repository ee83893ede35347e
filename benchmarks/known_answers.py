"""The proxy table of samples whose scores are known: a test split itself, and what is left of it when it is spoilt.

python benchmarks/known_answers.py DATA_DIR mp-20 [STRUCTURES]

With a number, of so many random structures of the split.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from pymatgen.core import Lattice, Structure

from unimat_search.eval.report import markdown
from unimat_search.evaluate import Samples, all_structures, evaluate, footnotes, read_benchmark, sections

Spoil = Callable[[Structure, np.random.Generator], Structure]


def same(structure: Structure, rng: np.random.Generator) -> Structure:  # noqa: ARG001
    """Nothing is spoilt."""
    return structure


def elements_exchanged(structure: Structure, rng: np.random.Generator) -> Structure:
    """The atoms of a crystal change places: composition, cell and sites are kept."""
    return Structure(structure.lattice, rng.permutation(structure.atomic_numbers), structure.frac_coords)


def random_coordinates(structure: Structure, rng: np.random.Generator) -> Structure:
    """Composition and cell are kept."""
    return Structure(structure.lattice, structure.species, rng.random((len(structure), 3)))


def stretched(structure: Structure, rng: np.random.Generator) -> Structure:  # noqa: ARG001
    """Twice the volume."""
    return Structure(Lattice(structure.lattice.matrix * 2 ** (1 / 3)), structure.species, structure.frac_coords)


def broken(structure: Structure, rng: np.random.Generator) -> Structure:
    """Atoms on top of each other, coordinates that are no numbers, a flat cell, or a cell of nothing."""
    frac_coords, cell = structure.frac_coords.copy(), structure.lattice.matrix.copy()
    way = rng.integers(4)
    if way == 0:
        frac_coords[:] = 0.0
        return Structure(Lattice(cell), [*structure.species, structure.species[0]], [*frac_coords, frac_coords[0]])
    if way == 1:
        frac_coords[0] = np.nan
    if way == 2:
        cell[2] = cell[1]
    if way == 3:
        cell *= 1e-4
    return Structure(Lattice(cell), structure.species, frac_coords)


def samples(known: list[Structure], order: np.ndarray, spoil: Spoil, share: float = 1.0) -> Samples:
    """Crystals in this order, the first of them spoilt."""
    rng = np.random.default_rng(0)
    spoilt = round(share * len(known))
    made = [spoil(known[row], rng) if place < spoilt else known[row] for place, row in enumerate(order)]
    return Samples({str(place): one for place, one in enumerate(made)})


def main() -> None:
    """Print the table and the seconds that each column took, the test split's own fingerprints not among them."""
    benchmark = read_benchmark(sys.argv[2], Path(sys.argv[1]))
    if sys.argv[3:]:
        rows = np.random.default_rng(0).permutation(len(benchmark.test))[: int(sys.argv[3])]
        benchmark = replace(benchmark, test=benchmark.test.take(rows))
    known = all_structures(benchmark.test)
    order = np.arange(len(known))
    shuffled = np.random.default_rng(0).permutation(order)
    asked = {
        "itself": (order, same, 1.0),
        "in another order": (shuffled, same, 1.0),
        "every tenth broken": (shuffled, broken, 0.1),
        "all broken": (shuffled, broken, 1.0),
        "twice the volume": (order, stretched, 1.0),
        "elements exchanged": (order, elements_exchanged, 1.0),
        "random coordinates": (order, random_coordinates, 1.0),
    }
    tables = {}
    for name, spoilt in asked.items():
        made = samples(known, *spoilt)
        began = time.perf_counter()
        tables[name] = evaluate(made, benchmark)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print(markdown(sections(tables, []), footnotes(tables, [])))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
