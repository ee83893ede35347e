from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.data_folder import write_data
from unimat_search.cli import main
from unimat_search.eval.hull_build import RelaxedPhase, write_relaxed
from unimat_search.judge import verdicts
from unimat_search.records import Outcome, Record
from unimat_search.registry import PluginError
from unimat_search.rq3 import _natural, judged_tables, reproduce
from unimat_search.rq3_tables import _losses, footnotes, sections
from unimat_search.run_folder import RunError
from unimat_search.unimat.public import PUBLIC
from unimat_search.zero_shot import Target, read_targets


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


OPTIONS: dict[str, Any] = {
    "n": 4,
    "generators": ("airss", "tests.plugins:Uniform"),
    "relaxer": "emt",
    "workers": 1,
}


def timeless(value: Any) -> Any:
    """Tables without what depends on the clock, or on the place."""
    if isinstance(value, dict):
        own = ("equal_seconds", "seconds_to_success", "seconds_per_structure", "reference")
        return {key: timeless(part) for key, part in value.items() if key not in own}
    return [timeless(part) for part in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def experiment(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rq3") / "whole"
    reproduce(out, data_dir, **OPTIONS)
    return out


def test_targets_are_searched_in_the_cell_of_their_known_structure(data_dir: Path) -> None:
    targets = {target.reduced_formula: target for target in read_targets(data_dir)}
    assert targets["Cu"].formula == "Cu1:4"
    assert targets["AlCu3"].formula == "Al1Cu3:1"
    assert targets["AlNi"].groups == {
        "elements": "2", "atoms": "3-5", "level": "new formula", "prototype": "new anonymous formula"
    }  # fmt: skip


def test_losses_are_named_the_worst_first() -> None:
    def row(formula: str, known: float | None, ours: float | None, theirs: float | None) -> dict[str, Any]:
        return {"formula": formula, "known": known, "ours": {"lowest": ours}, "theirs": {"lowest": theirs}}

    rows = [
        row("A", -1.0, -0.9, -0.95),
        row("B", -1.0, -0.7, -1.2),
        row("C", None, -0.5, -0.503),
        row("D", -1.0, None, -1.0),
        row("E", -1.0, -1.1, None),
    ]
    ours, theirs = _losses("ours", rows), _losses("theirs", rows)
    assert ours["converged"] == 4
    assert ours["above best by > 5 meV"] == 2
    assert ours["of these, the known one is lowest"] == 1
    assert ours["worst (meV/atom, who is lowest)"] == "B 500 (theirs); A 100 (known structure)"
    assert theirs["above best by > 5 meV"] == 1


def test_groups_are_in_natural_order() -> None:
    assert sorted(["new", "11-20", "3-5", "6-10"], key=_natural) == ["new", "3-5", "6-10", "11-20"]


def test_fewer_targets_are_a_part_of_more(data_dir: Path) -> None:
    two, three = (read_targets(data_dir, count) for count in (2, 3))
    assert two == three[:2]
    with pytest.raises(RunError, match="3 compositions, not 4"):
        read_targets(data_dir, 4)


@pytest.mark.skipif("UNIMAT_SEARCH_DATA" not in os.environ, reason="wants UNIMAT_SEARCH_DATA")
def test_the_real_list_holds_the_papers_number_of_compositions() -> None:
    targets = read_targets(Path(os.environ["UNIMAT_SEARCH_DATA"]))
    assert len(targets) == 466
    assert all(3 <= target.num_sites <= 20 for target in targets)


def test_the_tables_hold_every_generator_pair_and_group(experiment: Path) -> None:
    tables = json.loads((experiment / "rq3.json").read_text())
    assert set(tables["equal_structures"]) == set(tables["equal_seconds"]) == set(OPTIONS["generators"])
    assert list(tables["pairs"]) == ["tests.plugins:Uniform against airss"]
    assert set(tables["by"]["prototype"]) == {"new anonymous formula", "known anonymous formula"}
    assert sum(part["airss"]["composition_convergence_rate"]["n"] for part in tables["by"]["elements"].values()) == 3
    assert {row["formula"] for row in tables["compositions"]} == {"Cu1:4", "Al1Cu3:1", "Al1Ni1:1"}
    assert all(target["known_energy_per_atom"] is not None for target in tables["targets"])
    copper = next(target for target in tables["targets"] if target["reduced_formula"] == "Cu")
    assert copper["known_energy_per_atom"] == pytest.approx(-0.007, abs=0.003)  # ASE: EMT's fcc copper at its minimum


def test_an_experiment_that_lost_results_ends_the_same(experiment: Path, data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    reproduce(out, data_dir, **OPTIONS)
    whole = json.loads((out / "rq3.json").read_text())
    assert (
        timeless(whole)["equal_structures"]
        == timeless(json.loads((experiment / "rq3.json").read_text()))["equal_structures"]
    )
    with sqlite3.connect(out / "run" / "results.sqlite") as store:
        store.execute("DELETE FROM candidates WHERE generator = 'airss' AND cell_formula = 'Cu4'")
        store.execute("UPDATE candidates SET outcome = NULL WHERE cell_formula = 'Al1 Ni1'")
    (out / "rq3.json").unlink()
    reproduce(out, data_dir, **OPTIONS)
    assert timeless(json.loads((out / "rq3.json").read_text())) == timeless(whole)


def test_another_experiment_is_not_mixed_in(experiment: Path, data_dir: Path) -> None:
    with pytest.raises(RunError, match="n = 4, not 5"):
        reproduce(experiment, data_dir, **OPTIONS | {"n": 5})


def test_a_generator_joins_an_experiment(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "joined"
    reproduce(out, data_dir, **OPTIONS)
    tables = reproduce(out, data_dir, **OPTIONS | {"generators": ("uniform",)})
    assert list(tables["equal_structures"]) == [*OPTIONS["generators"], "uniform"]
    again = reproduce(out, data_dir, **OPTIONS)
    assert timeless(again) == timeless(tables)


def test_a_hull_that_ships_is_counted_from(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phases = [RelaxedPhase("mp-1", "NiAl", 2, "Pm-3m", "-9.0", "converged", "ase-emt")]
    write_relaxed(tmp_path / "ase-emt.csv.gz", phases)
    own = {"n": 9, "above_hull": 0.01, "decomposition": 0.03, "stable_agree": 0.8}
    (tmp_path / "ase-emt.json").write_text(json.dumps({"relaxed": own, "potential": own}))
    monkeypatch.setattr("unimat_search.eval.hull_sources.HULLS", tmp_path)
    tables = reproduce(tmp_path / "with", data_dir, **OPTIONS | {"generators": ("uniform",)})
    assert "1 phases (of 9 of them, against the Materials Project's hull: e_above_hull" in footnotes(tables)
    counted = tables["hull"]["generators"]["uniform"]
    assert counted["n_hull_distances"] == 3
    assert counted["n_stable"] < 3  # NiAl lies far above what is said to be its ground state
    assert "Lowest structures above the hull" in dict(sections(tables))


def test_the_command_prints_and_writes_the_tables(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "rq3"
    command = ["reproduce", "rq3", "--data-dir", str(data_dir), "--out", str(out), "--compositions", "3", "-n", "3"]
    options = ["--generator", "airss", "--generator", "tests.plugins:Uniform", "--relaxer", "emt"]
    result = CliRunner().invoke(main, [*command, *options, "--judge", "emt", "--judged", "2", "--workers", "1"])
    assert result.exit_code == 0, result.output
    text = (out / "rq3.md").read_text()
    for title in (
        "Convergence, 3 structures",
        "Known ground states",
        "Equal seconds",
        "every pair",
        "By elements",
        "judge",
    ):
        assert title in text
        assert title in result.output
    judge = json.loads((out / "rq3.json").read_text())["judge"]
    assert judge["same_order"]["value"] in (None, 1.0), "the same potential says the same"


def test_data_that_can_not_be_had_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMAT_SEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PUBLIC, "mp_20/train", "http://127.0.0.1:9/train.csv")
    result = CliRunner().invoke(main, ["reproduce", "rq3", "--data-dir", str(tmp_path), "--out", str(tmp_path / "rq3")])
    assert result.exit_code == 2
    assert "give the folder of a local copy with --data-dir" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "rq3").exists()


def test_what_cannot_run_leaves_nothing_behind(data_dir: Path, tmp_path: Path) -> None:
    command = ["reproduce", "rq3", "--data-dir", str(data_dir), "--out", str(tmp_path / "rq3"), "-n", "2"]
    for options in (["--generator", "airsss"], ["--relaxer", "no_such:thing"], ["--judge", "no_such:thing"]):
        result = CliRunner().invoke(main, [*command, *options])
        assert result.exit_code == 2, result.output
        assert not (tmp_path / "rq3").exists()


def test_one_generator_alone_has_no_pairs(data_dir: Path, tmp_path: Path) -> None:
    command = ["reproduce", "rq3", "--data-dir", str(data_dir), "--out", str(tmp_path / "rq3"), "-n", "2"]
    result = CliRunner().invoke(main, [*command, "--generator", "airss", "--relaxer", "emt", "--compositions", "1"])
    assert result.exit_code == 0, result.output
    assert "every pair" not in result.output


def test_a_moved_experiment_goes_on(experiment: Path, data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(experiment, tmp_path / "here")
    reproduce(tmp_path / "here", data_dir, **OPTIONS)
    before = json.loads((experiment / "rq3.json").read_text())
    shutil.move(tmp_path / "here", tmp_path / "moved")
    reproduce(tmp_path / "moved", data_dir, **OPTIONS)
    assert timeless(json.loads((tmp_path / "moved" / "rq3.json").read_text())) == timeless(before)


def test_each_judge_has_its_own_verdicts(experiment: Path, tmp_path: Path) -> None:
    shutil.copytree(experiment, tmp_path / "judged")
    tables = json.loads((tmp_path / "judged" / "rq3.json").read_text())
    with pytest.raises(PluginError):
        judged_tables(tmp_path / "judged", tables, "no_such:thing", 3, workers=1)
    first = judged_tables(tmp_path / "judged", tables, "emt", 3, workers=1)["judge"]
    again = judged_tables(tmp_path / "judged", tables, "emt", 3, workers=1)["judge"]
    assert first == again
    assert first["generators"]["tests.plugins:Uniform"]["ours"]["n"] > 0
    assert list(json.loads((tmp_path / "judged" / "judged.json").read_text())) == [first["potential"]]


def test_two_judges_of_a_hand_made_case() -> None:
    def record(generator: str, formula: str, energy: float) -> Record:
        return Record(
            f"{generator}/{formula}", generator, formula, 1, f"{formula}1", 0, 0,
            outcome=Outcome.CONVERGED, energy=energy, enthalpy=energy,
        )  # fmt: skip

    found = {
        f: {"a": record("a", f, 0.0), "b": record("b", f, e)} for f, e in (("Al", -1.0), ("Cu", -0.5), ("Ni", 0.001))
    }
    second = {"a/Al": 10.0, "b/Al": 9.5, "a/Cu": 10.0, "b/Cu": 10.2, "a/Ni": 1.0, "b/Ni": 0.0}
    got = verdicts(found, second, ("a", "b"))
    assert got["same_order"]["value"] == 0.5
    clearly = [got["generators"]["b"][f"clearly_{side}"] for side in ("ours", "theirs")]
    assert [(one["value"], one["n"]) for one in clearly] == [(1.0, 2), (pytest.approx(2 / 3), 3)]
    assert got["same_order"]["n"] == 2, "compositions, not pairs"
    assert got["generators"]["b"]["ours"]["value"] == pytest.approx((-1.0 - 0.5 + 0.001) / 3)
    assert got["generators"]["b"]["theirs"]["value"] == pytest.approx((-0.5 + 0.2 - 1.0) / 3)
    assert got["generators"]["b"]["reduced_theirs"]["value"] == pytest.approx(2 / 3)
    silent = verdicts(found, {}, ("a", "b"))
    assert silent["generators"]["b"]["ours"]["n"] == 0


def test_formulas_with_amounts_of_one_are_read_again() -> None:
    target = Target("Ba(GaSe2)2", "mp-7841", 14, 3, "new_formula", False)
    assert target.formula == "Ba1Ga2Se4:2"
