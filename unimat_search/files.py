"""Structures from the files that people have: CIF, extxyz, POSCAR, parquet, .res, or a folder of these."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core import Element, Lattice, Structure

from unimat_search.records import first_line

if TYPE_CHECKING:
    from ase import Atoms

SUFFIXES = (".cif", ".extxyz", ".xyz", ".vasp", ".poscar", ".parquet", ".res")
ACCEPTED = "CIF, extxyz, POSCAR (.vasp, POSCAR*, CONTCAR*), parquet, .res, or a folder of these"

ElementSet = frozenset[str]


def write_whole(path: Path, text: str) -> None:
    """Write a text file such that it is there whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_extxyz(path: Path, structures: Sequence[tuple[str, Structure]]) -> None:
    """Write structures as frames that keep their names (key `name`)."""
    from ase.io import write
    from pymatgen.io.ase import AseAtomsAdaptor

    images = []
    for name, structure in structures:
        images.append(AseAtomsAdaptor.get_atoms(structure, msonable=False))
        images[-1].info = {"name": name}
    write(path, images, format="extxyz")


def read_structures(
    path: Path, *, element_sets: Collection[ElementSet] | None = None
) -> Iterator[tuple[str, Structure]]:
    """Yield every structure of a file or folder with a name.

    Args:
        path: The file or folder. A parquet file has the columns `numbers`, `frac_coords` (flattened),
            `cell` (flattened row vectors, angstrom) and, for names, `material_id`. Frames of an extxyz file may have
            the key `name` or `material_id`.
        element_sets: Read only structures whose set of elements is one of these.

    Raises:
        ValueError: If the path is missing, of no known format, or can't be read; it names the path.
    """
    for file in structure_files(path):
        try:
            for name, structure in read_file(file, element_sets):
                if element_sets is None or _elements(structure) in element_sets:
                    yield name, structure
        except Exception as error:  # parsers raise anything
            raise ValueError(f"{file} can't be read: {first_line(error)}") from error


def structure_files(path: Path) -> list[Path]:
    """The files of known formats in a folder, or the one file.

    Raises:
        ValueError: If there is none.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if _is_known(file))
        if not files:
            raise ValueError(f"{path} holds no structure file; accepted: {ACCEPTED}")
        return files
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    if not _is_known(path):
        raise ValueError(f"{path} is of no known format; accepted: {ACCEPTED}")
    return [path]


def _is_known(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES or file.name.upper().startswith(("POSCAR", "CONTCAR"))


def read_file(file: Path, element_sets: Collection[ElementSet] | None = None) -> Iterator[tuple[str, Structure]]:
    """Yield every structure of one file with a name; a parser's own exceptions pass through."""
    match file.suffix.lower():
        case ".parquet":
            yield from _read_parquet(file, element_sets)
        case ".extxyz" | ".xyz":
            from ase.io import iread

            for index, atoms in enumerate(iread(file, index=":", format="extxyz")):
                name = atoms.info.get("name") or atoms.info.get("material_id") or f"{file.stem}-{index}"
                yield str(name), structure_from_atoms(atoms)
        case ".cif":
            from pymatgen.io.cif import CifParser

            structures = CifParser(file).parse_structures(primitive=False)
            for index, structure in enumerate(structures):
                yield file.stem if len(structures) == 1 else f"{file.stem}-{index}", structure
        case ".res":
            from unimat_search.res import read_res

            yield from ((entry.name, entry.structure) for entry in read_res(file))
        case _:
            yield file.name, Structure.from_str(file.read_text(encoding="utf-8"), fmt="poscar")


def structure_from_atoms(atoms: Atoms) -> Structure:
    """An ASE geometry as a structure, coordinates wrapped into the cell, other data dropped."""
    if not atoms.cell.rank == 3:
        raise ValueError("a geometry without a three-dimensional cell")
    return Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.get_scaled_positions(), to_unit_cell=True)


def _read_parquet(file: Path, element_sets: Collection[ElementSet] | None) -> Iterator[tuple[str, Structure]]:
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file)
    missing = {"numbers", "frac_coords", "cell"} - set(parquet.schema_arrow.names)
    if missing:
        raise ValueError(f"column {sorted(missing)[0]} is missing")
    columns = [c for c in ("material_id", "numbers", "frac_coords", "cell") if c in parquet.schema_arrow.names]
    wanted = None if element_sets is None else {frozenset(Element(el).Z for el in s) for s in element_sets}
    position = -1
    for batch in parquet.iter_batches(columns=columns):
        for row in batch.to_pylist():
            position += 1
            if wanted is None or frozenset(row["numbers"]) in wanted:
                yield str(row.get("material_id") or f"{file.stem}-{position}"), _structure_from_row(row)


def _structure_from_row(row: dict[str, Any]) -> Structure:
    return Structure(
        Lattice(np.reshape(row["cell"], (3, 3))),
        [Element.from_Z(z) for z in row["numbers"]],
        np.reshape(row["frac_coords"], (-1, 3)),
    )


def _elements(structure: Structure) -> ElementSet:
    return frozenset(element.symbol for element in structure.composition.elements)
