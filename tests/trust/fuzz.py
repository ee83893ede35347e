"""Hostile input in numbers: `python -m tests.trust.fuzz NAME SECONDS [SEED]` tries one target and prints what it saw.

With atheris installed, libFuzzer goes on from what plain mutation tried, guided by coverage.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.trust.targets import Target

MEMORY = 12 * 2**30
"""Bytes of address space that a reader has; PyTorch alone reserves some."""


def mutate(name: str, seconds: float, seed: int) -> dict[str, int]:
    """Try mutated files for so long; raises what should not be."""
    from tests.trust.targets import TARGETS, attempt, mutated

    target, rng = TARGETS[name], random.Random(f"{name} {seed}")
    tried = taken = 0
    with tempfile.TemporaryDirectory() as folder:
        warm_up(target, Path(folder))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            data = mutated(rng.choice(target.seeds), rng)
            try:
                taken += attempt(target, data, Path(folder))
            except BaseException:
                failing = Path(tempfile.mkdtemp()) / f"failing{target.suffix}"
                failing.write_bytes(data)
                print(f"the input is {failing}", file=sys.stderr)
                raise
            tried += 1
    return {"tried": tried, "taken": taken}


def warm_up(target: Target, folder: Path) -> None:
    """What is compiled or loaded at the first use is no fault of an input."""
    file = folder / f"first{target.suffix}"
    file.write_bytes(target.seeds[0])
    target.read(file)
    file.unlink()


def guided(name: str, seconds: float) -> None:
    """The same with atheris; it ends the process, and writes its own counts to stderr."""
    import atheris

    compiled = [f"unimat_search.airss.{name}" for name in ("build", "packing", "candidates")]  # by numba
    with atheris.instrument_imports(include=["unimat_search"], exclude=compiled, enable_loader_override=False):
        from tests.trust.targets import TARGETS, attempt
    target = TARGETS[name]
    corpus, folder = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    warm_up(target, folder)
    for index, data in enumerate(target.seeds):
        (corpus / str(index)).write_bytes(data)

    def one(data: bytes) -> None:
        attempt(target, data, folder)

    options = [f"-max_total_time={int(seconds)}", "-print_final_stats=1", "-max_len=20000", "-verbosity=0"]
    atheris.Setup([sys.argv[0], str(corpus), f"-artifact_prefix={folder}/", "-rss_limit_mb=8192", *options], one)
    atheris.Fuzz()


def main() -> None:
    name, seconds, how = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    if how == "guided":
        guided(name, seconds)
    else:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        print(json.dumps(mutate(name, seconds, int(how))))


if __name__ == "__main__":
    main()
