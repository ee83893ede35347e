"""A run on disk: one SQLite row per candidate, one writer, safe against being killed.

SQLite in WAL mode keeps what was committed through a `kill -9`; a task's candidates, and a chunk's results,
are each written in one transaction, so that a resumed run finds either all of them or none.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimat_search.records import Outcome, Record, Task, UserError, first_line

if TYPE_CHECKING:
    from types import TracebackType

    from pymatgen.core import Structure

SCHEMA_VERSION = 3
COLUMNS = tuple(field.name for field in fields(Record))
NUMBERS = (
    "formula_units",
    "seed",
    "index",
    "generate_seconds",
    "energy",
    "enthalpy",
    "formation_energy_per_atom",
    "n_steps",
    "max_force",
    "relax_seconds",
    "rms_dist",
)
STRUCTURES = ("initial_structure", "final_structure")

_CREATE = f"""
CREATE TABLE IF NOT EXISTS candidates (
    {", ".join(f'"{name}"' for name in COLUMNS if name != "key")},
    "key" TEXT PRIMARY KEY NOT NULL
)
"""

_CREATE_SHARES = """
CREATE TABLE IF NOT EXISTS shares (
    generator TEXT, reduced_formula TEXT, formula_units INTEGER, n INTEGER,
    PRIMARY KEY (generator, reduced_formula, formula_units)
)
"""

Shares = list[tuple[int, int]]
"""Formula units, and how many candidates in that cell."""


class StoreError(UserError):
    """A results file that can't be used; the message is one line."""


class Store:
    """The results of one run.

    Args:
        path: The SQLite file; made if it is missing.
        read_only: Change nothing, also not beside the file.

    Raises:
        StoreError: If the file is no results file, or of another version.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        try:
            self._connection = _open_read_only(path) if read_only else sqlite3.connect(path)
            with ExitStack() as on_error:
                on_error.callback(self.close)
                self._prepare(read_only=read_only)
                on_error.pop_all()
        except sqlite3.Error as error:
            raise StoreError(f"{path} is no results file: {error}") from error

    def _prepare(self, *, read_only: bool) -> None:
        if not read_only:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not read_only:
            with self._connection:
                self._connection.execute(_CREATE)
                self._connection.execute(
                    "CREATE INDEX IF NOT EXISTS task ON candidates (generator, cell_formula, seed)"
                )
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        if not read_only and version in (0, SCHEMA_VERSION):
            self._connection.execute(_CREATE_SHARES)
        elif version != SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} is a results file of version {version}, this program reads version {SCHEMA_VERSION}; "
                "use the unimat-search that wrote it (run.toml names it), or begin anew with another --out"
            )

    def write(self, records: Iterable[Record]) -> None:
        """Write rows, all or none; a row of the same key is replaced.

        Raises:
            StoreError: If they can't be written.
        """
        columns = ", ".join(f'"{name}"' for name in COLUMNS)
        values = ", ".join(f":{name}" for name in COLUMNS)
        assignments = ", ".join(f'"{name}" = excluded."{name}"' for name in COLUMNS)
        statement = (
            f"INSERT INTO candidates ({columns}) VALUES ({values}) ON CONFLICT (key) DO UPDATE SET {assignments}"
        )
        try:
            with self._connection:
                self._connection.executemany(statement, map(_to_row, records))
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} can't be written: {error}; what was finished before is kept") from error

    def task_records(self, task: Task, *, structures: bool = True) -> list[Record]:
        """The candidates of one task by index; empty if it was never started."""
        query = 'generator = ? AND cell_formula = ? AND seed = ? ORDER BY "index"'
        return list(self._select(query, (task.generator, task.cell_formula, task.seed), structures=structures))

    def composition_records(self, generator: str, cells: Sequence[str], seed: int) -> list[Record]:
        """The candidates of a generator in any of these cells by cell and index, without their structures."""
        query = f"generator = ? AND cell_formula IN ({', '.join('?' * len(cells))}) AND seed = ?"
        order = 'ORDER BY formula_units, "index"'
        return list(self._select(f"{query} {order}", (generator, *cells, seed), structures=False))

    def shares(self, generator: str, reduced_formula: str) -> Shares | None:
        """What `keep_shares` wrote; None if there is nothing."""
        query = "SELECT formula_units, n FROM shares WHERE generator = ? AND reduced_formula = ? ORDER BY formula_units"
        return list(self._connection.execute(query, (generator, reduced_formula))) or None

    def keep_shares(self, generator: str, reduced_formula: str, cells: Sequence[str], shares: Shares) -> None:
        """Note in which of these cells a generator gives its structures of a composition; rows of before that go."""
        rows = [(generator, reduced_formula, units, n) for units, n in shares]
        condition = f"generator = ? AND cell_formula IN ({', '.join('?' * len(cells))})"
        with self._connection:
            self._connection.execute(f"DELETE FROM candidates WHERE {condition}", (generator, *cells))
            self._connection.executemany("INSERT INTO shares VALUES (?, ?, ?, ?)", rows)

    def records(self, *, structures: bool = False) -> Iterator[Record]:
        """All rows by composition, generator, cell and index; structures left out unless they are asked for."""
        order = 'reduced_formula, generator, formula_units, seed, "index"'
        return self._select(f"TRUE ORDER BY {order}", (), structures=structures)

    def with_energy(self) -> Iterator[Record]:
        """Rows whose energies count, or would by other references, without their structures."""
        outcomes = (Outcome.CONVERGED.value, Outcome.UNPHYSICAL_ENERGY.value)
        return self._select("outcome IN (?, ?) AND energy IS NOT NULL", outcomes, structures=False)

    def record(self, key: str, *, structures: bool = True) -> Record:
        """One row."""
        return next(self._select("key = ?", (key,), structures=structures))

    def _select(self, condition: str, values: tuple[object, ...], *, structures: bool = True) -> Iterator[Record]:
        names = [name for name in COLUMNS if structures or name not in STRUCTURES]
        columns = ", ".join(f'"{name}"' for name in names)
        try:
            for row in self._connection.execute(f"SELECT {columns} FROM candidates WHERE {condition}", values):
                yield _from_row(dict(zip(names, row, strict=True)))
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self.path} is damaged: {first_line(error)}") from error

    def close(self) -> None:
        """Close the file; what was written stays."""
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_read_only(path: Path) -> sqlite3.Connection:
    """SQLite needs to write beside a file in WAL mode, unless it is told that nobody else does."""
    uri = path.resolve().as_uri()
    try:
        connection = sqlite3.connect(f"{uri}?mode=ro", uri=True)
        connection.execute("SELECT count(*) FROM sqlite_master")
        return connection
    except sqlite3.OperationalError:
        journal = path.with_name(f"{path.name}-wal")
        if journal.is_file() and journal.stat().st_size:
            raise StoreError(
                f"{path} was left in the midst of work: copy the folder to where it can be written"
            ) from None
        return sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True)


def structure_to_json(structure: Structure) -> str:
    """Lattice (row vectors, angstrom), element symbols and fractional coordinates, exactly."""
    return json.dumps(
        {
            "lattice": structure.lattice.matrix.tolist(),
            "species": [site.specie.symbol for site in structure],
            "frac_coords": structure.frac_coords.tolist(),
        }
    )


def structure_from_json(text: str) -> Structure:
    """Read what `structure_to_json` wrote."""
    import numpy as np
    from pymatgen.core import Structure

    data = json.loads(text)
    lattice, frac_coords = np.array(data["lattice"], dtype=float), np.array(data["frac_coords"], dtype=float)
    if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()):
        raise ValueError("a structure holds a value that is not a finite number")
    return Structure(lattice, data["species"], frac_coords)


def _to_row(record: Record) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in COLUMNS}
    for name in STRUCTURES:
        row[name] = structure_to_json(row[name]) if row[name] is not None else None
    return row | {"outcome": record.outcome.value if record.outcome else None}


def _from_row(row: dict[str, Any]) -> Record:
    for name in STRUCTURES:
        if row.get(name) is not None:
            row[name] = structure_from_json(row[name])
    outcome = Outcome(row["outcome"]) if row["outcome"] else None
    for name in NUMBERS:
        if not isinstance(row[name], int | float | None):
            raise ValueError(f"{name} of {row['key']} is {row[name]!r}")
    return Record(**row | {"outcome": outcome, "valid": bool(row["valid"])})
