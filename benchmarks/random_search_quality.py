"""How often random search finds known ground states: which compositions, and the table of the runs.

    python benchmarks/random_search_quality.py pick DATA_FOLDER picked
    unimat-search compare --formulas picked/formulas.txt --generator airss:standard --generator airss:paper \
        --generator pyxtal --generator airss:wide -n 200 --reference picked/known.extxyz --matcher 0.2,0.3,5 --out run
    python benchmarks/random_search_quality.py table run

`pick` draws 15 binaries and 15 ternaries of 4 to 12 atoms in their primitive cell from the benchmark CSPBench
(`cspbench/cspbench.parquet`), each searched in that cell.
`table` counts the candidates that relaxed to the known structure.
"""

from __future__ import annotations

import sqlite3
import warnings
from collections import defaultdict
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet
from pymatgen.core import Structure

from unimat_search.eval.intervals import wilson_interval
from unimat_search.files import write_extxyz

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def main() -> None:
    """Pick compositions, or print the table."""


@main.command()
@click.argument("data", type=FOLDER)
@click.argument("out", type=FOLDER)
def pick(data: Path, out: Path) -> None:
    """Draw 30 known crystals, with seed 0."""
    by_elements: dict[int, list[tuple[str, Structure]]] = {2: [], 3: []}
    for row in pyarrow.parquet.read_table(data / "cspbench" / "cspbench.parquet").to_pylist():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = Structure(
                np.reshape(row["cell"], (3, 3)), row["numbers"], np.reshape(row["frac_coords"], (-1, 3))
            ).get_primitive_structure()
        elements = len(structure.composition.elements)
        if elements in by_elements and 4 <= len(structure) <= 12:
            by_elements[elements].append((row["material_id"], structure))
    rng, chosen = np.random.default_rng(0), {}
    for crystals in by_elements.values():
        own: dict[str, tuple[str, Structure]] = {}
        for index in rng.permutation(len(crystals)):
            name, structure = crystals[index]
            if len(own) < 15:
                own.setdefault(structure.composition.reduced_formula, (name, structure))
        chosen |= own
    out.mkdir(parents=True)
    for _, structure in chosen.values():
        unit, units = structure.composition.get_integer_formula_and_factor()
        with (out / "formulas.txt").open("a") as lines:
            lines.write(f"{unit}:{round(units)}\n")
    write_extxyz(out / "known.extxyz", list(chosen.values()))
    click.echo(f"{len(chosen)} crystals in {out}")


@main.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
def table(runs: tuple[Path, ...]) -> None:
    """Print found/tried by composition and generator, and the totals."""
    query = (
        "select cell_formula, generator, count(*), sum(coalesce(match, '') != ''), "
        "sum(generate_seconds + relax_seconds) from candidates where outcome is not null group by 1, 2"
    )
    found: dict[str, dict[str, tuple[int, int, float]]] = defaultdict(dict)
    for run in runs:
        with sqlite3.connect(f"file:{run / 'results.sqlite'}?mode=ro", uri=True) as store:
            for cell, generator, tried, hits, seconds in store.execute(query):
                found[cell][generator] = (tried, hits, seconds)
    names = sorted({name for row in found.values() for name in row})
    click.echo("| cell | " + " | ".join(names) + " |\n|" + " --- |" * (1 + len(names)))
    for cell, row in found.items():
        shown = [f"{row[name][1]}/{row[name][0]}" if name in row else "" for name in names]
        click.echo(f"| {cell} | " + " | ".join(shown) + " |")
    for name in names:
        rows = [row[name] for row in found.values() if name in row]
        tried, hits, seconds = (sum(part) for part in zip(*rows, strict=True))
        low, high = wilson_interval(hits, tried) or (0.0, 1.0)
        spread = _bootstrap([hits / tried for tried, hits, _ in rows])
        cells = sum(hits > 0 for _, hits, _ in rows)
        cells_low, cells_high = wilson_interval(cells, len(rows)) or (0.0, 1.0)
        click.echo(
            f"{name}: {hits} of {tried} candidates, {hits / tried:.3f} (Wilson {low:.3f} to {high:.3f}; bootstrap over "
            f"compositions {spread[0]:.3f} to {spread[1]:.3f}); {cells} of {len(rows)} compositions found "
            f"({cells_low:.2f} to {cells_high:.2f}); {seconds / tried:.2f} s a candidate"
        )


def _bootstrap(shares: list[float]) -> tuple[float, float]:
    """95 % interval of the mean share over compositions."""
    rng = np.random.default_rng(0)
    means = rng.choice(shares, (10_000, len(shares))).mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


if __name__ == "__main__":
    main()
