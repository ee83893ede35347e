"""Faults survived and hostile inputs refused, in numbers: the file `docs/results/reliability.md`.

    python -m benchmarks.reliability --out docs/results/reliability.md

Runs from the repository's root, in an environment with the extra [dev]; libFuzzer joins where atheris is installed.
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import click

from tests.trust.storm import LONGEST, calm, rows, storm
from tests.trust.targets import SECONDS, TARGETS
from unimat_search.eval.report import Row, markdown


@click.command()
@click.option("--kills", default=50, show_default=True)
@click.option("--seconds", default=20.0, show_default=True, help="Of mutation for each reader, and again of libFuzzer.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(kills: int, seconds: float, seed: int, out: Path) -> None:
    """Write the tables."""
    storm_row, minutes = run_storm(kills, seed)
    inputs = [fuzz(name, seconds, seed) for name in TARGETS]
    total = sum(row["inputs"] for row in inputs)
    guided = sum(row["guided by coverage"] for row in inputs)
    tables = [("A storm of kills", [storm_row]), ("Hostile input", inputs)]
    notes = "\n".join(
        [
            f"Storm: one comparison of 84 candidates (three generators, one of which learns; two workers), killed at "
            f"random moments 0.5 to {LONGEST:g} s after each start and gone on with by `--resume`, {minutes:.0f} "
            "minutes in all. After each kill SQLite's own check of the store passed, and every finished row was that "
            "of a run that nothing happened to; in the end so were all rows and the summary, to the last digit, "
            "seconds aside, and no other file was left.",
            "",
            f"Input: files that each reader takes, mutated at random (bytes changed, tokens such as `nan`, `-1` or "
            f"`../../x` put in, parts cut, doubled, cut off), {total:,} in all, and {guided:,} more by libFuzzer, "
            "guided by coverage. Each was taken (single structures of it refused with a "
            f"reason, maybe), or refused in one line; within {SECONDS:g} s; and nothing was written: anything else "
            "would have ended the command. Archives are read in memory alone: names in them lead nowhere.",
            "",
            f"Measured on {platform.system()}, Python {platform.python_version()}, seed {seed}: "
            f"`python -m benchmarks.reliability --kills {kills} --seconds {seconds:g} --seed {seed} --out FILE`.",
        ]
    )
    out.write_text("# Reliability\n\n" + markdown(tables, "\n" + notes) + "\n", encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def run_storm(kills: int, seed: int) -> tuple[Row, float]:
    """The storm's counts, and minutes."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        reference, out = Path(folder) / "calm", Path(folder) / "stormy"
        calm(reference)
        counts = storm(out, reference, kills, random.Random(seed), lambda line: click.echo(line, err=True))
        lost = len(rows(reference)) - len(rows(out))
    return {**dict(sorted(counts.items())), "rows lost or changed": lost}, (time.monotonic() - began) / 60


def fuzz(name: str, seconds: float, seed: int) -> Row:
    """One reader's counts."""
    plain = json.loads(_run(name, seconds, str(seed)).stdout)
    guided = 0
    if find_spec("atheris"):
        found = re.search(r"number_of_executed_units:\s*(\d+)", _run(name, seconds, "guided").stderr)
        assert found, name
        guided = int(found[1])
    click.echo(f"{name}: {plain}, {guided} guided", err=True)
    return {
        "reader": name,
        "inputs": plain["tried"],
        "taken": plain["taken"],
        "refused in one line": plain["tried"] - plain["taken"],
        "guided by coverage": guided,
    }


def _run(name: str, seconds: float, how: str) -> subprocess.CompletedProcess[str]:
    """One process; anything but taking or refusing ends it with an error, and this with it."""
    command = [sys.executable, "-m", "tests.trust.fuzz", name, str(seconds), how]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{name}, {how}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return done


if __name__ == "__main__":
    main()
