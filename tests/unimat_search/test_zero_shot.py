"""The compositions of the zero-shot experiment, for those who have no list of them."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pooch
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.eval.backends import usable_cores
from unimat_search.rq3 import reproduce
from unimat_search.zero_shot import candidates, read_targets

SPLITS: dict[str, list[tuple[str, str, float | None]]] = {
    "train": [("t-1", "AlCu3", 0.0), ("t-2", "Ni2Al2", 0.01), ("t-3", "Pd", 0.0)],
    "val": [("v-1", "AgAu", 0.0)],
    "test": [
        ("s-1", "Al2Cu6", 0.0),  # seen
        ("s-0", "AgAu2", None),
        ("s-2", "AgAu2", 0.04),  # above the hull
        ("s-3", "AgAu2", 0.0),
        ("s-4", "CuPd2", 0.0),
        ("s-5", "NiPt", 0.0),  # two sites
        ("s-6", "TcPt2", 0.0),  # no DFT data sets
        ("s-7", "Cu4", 0.0),  # an element
        ("s-8", "Ni3Pt", 0.02),  # above the hull
        ("s-9", "AlNi2Pt3", 0.0),
        ("s-10", "PdPt2", None),
    ],
}


def crystal(formula: str) -> Structure:
    symbols = [el.symbol for el, amount in Composition(formula).items() for _ in range(int(amount))]
    n = len(symbols)
    return Structure(Lattice.orthorhombic(2.6, 2.6, 2.6 * n), symbols, [[0, 0, k / n] for k in range(n)])


def write(folder: Path, kind: str) -> Path:
    (folder / "mp_20").mkdir(parents=True)
    for split, entries in SPLITS.items():
        structures = [crystal(formula) for _, formula, _ in entries]
        if kind == "parquet":
            columns = {
                "material_id": [name for name, _, _ in entries],
                "numbers": [list(one.atomic_numbers) for one in structures],
                "frac_coords": [one.frac_coords.ravel().tolist() for one in structures],
                "cell": [one.lattice.matrix.ravel().tolist() for one in structures],
                "e_above_hull": [above for _, _, above in entries],
            }
            pq.write_table(pa.table(columns), folder / "mp_20" / f"{split}.parquet")
            continue
        with (folder / "mp_20" / f"{split}.csv").open("w", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(["material_id", "e_above_hull", "cif"])
            for (name, _, above), one in zip(entries, structures, strict=True):
                writer.writerow([name, "" if above is None else above, one.to(fmt="cif")])
    return folder


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The public CSV files, in the cache where they come to lie."""
    monkeypatch.setenv("UNIMAT_SEARCH_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "cache" / "data", "csv")
    for split in SPLITS:
        file = tmp_path / "cache" / "data" / "mp_20" / f"{split}.csv"
        file.with_name(f"{split}.csv.sha256").write_text(pooch.file_hash(str(file)))
    return tmp_path


def test_the_rule_of_public_data(downloads: Path) -> None:
    targets = {target.reduced_formula: target for target in read_targets(None)}
    assert set(targets) == {Composition(formula).reduced_formula for formula in ("AgAu2", "CuPd2", "AlNi2Pt3")}
    assert targets["AgAu2"].material_id == "s-3"
    assert targets["AgAu2"].level == "new_formula"
    assert targets["AlNi2Pt3"].level == "new_chemical_system"
    assert [target.new_prototype for target in targets.values()].count(True) == 3  # AB2 and AB2C3
    assert targets["AlNi2Pt3"].formula == "Al1Ni2Pt3:1"
    assert sorted(read_targets(None), key=str) == sorted(read_targets(write(downloads / "d", "parquet")), key=str)
    assert read_targets(None, 2) == read_targets(None)[:2]


def test_without_distances_from_the_hull_nothing_is_chosen(tmp_path: Path) -> None:
    folder = write(tmp_path, "parquet")
    file = folder / "mp_20" / "test.parquet"
    pq.write_table(pq.read_table(file).drop_columns("e_above_hull"), file)
    with pytest.raises(ValueError, match="its column e_above_hull says which are"):
        read_targets(folder)


def test_the_experiment_runs_on_public_data(downloads: Path) -> None:
    tables = reproduce(downloads / "rq3", None, n=1, generators=("uniform",), relaxer="emt", workers=usable_cores())
    assert {target["material_id"] for target in tables["targets"]} == {"s-3", "s-4", "s-9"}


@pytest.mark.skipif("UNIMAT_SEARCH_DATA" not in os.environ, reason="wants UNIMAT_SEARCH_DATA")
def test_the_list_follows_the_rule() -> None:
    folder = Path(os.environ["UNIMAT_SEARCH_DATA"])
    allowed = {Composition(target.reduced_formula): target for target in candidates(folder)}
    for target in read_targets(folder):
        other = allowed[Composition(target.reduced_formula)]
        assert (target.num_sites, target.num_elements) == (other.num_sites, other.num_elements)
