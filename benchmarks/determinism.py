"""How far tables depend on what they should not: workers, chunks, batches. Prints Markdown tables.

    python benchmarks/determinism.py

CHGNet relaxes the same candidates under each; what differs is rounding in other company.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
from pymatgen.core import Composition, Structure

from unimat_search import CompareSettings, Record, run_comparison
from unimat_search.eval.report import Row, markdown
from unimat_search.store import Store
from unimat_search.unimat.sample import UniMatGenerator

FORMULAS = ("NaCl", "TiO2", "SrTiO3", "Mg2Si", "Fe2O3", "LiCoO2")
CHUNK = 8


@click.command()
@click.option("-n", default=12, show_default=True, help="Candidates of a composition.")
def main(n: int) -> None:
    """Run and print."""
    with tempfile.TemporaryDirectory() as folder:
        base = relaxed(Path(folder) / "base", n, workers=1, chunk=CHUNK)
        rows = [
            compared(f"{workers} workers, chunk {chunk}", base, relaxed(Path(folder) / name, n, workers, chunk))
            for name, workers, chunk in (("again", 1, CHUNK), ("two", 2, CHUNK), ("one", 2, 1))
        ]
    title = f"Against 1 worker, chunk {CHUNK}: {len(base)} candidates of airss, relaxed by CHGNet"
    print(markdown([(title, rows), ("Samples of unimat, one composition", [sampled(n)])], ""))


def relaxed(out: Path, n: int, workers: int, chunk: int) -> dict[str, Record]:
    """The finished candidates by key."""
    settings = CompareSettings(FORMULAS, ("airss",), n=n, max_atoms=12, chunk=chunk, hull="none")
    run_comparison(settings, out, workers=workers)
    with Store(out / "results.sqlite", read_only=True) as store:
        return {record.key: record for record in store.records(structures=True)}


def compared(name: str, base: Mapping[str, Record], other: Mapping[str, Record]) -> Row:
    """What differs between two runs of the same candidates."""
    both = [(one, other[key]) for key, one in base.items() if one.converged and other[key].converged]
    deltas = np.array([abs((a.energy_per_atom or 0) - (b.energy_per_atom or 0)) for a, b in both])
    formulas = {record.reduced_formula for record in base.values()}
    lowest = [abs(_lowest(base, formula) - _lowest(other, formula)) for formula in formulas]
    return {
        "run": name,
        "same bits": sum(a.energy == b.energy and a.final_structure == b.final_structure for a, b in both),
        "other outcome": sum(one.outcome != other[key].outcome for key, one in base.items()),
        "median, eV/atom": f"{np.median(deltas):.1e}",
        "within 1e-3 eV/atom": f"{(deltas < 1e-3).sum()} of {len(both)}",
        "largest, eV/atom": f"{deltas.max():.1e}",
        "lowest of a composition, eV/atom": f"{max(lowest):.1e}",
    }


def _lowest(records: Mapping[str, Record], formula: str) -> float:
    own = (record for record in records.values() if record.reduced_formula == formula)
    return min(record.energy_per_atom for record in own if record.energy_per_atom is not None)


def sampled(n: int) -> Row:
    """The same samples in batches of other sizes."""
    few, many = (list(UniMatGenerator().generate(Composition("Sr2Ti2O6"), size, seed=0)) for size in (3, n))
    pairs = [(a, b) for a, b in zip(few, many, strict=False) if isinstance(a, Structure) and isinstance(b, Structure)]
    apart = [a.frac_coords - b.frac_coords for a, b in pairs]
    cells = [np.abs(a.lattice.matrix - b.lattice.matrix).max() for a, b in pairs]
    return {
        "asked for": f"3, {n}",
        "fractional coordinates": f"{max(np.abs(d - np.round(d)).max() for d in apart):.1e}",
        "cell, angstrom": f"{max(cells):.1e}",
    }


if __name__ == "__main__":
    main()
