"""Candidates a second through the whole harness, by who does the work: one process, two, more, a Dask cluster.

    python benchmarks/throughput.py --workers 1 --workers 2 --workers 4 --dask 2

The same compositions, candidates and results each time; prints seconds, candidates a second, the ratio to the first.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from unimat_search.compare import run_comparison
from unimat_search.eval.backends import Workers, worker_processes
from unimat_search.plan import CompareSettings
from unimat_search.run_folder import RESULTS

FORMULAS = ("NaCl", "MgO", "TiO2", "SrTiO3", "LiFePO4", "Al2O3", "CuZn", "BaSnO3", "K2ZnCl4", "Fe2O3")


def measure(settings: CompareSettings, workers: Workers) -> tuple[float, int]:
    """Seconds of a run, and its candidates; a first small run loads the models."""
    with tempfile.TemporaryDirectory() as folder:
        run_comparison(warm_up(settings), Path(folder) / "warm", workers=workers)
        start = time.perf_counter()
        run_comparison(settings, Path(folder) / "run", workers=workers)
        seconds = time.perf_counter() - start
        with sqlite3.connect(Path(folder) / "run" / RESULTS) as store:
            (count,) = store.execute("SELECT count(*) FROM candidates").fetchone()
    return seconds, int(count)


def warm_up(settings: CompareSettings) -> CompareSettings:
    """A small run that keeps every worker busy for a moment."""
    return CompareSettings(("NaCl",), settings.generators, n=16, relaxer=settings.relaxer, chunk=2)


@contextmanager
def dask(count: int) -> Iterator[Workers]:
    """A Dask cluster on this machine."""
    from distributed import LocalCluster

    from unimat_search.eval.cluster import DaskCluster

    with (
        LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None) as cluster,
        DaskCluster(cluster.scheduler_address) as backend,
    ):
        yield backend


@contextmanager
def processes(count: int) -> Iterator[Workers]:
    """Processes, which end afterwards."""
    yield count
    worker_processes(count).shutdown(wait=True, kill_workers=True)


@click.command()
@click.option("--workers", "counts", type=int, multiple=True, default=(1, 2))
@click.option("--dask", "clusters", type=int, multiple=True)
@click.option("--generator", "generators", multiple=True, default=("airss",))
@click.option("--relaxer", default="chgnet")
@click.option("-n", type=int, default=16, help="Candidates of each generator for each of ten compositions.")
def main(counts: tuple[int, ...], clusters: tuple[int, ...], generators: tuple[str, ...], relaxer: str, n: int) -> None:
    """Measure each of them."""
    settings = CompareSettings(FORMULAS, generators, n=n, max_atoms=20, relaxer=relaxer)
    ways: list[tuple[str, Callable[[int], contextmanager[Workers]], int]] = [  # type: ignore[valid-type]
        *(("processes", processes, count) for count in counts),
        *(("dask", dask, count) for count in clusters),
    ]
    print(f"{'who':>14} {'candidates':>11} {'seconds':>9} {'a second':>9} {'ratio':>6}")
    first = None
    for name, start, count in ways:
        with start(count) as workers:
            seconds, candidates = measure(settings, workers)
        first = first or seconds
        rate, ratio = candidates / seconds, first / seconds
        print(f"{count:>3} {name:>10} {candidates:>11} {seconds:>9.1f} {rate:>9.2f} {ratio:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
