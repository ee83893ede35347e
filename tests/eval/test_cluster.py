"""A real Dask cluster: a scheduler and workers in processes of their own, which are killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from unimat_search.compare import run_comparison
from unimat_search.eval.cluster import ClusterError, DaskCluster
from unimat_search.plan import CompareSettings
from unimat_search.records import Record
from unimat_search.run_folder import RESULTS
from unimat_search.store import Store, StoreError

pytest.importorskip("distributed")

ROOT = Path(__file__).parent.parent.parent
SLOW = CompareSettings(
    formulas=("Al", "AlCu"), generators=("airss",), n=8, formula_units="1-2", relaxer="tests.plugins:slow", chunk=1
)


class Cluster:
    """A scheduler and its workers."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        options = ["--no-dashboard", "--host", "127.0.0.1"]
        self.scheduler = self._dask("scheduler", *options, "--port", str(self.port))
        one_thread = ["--nthreads", "1", "--nworkers", "3", "--no-dashboard"]
        self.workers = self._dask("worker", self.address, *one_thread)

    def _dask(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", *arguments]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, start_new_session=True)

    def kill(self) -> None:
        for process in (self.scheduler, self.workers):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def meanwhile(done: Callable[[], int], wanted: int, act: Callable[[], None]) -> Iterator[None]:
    """Do something while a run goes on, as soon as it has so many rows."""

    def watch() -> None:
        deadline = time.monotonic() + 60
        while done() < wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.kill()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The rows of the same run by processes of this machine."""
    out = tmp_path_factory.mktemp("here") / "run"
    run_comparison(replace(SLOW, relaxer="emt"), out, workers=1)
    return rows(out)


def rows(out: Path) -> list[Record]:
    with Store(out / RESULTS, read_only=True) as store:
        return [replace(record, generate_seconds=0.0, relax_seconds=0.0) for record in store.records(structures=True)]


def begun(out: Path) -> list[Record]:
    """The same of a run that may not have come so far yet."""
    try:
        return rows(out)
    except StoreError:
        return []


def test_a_cluster_gives_what_one_machine_gives_though_a_worker_is_killed(
    cluster: Cluster, here: list[Record], tmp_path: Path
) -> None:
    done = [0]
    with DaskCluster(cluster.address) as backend:
        (victim, *_) = backend._client.run(os.getpid).values()
        with meanwhile(lambda: done[0], 2, lambda: os.kill(victim, signal.SIGKILL)):
            run_comparison(SLOW, tmp_path / "run", workers=backend, on_progress=lambda n, _: done.__setitem__(0, n))
    assert rows(tmp_path / "run") == here


def test_what_kills_every_worker_fails_alone(cluster: Cluster, tmp_path: Path) -> None:
    settings = CompareSettings(
        formulas=("Al",), generators=("airss",), n=6, formula_units="1-6", relaxer="tests.plugins:suicidal", chunk=1
    )
    with DaskCluster(cluster.address) as backend:
        run_comparison(settings, tmp_path / "run", workers=backend)
    failed = {record.num_sites: record.detail for record in rows(tmp_path / "run") if not record.converged}
    assert failed == {6: "its process died"}
    assert len(rows(tmp_path / "run")) == 6


@pytest.mark.parametrize(
    ("timeout", "away"),
    [
        pytest.param(30, 0, id="at once"),
        pytest.param(3, 8, id="when the client has given it up", marks=pytest.mark.slow),
    ],
)
def test_a_scheduler_that_is_restarted_loses_nothing(
    timeout: float, away: float, here: list[Record], tmp_path: Path
) -> None:
    cluster = Cluster()
    done = [0]

    def restart() -> None:
        cluster.kill()
        time.sleep(away)
        cluster.start()

    try:
        with DaskCluster(cluster.address, timeout=timeout) as backend, meanwhile(lambda: done[0], 2, restart):
            run_comparison(SLOW, tmp_path / "run", workers=backend, on_progress=lambda n, _: done.__setitem__(0, n))
    finally:
        cluster.kill()
    assert rows(tmp_path / "run") == here


def test_a_client_that_is_killed_goes_on_where_it_was(cluster: Cluster, here: list[Record], tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "unimat_search", "compare", "--out", str(out)]
    command += ["--backend", "dask", "--scheduler", cluster.address]
    settings = (
        "--formula Al --formula AlCu --generator airss -n 8 --formula-units 1-2 --relaxer tests.plugins:slow --chunk 1"
    )
    client = subprocess.Popen([*command, *settings.split()], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(record.outcome for record in begun(out)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    client.kill()
    client.wait()
    before = rows(out)
    assert sum(record.outcome is None for record in before) > 2
    subprocess.run([*command, "--resume"], cwd=ROOT, check=True, capture_output=True)
    assert rows(out) == here


def test_a_scheduler_that_stays_away_ends_the_run_in_one_line(tmp_path: Path) -> None:
    cluster = Cluster()
    done = [0]
    try:
        with (
            DaskCluster(cluster.address, timeout=2, patience=3) as backend,
            meanwhile(lambda: done[0], 1, cluster.kill),
            pytest.raises(ClusterError, match="no Dask scheduler answers at"),
        ):
            run_comparison(SLOW, tmp_path / "run", workers=backend, on_progress=lambda n, _: done.__setitem__(0, n))
    finally:
        cluster.kill()
    assert any(record.outcome for record in rows(tmp_path / "run"))


def test_workers_import_and_read_from_the_clients_folder(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unimat_search.eval.references import prototype_structures
    from unimat_search.files import write_extxyz

    monkeypatch.chdir(tmp_path)
    write_extxyz(Path("some.extxyz"), prototype_structures("Al")[:2])
    settings = CompareSettings(("Al1",), ("files,path=some.extxyz",), n=1, relaxer="emt")
    with DaskCluster(cluster.address) as backend:
        summary = run_comparison(settings, tmp_path / "run", workers=backend)
    assert summary["overall"]["files,path=some.extxyz"]["n_converged"] == 1


def test_a_cluster_serves_one_run_after_another_though_one_was_left(cluster: Cluster, tmp_path: Path) -> None:
    class EnoughError(Exception):
        pass

    def enough(done: int, _: int) -> None:
        if done:
            raise EnoughError

    with DaskCluster(cluster.address) as backend:
        with pytest.raises(EnoughError):
            run_comparison(SLOW, tmp_path / "left", workers=backend, on_progress=enough)
        whole = run_comparison(replace(SLOW, n=4), tmp_path / "whole", workers=backend)
    assert whole["overall"]["airss"]["n_generated"] == 8


def test_who_does_not_answer_is_named() -> None:
    with pytest.raises(ClusterError, match="no Dask scheduler answers at tcp://127"):
        DaskCluster("tcp://127.0.0.1:1", timeout=1)
