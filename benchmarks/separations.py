"""Tabulate how much room atoms take and how near they come, by element and likely charge, and how well that predicts.

The table that ships as `airss/knowledge.json` is what this writes:

    python benchmarks/separations.py DATA_FOLDER --out airss/knowledge.json

DATA_FOLDER holds `mp_2023/le20.parquet` (relaxed crystals of the Materials Project 2023.11.1, at most 20 atoms),
`hull/mp_phases.parquet` (which of them are within 0.1 eV/atom of the hull: only those count) and
`zero_shot/formulas.csv`, whose formulas are left out: no held-out composition has a say in what searches for it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.csv
import pyarrow.parquet
from ase.data import atomic_numbers, chemical_symbols, covalent_radii, vdw_radii
from joblib import Parallel, delayed
from numpy.typing import NDArray
from pymatgen.core import Composition, Structure
from scipy.optimize import nnls

from unimat_search.airss.knowledge import likely_kinds, pair_key, pair_minima

FEWEST = 20
"""Compounds that a kind of atom needs for a volume of its own."""

FEWEST_PAIRS = 10
"""Crystals that a pair of kinds needs for a distance of its own."""

QUANTILE = 0.1


def crystals(data: Path) -> list[dict[str, Any]]:
    """Rows of the crystals that count."""
    near = set(pyarrow.parquet.read_table(data / "hull" / "mp_phases.parquet")["material_id"].to_pylist())
    held_out = set(pyarrow.csv.read_csv(data / "zero_shot" / "formulas.csv")["reduced_formula"].to_pylist())
    rows = pyarrow.parquet.read_table(data / "mp_2023" / "le20.parquet").to_pylist()
    reduced = Parallel(n_jobs=-1, batch_size=500)(delayed(formula)(row["numbers"]) for row in rows)
    return [row for row, name in zip(rows, reduced, strict=True) if row["material_id"] in near and name not in held_out]


def formula(numbers: list[int]) -> str:
    """Reduced formula of atomic numbers."""
    return Composition("".join(chemical_symbols[z] for z in numbers)).reduced_formula


def look_at(row: dict[str, Any]) -> tuple[dict[str, int], float, dict[str, float]]:
    """Atoms of each kind, the cell's volume, and the shortest distance of each pair of kinds."""
    structure = Structure(np.reshape(row["cell"], (3, 3)), row["numbers"], np.reshape(row["frac_coords"], (-1, 3)))
    kinds = likely_kinds(structure.composition)
    counts = {kinds[el.symbol]: int(n) for el, n in structure.composition.items()}
    minima = {pair_key(kinds[a], kinds[b]): d for (a, b), d in pair_minima(structure).items()}
    return counts, structure.volume, minima


def fit_volumes(counts: list[dict[str, int]], volumes: NDArray[np.float64]) -> dict[str, float]:
    """Volume of an atom, cubic angstrom: of each kind that is frequent, and of each element.

    Non-negative least squares on the relative error of the cell's volume, outliers over 40 % dropped once.
    """
    by_element = [_merged(count) for count in counts]
    table = _fit(by_element, volumes, "by element")
    table |= _fit(counts, volumes, "by kind")
    radii = np.where(np.isfinite(vdw_radii), vdw_radii, 2.0)
    known = [el for el in table if el in atomic_numbers]
    per_sphere = np.median([table[el] / radii[atomic_numbers[el]] ** 3 for el in known])
    for z, symbol in enumerate(chemical_symbols[1:97], start=1):
        own = [i for i, count in enumerate(by_element) if set(count) == {symbol}]
        crystal = np.median([volumes[i] / by_element[i][symbol] for i in own]) if own else per_sphere * radii[z] ** 3
        table.setdefault(symbol, float(crystal))
        if own:
            table[f"{symbol}="] = float(crystal)
    return {name: round(table[name], 2) for name in sorted(table)}


def _merged(count: dict[str, int]) -> dict[str, int]:
    merged: dict[str, int] = defaultdict(int)
    for kind, n in count.items():
        merged[kind[:-1]] += n
    return dict(merged)


def _fit(counts: list[dict[str, int]], volumes: NDArray[np.float64], what: str) -> dict[str, float]:
    compounds = [i for i, count in enumerate(counts) if len(_merged(count) if what == "by kind" else count) > 1]
    names = sorted({name for i in compounds for name in counts[i]})
    column = {name: k for k, name in enumerate(names)}
    matrix = np.zeros((len(compounds), len(names)))
    for row, i in enumerate(compounds):
        for name, n in counts[i].items():
            matrix[row, column[name]] = n / volumes[i]
    solution, _ = nnls(matrix, np.ones(len(matrix)))
    inliers = np.abs(matrix @ solution - 1) < 0.4
    solution, _ = nnls(matrix[inliers], np.ones(inliers.sum()))
    error = np.abs(matrix @ solution - 1)
    click.echo(
        f"volumes {what}: {len(error)} compounds, half within {np.quantile(error, 0.5):.3f}, "
        f"90 % within {np.quantile(error, 0.9):.3f}",
        err=True,
    )
    frequent = (matrix > 0).sum(0) >= FEWEST
    return {name: float(solution[k]) for name, k in column.items() if frequent[k] and solution[k] > 1}


def fit_separations(minima: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Lower quantiles of the shortest distances, and radii for pairs that are too rare."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in minima:
        for pair, distance in row.items():
            found[pair].append(distance)
    table = {
        pair: round(float(np.quantile(found[pair], QUANTILE)), 3)
        for pair in sorted(found)
        if len(found[pair]) >= (1 if "=" in pair else FEWEST_PAIRS)
    }
    opposite = {pair: d for pair, d in table.items() if {kind[-1] for kind in pair.split()} == {"+", "-"}}
    like = {pair: d for pair, d in table.items() if pair not in opposite and "=" not in pair}
    return {"separations": table, "opposite": _radii(opposite, "opposite"), "like": _radii(like, "like")}


def _radii(pairs: dict[str, float], what: str) -> dict[str, float]:
    """Radii whose sums are nearest to the distances, drawn a little to the covalent ones."""
    rows = [[atomic_numbers[kind[:-1]] for kind in pair.split()] for pair in pairs]
    matrix = np.zeros((len(rows), len(chemical_symbols)))
    for i, ends in enumerate(rows):
        for z in ends:
            matrix[i, z] += 1
    prior = np.array(covalent_radii)
    rest = np.array(list(pairs.values())) - matrix @ prior
    pull = 0.5 * np.eye(matrix.shape[1])
    radii = (
        prior + np.linalg.lstsq(np.vstack([matrix, pull]), np.concatenate([rest, np.zeros(len(pull))]), rcond=None)[0]
    )
    error = np.abs(matrix @ radii - np.array(list(pairs.values())))
    click.echo(f"radii {what}: {len(rows)} pairs, half within {np.median(error):.2f} angstrom", err=True)
    return {chemical_symbols[z]: round(float(radii[z]), 3) for z in range(1, 97) if matrix[:, z].any()}


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Write the table here.")
def main(data: Path, out: Path) -> None:
    """Make the table."""
    seen = Parallel(n_jobs=-1, batch_size=200)(delayed(look_at)(row) for row in crystals(data))
    table = {
        "volumes": fit_volumes([counts for counts, _, _ in seen], np.array([volume for _, volume, _ in seen])),
        **fit_separations([minima for _, _, minima in seen]),
    }
    out.write_text(json.dumps(table, indent=0, sort_keys=True) + "\n")
    click.echo(f"{len(seen)} crystals, {len(table['separations'])} pairs of kinds in {out}")


if __name__ == "__main__":
    main()
