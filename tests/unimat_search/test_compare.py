from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.compare import run_comparison
from unimat_search.eval.match import best_match
from unimat_search.eval.references import References
from unimat_search.eval.report import footnotes, to_table
from unimat_search.formula import FormulaError
from unimat_search.generation import Order, generate
from unimat_search.plan import CompareSettings, plan
from unimat_search.records import (
    BENCHMARK_MATCH,
    EV_PER_CUBIC_ANGSTROM,
    MatchSettings,
    Outcome,
    Record,
    RelaxSettings,
    Task,
)
from unimat_search.registry import PluginError, Spec, UnknownPluginError, load
from unimat_search.run_folder import RunError
from unimat_search.store import Store

EMT = CompareSettings(
    formulas=("AlCu", "Al"),
    generators=("airss", "tests.plugins:Uniform"),
    n=4,
    formula_units="1-2",
    relaxer="emt",
    relax=RelaxSettings(max_steps=60),
)
TIMES = ("generate_seconds", "relax_seconds")


def read_summary(run: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def rows(run: Path) -> list[Record]:
    """All rows, without what depends on the clock."""
    with Store(run / "results.sqlite") as store:
        records = list(store.records(structures=True))
    return sorted((replace(r, generate_seconds=0.0, relax_seconds=0.0) for r in records), key=lambda record: record.key)


def without_times(value: Any) -> Any:
    """A summary without what depends on the clock."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not k.endswith("_seconds_per_structure")}
    return [without_times(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "emt"
    run_comparison(EMT, out, workers=2)
    return out


def test_a_run_folder_holds_everything(run: Path) -> None:
    assert {p.name for p in run.iterdir()} >= {"run.toml", "results.sqlite", "summary.json", "summary.csv", "best"}
    assert CompareSettings.from_toml((run / "run.toml").read_text()) == EMT
    best = [values["best"] for e in read_summary(run)["compositions"] for values in e["generators"].values()]
    cells = {key.split("/")[1] for key in best}
    names = {p.name for p in (run / "best").iterdir()}
    assert len(names) == 8
    assert {name.partition("_")[0] for name in names} == cells
    assert {name.partition("_")[2] for name in names} == {
        f"{generator}.{suffix}" for generator in ("airss", "tests.plugins_Uniform") for suffix in ("cif", "extxyz")
    }
    assert len(rows(run)) == 16


def test_every_candidate_has_its_cell_and_its_outcome(run: Path) -> None:
    for record in rows(run):
        assert record.outcome is not None
        assert record.initial_structure is not None
        assert record.initial_structure.composition == Composition(record.cell_formula)
        if record.converged:
            assert record.final_structure is not None
            assert record.final_structure.composition == Composition(record.cell_formula)
            assert record.formation_energy_per_atom is not None


def test_the_summary_is_that_of_the_rows(run: Path) -> None:
    summary = read_summary(run)
    entry = summary["compositions"][0]["generators"]["tests.plugins:Uniform"]
    ours = [r for r in rows(run) if r.reduced_formula == "AlCu" and r.generator == "tests.plugins:Uniform"]
    converged = [r for r in ours if r.converged]
    assert entry["n_generated"] == len(ours) == 4
    assert entry["n_converged"] == len(converged)
    assert entry["formation_energy_per_atom"] == min(r.formation_energy_per_atom or 0 for r in converged)
    assert list(entry["by_formula_units"]) == ["1", "2"]
    assert sum(part["n_generated"] for part in entry["by_formula_units"].values()) == 4
    first = summary["compositions"][0]["generators"]["airss"]
    assert entry["delta_e_f"] == pytest.approx(entry["energy_per_atom"] - first["energy_per_atom"])
    assert first["delta_e_f"] is None
    assert summary["overall"]["airss"]["n_pairs"] == 0
    assert summary["overall"]["tests.plugins:Uniform"]["n_pairs"] == 2


def test_best_structures_are_the_lowest(run: Path) -> None:
    from ase.io import read

    entry = read_summary(run)["compositions"][0]["generators"]["airss"]
    stem = entry["best"].split("/")[1] + "_airss"
    atoms = read(run / "best" / f"{stem}.extxyz")
    assert atoms.get_potential_energy() / len(atoms) == pytest.approx(entry["energy_per_atom"])
    assert atoms.info["key"] == entry["best"]
    cif = Structure.from_file(run / "best" / f"{stem}.cif")
    assert cif.volume == pytest.approx(atoms.get_volume(), rel=1e-6)


def test_the_same_settings_give_the_same_run_whatever_the_workers(run: Path, tmp_path: Path) -> None:
    run_comparison(EMT, tmp_path / "again", workers=1)
    assert rows(tmp_path / "again") == rows(run)
    assert without_times(read_summary(tmp_path / "again")) == without_times(read_summary(run))


def test_another_seed_gives_other_structures(run: Path, tmp_path: Path) -> None:
    run_comparison(replace(EMT, seed=1), tmp_path / "other", workers=1)
    pairs = zip(rows(tmp_path / "other"), rows(run), strict=True)
    assert all(a.initial_structure != b.initial_structure for a, b in pairs)


def test_what_is_missing_is_done_again_and_nothing_else(run: Path, tmp_path: Path) -> None:
    """Rows that lost their result, and a task that was never started."""
    out = tmp_path / "damaged"
    run_comparison(EMT, out, workers=1)
    with sqlite3.connect(out / "results.sqlite") as connection:
        connection.execute('UPDATE candidates SET outcome = NULL, final_structure = NULL WHERE "index" = 1')
        connection.execute("DELETE FROM candidates WHERE reduced_formula = 'Al' AND generator = 'airss'")
        connection.execute("UPDATE candidates SET detail = 'kept' WHERE reduced_formula = 'AlCu' AND \"index\" = 0")
    (out / "summary.json").unlink()
    run_comparison(EMT, out, resume=True, workers=1)
    kept = [r for r in rows(out) if r.detail == "kept"]
    assert len(kept) == 4
    again = sorted((replace(r, detail="") for r in rows(out)), key=lambda r: r.key)
    assert again == [replace(r, detail="") for r in rows(run)]
    assert without_times(read_summary(out)) == without_times(read_summary(run))


def test_killed_and_resumed(run: Path, tmp_path: Path) -> None:
    """kill -9 at several moments of one run, then to the end: the same run."""
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "unimat_search", "compare", "--out", str(out), "--workers", "1"]
    settings = (
        "--formula AlCu --formula Al --generator airss --generator tests.plugins:Uniform "
        "-n 4 --formula-units 1-2 --relaxer emt --max-steps 60"
    )
    first = [*command, *settings.split()]
    root = Path(__file__).parent.parent.parent
    kills = 0
    for wanted in (1, 6, 11):
        process = subprocess.Popen(
            [*command, "--resume"] if (out / "run.toml").exists() else first,
            cwd=root, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while process.poll() is None and finished(out) < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    subprocess.run([*command, "--resume"], cwd=root, check=True, capture_output=True)
    assert rows(out) == rows(run)
    assert without_times(read_summary(out)) == without_times(read_summary(run))


def finished(out: Path) -> int:
    try:
        with sqlite3.connect(f"file:{out / 'results.sqlite'}?mode=ro", uri=True) as connection:
            (count,) = connection.execute("SELECT count(*) FROM candidates WHERE outcome IS NOT NULL").fetchone()
            return int(count)
    except sqlite3.OperationalError:
        return 0


def test_folders_are_guarded(run: Path, tmp_path: Path) -> None:
    before = rows(run)
    with pytest.raises(RunError, match="--resume"):
        run_comparison(EMT, run)
    with pytest.raises(RunError, match="n = 4, not 5"):
        run_comparison(replace(EMT, n=5), run, resume=True)
    assert rows(run) == before
    with pytest.raises(RunError, match="holds no run"):
        run_comparison(EMT, tmp_path / "nothing", resume=True)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="not the folder of a run"):
        run_comparison(EMT, precious, overwrite=True)
    assert (precious / "thesis.txt").exists()


def test_generators_may_join_a_run(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    one = replace(EMT, generators=("airss",))
    run_comparison(one, out, workers=1)
    before = rows(out)
    run_comparison(EMT, out, resume=True, workers=1)
    assert [r for r in rows(out) if r.generator == "airss"] == before
    assert rows(out) == rows(run)
    assert without_times(read_summary(out)) == without_times(read_summary(run))
    assert CompareSettings.from_toml((out / "run.toml").read_text()) == EMT
    with pytest.raises(RunError, match="generators"):
        run_comparison(one, out, resume=True)
    assert EMT.joined_by(["pyxtal", "airss"]).generators == ("airss", "tests.plugins:Uniform", "pyxtal")


def test_overwriting_starts_anew_and_leaves_what_is_not_the_runs(tmp_path: Path) -> None:
    small = replace(EMT, formulas=("Al",), generators=("airss",), n=1)
    run_comparison(small, tmp_path / "run", workers=1)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run_comparison(replace(small, seed=5), tmp_path / "run", overwrite=True, workers=1)
    assert (tmp_path / "run" / "notes.txt").exists()
    assert {record.seed for record in rows(tmp_path / "run")} == {5}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"formulas": ("Xx2",)}, FormulaError),
        ({"formulas": ("Al", "Al4")}, ValueError),
        ({"generators": ("airs",)}, UnknownPluginError),
        ({"generators": ("tests.plugins:broken_factory",)}, PluginError),
        ({"relaxer": "tests.plugins:NotAGenerator"}, PluginError),
        ({"relaxer": "chgnett"}, PluginError),
        ({"reference": "no/such/file.cif"}, ValueError),
        ({"max_atoms": 1}, FormulaError),
    ],
)
def test_bad_settings_leave_nothing_behind(change: dict[str, Any], error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error):
        run_comparison(replace(EMT, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"n": 0},
        {"seed": -1},
        {"seed": 2**63},
        {"max_atoms": 10**9},
        {"generators": ("airss", "airss")},
        {"generators": ("airss,max_tries=3", "airss, max_tries = 3")},
        {"generators": ("airss,patience=3", "airss,patience=3,label=other")},
        {"generators": ("airss,label=one", "airss,patience=3,label=one")},
        {"formulas": ()},
        {"reference": Path("known.cif")},
    ],
)
def test_bad_values(change: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"n must|seed must|max_atoms must|given twice|the label|no formula|must be text"
    ):
        replace(EMT, **change)


def test_broken_generators_are_one_warning_and_one_failed_column(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(
        EMT,
        formulas=("AlCu",),
        generators=("airss", "tests.plugins:broken_factory", "tests.plugins:Raises", "tests.plugins:WrongComposition"),
        formula_units="1",
    )
    with caplog.at_level(logging.WARNING):
        summary = run_comparison(settings, tmp_path / "run", workers=1)
    columns = summary["compositions"][0]["generators"]
    assert columns["airss"]["n_converged"] > 0
    assert "generator_failed" not in columns["airss"]["failures"]
    for name, failed in (("broken_factory", 4), ("Raises", 3), ("WrongComposition", 4)):
        assert columns[f"tests.plugins:{name}"]["failures"].get("generator_failed") == failed
    assert len([r for r in caplog.records if "broken_factory" in r.getMessage()]) == 1
    assert len([r for r in caplog.records if "out of ideas" in r.getMessage()]) == 1
    assert "noise" not in capsys.readouterr().out
    details = {record.detail for record in rows(tmp_path / "run")}
    assert "the generator raised RuntimeError: out of ideas (plugins.py, line 42)" in details
    assert "asked for Al1 Cu1, the generator gave Al2 Cu2" in details


def test_junk_becomes_rows_with_reasons() -> None:
    task = Task("junk", "AlCu", 1, "Al1 Cu1", 9, 0, "junk")
    records = generate(Order(task, 0, 9), load("generators", Spec.parse("tests.plugins:Junk")))
    assert len(records) == 9
    details = [record.detail for record in records]
    assert "NoneType" in details[0]
    assert "dict" in details[1]
    assert "not a finite number" in details[2]
    assert "disordered" in details[3]
    assert "asked for" in details[4]
    assert "without volume" in details[5]
    assert (details[6], records[6].origin) == ("no luck?", "?"), "what can't be stored is replaced"
    assert records[7].outcome is None, "oxidation states are no fault"
    assert details[8:] == ["the generator gave fewer than 9 structures"]


def test_left_handed_cells_are_turned() -> None:
    class LeftHanded:
        def generate(self, composition: Composition, n: int, *, seed: int) -> Any:
            yield Structure(-3 * np.eye(3), ["Al", "Cu"], [[0.0, 0, 0], [0.1, 0.2, 0.3]])

    record = generate(Order(Task("left", "AlCu", 1, "Al1 Cu1", 1, 0, "left"), 0, 1), LeftHanded())[0]
    assert record.initial_structure is not None
    assert np.linalg.det(record.initial_structure.lattice.matrix) == pytest.approx(27)
    original = Structure(-3 * np.eye(3), ["Al", "Cu"], [[0.0, 0, 0], [0.1, 0.2, 0.3]])
    assert np.allclose(record.initial_structure.distance_matrix, original.distance_matrix)


def test_candidates_are_shared_out_over_cells() -> None:
    (search,) = plan(replace(EMT, formulas=("TiO2",), formula_units="", n=20))
    assert search.shares == [(1, 4), (2, 4), (3, 3), (4, 3), (5, 3), (6, 3)]
    (fixed,) = plan(replace(EMT, formulas=("Ti4O8",), formula_units="", n=20))
    assert fixed.shares == [(4, 20)]
    assert fixed.tasks(Spec.parse("airss"), 0)[0].cell_formula == "O8 Ti4"


def test_known_structures_are_found(tmp_path: Path) -> None:
    """Copper in its fcc cell; EMT's lattice constant."""
    Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.6), ["Cu"], [[0.0, 0, 0]]).to(str(tmp_path / "fcc.cif"))
    settings = replace(EMT, formulas=("Cu",), generators=("airss",), formula_units="1", n=6,
                       reference=str(tmp_path / "fcc.cif"), relax=RelaxSettings())  # fmt: skip
    summary = run_comparison(settings, tmp_path / "run", workers=1)
    entry = summary["compositions"][0]["generators"]["airss"]
    hits = [record for record in rows(tmp_path / "run") if record.match == "fcc"]
    assert entry["n_matched"] == len(hits) > 0
    assert entry["first_match"] == hits[0].index + 1
    assert entry["rms_dist"] == min(record.rms_dist or 0 for record in hits)
    assert summary["overall"]["airss"]["match_rate"] == 1.0
    assert summary["matcher"] == {"ltol": 0.2, "stol": 0.3, "angle_tol": 5.0}


def test_under_pressure_structures_go_by_their_enthalpy(tmp_path: Path) -> None:
    """Hulls, of no pressure, stay away, and the notes say so."""
    relax = replace(EMT.relax, pressure=100.0)
    settings = replace(EMT, formulas=("Cu",), generators=("uniform",), formula_units="2", n=8, relax=relax)
    summary = run_comparison(settings, tmp_path / "run", workers=1)
    converged = [record for record in rows(tmp_path / "run") if record.converged]
    for record in converged:
        assert record.final_structure
        work = 100.0 * record.final_structure.volume / EV_PER_CUBIC_ANGSTROM
        assert record.enthalpy == pytest.approx((record.energy or 0.0) + work)
    best = min(converged, key=lambda record: record.enthalpy_per_atom or 0.0)
    assert summary["compositions"][0]["generators"]["uniform"]["best"] == best.key
    assert summary["hull_reference"] is None
    assert "100.0 GPa" in footnotes(summary)
    with pytest.raises(ValueError, match="of no pressure"):
        replace(settings, hull="phases.csv")


def test_zincblende_is_not_rock_salt() -> None:
    """Though the benchmarks' tolerances for samples, which are wider, say so."""
    rock_salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    zincblende = Structure.from_spacegroup("F-43m", Lattice.cubic(6.2), ["Na", "Cl"], [[0.0, 0, 0], [0.25] * 3])
    known = {"NaCl": [("rock salt", rock_salt)]}
    assert best_match(zincblende, known, BENCHMARK_MATCH)
    assert best_match(zincblende, known, MatchSettings()) is None


def test_hull_distances_say_what_they_count_from(tmp_path: Path) -> None:
    phases = "formula,formation_energy_per_atom\nAlCu,-0.1\nAlCu3,-0.2\n"
    (tmp_path / "phases.csv").write_text(phases)
    settings = replace(EMT, formulas=("AlCu", "AlNi"), formula_units="1", hull=str(tmp_path / "phases.csv"))
    summary = run_comparison(settings, tmp_path / "run", workers=1)
    assert summary["hull_reference"] == "phases.csv, 2 phases"
    known, unknown = (entry["generators"]["airss"] for entry in summary["compositions"])
    assert known["e_above_hull"] == pytest.approx(known["formation_energy_per_atom"] + 0.4 / 3)  # AlCu3 and Al
    assert known["decomposition_energy"] == pytest.approx(known["e_above_hull"])
    assert unknown["e_above_hull"] == pytest.approx(unknown["formation_energy_per_atom"])
    overall = summary["overall"]["airss"]
    assert overall["n_hull_distances"] == 2
    assert overall["n_stable"] == sum(entry["e_above_hull"] < 0 for entry in (known, unknown))
    table = to_table(summary)
    assert "Lowest structures above the hull" in table
    assert "phases.csv, 2 phases" in table
    without = run_comparison(replace(settings, hull="none"), tmp_path / "without", workers=1)
    assert without["hull_reference"] is None
    assert "above hull" not in to_table(without)


def test_labels_name_columns_and_rows(tmp_path: Path) -> None:
    generators = ("airss,patience=50,label=patient", "uniform,label=floor")
    settings = replace(EMT, formulas=("AlCu",), formula_units="1", generators=generators)
    summary = run_comparison(settings, tmp_path / "run", workers=1)
    assert summary["generators"] == ["patient", "floor"]
    assert set(summary["overall"]) == {"patient", "floor"}
    with Store(tmp_path / "run" / "results.sqlite", read_only=True) as store:
        assert {record.generator for record in store.records()} == {"patient", "floor"}
    plain = run_comparison(
        replace(settings, generators=("airss,patience=50", "uniform")), tmp_path / "plain", workers=1
    )
    lowest = [row["formation_energy_per_atom"] for row in summary["compositions"][0]["generators"].values()]
    assert lowest == [row["formation_energy_per_atom"] for row in plain["compositions"][0]["generators"].values()]


def test_an_unphysical_energy_is_a_failure_with_that_reason() -> None:
    from unimat_search.eval.references import ElementReference
    from unimat_search.records import Relaxation
    from unimat_search.scoring import Scorer

    structure = Structure(Lattice.cubic(3), ["Al", "Cu"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    reference = ElementReference(-3.0, "fcc", 1, 1)
    references = References("emt", "", {"Al": reference, "Cu": reference})
    record = Record("k", "g", "AlCu", 1, "Al1 Cu1", 0, 0, structure, True)
    for energy, outcome in (
        (-7.0, Outcome.CONVERGED),
        (-26.0, Outcome.UNPHYSICAL_ENERGY),
        (9.0, Outcome.UNPHYSICAL_ENERGY),
    ):
        relaxation = Relaxation(0, structure, energy, 1, 0.01, Outcome.CONVERGED)
        scored = Scorer(references, None, MatchSettings()).score(record, relaxation)
        assert scored.outcome is outcome
    without = Scorer(References("emt"), None, MatchSettings()).score(record, relaxation)
    assert without.outcome is Outcome.CONVERGED
    assert without.formation_energy_per_atom is None


def test_relaxers_that_die_lose_only_what_they_held(tmp_path: Path) -> None:
    settings = replace(EMT, formulas=("Al",), generators=("airss",), formula_units="1,2,6", n=6,
                       relaxer="tests.plugins:suicidal")  # fmt: skip
    summary = run_comparison(settings, tmp_path / "run", workers=1)
    by_units = summary["compositions"][0]["generators"]["airss"]["by_formula_units"]
    assert by_units["1"]["n_converged"] == by_units["2"]["n_converged"] == 2
    assert by_units["6"]["failures"] == {"relaxer_failed": 2}


def test_a_structure_that_kills_its_worker_costs_nobody_else(tmp_path: Path) -> None:
    """One chunk holds cells of 5 and 6 atoms; those of 6 kill; other chunks are in flight beside it."""
    settings = replace(EMT, formulas=("Al",), formula_units="1-6", n=12, relaxer="tests.plugins:suicidal")
    run_comparison(settings, tmp_path / "run", workers=2)
    died = {record.key for record in rows(tmp_path / "run") if record.detail == "its process died"}
    assert died == {record.key for record in rows(tmp_path / "run") if record.formula_units == 6}
    assert len(died) == 4


def test_a_generator_that_kills_its_worker_costs_nobody_else(tmp_path: Path) -> None:
    settings = replace(EMT, formulas=("Al",), generators=("airss", "tests.plugins:Deadly"), formula_units="1-2")
    summary = run_comparison(settings, tmp_path / "run", workers=2)
    assert summary["overall"]["airss"]["n_converged"] == 4
    died = [record for record in rows(tmp_path / "run") if record.detail == "its process died"]
    assert {record.generator for record in died} == {"tests.plugins:Deadly"}
    assert len(died) == 4


def test_a_generator_that_learns_is_asked_in_rounds(tmp_path: Path) -> None:
    """Seven candidates in rounds of three, whatever the workers; a run that lost its last rounds makes them again."""
    settings = replace(EMT, formulas=("Al4", "Al2Cu2"), generators=("tests.plugins:Learner",), formula_units="", n=7)
    run_comparison(settings, tmp_path / "one", workers=1)
    run_comparison(settings, tmp_path / "two", workers=2)
    whole = rows(tmp_path / "one")
    assert len(whole) == 14
    assert rows(tmp_path / "two") == whole
    with sqlite3.connect(tmp_path / "two" / "results.sqlite") as store:
        store.execute("DELETE FROM candidates WHERE \"index\" >= 3 AND cell_formula = 'Al4'")
        store.execute('UPDATE candidates SET outcome = NULL WHERE "index" >= 3')
        store.execute('DELETE FROM candidates WHERE "index" >= 6')
    run_comparison(settings, tmp_path / "two", resume=True, workers=2)
    assert rows(tmp_path / "two") == whole
    lowest_of = [min(r.energy or 0.0 for r in whole if r.cell_formula == "Al4" and r.index < k) for k in (3, 7)]
    assert lowest_of[1] <= lowest_of[0]


def test_a_worker_that_dies_once_is_tried_again(tmp_path: Path) -> None:
    settings = replace(EMT, formulas=("Al",), generators=("airss",), formula_units="1", n=2,
                       relaxer=f"tests.plugins:once,flag={tmp_path / 'flag'}")  # fmt: skip
    summary = run_comparison(settings, tmp_path / "run", workers=1)
    assert (tmp_path / "flag").exists()
    assert summary["overall"]["airss"]["n_converged"] == 2


def test_a_relaxer_that_loses_results_leaves_reasons(tmp_path: Path) -> None:
    settings = replace(EMT, formulas=("Al",), generators=("airss",), formula_units="1", n=4,
                       relaxer="tests.plugins:lossy")  # fmt: skip
    run_comparison(settings, tmp_path / "run", workers=1)
    details = [record.detail for record in rows(tmp_path / "run")]
    assert details == ["", "RuntimeError: lost the rest", "", "RuntimeError: lost the rest"]


def test_only_compositions_with_a_known_structure_count_as_searched_for_it(tmp_path: Path) -> None:
    Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.6), ["Cu"], [[0.0, 0, 0]]).to(str(tmp_path / "fcc.cif"))
    settings = replace(EMT, formulas=("Al", "Cu"), generators=("airss",), formula_units="1", n=6)
    settings = replace(settings, reference=str(tmp_path / "fcc.cif"), relax=RelaxSettings())
    overall = run_comparison(settings, tmp_path / "run", workers=1)["overall"]["airss"]
    assert overall["n_known_compositions"] == 1
    assert overall["match_rate"] == 1.0


def test_references_do_not_depend_on_a_runs_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMAT_SEARCH_CACHE", str(tmp_path / "cache"))
    sloppy = replace(EMT, formulas=("Pt",), generators=("airss",), n=1, relax=RelaxSettings(fmax=20))
    run_comparison(sloppy, tmp_path / "sloppy", workers=1)
    careful = run_comparison(replace(sloppy, relax=RelaxSettings(), n=8), tmp_path / "careful", workers=1)
    assert careful["compositions"][0]["generators"]["airss"]["formation_energy_per_atom"] > -0.001


@pytest.mark.parametrize(
    "kind",
    [
        *("wrong composition", "tiny cell", "no structure", "infinite energy", "text outcome"),
        *("no numbers", "no cell", "no kind of structure", "half a character"),
    ],
)
def test_the_harness_trusts_no_relaxer(kind: str, tmp_path: Path) -> None:
    settings = replace(EMT, formulas=("Al",), generators=("airss",), formula_units="1", n=2,
                       relaxer=f'tests.plugins:lying,kind="{kind}"')  # fmt: skip
    summary = run_comparison(settings, tmp_path / "run", workers=1)
    assert summary["overall"]["airss"]["n_converged"] == (2 if kind == "text outcome" else 0)
    assert read_summary(tmp_path / "run") == json.loads(json.dumps(summary))
    assert run_comparison(settings, tmp_path / "run", resume=True, workers=1) == summary, "what is stored can be read"


def test_a_repaired_generator_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = replace(EMT, formulas=("Al",), generators=("airss", "late_plugin:Uniform"), formula_units="1", n=2)
    broken = run_comparison(settings, tmp_path / "run", workers=1)
    assert broken["overall"]["late_plugin:Uniform"]["failures"] == {"generator_failed": 2}
    (tmp_path / "late_plugin.py").write_text("from tests.plugins import Uniform")
    repaired = run_comparison(settings, tmp_path / "run", resume=True, workers=1)
    assert repaired["overall"]["late_plugin:Uniform"]["failures"].get("generator_failed") is None


def test_a_learner_that_was_missing_for_a_while_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds that failed for want of the generator are asked for again."""
    monkeypatch.chdir(tmp_path)
    settings = replace(EMT, formulas=("Al4",), generators=("airss", "late_learner:Learner"), formula_units="", n=7)
    plug_in = tmp_path / "late_learner.py"
    plug_in.write_text("from tests.plugins import Learner")
    run_comparison(settings, tmp_path / "run", workers=1)
    whole = rows(tmp_path / "run")
    with sqlite3.connect(tmp_path / "run" / "results.sqlite") as store:
        store.execute(
            "UPDATE candidates SET outcome = 'generator_failed', initial_structure = NULL "
            "WHERE \"index\" >= 3 AND generator LIKE 'late%'"
        )
    run_comparison(settings, tmp_path / "run", resume=True, workers=1)
    assert [replace(r, valid=True) for r in rows(tmp_path / "run")] == [replace(r, valid=True) for r in whole]


def test_another_version_is_a_warning_on_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = replace(EMT, formulas=("Al",), generators=("airss",), n=1)
    run_comparison(settings, tmp_path / "run", workers=1)
    file = tmp_path / "run" / "run.toml"
    lines = ['torch = "1.0"' if line.startswith("torch") else line for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines))
    run_comparison(settings, tmp_path / "run", resume=True, workers=1)
    assert "started with torch 1.0" in caplog.text


def test_a_damaged_settings_file_is_named() -> None:
    for text in ("", "formulas = 3", EMT.to_toml().replace('relaxer = "emt"', "relaxer = 3")):
        with pytest.raises(ValueError, match=r"damaged|must be text"):
            CompareSettings.from_toml(text)


def test_an_ase_calculator_is_a_relaxer(tmp_path: Path) -> None:
    settings = replace(EMT, formulas=("Al",), generators=("airss",), formula_units="1", n=1,
                       relaxer="tests.plugins:emt_calculator")  # fmt: skip
    summary = run_comparison(settings, tmp_path / "run", workers=1)
    assert summary["potential"] == "tests.plugins:emt_calculator"
    assert summary["overall"]["airss"]["n_converged"] == 1


def test_the_summary_is_plain_json(run: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((run / "summary.json").read_text(), parse_constant=refuse)


def test_of_many_compositions_files_hold_all_and_the_report_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(EMT, formulas=("Al", "AlCu", "Cu"), generators=("airss",), formula_units="1", n=1)
    whole = run_comparison(settings, tmp_path / "whole", workers=1)
    monkeypatch.setattr("unimat_search.summary.MOST_LISTED", 2)
    summary = run_comparison(settings, tmp_path / "many", workers=1)
    assert [entry["formula"] for entry in summary["compositions"]] == ["Al", "AlCu"]
    assert without_times(summary["overall"]) == without_times(whole["overall"])
    written = read_summary(tmp_path / "many")
    assert [entry["formula"] for entry in written["compositions"]] == ["Al", "AlCu", "Cu"]
    assert len((tmp_path / "many" / "summary.csv").read_text().splitlines()) == 1 + 2 * 3 + 1
    assert len(list((tmp_path / "many" / "best").iterdir())) == 2 * 2
    assert "Listed: the first 2 of 3 compositions; summary.csv has all." in to_table(summary)
