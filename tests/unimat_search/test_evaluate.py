from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from pymatgen.core import Composition, Lattice, Structure

from tests.data_folder import alloy
from unimat_search.baselines.published import published
from unimat_search.cli import main
from unimat_search.evaluate import (
    NAMES,
    Samples,
    all_structures,
    compared,
    evaluate,
    footnotes,
    read_benchmark,
    read_samples,
)
from unimat_search.records import FailedAttempt
from unimat_search.registry import Spec
from unimat_search.unimat.sources import from_structures, write_parquet

TEST = {"cu-au": alloy("Cu", "Au", 3.1), "ni-al": alloy("Ni", "Al", 2.9), "pd-ag": alloy("Pd", "Ag", 3.2)}
TRAIN = {"cu-ni": alloy("Cu", "Ni", 2.9), "pt-au": alloy("Pt", "Au", 3.2)}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "mp_20").mkdir()
    write_parquet(from_structures(TEST.items()), tmp_path / "mp_20" / "test.parquet")
    write_parquet(from_structures(TRAIN.items()), tmp_path / "mp_20" / "train.parquet")
    return tmp_path


def test_the_test_set_itself_is_perfect(data_dir: Path) -> None:
    samples = read_samples(data_dir / "mp_20" / "test.parquet")
    table = evaluate(samples, read_benchmark("mp-20", data_dir), workers=1)
    ones = ("valid_structure", "sane_structure", "valid_composition", "coverage_recall", "coverage_precision")
    assert [table[name] for name in (*ones, "unique", "novel", "match_rate_at_1", "match_everyone_rate")] == [1.0] * 9
    for name in ("density_distance", "num_elements_distance", "match_everyone_distance"):
        assert table[name] == pytest.approx(0.0, abs=1e-6)


def test_copies_and_broken_crystals(data_dir: Path) -> None:
    """Of six: two alike, one of the training set, one that can't be read, one with atoms on top of each other."""
    with zipfile.ZipFile(data_dir / "samples.zip", "w") as archive:
        together = Structure(Lattice.cubic(3), ["Cu", "Au"], [[0.0, 0, 0], [0.05, 0, 0]])
        made = [TEST["cu-au"], TEST["cu-au"], TRAIN["pt-au"], alloy("Pd", "Cu", 3.0), together]
        for index, structure in enumerate(made):
            archive.writestr(f"{index}.cif", structure.to(fmt="cif"))
        archive.writestr("5.cif", "broken")
    samples = read_samples(data_dir / "samples.zip")
    assert samples.n_generated == 6
    assert [name for name, one in samples.attempts.items() if isinstance(one, FailedAttempt)] == ["5.cif"]
    table = evaluate(samples, read_benchmark("mp-20", data_dir), workers=1)
    assert (table["n_generated"], table["n_read"]) == (6, 5)
    assert table["valid_structure"] == pytest.approx(4 / 6)
    assert table["unique"] == pytest.approx(3 / 6)
    assert table["novel"] == pytest.approx(3 / 6)
    assert (table["n_asked"], table["match_rate_at_1"], table["match_everyone_rate"]) == (1, 1.0, 1.0)
    other = evaluate(read_samples(data_dir / "mp_20" / "train.parquet"), read_benchmark("mp-20", data_dir), workers=1)
    assert (other["n_asked"], other["match_rate_at_1"]) == (0, None)


def test_samples_of_equal_names_are_all_kept(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "samples.zip", "w") as archive:
        for name in ("a#2.cif", "b/a.cif", "c/a.cif"):
            archive.writestr(name, TEST["cu-au"].to(fmt="cif"))
    assert sorted(read_samples(tmp_path / "samples.zip").attempts) == ["a", "a#2", "a#3"]


def test_nothing_is_called_new_without_a_training_set(data_dir: Path) -> None:
    (data_dir / "mp_20").rename(data_dir / "mpts_52")
    samples = read_samples(data_dir / "mpts_52" / "test.parquet")
    (data_dir / "mpts_52" / "train.parquet").unlink()
    (data_dir / "hull.csv").write_text("formula,formation_energy_per_atom\nCuAu,9.0\n")
    hull = str(data_dir / "hull.csv")
    table = evaluate(samples, read_benchmark("mpts-52", data_dir), relaxer=Spec.parse("emt"), hull=hull, workers=1)
    assert (table["novel"], table["stable_unique_new"]) == (None, None)
    assert "can't be told without a training set" in footnotes({"samples": table}, [])


def test_broken_samples_of_a_composition_are_misses(data_dir: Path) -> None:
    """Of three test compositions one is found at once, one by the second sample, one not at all."""
    with zipfile.ZipFile(data_dir / "samples.zip", "w") as archive:
        broken = {name: Structure(one.lattice, one.species, [[0.0, 0, 0], [0, 0, 0.01]]) for name, one in TEST.items()}
        made = [TEST["cu-au"], broken["ni-al"], TEST["ni-al"], broken["pd-ag"]]
        for index, structure in enumerate(made):
            archive.writestr(f"{index}.cif", structure.to(fmt="cif"))
    table = evaluate(read_samples(data_dir / "samples.zip"), read_benchmark("mp-20", data_dir), workers=1)
    assert table["n_asked"] == 3
    assert table["match_rate_at_1"] == pytest.approx(1 / 3)
    assert table["match_everyone_rate"] == pytest.approx(2 / 3)


def test_energies_that_no_crystal_has_count_as_failures(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unimat_search.eval.sanity.FORMATION_ENERGY_WINDOW", (5.0, 6.0))
    samples = read_samples(data_dir / "mp_20" / "test.parquet")
    table = evaluate(samples, read_benchmark("mp-20", data_dir), relaxer=Spec.parse("emt"), hull="none", workers=1)
    assert table["convergence_rate"] == 0.0
    assert table["formation_energy_per_atom"] is None


def test_stability_of_samples(data_dir: Path) -> None:
    (data_dir / "phases.csv").write_text("formula,formation_energy_per_atom\nCuAu,5.0\nNiAl,-5.0\n")
    samples = read_samples(data_dir / "mp_20" / "test.parquet")
    hull = str(data_dir / "phases.csv")
    table = evaluate(samples, read_benchmark("mp-20", data_dir), relaxer=Spec.parse("emt"), hull=hull, workers=1)
    assert table["convergence_rate"] == 1.0
    assert table["n_hull_distances"] == 3
    assert 1 <= table["n_stable"] <= 2  # CuAu may be below its elements, NiAl can't be below the hull
    assert table["stable_unique_new"] == pytest.approx(table["n_stable"] / 3)  # all three are unique and new
    assert table["displacement"] == pytest.approx(0.0, abs=1e-3)
    assert table["energy_distance"] == pytest.approx(0.0, abs=1e-9)
    without = evaluate(samples, read_benchmark("mp-20", data_dir), relaxer=Spec.parse("emt"), hull="none", workers=1)
    assert without["stable_unique_new"] is None


def test_crystals_that_relax_into_one_count_once_and_not_as_new(data_dir: Path) -> None:
    """Four noisy copies of a training crystal are new as they are, but not once relaxed; four of another are one."""
    rng = np.random.default_rng(0)
    write_parquet(from_structures([("cu-pd", alloy("Cu", "Pd", 3.0))]), data_dir / "mp_20" / "train.parquet")
    made = [alloy("Cu", "Pd", 3.0).perturb(0.25) for _ in range(4)] + [TEST["cu-au"].copy() for _ in range(4)]
    for structure in made[4:]:
        structure.apply_strain(float(rng.uniform(-0.02, 0.08)))
    write_parquet(from_structures((str(k), one) for k, one in enumerate(made)), data_dir / "samples.parquet")
    hull = data_dir / "phases.csv"
    samples = read_samples(data_dir / "samples.parquet")
    benchmark, emt = read_benchmark("mp-20", data_dir), Spec.parse("emt")
    for energy in (5.0, 0.0):
        hull.write_text(f"formula,formation_energy_per_atom\nCuAu,{energy}\nCuPd,{energy}\n")
        table = evaluate(samples, benchmark, relaxer=emt, hull=str(hull), workers=1)
        assert table["convergence_rate"] == 1.0
        assert table["n_stable"] == 8
        assert table["stable_unique_new"] == pytest.approx(1 / 8)


def test_charges_make_no_other_element(tmp_path: Path) -> None:
    oxide = Structure(Lattice.cubic(4), ["Fe2+", "Fe3+", "O2-"], [[0.0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]])
    oxide.to(str(tmp_path / "oxide.cif"))
    (read,) = read_samples(tmp_path).structures
    assert read.composition.reduced_formula == "Fe2O"
    assert len(read.composition) == 2


def test_what_would_take_hours_is_left_out(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unimat_search.evaluate.MOST_PAIRS", 2)
    samples = read_samples(data_dir / "mp_20" / "test.parquet")
    table = evaluate(samples, read_benchmark("mp-20", data_dir), workers=1)
    assert table["match_rate_at_1"] == 1.0
    assert table["match_everyone_rate"] is None


def test_a_sample_that_failed_is_no_match(data_dir: Path) -> None:
    """Of two compositions asked for, one sample was made, and is right: half, also if it comes after a failure."""
    right = next(iter(read_samples(data_dir / "mp_20" / "test.parquet").structures))
    other = Composition("Fe")
    known = read_benchmark("mp-20", data_dir)
    missing = next(one for one in all_structures(known.test) if one.composition != right.composition).composition
    samples = Samples({"a": right, "b": FailedAttempt("no luck"), "c": FailedAttempt("no luck")})
    table = evaluate(samples, known, asked=[right.composition, missing, other], workers=1)
    assert table["n_asked"] == 2
    assert table["match_rate_at_1"] == table["match_everyone_rate"] == 0.5
    late = Samples({"a": FailedAttempt("no luck"), "b": right})
    table = evaluate(late, known, asked=[right.composition] * 2, workers=1)
    assert (table["match_rate_at_1"], table["match_everyone_rate"]) == (0.0, 1.0)


def test_the_command(data_dir: Path) -> None:
    file = str(data_dir / "mp_20" / "test.parquet")
    command = ["evaluate", file, "--data", "mp-20", "--data-dir", str(data_dir), "--workers", "1"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "UniMat (paper)" in result.output
    assert "0.972" in result.output
    as_json = CliRunner().invoke(main, [*command, "--format", "json"])
    assert json.loads(as_json.output)["coverage_recall"] == 1.0
    empty = data_dir / "empty.extxyz"
    empty.write_text("")
    for wrong, says in (
        (["evaluate", str(data_dir / "missing.cif"), "--data-dir", str(data_dir)], "does not exist"),
        (["evaluate", file, "--data", "mp-21", "--data-dir", str(data_dir)], "mp_21/test"),
        (["evaluate", file, "--data-dir", str(data_dir), "--relaxer", "nothing"], "none of the relaxers"),
        (["evaluate", file, "--data-dir", str(data_dir), "--hull", "phases.csv"], "give --relaxer"),
        (["evaluate", str(empty), "--data-dir", str(data_dir)], "empty.extxyz holds no structure"),
    ):
        result = CliRunner().invoke(main, wrong)
        assert result.exit_code == 2
        assert says in result.output
        assert len(result.output.strip().splitlines()) == 1


def test_papers_say_what_can_be_compared() -> None:
    for data in ("mp_20", "perov_5", "carbon_24"):
        assert {"CDVAE", "UniMat"} <= {paper.name for paper in published(data)}
    unconditional = compared(published("mp_20"), {"samples": {"coverage_recall": 0.9, "match_rate_at_1": None}})
    assert [paper.name for paper in unconditional] == ["CDVAE", "UniMat"]
    for paper in published("mp_20"):
        assert paper.citation
        assert paper.comparable
        assert set(paper.metrics) <= set(NAMES)
    assert published("nothing") == []


def test_a_flat_cell_counts_and_costs_nothing(data_dir: Path) -> None:
    """A billionth of an angstrom high: valid by the benchmarks' rule; its neighbours could not be counted."""
    flat = Structure(Lattice(np.diag([1e-9, 2e4, 2e4])), ["Fe"], [[0.0, 0, 0]])
    samples = Samples({"flat": flat, "other": FailedAttempt("no luck")})
    table = evaluate(samples, read_benchmark("mp-20", data_dir), workers=1)
    assert table["valid_structure"] == 0.5
    assert table["unique"] == 0.0
    assert table["unreadable"] == {"no luck": 1}
    assert "1 can't be read: 1 no luck" in footnotes({"samples": table}, [])
