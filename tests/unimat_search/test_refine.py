from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from unimat_search.cli import main
from unimat_search.compare import run_comparison
from unimat_search.eval.match import structure_matcher
from unimat_search.eval.references import ElementReference, References
from unimat_search.eval.unique import SAME
from unimat_search.plan import CompareSettings
from unimat_search.records import MatchSettings, Outcome, Record, RelaxSettings
from unimat_search.refine import RefineSettings, choose, refine_run
from unimat_search.run_folder import RESULTS, RunError
from unimat_search.scoring import Scorer
from unimat_search.store import Store

SETTINGS = CompareSettings(
    formulas=("AlCu", "Al"), generators=("airss", "tests.plugins:Uniform"), n=6, formula_units="1-2", relaxer="emt",
    relax=RelaxSettings(fmax=0.2),
)  # fmt: skip
REFINE = RefineSettings("tests.plugins:emt_calculator", top=2, relax=RelaxSettings(fmax=0.02))
FOLDER = Path("refined") / "tests.plugins_emt_calculator"


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refined") / "run"
    run_comparison(SETTINGS, out, workers=1)
    return out


@pytest.fixture
def run(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once, tmp_path / "run"))


def rows(store: Path) -> dict[str, Record]:
    with Store(store, read_only=True) as opened:
        return {r.key: replace(r, relax_seconds=0.0) for r in opened.records(structures=True)}


def test_the_lowest_different_structures_are_relaxed_again(run: Path) -> None:
    summary = refine_run(run, REFINE, workers=1)
    before, after = rows(run / RESULTS), rows(run / FOLDER / RESULTS)
    columns = {(record.reduced_formula, record.generator) for record in before.values()}
    assert {(record.reduced_formula, record.generator) for record in after.values()} == columns
    fit = structure_matcher(SAME)
    for column in columns:
        mine = [r for r in after.values() if (r.reduced_formula, r.generator) == column]
        others = [r for r in before.values() if (r.reduced_formula, r.generator) == column and r.converged]
        assert 1 <= len(mine) <= 2
        energies = [before[r.key].energy_per_atom or 0.0 for r in mine]
        assert min(energies) == min(r.energy_per_atom or 0.0 for r in others)
        structures = [r.initial_structure for r in mine if r.initial_structure]
        apart = abs(energies[0] - energies[-1]) > 0.01
        assert len(mine) == 1 or apart or not fit.fit(structures[0], structures[-1])
    for key, record in after.items():
        assert record.initial_structure == before[key].final_structure
        assert record.max_force is not None
        assert record.max_force < 0.02
    assert summary["potential"] == "tests.plugins:emt_calculator"
    assert {one["key"] for one in summary["structures"]} == set(after)
    assert all(one["cell"] and one["space_group"] for one in summary["structures"])
    assert json.loads((run / FOLDER / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert any((run / FOLDER / "best").iterdir())


def test_what_is_missing_is_done_again_and_nothing_else(run: Path) -> None:
    refine_run(run, REFINE, workers=1)
    store = run / FOLDER / RESULTS
    whole = rows(store)
    lost = sorted(whole)[0]
    with sqlite3.connect(store) as connection:
        connection.execute("DELETE FROM candidates WHERE key = ?", (lost,))
        connection.execute("UPDATE candidates SET n_steps = 99 WHERE key != ?", (lost,))
    refine_run(run, REFINE, workers=1)
    again = rows(store)
    assert again[lost] == whole[lost]
    assert {record.n_steps for key, record in again.items() if key != lost} == {99}


def test_more_may_be_refined_and_more_time_given_but_nothing_else_changed(run: Path) -> None:
    hurried = replace(REFINE, relaxer="tests.plugins:slow,seconds=0", top=1)
    refine_run(run, hurried, workers=1)
    store = run / "refined" / "ase-emt" / RESULTS
    few = rows(store)
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE candidates SET outcome = 'time_limit', relax_seconds = 5")
    refine_run(run, replace(hurried, relax=replace(hurried.relax, time_limit=4)), workers=1)
    assert {record.outcome for record in rows(store).values()} == {Outcome.TIME_LIMIT}
    refine_run(run, replace(hurried, top=2, relax=replace(hurried.relax, time_limit=6)), workers=1)
    assert rows(store).keys() > few.keys()
    assert {key: record.energy for key, record in rows(store).items() if key in few} == {
        key: record.energy for key, record in few.items()
    }
    with pytest.raises(RunError, match=r"was refined with .*fmax=0\.02.* delete it to begin anew"):
        refine_run(run, replace(hurried, relax=replace(hurried.relax, fmax=0.01)), workers=1)


def test_what_fails_is_a_row_with_its_reason(run: Path) -> None:
    summary = refine_run(run, replace(REFINE, relaxer='tests.plugins:lying,kind="tiny cell"', top=1), workers=1)
    assert {one["outcome"] for one in summary["structures"]} == {"collapsed"}
    assert summary["overall"]["airss"]["n_converged"] == 0


def test_candidates_are_read_until_there_are_enough_different_ones(run: Path) -> None:
    with Store(run / RESULTS, read_only=True) as store:
        all_of_them = choose(store, SETTINGS, 100)
        some = choose(store, SETTINGS, 2)
        assert some.keys() < all_of_them.keys()
        assert choose(store, replace(SETTINGS, generators=SETTINGS.generators[:1]), 2).keys() < some.keys()


def test_the_command_refines_and_a_resumed_run_goes_on_with_it(run: Path) -> None:
    command = ["compare", "--out", str(run), "--resume", "--workers", "1"]
    shown = CliRunner().invoke(main, [*command, "--refine", "tests.plugins:emt_calculator", "--top", "1"])
    assert shown.exit_code == 0, shown.output
    assert "The 1 lowest of each generator, relaxed again by tests.plugins:emt_calculator" in shown.stdout
    again = CliRunner().invoke(main, [*command, "--format", "csv"])
    assert again.exit_code == 0
    lines = again.stdout.splitlines()
    assert lines[0].startswith("potential,formula,generator")
    assert {line.partition(",")[0] for line in lines[1:]} == {"ase-emt", "tests.plugins:emt_calculator"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top", "3"], "--top, --refine-fmax and --refine-time-limit are of --refine"),
        (["--refine-fmax", "0.1"], "--top, --refine-fmax and --refine-time-limit are of --refine"),
        (["--refine", "nothing"], "'nothing' is none of the relaxers"),
        (["--scheduler", "tcp://127.0.0.1:1"], "--scheduler tcp://127.0.0.1:1 is of --backend dask"),
        (["--backend", "dask"], "--backend dask needs --scheduler"),
    ],
)
def test_bad_options_are_named_and_nothing_is_written(tmp_path: Path, options: list[str], message: str) -> None:
    out = tmp_path / "run"
    shown = CliRunner().invoke(main, ["compare", "--formula", "Al", "--relaxer", "emt", "--out", str(out), *options])
    assert shown.exit_code == 2
    assert message in shown.stderr
    assert not out.exists()


def test_damaged_settings_are_named(run: Path) -> None:
    refine_run(run, REFINE, workers=1)
    (run / FOLDER / "refine.toml").write_text("relaxer = 3\n")
    with pytest.raises(ValueError, match=r"refine\.toml is damaged"):
        refine_run(run, REFINE, workers=1)


def test_a_reference_that_was_missing_is_made_up_for(run: Path) -> None:
    """Rows that converged without a formation energy get it as soon as the element has a reference."""
    refine_run(run, REFINE, workers=1)
    store = run / FOLDER / RESULTS
    whole = rows(store)
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE candidates SET formation_energy_per_atom = NULL")
    refine_run(run, REFINE, workers=1)
    assert rows(store) == whole
    assert all(record.formation_energy_per_atom is not None for record in whole.values() if record.converged)


def test_formation_energies_follow_the_references(run: Path) -> None:
    """Also those that were told otherwise, or called unphysical, by others; a run has one zero of energy."""
    whole = rows(run / RESULTS)
    with sqlite3.connect(run / RESULTS) as connection:
        connection.execute("UPDATE candidates SET formation_energy_per_atom = formation_energy_per_atom + 1")
        connection.execute(
            "UPDATE candidates SET outcome = 'unphysical_energy', formation_energy_per_atom = NULL, detail = 'x' "
            "WHERE outcome = 'converged' AND \"index\" = 0"
        )
    run_comparison(SETTINGS, run, resume=True, workers=1)
    assert rows(run / RESULTS) == whole
    with Store(run / RESULTS) as store:
        row = next(record for record in store.records(structures=True) if record.converged)
        store.write([replace(row, match="known", rms_dist=0.1)])
        absurd = ElementReference(99.0, "", 1, 0)
        Scorer(References("ase-emt", "", {"Al": absurd, "Cu": absurd}), None, MatchSettings()).rescore(store)
        told = store.record(row.key)
    assert told.outcome is Outcome.UNPHYSICAL_ENERGY
    assert (told.formation_energy_per_atom, told.match, told.rms_dist) == (None, "", None), "as if it were so at first"


def test_another_relaxer_of_the_same_name_is_refused(run: Path) -> None:
    refine_run(run, replace(REFINE, relaxer="emt", top=1), workers=1)
    with pytest.raises(RunError, match=r"was refined with emt, .* not emt,label=other"):
        refine_run(run, replace(REFINE, relaxer="emt,label=other", top=1), workers=1)


def test_top_and_limits_stay_as_they_were_unless_others_are_given(run: Path) -> None:
    from unimat_search.cli import _refinements

    refine_run(run, replace(REFINE, top=1), workers=1)
    nothing: dict[str, float | None] = {"fmax": None, "time_limit": None}
    same = _refinements(run, REFINE.relaxer, None, nothing, RelaxSettings(), resume=True)
    assert same == [replace(REFINE, top=1)]
    more = _refinements(run, REFINE.relaxer, 2, {"fmax": None, "time_limit": 9.0}, RelaxSettings(), resume=True)
    assert more == [replace(REFINE, relax=replace(REFINE.relax, time_limit=9.0))]


def test_the_html_report_shows_what_was_refined(run: Path) -> None:
    from unimat_search.html_report import write_report

    refine_run(run, REFINE, workers=1)
    write_report(run, run / "report.html")
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "The 2 lowest of each generator, relaxed again by tests.plugins:emt_calculator" in text
