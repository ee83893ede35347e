from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from unimat_search.records import Outcome, Record, Task
from unimat_search.store import SCHEMA_VERSION, Store, StoreError, structure_from_json, structure_to_json

SALT = Structure(Lattice.from_parameters(4, 4.1, 3.9, 60, 61, 62), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 1 / 3]])
TASK = Task("airss,separation=0.7", "NaCl", 1, "Cl1 Na1", 3, 7, "airss,separation=0.7")


def waiting(index: int) -> Record:
    return Record(TASK.key(index), TASK.generator, "NaCl", 1, TASK.cell_formula, 7, index, SALT, True, 0.25)


def finished(index: int) -> Record:
    return replace(
        waiting(index),
        outcome=Outcome.CONVERGED,
        final_structure=SALT.copy().apply_strain(0.1, inplace=False),
        energy=-6.78901234567890123,
        formation_energy_per_atom=-2.0,
        n_steps=12,
        max_force=0.04,
        relax_seconds=1.5,
        match="mp-22862",
        rms_dist=0.01,
    )


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    failed = replace(waiting(2), initial_structure=None, outcome=Outcome.GENERATOR_FAILED, detail="it's 'odd'\"")
    rows = [waiting(0), finished(1), failed]
    with Store(tmp_path / "results.sqlite") as store:
        store.write(rows)
    with Store(tmp_path / "results.sqlite") as store:
        assert store.task_records(TASK) == rows
        assert list(store.records(structures=True)) == rows
        assert store.record(TASK.key(1)) == rows[1]
        assert [r.initial_structure for r in store.records()] == [None] * 3


def test_a_result_replaces_its_row_and_keeps_its_place(tmp_path: Path) -> None:
    with Store(tmp_path / "results.sqlite") as store:
        store.write(waiting(i) for i in range(3))
        store.write([finished(1)])
        assert [r.outcome for r in store.records()] == [None, Outcome.CONVERGED, None]
        assert [r.index for r in store.records()] == [0, 1, 2]


def test_a_failed_write_writes_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "results.sqlite") as store:
        broken = replace(waiting(1), detail=object())  # type: ignore[arg-type]
        with pytest.raises(StoreError, match="can't be written"):
            store.write([waiting(0), broken])
        assert list(store.records()) == []


def test_another_task_is_another_task(tmp_path: Path) -> None:
    with Store(tmp_path / "results.sqlite") as store:
        store.write([waiting(0)])
        for other in (replace(TASK, seed=8), replace(TASK, generator="airss"), replace(TASK, cell_formula="x")):
            assert store.task_records(other) == []


def test_reading_changes_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "results.sqlite") as store:
        store.write([waiting(0)])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with Store(tmp_path / "results.sqlite", read_only=True) as store:
        assert len(list(store.records())) == 1
        with pytest.raises(StoreError, match="readonly"):
            store.write([waiting(1)])
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name in before} == before


def test_what_may_only_be_read_is_not_read_in_part(tmp_path: Path) -> None:
    """A killed run's last rows are in SQLite's log, which can't be read without writing beside it."""
    with Store(tmp_path / "results.sqlite") as store:
        store.write([waiting(0)])
        shutil.copytree(tmp_path, tmp_path / "killed")
    killed = tmp_path / "killed" / "results.sqlite"
    assert killed.with_name("results.sqlite-wal").stat().st_size
    (killed.parent / "results.sqlite-shm").unlink()
    with Store(killed, read_only=True) as store:
        assert len(list(store.records())) == 1

    def unwritable(name: str, **options: Any) -> sqlite3.Connection:
        if "immutable" in name:
            connection: sqlite3.Connection = sqlite3.dbapi2.connect(name, **options)
            return connection
        raise sqlite3.OperationalError("unable to open database file")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", unwritable)
        with pytest.raises(StoreError, match="left in the midst of work"):
            Store(killed, read_only=True)


def test_a_store_that_was_killed_while_it_was_made_is_made_whole(tmp_path: Path) -> None:
    with Store(tmp_path / "results.sqlite"):
        pass
    with sqlite3.connect(tmp_path / "results.sqlite") as connection:
        connection.execute("PRAGMA user_version = 0")
    with Store(tmp_path / "results.sqlite") as store:
        store.write([waiting(0)])
        assert len(list(store.records())) == 1


def test_what_is_no_results_file_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database at all" * 100)
    with pytest.raises(StoreError, match="no results file"):
        Store(text)


def test_another_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match=f"version {SCHEMA_VERSION + 1}"):
        Store(path)


@given(st.integers(0, 2**31))
def test_structures_are_kept_to_the_last_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lattice = Lattice(rng.normal(size=(3, 3)) * 5)
    structure = Structure(lattice, ["U", "O", "O"], rng.random((3, 3)))
    again = structure_from_json(structure_to_json(structure))
    assert (again.lattice.matrix == structure.lattice.matrix).all()
    assert (again.frac_coords == structure.frac_coords).all()
    assert again.species == structure.species


def test_keys_tell_candidates_apart() -> None:
    tasks = [TASK, replace(TASK, seed=1), replace(TASK, generator="pyxtal"), replace(TASK, cell_formula="Cl2 Na2")]
    assert len({task.key(i) for task in tasks for i in range(3)}) == 12
