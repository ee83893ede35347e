"""Structures from the files that people have: CIF, extxyz, POSCAR, parquet, .res, or a folder of these."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pymatgen.core import Element, Structure

from unimat_search.formats import COLLECTED, UNREAD, ElementSet, Named, format_of, read_or_reason
from unimat_search.records import FailedAttempt, first_line

if TYPE_CHECKING:
    from ase import Atoms

ACCEPTED = (
    "CIF, extxyz, POSCAR (.vasp, POSCAR*, CONTCAR*), parquet, .res, or a folder or archive (.zip, .tar.gz) of these; "
    ".csv and .json of structures, .pt of DiffCSP or CDVAE"
)


def write_extxyz(path: Path, structures: Sequence[tuple[str, Structure]]) -> None:
    """Write structures as frames that keep their names (key `name`)."""
    from pymatgen.io.ase import AseAtomsAdaptor

    images = []
    for name, structure in structures:
        images.append(AseAtomsAdaptor.get_atoms(structure, msonable=False))
        images[-1].info = {"name": name}
    write_frames(path, images)


def write_frames(path: Path, frames: Sequence[Atoms]) -> None:
    """Write ASE's atoms as an extxyz file, in UTF-8 and with plain line ends on every system."""
    from ase.io import write

    with path.open("w", encoding="utf-8", newline="\n") as file:
        write(file, frames, format="extxyz")


def read_structures(
    path: Path, *, element_sets: Collection[ElementSet] | None = None
) -> Iterator[tuple[str, Structure]]:
    """Yield every structure of a file or folder with a name.

    Args:
        path: The file or folder. A parquet file has the columns `numbers`, `frac_coords` (flattened),
            `cell` (flattened row vectors, angstrom) and, for names, `material_id`. Frames of an extxyz file may have
            the key `name` or `material_id`. See `unimat_search.formats` for the others.
        element_sets: Read only structures whose set of elements is one of these.

    Raises:
        ValueError: If the path is missing, of no known format, or anything in it can't be read; it names the file.
    """
    for file in structure_files(path):
        for name, structure in read_file(file, element_sets):
            if isinstance(structure, FailedAttempt):
                named = "" if name == file.name else f"{name} "
                raise ValueError(
                    f"{file} can't be read: {named}{structure.reason.removeprefix(UNREAD)}; take it out, or have "
                    "`unimat-search data check` write what can be read to a parquet file"
                )
            if element_sets is None or _elements(structure) in element_sets:
                yield name, structure


def read_crystals(path: Path) -> Iterator[tuple[str, Structure | FailedAttempt]]:
    """Yield every structure of a file or folder with a name, charges taken off, or why it is no crystal.

    Raises:
        ValueError: If the path is missing, of no known format, or empty, or a file as a whole can't be read.
    """
    items = ((name, item) for file in structure_files(path) for name, item in read_file(file))
    none = True
    for name, item in items:
        none = False
        yield name, _crystal(item) if isinstance(item, Structure) else item
    if none:
        raise ValueError(f"{path} holds no structure; see that something was written to it")


def _crystal(structure: Structure) -> Structure | FailedAttempt:
    """The structure of elements alone (with its charges Fe2+ beside Fe3+ would be two), or why it is no crystal."""
    if not len(structure):
        return FailedAttempt("no atoms")
    if not structure.is_ordered:
        return FailedAttempt("a site is partly filled")
    if not all(Element.is_valid_symbol(getattr(site.specie, "symbol", "")) for site in structure):
        return FailedAttempt("a site holds no element")
    return Structure(structure.lattice, [Element.from_Z(z) for z in structure.atomic_numbers], structure.frac_coords)


def structure_files(path: Path) -> list[Path]:
    """The files of known formats in a folder, or the one file.

    Raises:
        ValueError: If there is none.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if format_of(file.name) in COLLECTED and file.is_file())
        if not files:
            raise ValueError(f"{path} holds no structure file; accepted: {ACCEPTED}")
        return files
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    if not format_of(path.name):
        raise ValueError(f"{path} is of no known format; accepted: {ACCEPTED}")
    return [path]


def read_file(file: Path, element_sets: Collection[ElementSet] | None = None) -> Named:
    """Yield every structure of one file with a name; where one of many can't be read, the reason.

    Raises:
        ValueError: If the file as a whole can't be read; it names the file.
    """
    try:
        yield from read_or_reason(file.name, file.read_bytes(), element_sets)
    except Exception as error:  # parsers raise anything
        raise ValueError(f"{file} can't be read: {first_line(error)}") from error


def _elements(structure: Structure) -> ElementSet:
    return frozenset(element.symbol for element in structure.composition.elements)
