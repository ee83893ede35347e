"""Count how many stable crystals have each space group, and write the table that ships as `airss/ranks.json`.

    python benchmarks/space_group_ranks.py DATA_FOLDER --out airss/ranks.json

DATA_FOLDER holds `mp_2023/le20.parquet` and `hull/mp_phases.parquet` (those within 0.1 eV/atom of the hull count), and
`zero_shot/formulas.csv`, whose material ids are left out.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path

import click
import numpy as np
import pyarrow.csv
import pyarrow.parquet
import spglib
from joblib import Parallel, delayed


def number(cell: list[float], numbers: list[int], frac_coords: list[float]) -> int:
    """Space group by spglib at 0.01 angstrom; 0 if it finds none."""
    crystal = (np.reshape(cell, (3, 3)), np.reshape(frac_coords, (-1, 3)), numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = spglib.get_symmetry_dataset(crystal, symprec=0.01)
    return int(found.number) if found else 0


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Write the table here.")
def main(data: Path, out: Path) -> None:
    """Make the table."""
    near = set(pyarrow.parquet.read_table(data / "hull" / "mp_phases.parquet")["material_id"].to_pylist())
    near -= set(pyarrow.csv.read_csv(data / "zero_shot" / "formulas.csv")["material_id"].to_pylist())
    rows = pyarrow.parquet.read_table(data / "mp_2023" / "le20.parquet").to_pylist()
    found = Parallel(n_jobs=-1, batch_size=200)(
        delayed(number)(row["cell"], row["numbers"], row["frac_coords"]) for row in rows if row["material_id"] in near
    )
    counts = Counter(found)
    counts.pop(0, None)
    out.write_text(json.dumps({str(group): counts[group] for group in sorted(counts)}) + "\n")
    click.echo(f"{sum(counts.values())} crystals in {len(counts)} space groups in {out}")


if __name__ == "__main__":
    main()
