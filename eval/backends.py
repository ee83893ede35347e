"""Where work is done: processes of this machine, or whatever else takes jobs and gives their results back."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import joblib
import psutil
from joblib.externals.loky import get_reusable_executor, process_executor

from unimat_search.eval.patience import end_process

log = logging.getLogger(__name__)

Work = Callable[[list[Any]], list[Any]]
"""Done in a worker: items, and a result for each. It must be picklable, and so must they."""


class WorkerDiedError(Exception):
    """The process that had a job died; the job may be why."""


class JobLostError(Exception):
    """A job was lost on its way, through no fault of its own: it is to be submitted again."""


@runtime_checkable
class Backend(Protocol):
    """Takes jobs and gives their results back."""

    @property
    def slots(self) -> int:
        """Jobs to have in flight, so that no worker waits."""
        ...

    @property
    def isolates(self) -> bool:
        """Whether a worker that dies takes no other job with it than its own."""
        ...

    def submit(self, run: Work, items: list[Any]) -> Any:  # noqa: ANN401 - a ticket of the backend's own
        """Have a job done; returns a hashable ticket for it."""
        ...

    def wait(self, tickets: Collection[Any]) -> Collection[Any]:
        """Return those of the tickets whose jobs have ended, as soon as there is one."""
        ...

    def results(self, ticket: Any) -> list[Any]:  # noqa: ANN401
        """The results of a job that has ended, whose ticket is not needed any more.

        Raises:
            WorkerDiedError: If its worker died.
            JobLostError: If it is to be submitted again.
            Exception: Whatever it raised.
        """
        ...

    def abandon(self) -> None:
        """Drop what is in flight."""
        ...


class LocalProcesses:
    """Processes of this machine, one thread each, that end with this one.

    Args:
        count: How many.
    """

    isolates = False

    def __init__(self, count: int) -> None:
        self._count = count
        self.slots = 2 * count

    def submit(self, run: Work, items: list[Any]) -> Future[list[Any]]:
        """See `Backend.submit`."""
        try:
            future: Future[list[Any]] = worker_processes(self._count).submit(run, items)
        except BrokenProcessPool as error:  # it broke since the last look at it
            future = Future()
            future.set_exception(error)
        return future

    def wait(self, tickets: Collection[Future[list[Any]]]) -> Collection[Future[list[Any]]]:
        """See `Backend.wait`."""
        return wait(tickets, return_when=FIRST_COMPLETED).done

    def results(self, ticket: Future[list[Any]]) -> list[Any]:
        """See `Backend.results`."""
        try:
            return ticket.result()
        except BrokenProcessPool as error:
            raise WorkerDiedError from error

    def abandon(self) -> None:
        """See `Backend.abandon`."""
        worker_processes(self._count).shutdown(wait=False, kill_workers=True)


Workers = int | Backend
"""Who does the work: so many processes of this machine, or a backend."""


def backend_of(workers: Workers) -> Backend:
    """The backend of who does the work."""
    return LocalProcesses(workers) if isinstance(workers, int) else workers


def usable_cores() -> int:
    """Cores that this process may use, a container's quota heeded."""
    return int(joblib.cpu_count())


ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def worker_processes(count: int) -> Any:  # noqa: ANN401 - loky is untyped
    """An executor of processes with one thread each, that end with this one.

    A new one if the last one broke, or stands in another folder (plug-ins are imported from the working one).
    """
    start = (os.getpid(), Path.cwd(), log.isEnabledFor(logging.INFO))
    return get_reusable_executor(max_workers=count, env=ONE_THREAD, initializer=_start_worker, initargs=start)


def _start_worker(parent: int, folder: Path, verbose: bool) -> None:
    """Leave interruptions to the parent, and end with it however it ends; print nothing unless logs are verbose."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    if verbose:
        logging.getLogger("unimat_search").setLevel(logging.INFO)  # what it logs itself goes nowhere: no handler
    else:
        os.dup2(nowhere, 2)
    process_executor._USE_PSUTIL = False  # it takes a model that is loaded for a leak, and ends the worker
    os.chdir(folder)

    def follow() -> None:
        while os.getppid() == parent and psutil.pid_exists(parent):  # Windows keeps the number of a dead parent
            time.sleep(1)
        end_process()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() == parent:
        threading.Thread(target=follow, daemon=True).start()
