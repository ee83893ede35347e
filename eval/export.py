"""A run's structures in the formats of other tools."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymatgen.core import Structure

from unimat_search.disk import whole_new
from unimat_search.files import write_frames
from unimat_search.records import Record, RelaxSettings, plain
from unimat_search.res import ResEntry, to_res, under_pressure
from unimat_search.symmetry import space_group_symbol

if TYPE_CHECKING:
    from ase import Atoms

Writer = Callable[[Sequence[Record], Path], None]

SCALARS = tuple(field.name for field in fields(Record) if not field.name.endswith("_structure"))
"""Columns of a record that every format which has room for them carries."""


def export_records(records: Iterable[Record], target: str, path: Path, *, relax: RelaxSettings) -> int:
    """Write records to a file (extxyz, parquet, ase-db) or a folder (cif, res, vasp, espresso).

    The geometry is the final structure; records without one are in the parquet file only.

    Args:
        records: With their structures.
        target: A key of `WRITERS`, "res", "vasp" or "espresso".
        path: File or folder, which must not exist.
        relax: What they were relaxed under.

    Returns:
        How many records were written.

    Raises:
        FileExistsError: If there is something at `path`.
        ValueError: If a structure can't be written so.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; give another --out")
    rows = list(records)
    if target != "parquet":
        rows = [record for record in rows if record.final_structure is not None]
    path.parent.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Writer] = {
        **WRITERS,
        "res": partial(_write_res, pressure=relax.pressure),
        "vasp": partial(_write_inputs, code="vasp", relax=relax),
        "espresso": partial(_write_inputs, code="espresso", relax=relax),
    }
    with whole_new(path) as partial_path:
        writers[target](rows, partial_path)
    return len(rows)


def write_best(record: Record, folder: Path) -> None:
    """One structure as `CELLFORMULA_GENERATOR.cif` and `.extxyz`.

    A cell's formula has all its numbers (`C1O1`, `Co2`), so that names differ by more than case.
    """
    folder.mkdir(exist_ok=True)
    stem = folder / file_name(f"{record.cell_formula.replace(' ', '')}_{record.generator}")
    _write_cif(record, stem.with_name(stem.name + ".cif"))
    _write_extxyz([record], stem.with_name(stem.name + ".extxyz"))


def file_name(text: str) -> str:
    """A text as a file name: odd characters replaced, cut to a length that every system takes."""
    name = plain(text)
    return name if len(name) <= 120 else f"{name[:110]}-{zlib.crc32(text.encode()):08x}"


def res_entry(record: Record, pressure: float = 0.0) -> ResEntry:
    """A record for AIRSS's ranking: its enthalpy at a pressure (GPa), and its space group.

    Raises:
        ValueError: If it has no final structure or no energy.
    """
    structure = _final(record)
    if record.energy is None:
        raise ValueError(f"{record.key} has no energy")
    entry = ResEntry(
        name=file_name(record.key),
        structure=structure,
        enthalpy=record.energy,
        space_group=space_group_symbol(structure),
        remarks=(f"generator {record.generator} seed {record.seed} index {record.index} outcome {record.outcome}",),
    )
    return under_pressure(entry, pressure)


def _final(record: Record) -> Structure:
    if record.final_structure is None:
        raise ValueError(f"{record.key} has no final structure")
    return record.final_structure


def _info(record: Record) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in SCALARS if name != "energy"}
    return {
        name: str(value) if name == "outcome" else value
        for name, value in values.items()
        if value is not None and value != ""
    }


def _atoms(record: Record) -> Atoms:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    structure = _final(record)
    atoms = Atoms(
        [site.specie.symbol for site in structure],
        scaled_positions=structure.frac_coords,
        cell=structure.lattice.matrix,
        pbc=True,
    )
    if record.energy is not None:
        atoms.calc = SinglePointCalculator(atoms, energy=record.energy)
    return atoms


def _write_cif(record: Record, path: Path) -> None:
    from pymatgen.io.cif import CifWriter

    path.write_text(str(CifWriter(_final(record), significant_figures=8)), encoding="utf-8", newline="\n")


def _write_extxyz(records: Sequence[Record], path: Path) -> None:
    images = []
    for record in records:
        atoms = _atoms(record)
        atoms.info = _info(record)
        images.append(atoms)
    write_frames(path, images)


def _write_cifs(records: Sequence[Record], path: Path) -> None:
    path.mkdir()
    for record in records:
        _write_cif(record, path / f"{file_name(record.key)}.cif")


def _write_res(records: Sequence[Record], path: Path, pressure: float) -> None:
    """Only what converged: whoever ranks these files ranks by the enthalpy that they state."""
    path.mkdir()
    for record in filter(lambda record: record.converged, records):
        text = to_res(res_entry(record, pressure))
        (path / f"{file_name(record.key)}.res").write_text(text, encoding="utf-8", newline="\n")


def _write_parquet(records: Sequence[Record], path: Path) -> None:
    """All records; the final structure in the columns `numbers`, `frac_coords`, `cell`, else null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for record in records:
        row = {name: getattr(record, name) for name in SCALARS}
        row["outcome"] = str(record.outcome) if record.outcome else None
        structure = record.final_structure
        row |= {
            "numbers": None if structure is None else [site.specie.Z for site in structure],
            "frac_coords": None if structure is None else structure.frac_coords.ravel().tolist(),
            "cell": None if structure is None else structure.lattice.matrix.ravel().tolist(),
        }
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")


def _write_ase_db(records: Sequence[Record], path: Path) -> None:
    from ase.db import connect

    with connect(path, type="db") as database:
        for record in records:
            pairs = _info(record)
            # ase.db refuses some names (its own columns) and any text that reads as a number or formula
            data = {"unimat_search": pairs}
            plain = {k: v for k, v in pairs.items() if k in ("n_steps", "rms_dist", "formation_energy_per_atom")}
            database.write(_atoms(record), key_value_pairs=plain, data=data)


def _write_inputs(records: Sequence[Record], path: Path, code: str, relax: RelaxSettings) -> None:
    from unimat_search.eval.dft.inputs import write_espresso, write_vasp

    write = {"vasp": write_vasp, "espresso": write_espresso}[code]
    write({file_name(record.key): _final(record) for record in records}, path, relax)


WRITERS: dict[str, Writer] = {
    "extxyz": _write_extxyz,
    "cif": _write_cifs,
    "parquet": _write_parquet,
    "ase-db": _write_ase_db,
}
"""Writers by the name that `export --to` takes."""
