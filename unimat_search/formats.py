"""Formats of structures, each read from bytes; nothing in a file is ever executed."""

from __future__ import annotations

import ast
import gzip
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from operator import itemgetter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pymatgen.core import Element, Lattice, Structure

from unimat_search.parquet import batches
from unimat_search.records import FailedAttempt, first_line

if TYPE_CHECKING:
    from ase import Atoms

T = TypeVar("T")
ElementSet = frozenset[str]
Named = Iterator[tuple[str, Structure | FailedAttempt]]
"""Structures by name; where one of many can't be read, the reason."""

UNREAD = "can't be read: "
"""How reasons begin."""

MAX_UNPACKED = 4 * 2**30
"""Bytes that an archive may hold, unpacked."""

MAX_FILE = 256 * 2**20
"""Bytes of one file in an archive, unpacked."""

MOST_DIGITS = 12
"""Of a number of atoms or columns."""

SINGLE = (".cif", ".vasp", ".poscar", ".res")
"""Formats of few structures: a file that can't be read counts as one that failed."""


def format_of(name: str) -> str:
    """The key of `READERS` for a file's name; empty if it has none."""
    lower = PurePosixPath(name).name.lower()
    if lower.startswith(("poscar", "contcar")):
        return ".poscar"
    return max((suffix for suffix in READERS if lower.endswith(suffix)), key=len, default="")


def read_bytes(name: str, data: bytes, elements: Collection[ElementSet] | None = None) -> Named:
    """The structures of a file.

    Args:
        name: Of the file; it tells the format.
        data: Its content.
        elements: Structures with another set of elements may be passed over unread.

    Yields:
        A name and a structure, or the reason why it can't be read.

    Raises:
        ValueError and others: If the file as a whole can't be read; parsers raise anything.
    """
    yield from READERS[format_of(name)](PurePosixPath(name).name, data, elements)


def structure_from_atoms(atoms: Atoms) -> Structure:
    """An ASE geometry as a structure, coordinates wrapped into the cell, other data dropped."""
    if not atoms.cell.rank == 3:
        raise ValueError("a geometry without a three-dimensional cell")
    return Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.get_scaled_positions(), to_unit_cell=True)


def structure_from_row(row: Mapping[str, Any]) -> Structure:
    """The structure of a row with `numbers`, `frac_coords` and `cell` (row vectors, angstrom), flattened."""
    return _structure(np.reshape(row["cell"], (3, 3)), row["numbers"], np.reshape(row["frac_coords"], (-1, 3)))


def structure_from_text(text: str) -> Structure:
    """A structure from a CIF, or from a pymatgen structure's dictionary as JSON or as Python prints it.

    Raises:
        ValueError and others: If it is neither; parsers raise anything.
    """
    if not text.lstrip().startswith("{"):
        return Structure.from_str(text, fmt="cif")
    try:
        return structure_from_dict(json.loads(text))
    except json.JSONDecodeError:
        return structure_from_dict(ast.literal_eval(text.strip()))


def structure_from_dict(data: Any) -> Structure:  # noqa: ANN401
    """The lattice, elements and fractional coordinates of a pymatgen structure's dictionary, and nothing else of it.

    Raises:
        ValueError: If it is none, or a site is partly filled.
    """
    try:
        species = [site["species"] for site in data["sites"]]
        symbols = [_element(one[0]["element"]) for one in species]
        if any(len(one) != 1 or one[0].get("occu", 1) != 1 for one in species):
            raise ValueError("a site is partly filled")
        coords = [site["abc"] for site in data["sites"]]
        return Structure(np.array(data["lattice"]["matrix"], dtype=float), symbols, np.array(coords, dtype=float))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"no structure's dictionary ({type(error).__name__}: {first_line(error)})") from error


def _element(symbol: Any) -> Element:  # noqa: ANN401
    return Element(str(symbol).rstrip("+-0123456789"))


def _structure(cell: Any, numbers: Sequence[int], frac_coords: Any) -> Structure:  # noqa: ANN401
    return Structure(Lattice(cell), [Element.from_Z(int(z)) for z in numbers], frac_coords)


def _cif(name: str, data: bytes, _: Collection[ElementSet] | None) -> Named:
    """Every block that has sites; pymatgen passes over broken ones and those of equal name without a word."""
    text, stem = data.decode("utf-8"), PurePosixPath(name).stem
    blocks = [block for block in re.split(r"(?im)^(?=data_)", text) if re.match(r"(?is)data_.*_atom_site", block)]
    if len(blocks) < 2:
        yield stem, _from_cif(text)
        return
    yield from ((f"{stem}-{index}", or_reason(_from_cif, block)) for index, block in enumerate(blocks))


def _from_cif(text: str) -> Structure:
    from pymatgen.io.cif import CifParser

    return CifParser.from_str(text).parse_structures(primitive=False)[0]


def _extxyz(name: str, data: bytes, _: Collection[ElementSet] | None) -> Named:
    from ase import Atoms

    for index, frame in enumerate(_frames(data.decode("utf-8").rstrip().splitlines(keepends=True))):
        atoms = or_reason(_frame, frame)
        known = isinstance(atoms, Atoms) and (atoms.info.get("name") or atoms.info.get("material_id"))
        made = atoms if isinstance(atoms, FailedAttempt) else or_reason(structure_from_atoms, atoms)
        yield str(known or f"{PurePosixPath(name).stem}-{index}"), made


def _frames(lines: Sequence[str]) -> Iterator[str]:
    """The frames of an extxyz file; from where a number of atoms is missing, the rest is one."""
    start = 0
    while start < len(lines):
        count = lines[start].strip()
        end = start + 2 + int(count[:MOST_DIGITS]) if count.isdecimal() else len(lines)
        yield "".join(lines[start:end])
        start = end


def _frame(text: str) -> Atoms:
    """One frame of an extxyz file, whose first two lines promise no more than follows."""
    from ase.io import read

    lines = text.split("\n")
    count = lines[0].strip()
    if count.isdecimal() and int(count[:MOST_DIGITS]) > len(lines) - 2:
        raise ValueError("it promises more atoms than it has lines")
    widths = [int(width[:MOST_DIGITS]) for width in re.findall(r":[SIRL]:(\d+)", lines[1] if len(lines) > 1 else "")]
    if sum(widths) > max(map(len, lines)):
        raise ValueError("it promises more columns than its lines have")
    atoms: Atoms = read(io.StringIO(text), format="extxyz")
    return atoms


def _poscar(name: str, data: bytes, _: Collection[ElementSet] | None) -> Named:
    text = data.decode("utf-8")
    lines = text.split("\n")
    if sum(_count(word) for line in lines[5:7] for word in line.split()) > len(lines):
        raise ValueError("it names more atoms than it has lines")
    yield name, Structure.from_str(text, fmt="poscar")


def _count(word: str) -> int:
    """A number of atoms as pymatgen reads it; 0 for anything else."""
    try:
        return max(0, int(word[:MOST_DIGITS]))
    except ValueError:
        return 0


def _res(name: str, data: bytes, _: Collection[ElementSet] | None) -> Named:
    from unimat_search.res import read_res_lines

    entries = read_res_lines(data.decode("utf-8").splitlines(), PurePosixPath(name).stem)
    yield from ((entry.name, entry.structure) for entry in entries)


def _parquet(name: str, data: bytes, elements: Collection[ElementSet] | None) -> Named:
    """Columns numbers, frac_coords, cell; for names material_id; in reason, why there is no structure."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(pa.BufferReader(data))
    missing = {"numbers", "frac_coords", "cell"} - set(parquet.schema_arrow.names)
    if missing:
        raise ValueError(f"column {sorted(missing)[0]} is missing")
    used = ("material_id", "numbers", "frac_coords", "cell", "reason")
    columns = [column for column in used if column in parquet.schema_arrow.names]
    wanted = None if elements is None else {frozenset(Element(el).Z for el in one) for one in elements}
    position = -1
    for batch in batches(parquet, columns):
        for row in batch.to_pylist():
            position += 1
            if wanted is None or frozenset(row["numbers"]) in wanted:
                row_name = str(row.get("material_id") or f"{PurePosixPath(name).stem}-{position}")
                reason = row.get("reason")
                yield row_name, FailedAttempt(str(reason)) if reason else or_reason(structure_from_row, row)


def _csv(name: str, data: bytes, _: Collection[ElementSet] | None) -> Named:
    """A column cif or structure, of CIFs or dictionaries as text, and for names material_id."""
    import pyarrow as pa
    from pyarrow import csv

    table = csv.read_csv(pa.BufferReader(data), parse_options=csv.ParseOptions(newlines_in_values=True))
    texts = next((table.column(column) for column in ("cif", "structure") if column in table.column_names), None)
    if texts is None:
        raise ValueError("it has no column cif or structure")
    names = table.column("material_id").to_pylist() if "material_id" in table.column_names else [None] * len(texts)
    for index, (known, text) in enumerate(zip(names, texts.to_pylist(), strict=True)):
        yield str(known or f"{name}-{index}"), or_reason(structure_from_text, str(text or ""))


def _json(name: str, data: bytes, _: Collection[ElementSet] | None) -> Named:
    """One pymatgen structure's dictionary, a list of them, or of them by name."""
    content = json.loads(data)
    if isinstance(content, Mapping) and "sites" in content:
        content = {PurePosixPath(name).stem: content}
    elif isinstance(content, list):
        content = {f"{PurePosixPath(name).stem}-{index}": one for index, one in enumerate(content)}
    for known, one in content.items():
        yield str(known), or_reason(structure_from_dict, one)


def _tensors(name: str, data: bytes, _: Collection[ElementSet] | None) -> Named:
    """Samples as CDVAE and DiffCSP write them (`eval_gen.pt`, `eval_diff.pt`): arrays of all atoms, one set a run.

    Keys: num_atoms (runs, m), atom_types (runs, s), frac_coords (runs, s, 3), and lattices (runs, m, 3, 3) or lengths
    and angles (runs, m, 3).
    """
    import torch

    content = _load_inert(data)
    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if any(one.nbytes > len(data) for one in tensors.values()):
        raise ValueError("a tensor is larger than the file")
    arrays = {key: np.asarray(value) for key, value in tensors.items()}
    for run, counts in enumerate(np.atleast_2d(arrays["num_atoms"]).astype(int)):
        types = arrays["atom_types"].reshape(-1, counts.sum())[run]
        coords = arrays["frac_coords"].reshape(-1, counts.sum(), 3)[run]
        starts = np.concatenate([[0], np.cumsum(counts)])
        for index, (start, end) in enumerate(pairwise(starts)):
            row = {"cell": _cell(arrays, run, index, len(counts)), "numbers": types[start:end]}
            yield f"{name}-{run}-{index}", or_reason(structure_from_row, row | {"frac_coords": coords[start:end]})


def _cell(arrays: Mapping[str, Any], run: int, index: int, count: int) -> Any:  # noqa: ANN401
    if "lattices" in arrays:
        return arrays["lattices"].reshape(-1, count, 3, 3)[run, index]
    lengths, angles = (arrays[key].reshape(-1, count, 3)[run, index] for key in ("lengths", "angles"))
    return Lattice.from_parameters(*lengths.tolist(), *angles.tolist()).matrix


def _load_inert(data: bytes) -> Any:  # noqa: ANN401
    """What `torch.load` makes of tensors and plain containers; whatever else a file names is `_Inert`.

    Raises:
        ValueError: If it wants more than that, or is a program (TorchScript), or of before PyTorch 1.6.
    """
    import torch

    try:
        others = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))
        with torch.serialization.safe_globals([(_Inert, name) for name in others]):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything, and advises to execute the file
        raise ValueError("it is no file of tensors that torch.save wrote, or wants to execute something") from error


class _Inert:
    """Stands for any object that is no tensor: takes everything, does nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...


def _zip(_: str, data: bytes, elements: Collection[ElementSet] | None) -> Named:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [one for one in archive.infolist() if not one.is_dir()]
        yield from _members([(one.filename, one.file_size, partial(archive.read, one)) for one in members], elements)


def _tar(_: str, data: bytes, elements: Collection[ElementSet] | None) -> Named:
    with tarfile.open(fileobj=_Unpacked(data)) as archive:

        def read(member: tarfile.TarInfo) -> bytes:
            file = archive.extractfile(member)
            return file.read() if file else b""

        members = [
            (one.name, one.size, partial(read, one)) for one in archive.getmembers() if one.isreg() or one.islnk()
        ]
        yield from _members(members, elements)


class _Unpacked(io.RawIOBase):
    """The bytes of a tar archive, unpacked as they are asked for, up to a limit: headers can be bombs too."""

    def __init__(self, data: bytes) -> None:
        raw = io.BytesIO(data)
        self._file = gzip.GzipFile(fileobj=raw) if data[:2] == b"\x1f\x8b" else raw

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_FILE:
            raise ValueError(f"a file in it is larger than {MAX_FILE >> 20} MiB")
        return self._file.read(size)


def _members(members: Sequence[tuple[str, int, Callable[[], bytes]]], elements: Collection[ElementSet] | None) -> Named:
    """The structure files of an archive, read in memory: nothing is unpacked to anywhere.

    Args:
        members: Name, size and content of each; names may come again.
        elements: See `read_bytes`.
    """
    if sum(size for _, size, _ in members) > MAX_UNPACKED:
        raise ValueError(f"unpacked it is larger than {MAX_UNPACKED >> 30} GiB")
    files = [one for one in members if format_of(one[0]) in COLLECTED and "__MACOSX" not in one[0]]
    if not files:
        raise ValueError("it holds no structure file")
    for name, size, read in sorted(files, key=itemgetter(0)):
        try:
            if size > MAX_FILE:
                raise ValueError(f"unpacked it is larger than {MAX_FILE >> 20} MiB")
            data = read()
        except Exception as error:  # damage, a link to nowhere, a password
            yield PurePosixPath(name).name, FailedAttempt(f"{UNREAD}{first_line(error)}")
            continue
        yield from read_or_reason(name, data, elements)


def read_or_reason(name: str, data: bytes, elements: Collection[ElementSet] | None = None) -> Named:
    """As `read_bytes`; where a file of few structures can't be read, that is one that failed."""
    try:
        yield from read_bytes(name, data, elements)
    except Exception as error:
        if format_of(name) not in SINGLE:
            raise
        yield PurePosixPath(name).name, FailedAttempt(f"{UNREAD}{first_line(error)}")


def or_reason(read: Callable[[Any], T], source: Any) -> T | FailedAttempt:  # noqa: ANN401
    """What `read` makes of a source, or the reason why it makes nothing."""
    try:
        return read(source)
    except Exception as error:  # parsers raise anything
        return FailedAttempt(f"{UNREAD}{first_line(error)}")


READERS: dict[str, Callable[[str, bytes, Collection[ElementSet] | None], Named]] = {
    ".cif": _cif,
    ".csv": _csv,
    ".extxyz": _extxyz,
    ".json": _json,
    ".parquet": _parquet,
    ".poscar": _poscar,
    ".pt": _tensors,
    ".res": _res,
    ".tar": _tar,
    ".tar.gz": _tar,
    ".tgz": _tar,
    ".vasp": _poscar,
    ".xyz": _extxyz,
    ".zip": _zip,
}
"""By suffix."""

COLLECTED = (".cif", ".extxyz", ".parquet", ".poscar", ".res", ".vasp", ".xyz")
"""What counts as a structure file in a folder or an archive; the others may be anything."""
