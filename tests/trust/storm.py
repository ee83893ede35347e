"""A storm of kills: one comparison, killed again and again at random moments and gone on with, against a calm one."""

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
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

RUN = [
    *("--formula", "AlCu", "--formula", "Cu3Au", "--formula", "Ni2Pt", "--formula", "AgPd"),
    *("--generator", "airss", "--generator", "uniform", "--generator", "tests.plugins:Learner"),
    *("-n", "7", "--formula-units", "1", "--relaxer", "tests.plugins:slow,seconds=0.1", "--workers", "2"),
    *("--chunk", "3", "--format", "json"),
]
ALL, A_WORKER = "kill -9 of all", "kill -9 of a worker"
WAYS = (ALL, "kill -9 of the client", A_WORKER, "terminate", "ctrl-C")
LONGEST = 9.0
"""Seconds until a kill."""


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "unimat_search", "compare", *RUN, "--out", str(out), *more]


def calm(out: Path) -> dict[str, Any]:
    """A run that nothing happens to: its summary."""
    done = subprocess.run(command(out), capture_output=True, text=True, check=True)
    return dict(without_seconds(json.loads(done.stdout)))


def storm(
    out: Path, reference: Path, kills: int, rng: random.Random, say: Callable[[str], None] = lambda _: None
) -> Counter[str]:
    """Kill a run so often, then let it end.

    Args:
        out: Its folder.
        reference: Folder of the calm run.
        kills: How often.
        rng: When, and how.
        say: Takes lines of progress.

    Returns:
        How often each way of being killed came, and how often a run ended in between and began anew.
    """
    listen_to_interruptions()
    counts: Counter[str] = Counter()
    expected = rows(reference)
    while sum(counts[way] for way in WAYS) < kills:
        process = subprocess.Popen(
            command(out, *(["--resume"] if (out / "run.toml").is_file() else [])),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        blows: list[str] = []
        while not _wait(process, rng.uniform(0.5, LONGEST)) and blows in ([], [A_WORKER]):
            way = ALL if blows else rng.choice(WAYS)
            if _strike(process, way, rng):
                blows.append(way)
        ended = process.wait() == 0
        assert ended or set(blows) - {A_WORKER}, process.returncode
        counts.update(blow for blow in blows if blow == A_WORKER or not ended)  # the end may have come before the blow
        if (out / "results.sqlite").is_file():
            check_store(out, expected)
        say(f"{dict(counts)}")
        if ended and sum(counts[way] for way in WAYS) < kills:
            assert without_seconds(json.loads((out / "summary.json").read_text())) == summary(reference)
            shutil.rmtree(out)
            counts["ended, compared and begun anew"] += 1
    subprocess.run(command(out, "--resume"), capture_output=True, check=True)
    assert rows(out) == expected
    assert summary(out) == summary(reference)
    left = {file.name for file in out.iterdir()} - {file.name for file in reference.iterdir()}
    assert not left, left
    return counts


def listen_to_interruptions() -> None:
    """Processes started from here hear ctrl-C, also where this one was told not to, as jobs in the background are."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _strike(process: subprocess.Popen[bytes], way: str, rng: random.Random) -> bool:
    """Whether there was something to strike: workers come after some seconds."""
    children = psutil.Process(process.pid).children(recursive=True)
    if way == A_WORKER and not children:
        return False
    match way:
        case "kill -9 of all":
            os.killpg(process.pid, signal.SIGKILL)
        case "kill -9 of the client":
            process.kill()
        case "kill -9 of a worker":
            rng.choice(sorted(children, key=lambda child: child.pid)).kill()
        case "terminate":
            process.terminate()
        case "ctrl-C":
            os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.05)
    return True


def check_store(out: Path, expected: dict[str, Any]) -> None:
    """The store is intact, and every row that is finished is the calm run's."""
    connection = sqlite3.connect(out / "results.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    for key, row in rows(out).items():
        assert row[0] is None or row == expected[key], key


def rows(out: Path) -> dict[str, Any]:
    """Everything of a store's rows but seconds."""
    connection = sqlite3.connect(out / "results.sqlite")
    try:
        found = connection.execute(
            "SELECT key, outcome, detail, energy, n_steps, max_force, initial_structure, final_structure, origin "
            "FROM candidates"
        ).fetchall()
    except sqlite3.OperationalError:  # killed before the table was made
        found = []
    connection.close()
    return {key: tuple(values) for key, *values in found}


def summary(out: Path) -> dict[str, Any]:
    return dict(without_seconds(json.loads((out / "summary.json").read_text())))


def without_seconds(table: Any) -> Any:
    if isinstance(table, dict):
        return {key: without_seconds(value) for key, value in table.items() if "seconds" not in key}
    return [without_seconds(one) for one in table] if isinstance(table, list) else table
