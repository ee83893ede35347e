"""What the arms of seeded search give, one by one and together, on compositions set aside for such choices.

    python benchmarks/seeded_search.py pick DATA_FOLDER picked
    unimat-search compare --formulas picked/formulas.txt --reference picked/known.extxyz --matcher 0.2,0.3,5 -n 24 \
        --generator unimat --generator 'unimat+airss,arms="repair",adapt=false' ... --out run
    python benchmarks/seeded_search.py table run

`pick` draws compositions like those of the headline experiment (new to the models, known ground state on the hull), but
none of them, and with small cells. `table` counts, over the compositions that are finished.
"""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from pathlib import Path

import click
import numpy as np
from pymatgen.core import Composition

from unimat_search.eval.trials import collect, first_success
from unimat_search.files import read_structures, write_extxyz
from unimat_search.records import Record
from unimat_search.store import Store

FOLDER = click.Path(file_okay=False, path_type=Path)
UNUSUAL = {"He", "Ne", "Ar", "Kr", "Xe", "Tc", "Pm", "Ac", "Th", "Pa", "U", "Np", "Pu"}


@click.group()
def main() -> None:
    """Pick compositions, or print the table."""


@main.command()
@click.argument("data", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--count", default=24, show_default=True, help="Drawn before large cells are left out.")
@click.option("--max-sites", default=13, show_default=True, help="Atoms of the largest cell.")
def pick(data: Path, out: Path, count: int, max_sites: int) -> None:
    """Draw compositions, smallest cells first."""
    asked = {row["reduced_formula"] for row in _rows(data, "rq3.csv")}
    rows = [row for row in _rows(data, "formulas.csv") if row["reduced_formula"] not in asked and _is_like_them(row)]
    random.Random(1).shuffle(rows)
    rows = sorted(
        (row for row in rows[:count] if int(row["num_sites"]) <= max_sites), key=lambda r: int(r["num_sites"])
    )
    names = {row["material_id"] for row in rows}
    sets = {frozenset(el.symbol for el in Composition(row["reduced_formula"])) for row in rows}
    out.mkdir(parents=True)
    found = read_structures(data / "mp_20" / "test.parquet", element_sets=sets)
    write_extxyz(out / "known.extxyz", [(name, structure) for name, structure in found if name in names])
    lines = [f"{row['reduced_formula']}:{_units(row)}\n" for row in rows]
    (out / "formulas.txt").write_text("".join(lines), encoding="utf-8")
    click.echo(f"{len(rows)} compositions in {out}")


def _rows(data: Path, file: str) -> list[dict[str, str]]:
    with (data / "zero_shot" / file).open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def _is_like_them(row: dict[str, str]) -> bool:
    return (
        row["level"] != "seen"
        and float(row["e_above_hull"]) <= 0
        and 3 <= int(row["num_sites"]) <= 20
        and 2 <= int(row["nelements"]) <= 5
        and not UNUSUAL & {el.symbol for el in Composition(row["reduced_formula"])}
    )


def _units(row: dict[str, str]) -> int:
    return round(int(row["num_sites"]) / Composition(row["reduced_formula"]).num_atoms)


@main.command()
@click.argument("run", type=FOLDER)
def table(run: Path) -> None:
    """Print hits, first hits and lowest energies of each generator."""
    columns: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    with Store(run / "results.sqlite", read_only=True) as store:
        for record in store.records():
            columns[record.generator][record.reduced_formula].append(record)
    most = max(len(records) for own in columns.values() for records in own.values())
    done = [
        formula
        for formula in next(iter(columns.values()))
        if all(sum(r.outcome is not None for r in own[formula]) == most for own in columns.values())
    ]
    trials = {name: collect([r for formula in done for r in own[formula]], done, most) for name, own in columns.items()}
    floor = np.min([one.lowest for one in trials.values()], axis=0)
    click.echo(f"{len(done)} compositions, {most} candidates each\n")
    click.echo("| generator | hits | found | tries to the first | above the lowest, meV/atom | within 1 meV | steps |")
    click.echo("|" + " --- |" * 7)
    for name, one in trials.items():
        above = 1000 * (one.lowest - floor)
        click.echo(
            f"| {name} | {one.found.sum()} of {one.found.size} | {one.found.any(-1).sum()} "
            f"| {first_success(one.found).mean():.1f} | {above.mean():.1f} | {(above < 1).sum()} "
            f"| {one.n_steps.mean():.0f} |"
        )


if __name__ == "__main__":
    main()
