"""A data folder in the layout of the real one: small crystals of metals that EMT knows."""

from __future__ import annotations

import csv
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pymatgen.core import Lattice, Structure

from unimat_search.unimat.sources import from_structures, write_parquet

METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")

CRYSTALS = {
    "Cu": ("k-1", Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.6), ["Cu"], [[0.0, 0, 0]])),
    "AlCu3": (
        "k-2",
        Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.7), ["Al", "Cu"], [[0.0, 0, 0], [0.5, 0.5, 0]]),
    ),
    "AlNi": ("k-3", Structure.from_spacegroup("Pm-3m", Lattice.cubic(2.9), ["Al", "Ni"], [[0.0, 0, 0], [0.5] * 3])),
}
"""Known structures of the zero-shot experiment, by formula, with their names."""


def write_data(folder: Path) -> Path:
    """Write the folder: splits of MP-20, the zero-shot compositions, phases near the hull, elemental crystals."""
    pairs = [(f"{a}-{b}", alloy(a, b, 3.0)) for a, b in combinations(METALS, 2)]
    elements = [(f"fcc-{a}", Structure(Lattice.rhombohedral(2.8, 60), [a], [[0.0, 0.0, 0.0]])) for a in METALS]
    sets = {
        "mp_20/train": pairs[::2] + elements,
        "mp_20/val": pairs[1::2],
        "mp_20/test": list(CRYSTALS.values()),
        "mp_2023/le20": elements,
    }
    for name, structures in sets.items():
        file = folder / f"{name}.parquet"
        file.parent.mkdir(exist_ok=True, parents=True)
        write_parquet(from_structures(structures), file)
    _write_phases(folder / "hull" / "mp_phases.parquet", elements + pairs)
    _write_compositions(folder / "zero_shot")
    return folder


def alloy(a: str, b: str, edge: float) -> Structure:
    """Two elements in caesium chloride's structure."""
    return Structure(Lattice.cubic(edge), [a, b], [[0.0, 0, 0], [0.5, 0.5, 0.5]])


def _write_phases(file: Path, phases: list[tuple[str, Structure]]) -> None:
    columns = {
        "material_id": [name for name, _ in phases],
        "formula": [one.composition.reduced_formula for _, one in phases],
        "formation_energy_per_atom": [-0.1 * (len(one.composition) - 1) for _, one in phases],
        "e_above_hull_calc": [0.0] * len(phases),
        "mp_2021_id": [True] * len(phases),
    }
    file.parent.mkdir()
    pq.write_table(pa.table(columns), file)


def _write_compositions(folder: Path) -> None:
    rows = [
        {
            "reduced_formula": formula, "level": "new_formula", "material_id": name, "num_sites": len(one),
            "nelements": len(one.composition), "new_anonymous_formula": formula == "AlNi",
        }
        for formula, (name, one) in CRYSTALS.items()
    ]  # fmt: skip
    folder.mkdir()
    for file in ("rq3.csv", "formulas.csv"):
        with (folder / file).open("w", newline="") as lines:
            writer = csv.DictWriter(lines, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
