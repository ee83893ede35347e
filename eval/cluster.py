"""Work on more than one machine: the workers of a Dask cluster.

Plain futures and `as_completed`, and not joblib's Dask backend: that one hangs for ever when a task kills its worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
import time
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimat_search.eval.backends import JobLostError, Work, WorkerDiedError
from unimat_search.records import UserError, first_line
from unimat_search.versions import versions

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds that a scheduler may be away before a run ends."""

SECONDS_BETWEEN_COUNTS = 5.0
"""Workers come and go; so often they are counted."""

PASSED_ON = ("UNIMAT_SEARCH_DATA", "UNIMAT_SEARCH_CACHE", "ESPRESSO_PSEUDO", "GPAW_SETUP_PATH")
"""Environment variables that workers need to see."""


class ClusterError(UserError):
    """A cluster that can't be reached or used; the message is one line."""


class DaskCluster:
    """The workers of a Dask cluster as a backend.

    Dask gives what a dying worker held to another one, and gives a job up after its workers died four times
    (`distributed.scheduler.allowed-failures`). What was in flight when the scheduler went away is submitted
    again to the one that answers at its address in time.

    Args:
        scheduler: Its address, or the path of its file.
        timeout: Seconds to wait for it.
        patience: Seconds to wait for its successor, if it goes away.

    Raises:
        ClusterError: If dask.distributed is missing, no scheduler answers, or its workers are of other versions.
    """

    isolates = True

    def __init__(self, scheduler: str, *, timeout: float = 30.0, patience: float = PATIENCE) -> None:
        try:
            import distributed
        except ImportError as error:
            raise ClusterError("Dask is missing: pip install 'unimat-search[cluster]'") from error
        logging.getLogger("distributed.client").setLevel(logging.ERROR)  # of each result asked for again
        self._distributed = distributed
        self._scheduler = scheduler
        self._timeout, self._patience = timeout, patience
        self._running: set[Any] = set()
        self._count, self._counted = 1, -SECONDS_BETWEEN_COUNTS
        self._connect(patience=0)
        try:
            self._wait_for_workers()
        except BaseException:
            self._client.close(timeout=5)
            raise

    @property
    def slots(self) -> int:
        """See `Backend.slots`: two jobs for each worker's thread."""
        if time.monotonic() - self._counted > SECONDS_BETWEEN_COUNTS:
            workers = self._alive().scheduler_info(n_workers=-1).get("workers", {}).values()
            self._count = max(1, sum(worker["nthreads"] for worker in workers))
            self._counted = time.monotonic()
        return 2 * self._count

    def submit(self, run: Work, items: list[Any]) -> Any:  # noqa: ANN401 - Dask is untyped
        """See `Backend.submit`."""
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        future = self._alive().submit(_work, str(Path.cwd()), environment, run, items, pure=False)
        self._running.add(future)
        self._ended.add(future)
        return future

    def wait(self, tickets: Collection[Any]) -> Collection[Any]:
        """See `Backend.wait`."""
        self._alive()
        gone = set(tickets) - self._running
        if gone:
            return gone
        return list(self._ended.next_batch())

    def results(self, ticket: Any) -> list[Any]:  # noqa: ANN401
        """See `Backend.results`."""
        self._running.discard(ticket)
        if ticket.status not in ("finished", "error"):
            raise JobLostError
        failed = ticket.status == "error"
        try:
            results: list[Any] = ticket.result()
        except self._distributed.KilledWorker as error:
            raise WorkerDiedError from error
        except Exception as error:
            if failed:  # its own
                raise
            raise JobLostError from error
        finally:
            ticket.release()
        return results

    def abandon(self) -> None:
        """See `Backend.abandon`."""
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self._client.cancel(list(self._running))
        self._forget()

    def _alive(self) -> Any:  # noqa: ANN401
        """The client; a new one if the scheduler went away for good: what was in flight is lost then."""
        if self._client.status not in ("running", "connecting"):
            log.warning("the Dask scheduler at %s went away; waiting for it", self._scheduler)
            self._client.close(timeout=5)
            self._connect(self._patience)
            self._wait_for_workers()
        return self._client

    def _forget(self) -> None:
        """Begin with nothing in flight."""
        self._running.clear()
        self._ended = self._distributed.as_completed(loop=self._client.loop)

    def _connect(self, patience: float) -> None:
        """Make a client with nothing in flight, as soon as a scheduler answers within `patience` seconds."""
        began = time.monotonic()
        while True:
            try:
                self._client = self._distributed.Client(**self._address(), timeout=self._timeout, set_as_default=False)
            except (OSError, TimeoutError, ValueError) as error:
                if time.monotonic() - began > patience:
                    raise ClusterError(
                        f"no Dask scheduler answers at {self._scheduler}: {first_line(error)}"
                    ) from error
                time.sleep(1)
            else:
                self._forget()
                return

    def _address(self) -> dict[str, str]:
        file = Path(self._scheduler)
        return {"scheduler_file": str(file)} if file.is_file() else {"address": self._scheduler}

    def _wait_for_workers(self) -> None:
        """Wait for the first worker, and see that all of them can do the work."""
        if not self._client.scheduler_info().get("workers"):
            log.warning("%s has no workers yet: waiting for the first", self._scheduler)
        self._client.wait_for_workers(1)
        ours = _version()
        for address, theirs in self._client.run(_version, on_error="return").items():
            if theirs != ours:
                found = first_line(theirs) if isinstance(theirs, BaseException) else f"unimat-search {theirs}"
                raise ClusterError(f"the worker {address} has not unimat-search {ours}: {found}")

    def __enter__(self) -> DaskCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close(timeout=5)


_one_job_at_a_time = threading.Lock()
"""Potentials and codes are not made for threads."""


def _work(folder: str, environment: dict[str, str], run: Work, items: list[Any]) -> list[Any]:
    """Done by a worker, in the client's folder where it can see that: plug-ins and files are named from there."""
    import torch

    seen = folder if Path(folder).is_dir() else "."
    with _one_job_at_a_time, contextlib.chdir(seen):
        torch.set_num_threads(1)
        _keep_freed_memory()
        os.environ.update(environment)
        return run(items)


@lru_cache
def _keep_freed_memory() -> None:
    """Undo what Dask's nannies set: memory given back at each free makes a relaxation 1.6 times as long (glibc)."""
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(mmap_threshold, 2**30)
        library.mallopt(trim_threshold, 2**30)


def _version() -> str:
    return versions()["unimat-search"]
