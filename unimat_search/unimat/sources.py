"""Where structures come from: parquet and CSV files, folders of structure files, and public sets by name."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from unimat_search.parquet import batches
from unimat_search.records import FailedAttempt, did_you_mean, first_line
from unimat_search.unimat.batches import by_size
from unimat_search.unimat.elements import (
    MAX_ATOMIC_NUMBER,
    SYMBOLS,
    CompositionKey,
    composition_key,
    composition_numbers,
)
from unimat_search.unimat.grid import rank_among_like
from unimat_search.unimat.public import PUBLIC, fetch
from unimat_search.unimat.slots import shortest_distances
from unimat_search.unimat.structures import NEAR_HULL, PROPERTIES, StructureSet, concatenate

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from unimat_search.formats import Named

MAX_SITES = 200
NEAREST = 0.5
"""Atoms nearer to each other than this make a structure unusable, angstrom."""

LAST_MP_20_ID = 1_667_834
"""The highest Materials Project number of the database that MP-20 was drawn from."""


@dataclass(frozen=True)
class BadRow:
    """A structure that can't be used.

    Attributes:
        name: Of the file or the row.
        reason: One line.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """What was read, and what could not be."""

    structures: StructureSet
    bad: tuple[BadRow, ...] = ()


def read_source(source: str, data_dir: Path | None = None, *, max_sites: int = MAX_SITES) -> Reading:
    """Structures of a public set by name ("mp_20/train"), a file or a folder.

    Args:
        source: The name or the path.
        data_dir: Where public sets lie; without it they are downloaded into the user's cache.
        max_sites: Larger cells are left out.

    Raises:
        ValueError: If there is no such set, or its file as a whole can't be read.
    """
    path = find_data(source, data_dir)
    if path.is_dir():
        return _usable(_read_files(path), max_sites)
    if path.suffix.lower() == ".parquet":
        reading = read_parquet(path)
    elif path.name.lower().endswith((".csv", ".csv.gz")):
        reading = _read_csv(path)
    else:
        reading = _read_files(path)
    if source.split("/")[0] == "mp_20":
        near = reading.structures.properties[:, PROPERTIES.index("near_hull")]
        near[np.isnan(near)] = 1.0
    return _usable(reading, max_sites)


def find_data(source: str, data_dir: Path | None) -> Path:
    """The file of a public set or of what lies beside it, or the path itself.

    Raises:
        ValueError: If there is neither.
    """
    if data_dir is not None:
        for candidate in (data_dir / source, data_dir / f"{source}.parquet"):
            if candidate.exists():
                return candidate
    if Path(source).exists():
        return Path(source)
    if source in PUBLIC:
        return fetch(source)
    where = f" in {data_dir}" if data_dir else ""
    raise ValueError(
        f"there is no data {source!r}{where}; public sets by name: {', '.join(sorted(PUBLIC))}"
        f"{did_you_mean(source, PUBLIC)}"
    )


def read_parquet(path: Path) -> Reading:
    """A parquet file of columns numbers, frac_coords and cell, and if it has them material_id and the properties.

    Cells that the file's metadata does not call reduced are Niggli-reduced, as the benchmarks do.

    Raises:
        ValueError: If the file is no parquet, or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table = pa.Table.from_batches(batches(file), file.schema_arrow).combine_chunks()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {first_line(error)}") from error
    for name in ("numbers", "frac_coords", "cell"):
        if name not in table.column_names:
            raise ValueError(f"{path} has no column {name}; it needs numbers, frac_coords and cell")
    try:
        offsets, numbers = _flat(table, "numbers", pa.int64())
        coords_offsets, frac_coords = _flat(table, "frac_coords", pa.float64())
        cell_offsets, cells = _flat(table, "cell", pa.float64())
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"{path}: numbers, frac_coords and cell must be lists of numbers ({error})") from error
    wrong = (np.diff(coords_offsets) != 3 * np.diff(offsets)) | (np.diff(cell_offsets) != 9)
    if wrong.any():
        raise ValueError(
            f"{path}: row {int(wrong.argmax())} must have three frac_coords a site, and nine numbers of cell"
        )
    whole = _Rows(_names(table, path), numbers, frac_coords.reshape(-1, 3), cells.reshape(-1, 3, 3), offsets)
    try:
        properties = _properties(table)
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: the columns of properties can't be read ({first_line(error)})") from error
    return _assemble(whole, properties, reduced=(table.schema.metadata or {}).get(b"niggli") == b"true")


def _flat(table: Any, name: str, kind: Any) -> tuple[NDArray[np.int64], NDArray[Any]]:  # noqa: ANN401
    """Offsets and values of a column of lists."""
    import pyarrow as pa

    column = table.column(name).combine_chunks()
    lists = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    lists = lists.cast(pa.list_(kind))
    if lists.null_count or lists.values.null_count:
        raise ValueError(f"a row has no {name}")
    return np.asarray(lists.offsets).astype(np.int64), np.asarray(lists.values)


def write_parquet(structures: StructureSet, path: Path) -> None:
    """Write a set so that `read_parquet` reads it back as it is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    offsets = pa.array(structures.offsets.astype(np.int32))
    coords = pa.array(structures.frac_coords.ravel())
    table = pa.table(
        {
            "material_id": pa.array(structures.ids),
            "numbers": pa.ListArray.from_arrays(offsets, pa.array(structures.numbers)),
            "frac_coords": pa.ListArray.from_arrays(pa.array((3 * structures.offsets).astype(np.int32)), coords),
            "cell": pa.FixedSizeListArray.from_arrays(pa.array(structures.cells.ravel()), 9),
            **{name: pa.array(structures.properties[:, i]) for i, name in enumerate(PROPERTIES)},
        },
        metadata={"niggli": "true"},
    )
    pq.write_table(table, path, compression="zstd")


def from_structures(pairs: Iterable[tuple[str, Structure]]) -> StructureSet:
    """A set of named structures.

    Raises:
        ValueError: If one can't be represented; it names the structure and the reason.
    """
    reading = _from_pairs(pairs)
    if reading.bad:
        raise ValueError(f"{reading.bad[0].name}: {reading.bad[0].reason}")
    return reading.structures


def describe(reading: Reading) -> list[str]:
    """Lines for people: counts, elements, sizes, duplicates, and the bad rows."""
    structures = reading.structures
    lines = [f"structures        {len(structures)} usable, {len(reading.bad)} not"]
    if len(structures):
        sizes = structures.num_sites
        rank = rank_among_like(structures.sites())
        most = int(rank.argmax())
        elements = sorted(set(structures.numbers.tolist()))
        largest = int(sizes.argmax())
        known = (~np.isnan(structures.properties)).sum(0)
        copies = duplicates(structures)
        lines += [
            f"compositions      {len(set(structures.keys))} reduced",
            f"elements          {len(elements)}: {' '.join(SYMBOLS[z] for z in elements)}",
            f"sites in a cell   {sizes.min()} to {sizes.max()}, median {np.median(sizes):g}",
            f"largest           {structures.ids[largest]}",
            f"most of one       {int(rank[most]) + 1} {SYMBOLS[structures.numbers[most]]} in one cell",
            f"duplicates        {len(copies)}" + "".join(f"\n  {one} = {other}" for one, other in copies[:10]),
            f"known             {', '.join(f'{n} {name}' for name, n in zip(PROPERTIES, known, strict=True))}",
        ]
    return lines + [f"not usable        {row.name}: {row.reason}" for row in reading.bad]


def duplicates(structures: StructureSet) -> list[tuple[str, str]]:
    """Structures that repeat an earlier one, with it: equal atoms, cells and nearest distances to 0.01 angstrom."""
    seen: dict[tuple[object, ...], str] = {}
    found = []
    nearest = nearest_distances(structures)
    for row, name in enumerate(structures.ids):
        start, end = structures.offsets[row], structures.offsets[row + 1]
        lengths = np.sort(np.linalg.norm(structures.cells[row], axis=1))
        volume = np.linalg.det(structures.cells[row].astype(float))
        print_ = (
            tuple(sorted(structures.numbers[start:end].tolist())),
            tuple(np.round(lengths, 2).tolist()),
            round(abs(float(volume)), 1),
            tuple(np.round(np.sort(nearest[start:end]), 2).tolist()),
        )
        if print_ in seen:
            found.append((name, seen[print_]))
        else:
            seen[print_] = name
    return found


def nearest_distances(structures: StructureSet) -> NDArray[np.float64]:
    """Distance from each atom to its nearest neighbour, its own images included, angstrom. (s,)."""
    found = np.zeros(len(structures.numbers))
    for size, batch in by_size(structures).items():
        rows = np.flatnonzero(structures.num_sites == size)
        for part in torch.split(torch.arange(len(batch)), max(1, 40_000 // size**2)):
            some = batch.take(part)
            differences = some.frac_coords.unsqueeze(1) - some.frac_coords.unsqueeze(2)
            near = shortest_distances(differences, some.cells).amin(-1)
            sites = structures.offsets[rows[part.numpy()]][:, None] + np.arange(size)
            found[sites] = near.numpy()
    return found


def niggli(cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Niggli-reduced cell of the same lattice (spglib). (3, 3) -> (3, 3).

    Raises:
        ValueError: If there is none.
    """
    import spglib

    for tolerance in (1e-4, 1e-3, 1e-2):  # square angstrom; single-precision cells need more than the default
        reduced: NDArray[np.float64] | None = spglib.niggli_reduce(cell, eps=tolerance)
        if reduced is not None:
            return reduced
    raise ValueError("the cell has no Niggli reduction")


def read_formulas(path: Path) -> frozenset[CompositionKey]:
    """Reduced compositions of a CSV file with a column reduced_formula.

    Raises:
        ValueError: If the column is missing.
    """
    from pymatgen.core import Composition

    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or "reduced_formula" not in rows[0]:
        raise ValueError(f"{path} holds no formula in a column reduced_formula")
    try:
        return frozenset(composition_key(composition_numbers(Composition(row["reduced_formula"]))) for row in rows)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} holds what is no formula: {first_line(error)}") from error


@dataclass(frozen=True)
class _Rows:
    """Structures as they were read, before any check. As `StructureSet`, in double precision, cells as they come."""

    ids: tuple[str, ...]
    numbers: NDArray[np.int64]
    frac_coords: NDArray[np.float64]
    cells: NDArray[np.float64]
    offsets: NDArray[np.int64]


def _assemble(rows: _Rows, properties: NDArray[np.float32], *, reduced: bool) -> Reading:
    """Check each row, reduce its cell, and put the good ones together."""
    good, bad = [], []
    cells = rows.cells.copy()
    frac_coords = rows.frac_coords.copy()
    for row, name in enumerate(rows.ids):
        mine = slice(rows.offsets[row], rows.offsets[row + 1])
        try:
            _check(rows.numbers[mine], rows.frac_coords[mine], rows.cells[row])
            if not reduced:
                cells[row] = niggli(rows.cells[row])
                frac_coords[mine] = rows.frac_coords[mine] @ (rows.cells[row] @ np.linalg.inv(cells[row]))
        except ValueError as error:
            bad.append(BadRow(name, str(error)))
            frac_coords[mine] = 0.0
        else:
            good.append(row)
    whole = StructureSet(
        ids=rows.ids,
        numbers=np.clip(rows.numbers, 0, 255).astype(np.uint8),
        frac_coords=_wrap(frac_coords),
        cells=cells.astype(np.float32),
        properties=properties,
        offsets=rows.offsets,
    )
    return Reading(whole.take(good), tuple(bad))


def _check(numbers: NDArray[np.int64], frac_coords: NDArray[np.float64], cell: NDArray[np.float64]) -> None:
    if not len(numbers):
        raise ValueError("no atoms")
    if numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
        wrong = numbers[(numbers < 1) | (numbers > MAX_ATOMIC_NUMBER)][0]
        raise ValueError(f"no element has the atomic number {wrong}")
    if not (np.isfinite(frac_coords).all() and np.isfinite(cell).all()):
        raise ValueError("coordinates or cell are not finite")
    if abs(np.linalg.det(cell)) < 0.1:
        raise ValueError("the cell has no volume")


def _usable(reading: Reading, max_sites: int) -> Reading:
    """Without cells that are too large, and without atoms on top of each other."""
    structures = reading.structures
    bad = list(reading.bad)
    small = structures.num_sites <= max_sites
    bad += [
        BadRow(structures.ids[row], f"{structures.num_sites[row]} sites, more than {max_sites} (--max-sites)")
        for row in np.flatnonzero(~small)
    ]
    structures = structures.take(np.flatnonzero(small))
    if len(structures):
        nearest = np.minimum.reduceat(nearest_distances(structures), structures.offsets[:-1])
        bad += [
            BadRow(structures.ids[row], f"two atoms are {nearest[row]:.2f} angstrom apart")
            for row in np.flatnonzero(nearest < NEAREST)
        ]
        structures = structures.take(np.flatnonzero(nearest >= NEAREST))
    return Reading(structures, tuple(bad))


def _read_files(path: Path) -> Reading:
    """All structure files of a folder, or one file."""
    from unimat_search.files import structure_files
    from unimat_search.formats import read_or_reason

    readings, bad = [], []
    pairs: list[tuple[str, Structure | FailedAttempt]] = []
    for file in structure_files(path):
        try:
            if file.suffix.lower() == ".parquet":
                readings.append(read_parquet(file))
                continue
            found = _quietly(read_or_reason(file.name, file.read_bytes()))
            pairs.extend((_row_name(file, name), structure) for name, structure in found)
        except Exception as error:
            bad.append(BadRow(file.name, f"can't be read: {first_line(error)}"))
    readings.append(_from_pairs(pairs))
    bad += [row for reading in readings for row in reading.bad]
    return Reading(concatenate([reading.structures for reading in readings]), tuple(bad))


def _row_name(file: Path, name: str) -> str:
    """The file's name, and the structure's where the file may hold several."""
    return file.name if name in (file.stem, file.name) else f"{file.name}:{name}"


def _quietly(pairs: Named) -> list[tuple[str, Structure | FailedAttempt]]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(pairs)
    if not found:
        raise ValueError("it holds no structure")
    return found


def _read_csv(path: Path) -> Reading:
    """A benchmark's CSV file: a CIF as text in the column cif, properties and names in others."""
    import pyarrow as pa
    from pyarrow import csv as table_csv

    from unimat_search.formats import or_reason, structure_from_text

    options = table_csv.ParseOptions(newlines_in_values=True)
    try:
        table = table_csv.read_csv(path, parse_options=options)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} can't be read as CSV: {first_line(error)}") from error
    if "cif" not in table.column_names:
        raise ValueError(f"{path} has no column cif")
    cifs = table.column("cif").to_pylist()
    pairs = (
        (name, or_reason(structure_from_text, str(cif or "")))
        for name, cif in zip(_names(table, path), cifs, strict=True)
    )
    return _from_pairs(pairs, _properties(table))


def _names(table: Any, path: Path) -> tuple[str, ...]:  # noqa: ANN401 - pyarrow has no types
    """The ids of a table's rows; a row without one is named by its file and number."""
    ids = table.column("material_id").to_pylist() if "material_id" in table.column_names else [None] * table.num_rows
    return tuple(f"{path}:{row}" if name is None else str(name) for row, name in enumerate(ids))


def _from_pairs(
    pairs: Iterable[tuple[str, Structure | FailedAttempt]], properties: NDArray[np.float32] | None = None
) -> Reading:
    """Named structures, or the reasons why they are none, with their properties as a set."""
    names, numbers, coords, cells, kept, bad = [], [], [], [], [], []
    for index, (name, structure) in enumerate(pairs):
        try:
            if isinstance(structure, FailedAttempt):
                raise ValueError(structure.reason)
            mine = np.array([_atomic_number(site) for site in structure], dtype=np.int64)
        except ValueError as error:
            bad.append(BadRow(name, str(error)))
            continue
        kept.append(index)
        names.append(name)
        numbers.append(mine)
        coords.append(structure.frac_coords)
        cells.append(structure.lattice.matrix)
    rows = _Rows(
        tuple(names),
        np.concatenate([*numbers, np.zeros(0, dtype=np.int64)]),
        np.concatenate([*coords, np.zeros((0, 3))]),
        np.array(cells, dtype=np.float64).reshape(-1, 3, 3),
        np.concatenate([[0], np.cumsum([len(mine) for mine in numbers], dtype=np.int64)]).astype(np.int64),
    )
    unknown = np.full((len(names), len(PROPERTIES)), np.nan, dtype=np.float32)
    reading = _assemble(rows, unknown if properties is None else properties[kept], reduced=False)
    return replace(reading, bad=(*bad, *reading.bad))


def _atomic_number(site: Any) -> int:  # noqa: ANN401 - pymatgen's sites have no common type
    """Atomic number of an ordered site of a plain element.

    Raises:
        ValueError: If the site is partly filled, or holds an isotope or no element.
    """
    if not site.is_ordered:
        raise ValueError(f"a site is partly filled: {site.species_string}")
    element = getattr(site.specie, "element", site.specie)
    number = int(getattr(element, "Z", 0))
    symbol = str(getattr(element, "name", getattr(element, "symbol", element)))
    if not 1 <= number <= MAX_ATOMIC_NUMBER or SYMBOLS[number] != symbol:
        raise ValueError(f"{symbol} is not an element of the periodic table; replace it (D by H, for example)")
    return number


def _wrap(frac_coords: NDArray[np.float64]) -> NDArray[np.float32]:
    """Into [0, 1), in single precision too."""
    wrapped = (frac_coords % 1.0).astype(np.float32)
    wrapped[wrapped >= 1.0] = 0.0
    return wrapped


def _properties(table: Any) -> NDArray[np.float32]:  # noqa: ANN401 - pyarrow has no types
    """`PROPERTIES` of a table's rows. (m, 2)."""

    def column(name: str) -> NDArray[np.float64]:
        if name not in table.column_names:
            return np.full(table.num_rows, np.nan)
        values: NDArray[np.float64] = table.column(name).to_numpy().astype(np.float64)
        return values

    hull = column("e_above_hull")
    hull = np.where(np.isnan(hull), column("e_above_hull_calc"), hull)
    near = np.where(np.isnan(hull), column("near_hull"), hull < NEAR_HULL)
    if "mp_20_split" in table.column_names:
        near = np.where(np.isnan(near), _near_hull_by_membership(table), near)
    return np.stack([column("formation_energy_per_atom"), near], axis=1).astype(np.float32)


def _near_hull_by_membership(table: Any) -> NDArray[np.float64]:  # noqa: ANN401
    """What being in MP-20 or not says: it holds what the Materials Project of its day had near the hull, no more."""
    inside = np.array([split is not None for split in table.column("mp_20_split").to_pylist()])
    numbers = np.array([int(name.split("-")[-1]) for name in table.column("material_id").to_pylist()])
    return np.where(inside, 1.0, np.where(numbers <= LAST_MP_20_ID, 0.0, np.nan))
