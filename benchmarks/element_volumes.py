"""Fit the volume that an atom of each element takes in a crystal, and print how well the sum predicts.

The table that ships as `airss/volumes.json` is what this prints:

    python benchmarks/element_volumes.py DATA_FOLDER --out airss/volumes.json

DATA_FOLDER holds `mp_2023/le20.parquet` (Materials Project 2023.11.1) and `zero_shot/formulas.csv`, whose
formulas are left out, so that no held-out composition has a say in what searches for it.
"""

from __future__ import annotations

import json
from collections import Counter
from math import gcd
from pathlib import Path

import click
import numpy as np
import pyarrow.csv
import pyarrow.parquet
from ase.data import atomic_numbers, chemical_symbols, vdw_radii
from pymatgen.core import Composition
from scipy.optimize import nnls

FEWEST = 20
"""Compounds that an element needs to be fitted; below, its own crystals speak, or its van der Waals radius."""


def rows(data: Path) -> tuple[list[Counter[int]], np.ndarray]:
    """Atom counts and cell volumes (cubic angstrom) of the allowed structures."""
    table = pyarrow.parquet.read_table(data / "mp_2023" / "le20.parquet", columns=["numbers", "cell"])
    held_out = pyarrow.csv.read_csv(data / "zero_shot" / "formulas.csv")["reduced_formula"].to_pylist()
    excluded = {reduced(Counter({e.Z: int(n) for e, n in Composition(f).items()})) for f in held_out}
    counts = [Counter(numbers) for numbers in table["numbers"].to_pylist()]
    volumes = np.abs(np.linalg.det(np.array(table["cell"].to_pylist()).reshape(-1, 3, 3)))
    kept = [i for i, count in enumerate(counts) if reduced(count) not in excluded]
    return [counts[i] for i in kept], volumes[kept]


def reduced(count: Counter[int]) -> frozenset[tuple[int, int]]:
    """A composition without its common divisor."""
    divisor = gcd(*count.values())
    return frozenset((z, n // divisor) for z, n in count.items())


def fit(counts: list[Counter[int]], volumes: np.ndarray) -> dict[str, float]:
    """Volume per atom of every element, cubic angstrom, for compounds.

    Non-negative least squares on the relative error of the cell's volume, outliers over 40 % dropped once.
    """
    matrix = np.zeros((len(counts), len(chemical_symbols)))
    for i, count in enumerate(counts):
        matrix[i, list(count)] = list(count.values())
    compound = (matrix > 0).sum(axis=1) > 1
    relative = matrix[compound] / volumes[compound, None]
    solution, _ = nnls(relative, np.ones(len(relative)))
    inliers = np.abs(relative @ solution - 1) < 0.4
    solution, _ = nnls(relative[inliers], np.ones(inliers.sum()))
    error = relative @ solution - 1
    click.echo(
        f"{len(error)} compounds; relative error of the volume: median {np.median(error):+.3f}, "
        f"half within {np.quantile(np.abs(error), 0.5):.3f}, 90 % within {np.quantile(np.abs(error), 0.9):.3f}",
        err=True,
    )
    fitted = np.flatnonzero((matrix[compound] > 0).sum(axis=0) >= FEWEST)
    table = {chemical_symbols[z]: float(solution[z]) for z in fitted}
    radii = np.where(np.isfinite(vdw_radii), vdw_radii, 2.0)
    per_sphere = np.median([v / radii[atomic_numbers[el]] ** 3 for el, v in table.items()])
    for z, symbol in enumerate(chemical_symbols[1:97], start=1):
        own = (matrix[:, z] > 0) & ~compound
        crystal = np.median(volumes[own] / matrix[own, z]) if own.any() else per_sphere * radii[z] ** 3
        table.setdefault(symbol, float(crystal))
    return {symbol: round(table[symbol], 2) for symbol in chemical_symbols[1:97]}


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the table here.")
def main(data: Path, out: Path | None) -> None:
    """Fit the table and print it."""
    table = fit(*rows(data))
    text = json.dumps(table, indent=1)
    if out:
        out.write_text(text + "\n")
    else:
        click.echo(text)


if __name__ == "__main__":
    main()
