"""What may go wrong around a run, and that nothing is lost by it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from pymatgen.core import Lattice, Structure

from tests.trust.storm import calm, listen_to_interruptions, rows, storm, summary
from unimat_search import CompareSettings, run_comparison
from unimat_search.eval import parallel
from unimat_search.eval.patience import Patience, SilentTooLongError
from unimat_search.records import Outcome, RelaxSettings
from unimat_search.registry import Spec

SMALL = ("--formula", "AlCu", "--formula", "Cu3Au", "--generator", "airss", "-n", "6", "--formula-units", "1",
         "--workers", "1")  # fmt: skip


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "unimat_search", "compare", *map(str, arguments)]


def compare(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=300)


def refused(result: subprocess.CompletedProcess[str], says: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert says in result.stderr.strip().splitlines()[-1], result.stderr


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of `SMALL` by EMT."""
    out = tmp_path_factory.mktemp("faults") / "calm"
    result = compare(*SMALL, "--relaxer", "emt", "--out", out)
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user can't mount a disk")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_small_storm(tmp_path: Path) -> None:
    calm(tmp_path / "calm")
    counts = storm(tmp_path / "stormy", tmp_path / "calm", 2, random.Random(1))
    assert sum(counts.values()) >= 2


@pytest.mark.slow
def test_a_storm(tmp_path: Path) -> None:
    calm(tmp_path / "calm")
    storm(tmp_path / "stormy", tmp_path / "calm", 50, random.Random(2))


def test_a_full_disk_loses_nothing_that_was_finished(small_disk: Path, reference: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(150_000))
    out = small_disk / "run"
    more = ("--formula", "AgPd", "--formula", "Ni3Al", "--formula", "Au3Pt", "--formula", "AgAu2", "--relaxer", "emt")
    full = compare(*SMALL, *more, "--out", out)
    refused(full, "full" if "full" in full.stderr else "No space left on device")
    if (out / "results.sqlite").is_file():
        assert all(row[0] is None or row == rows(reference).get(key, row) for key, row in rows(out).items())
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    resumed = compare("--out", out, "--resume", "--workers", "1") if (out / "run.toml").is_file() else compare(
        *SMALL, *more, "--out", out
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert rows(reference).items() <= rows(out).items()


def test_a_folder_that_can_only_be_read(small_disk: Path, reference: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused(compare(*SMALL, "--relaxer", "emt", "--out", small_disk / "run"), "can't be written: Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw,size=16m", str(small_disk)], check=True)
    shutil.copytree(reference, small_disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused(compare("--resume", "--out", small_disk / "run"), "can't be written: Read-only file system")
    shown = subprocess.run(
        [sys.executable, "-m", "unimat_search", "show", small_disk / "run"], capture_output=True, text=True, check=True
    )
    assert "AlCu" in shown.stdout


def test_the_second_process_on_a_folder_is_refused(tmp_path: Path, reference: Path) -> None:
    out = tmp_path / "run"
    first = subprocess.Popen(
        command(*SMALL, "--relaxer", "tests.plugins:slow,seconds=0.5", "--out", out), stderr=subprocess.DEVNULL
    )
    _wait_for(out / ".owner")
    who = f"is in use by process {first.pid} on "
    refused(compare(*SMALL, "--relaxer", "tests.plugins:slow,seconds=0.5", "--out", out, "--resume"), who)
    refused(compare(*SMALL, "--relaxer", "emt", "--out", out, "--overwrite"), who)
    first.kill()
    first.wait()
    again = compare("--out", out, "--resume", "--workers", "1")  # a lock does not outlive its process
    assert again.returncode == 0, again.stderr
    assert {key: row[2] for key, row in rows(out).items()} == {key: row[2] for key, row in rows(reference).items()}


def test_ctrl_c_during_relaxation(tmp_path: Path, reference: Path) -> None:
    listen_to_interruptions()
    out = tmp_path / "run"
    running = subprocess.Popen(
        command(*SMALL, "--relaxer", "tests.plugins:slow,seconds=1.5", "--chunk", "2", "--out", out),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _wait_for(out / "results.sqlite")
    while not any(row[0] for row in rows(out).values()):
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said.strip() == (
        f"interrupted; finished candidates are kept: go on with unimat-search compare --resume --out {out}"
    )
    assert not all(row[0] for row in rows(out).values())
    resumed = compare("--out", out, "--resume", "--workers", "1")
    assert resumed.returncode == 0, resumed.stderr
    assert rows(out).keys() == rows(reference).keys()
    assert all(row[0] for row in rows(out).values())


def test_a_clock_that_jumps(tmp_path: Path, reference: Path) -> None:
    result = compare(*SMALL, "--relaxer", "tests.plugins:jumping", "--time-limit", "60", "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert rows(tmp_path / "run") == rows(reference)


def test_a_full_stderr_pipe_and_a_plug_in_that_prints(tmp_path: Path) -> None:
    """Nobody reads stderr, whose pipe holds 64 kB; stdout is one JSON document all the same."""
    formulas = [word for n in range(1, 31) for word in ("--formula", f"AlCu{n}")]
    arguments = [*formulas, "--generator", "tests.plugins:Chatty", "--generator", "uniform", "-n", "1"]
    settings = ["--max-atoms", "40", "--relaxer", "emt", "--max-steps", "1", "--workers", "2", "--format", "json"]
    running = subprocess.Popen(
        command(*arguments, *settings, "--out", tmp_path / "run"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout
    assert running.stderr
    overall = json.loads(running.stdout.read())["overall"]
    assert running.wait(60) == 0
    assert overall["tests.plugins:Chatty"]["failures"] == {"generator_failed": 30}
    warnings = [line for line in running.stderr.read().splitlines() if "no idea" in line]
    assert len(warnings) == 20
    assert "xxx" not in "".join(warnings)


def test_with_verbose_logs_plug_ins_are_heard(tmp_path: Path) -> None:
    """On stderr, whatever they print to: stdout is the report's."""
    small = ("--formula", "Al", "--generator", "tests.plugins:Chatty", "-n", "1", "--relaxer", "emt", "--workers", "1")
    loud = compare(*small, "--format", "json", "--out", tmp_path / "run", "-v")
    assert json.loads(loud.stdout)["generators"] == ["tests.plugins:Chatty"]
    assert loud.stderr.count("x" * 1000) >= 2000, "a megabyte to stdout and one to stderr"


def test_a_store_of_another_version_is_refused_by_name(tmp_path: Path, reference: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(reference, out)
    connection = sqlite3.connect(out / "results.sqlite")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    before = (out / "results.sqlite").read_bytes()
    refused(compare("--resume", "--out", out), "is a results file of version 1, this program reads version 3; use the")
    assert (out / "results.sqlite").read_bytes() == before


@pytest.mark.parametrize("how", ["page", "table", "number", "structure", "nan"])
def test_a_damaged_store_is_one_line(how: str, tmp_path: Path, reference: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(reference, out)
    file = out / "results.sqlite"
    if how == "page":
        data = bytearray(file.read_bytes())
        data[4096:] = bytes(len(data) - 4096)
        file.write_bytes(data)
    else:
        statement = {
            "table": "DROP TABLE candidates",
            "number": "UPDATE candidates SET energy = 'low'",
            "structure": "UPDATE candidates SET final_structure = '{}'",
            "nan": "UPDATE candidates SET final_structure = replace(final_structure, '[[', '[[NaN,')",
        }[how]
        connection = sqlite3.connect(file)
        connection.execute(statement)
        connection.commit()
        connection.close()
    for name, *more in (
        ("export", "--to", "cif", "--out", str(tmp_path / how)),
        ("report", "--out", str(tmp_path / "r")),
    ):
        result = subprocess.run(
            [sys.executable, "-m", "unimat_search", name, out, *more], capture_output=True, text=True, check=False
        )
        refused(result, "results.sqlite")


@pytest.mark.parametrize("how", ["asleep", "busy", pytest.param("deaf", marks=pytest.mark.slow)])
def test_a_generator_that_hangs(how: str, tmp_path: Path) -> None:
    name = f"tests.plugins:Hangs,how={how}"
    settings = CompareSettings(
        ("AlCu",), ("uniform", name), n=3, formula_units="1", relaxer="emt", generator_time_limit=1.0
    )
    columns = run_comparison(settings, tmp_path / "run", workers=1)["compositions"][0]["generators"]
    assert columns["uniform"]["failures"].get("generator_failed", 0) == 0
    assert columns[name]["failures"]["generator_failed"] == (3 if how == "deaf" else 2)
    details = {row[1] for row in rows(tmp_path / "run").values()}
    assert ("its process died" if how == "deaf" else "the generator gave nothing for 1 s") in details


@pytest.mark.parametrize("how", ["cancelled", "interrupt", "exit"])
def test_a_generator_that_raises_what_is_no_exception(how: str, tmp_path: Path) -> None:
    name = f"tests.plugins:Cancelled,how={how}"
    settings = CompareSettings(("AlCu",), ("uniform", name), n=3, formula_units="1", relaxer="emt")
    columns = run_comparison(settings, tmp_path / "run", workers=1)["compositions"][0]["generators"]
    assert columns[name]["failures"]["generator_failed"] >= 2
    assert columns["uniform"]["failures"].get("generator_failed", 0) == 0


def test_structures_beyond_all_measure_fail_alone(tmp_path: Path) -> None:
    settings = CompareSettings(("AlCu",), ("tests.plugins:Absurd",), n=6, formula_units="1", relaxer="emt", chunk=6)
    run_comparison(settings, tmp_path / "run", workers=1)
    outcomes = {int(key.rpartition("/")[2]): row[0] for key, row in rows(tmp_path / "run").items()}
    assert outcomes[2] == outcomes[4] == "generator_failed"
    assert {outcomes[0], outcomes[1]} <= {str(outcome) for outcome in Outcome} - {"converged", "relaxer_failed"}
    assert outcomes[3] != "generator_failed"
    assert outcomes[5] not in ("generator_failed", "relaxer_failed")


def test_a_relaxer_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "STARTING", 0.0)
    parallel._worker_relaxer.cache_clear()
    structures = [Structure(Lattice.cubic(3), ["Cu"], [[0, 0, 0]])] * 2
    limits = RelaxSettings(time_limit=0.5)
    results = parallel._relax_chunk(Spec.parse("tests.plugins:slow,seconds=30"), limits, structures)
    parallel._worker_relaxer.cache_clear()
    assert [result.outcome for result in results] == [Outcome.RELAXER_FAILED] * 2
    assert "SilentTooLongError: nothing for 1 s" in results[0].detail


def test_patience_hears_and_leaves_no_alarm() -> None:
    with Patience(0.5) as patience:
        for _ in range(3):
            time.sleep(0.3)
            patience.heard()
    time.sleep(0.6)
    with pytest.raises(SilentTooLongError), Patience(0.2):
        time.sleep(2)
    with Patience(np.inf):
        pass


def test_what_a_worker_started_ends_with_it() -> None:
    """A DFT program must not work on for nobody."""
    code = (
        "import subprocess, sys; from unimat_search.eval.patience import end_process; "
        "print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True); end_process()"
    )
    worker = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert worker.returncode == 1
    for _ in range(100):
        if not psutil.pid_exists(int(worker.stdout)) or psutil.Process(int(worker.stdout)).status() == "zombie":
            return
        time.sleep(0.05)
    raise AssertionError("it lives on")


def test_the_calm_run_repeats_itself(reference: Path, tmp_path: Path) -> None:
    """What the other tests compare with is no accident."""
    assert compare(*SMALL, "--relaxer", "emt", "--out", tmp_path / "run").returncode == 0
    assert rows(tmp_path / "run") == rows(reference)
    assert summary(tmp_path / "run") == summary(reference)


def _wait_for(file: Path) -> None:
    for _ in range(600):
        if file.is_file():
            return
        time.sleep(0.05)
    raise AssertionError(f"{file} did not appear")
