from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from pymatgen.core import Lattice, Structure

from tests.unimat.crystals import random_set, sets
from unimat_search.cli import main
from unimat_search.unimat.public import fetch
from unimat_search.unimat.sources import from_structures, nearest_distances, niggli, read_source, write_parquet
from unimat_search.unimat.structures import StructureSet, concatenate, split_by_composition

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
IRON = Structure(Lattice.cubic(2.8), ["Fe", "Fe"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])


def large(sites: int) -> Structure:
    side = np.arange(8) / 8
    points = np.stack(np.meshgrid(side, side, side), axis=-1).reshape(-1, 3)[:sites]
    return Structure(Lattice.cubic(24), ["Fe"] * sites, points)


def same(one: StructureSet, other: StructureSet) -> bool:
    return (
        one.ids == other.ids
        and np.array_equal(one.numbers, other.numbers)
        and np.allclose(one.frac_coords, other.frac_coords)
        and np.array_equal(one.cells, other.cells)
        and np.array_equal(one.properties, other.properties, equal_nan=True)
    )


def test_a_folder_with_broken_files(tmp_path: Path) -> None:
    """What cannot be used is listed with its reason, and the rest is."""
    SALT.to(str(tmp_path / "salt.cif"))
    IRON.to(str(tmp_path / "POSCAR_iron"), fmt="poscar")
    IRON.to(str(tmp_path / "iron.cif"))
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a 3\nloop_\n_atom_site_label\n")
    (tmp_path / "empty.cif").write_text("")
    (tmp_path / "wrong.cif").write_text(SALT.to(fmt="cif").replace("Na", "Qq"))
    (tmp_path / "heavy.cif").write_text(IRON.to(fmt="cif").replace("Fe", "D"))
    large(500).to(str(tmp_path / "large.cif"))
    Structure(Lattice.cubic(3), ["O", "O"], [[0.0, 0, 0], [0.05, 0, 0]]).to(str(tmp_path / "close.vasp"), fmt="poscar")
    result = CliRunner().invoke(main, ["data", "check", str(tmp_path), "--out", str(tmp_path / "good.parquet")])
    assert result.exit_code == 0, result.output
    for line in (
        "structures        3 usable, 6 not",
        "elements          3: Na Cl Fe",
        "duplicates        1",
        "broken.cif: can't be read",
        "empty.cif: can't be read",
        "wrong.cif",
        "heavy.cif",
        "500 sites, more than 200",
        "two atoms are 0.15 angstrom apart",
        "3 structures in",
    ):
        assert line in result.output, result.output
    assert len(read_source(str(tmp_path / "good.parquet")).structures) == 3


@given(sets(most=2))
def test_parquet_brings_back_what_was_written(structures: StructureSet) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "set.parquet"
        write_parquet(structures, file)
        table = pq.read_table(file)
        assert table.schema.metadata[b"niggli"] == b"true"
        apart = np.minimum.reduceat(nearest_distances(structures), structures.offsets[:-1]) >= 0.5
        assert same(read_source(str(file)).structures, structures.take(np.flatnonzero(apart)))


def test_bad_rows_of_a_parquet_file(tmp_path: Path) -> None:
    cell = np.eye(3).ravel() * 4
    rows = [
        ("good", [26], [0.0] * 3, cell),
        ("nothing", [], [], cell),
        ("number", [0], [0.0] * 3, cell),
        ("nan", [26], [np.nan, 0, 0], cell),
        ("flat", [26], [0.0] * 3, [4.0, 0, 0, 0, 4, 0, 4, 4, 0]),
    ]
    table = pa.table(
        {name: [row[i] for row in rows] for i, name in enumerate(("material_id", "numbers", "frac_coords", "cell"))}
    )
    pq.write_table(table, tmp_path / "set.parquet")
    reading = read_source(str(tmp_path / "set.parquet"))
    assert reading.structures.ids == ("good",)
    assert [(row.name, row.reason) for row in reading.bad] == [
        ("nothing", "no atoms"),
        ("number", "no element has the atomic number 0"),
        ("nan", "coordinates or cell are not finite"),
        ("flat", "the cell has no volume"),
    ]


def test_rows_of_files_without_ids_are_not_taken_for_each_other(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 4)):
        table = pa.table(
            {
                "numbers": [[26]] * count,
                "frac_coords": [[0.0] * 3] * count,
                "cell": [[4.0, 0, 0, 0, 4, 0, 0, 0, 4]] * count,
            }
        )
        pq.write_table(table, tmp_path / f"{name}.parquet")
    (tmp_path / "c.parquet").write_bytes(b"junk")
    reading = read_source(str(tmp_path))
    assert len(reading.structures) == 7
    assert [row.name for row in reading.bad] == ["c.parquet"]


def test_fixed_size_lists_are_read_and_ragged_rows_named(tmp_path: Path) -> None:
    file = tmp_path / "set.parquet"
    cells = pa.FixedSizeListArray.from_arrays(pa.array([4.0, 0, 0, 0, 4, 0, 0, 0, 4] * 2), 9)
    numbers = pa.FixedSizeListArray.from_arrays(pa.array([26, 26]), 1)
    pq.write_table(pa.table({"numbers": numbers, "frac_coords": [[0.0] * 3] * 2, "cell": cells}), file)
    assert len(read_source(str(file)).structures) == 2
    pq.write_table(pa.table({"numbers": numbers, "frac_coords": [[0.0] * 2, [0.0] * 4], "cell": cells}), file)
    with pytest.raises(ValueError, match="row 0 must have three frac_coords a site"):
        read_source(str(file))
    pq.write_table(pa.table({"numbers": [26, 26], "frac_coords": [[0.0] * 3] * 2, "cell": cells}), file)
    with pytest.raises(ValueError, match="must be lists of numbers"):
        read_source(str(file))


def test_what_membership_in_mp_20_says_of_the_hull(tmp_path: Path) -> None:
    file = tmp_path / "set.parquet"
    table = pa.table(
        {
            "material_id": ["mp-1", "mp-2", "mp-3000000"],
            "numbers": [[26]] * 3,
            "frac_coords": [[0.0] * 3] * 3,
            "cell": [[4.0, 0, 0, 0, 4, 0, 0, 0, 4]] * 3,
            "mp_20_split": ["train", None, None],
        }
    )
    pq.write_table(table, file)
    assert np.array_equal(read_source(str(file)).structures.properties[:, 1], [1.0, 0.0, np.nan], equal_nan=True)
    energies = table.append_column("e_above_hull", [[0.2, 0.01, None]])
    pq.write_table(energies, file)
    assert read_source(str(file)).structures.properties[:, 1].tolist() == [0.0, 1.0, pytest.approx(np.nan, nan_ok=True)]


@pytest.mark.parametrize(("content", "says"), [(b"junk", "can't be read"), (None, "has no column frac_coords")])
def test_a_file_that_is_no_set(content: bytes | None, says: str, tmp_path: Path) -> None:
    file = tmp_path / "set.parquet"
    if content is None:
        pq.write_table(pa.table({"numbers": [[1]]}), file)
    else:
        file.write_bytes(content)
    result = CliRunner().invoke(main, ["data", "check", str(file)])
    assert result.exit_code == 2
    assert says in result.output


@given(sets(most=2))
def test_reduction_keeps_the_crystal(structures: StructureSet) -> None:
    cell = structures.cells[0].astype(float)
    skewed = np.array([[1, 1, 0], [0, 1, 2], [0, 0, 1]]) @ cell
    reduced = niggli(skewed)
    change = skewed @ np.linalg.inv(reduced)
    assert np.allclose(change, change.round(), atol=1e-3)
    assert abs(np.linalg.det(change)) == pytest.approx(1, abs=1e-3)
    assert np.sort(np.linalg.norm(reduced, axis=1)) == pytest.approx(np.sort(np.linalg.norm(cell, axis=1)), rel=1e-2)


def test_structures_keep_their_distances_through_reduction() -> None:
    structures = from_structures([("salt", SALT), ("skewed", SALT * [[1, 1, 0], [0, 1, 0], [0, 0, 1]])])
    assert nearest_distances(structures) == pytest.approx(2.8, abs=1e-4)


def test_split_keeps_compositions_apart() -> None:
    structures = random_set(1, 200)
    rest, aside = split_by_composition(structures, 50, seed=0)
    assert len(rest) + len(aside) == 200
    assert 50 <= len(aside) < 80
    assert not set(rest.keys) & set(aside.keys)


def test_of_one_id_the_first_counts() -> None:
    one = random_set(1, 5)
    joined = concatenate([one, random_set(2, 3), one])
    assert same(joined, concatenate([one, random_set(2, 3)]))
    assert len(joined) == 8


# Public sets, from a server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", folder
        http.shutdown()


def test_a_public_set_is_downloaded_once_and_held_to_its_checksum(server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    cif = SALT.to(fmt="cif").replace('"', "'")
    text = f'material_id,formation_energy_per_atom,cif\nmp-1,-2.1,"{cif}"\nmp-2,,"not a cif"\n'
    (folder / "val.csv.gz").write_bytes(gzip.compress(text.encode()))
    cache = tmp_path / "cache"
    file = fetch("mpts_52/val", address=f"{address}/val.csv.gz", folder=cache)
    assert file == cache / "mpts_52" / "val.csv.gz"
    reading = read_source("mpts_52/val.csv.gz", cache)
    assert reading.structures.ids == ("mp-1",)
    assert [row.name for row in reading.bad] == ["mp-2"]
    assert reading.structures.properties[0, 0] == pytest.approx(-2.1)
    (folder / "val.csv.gz").write_bytes(gzip.compress(b"other"))
    assert fetch("mpts_52/val", address=f"{address}/val.csv.gz", folder=cache).read_bytes() == file.read_bytes()
    file.unlink()
    with pytest.raises(ValueError, match="is not what it was when first downloaded"):
        fetch("mpts_52/val", address=f"{address}/val.csv.gz", folder=cache)
    file.write_bytes(b"changed")
    with pytest.raises(ValueError, match="is not what was downloaded"):
        fetch("mpts_52/val", address=f"{address}/val.csv.gz", folder=cache)


def test_a_set_that_cannot_be_downloaded_is_one_line(server: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^mp_20/val can't be downloaded from http\S+ \(HTTPError\); give the folder of a local copy"
    ):
        fetch("mp_20/val", address=f"{server[0]}/nothing.csv", folder=tmp_path)


def test_an_unknown_set_is_named() -> None:
    result = CliRunner().invoke(main, ["data", "check", "mp_30/train"])
    assert result.exit_code == 2
    assert "there is no data 'mp_30/train'; public sets by name: carbon_24/test" in result.output
