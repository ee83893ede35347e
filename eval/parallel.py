"""Work over processes, one thread each: generation, and relaxation of chunks of structures.

A chunk is relaxed as a whole, whatever the number of workers, so results depend on neither the machine's
load nor on what was done before.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import joblib
from joblib.externals.loky import get_reusable_executor, process_executor

from unimat_search.eval.relax import BatchedRelaxer, one_line
from unimat_search.eval.sanity import judge
from unimat_search.protocol import Relaxer
from unimat_search.records import Relaxation, RelaxSettings
from unimat_search.registry import PluginError, Spec, load

if TYPE_CHECKING:
    from pymatgen.core import Structure

DEFAULT_CHUNK = 8
"""Structures that a worker gets at once: enough for some to be in flight together, few enough to share out evenly.
On a GPU, hundreds."""

Tag = TypeVar("Tag")
Item = TypeVar("Item")
Result = TypeVar("Result")


def load_relaxer(spec: Spec) -> Relaxer:
    """Build a relaxer from its specification; an ASE calculator or a torch-sim model is wrapped into one.

    Raises:
        PluginError: If it can't be built, or is neither.
    """
    from ase.calculators.calculator import BaseCalculator

    from unimat_search.eval.adapters import TorchSimPotential, is_torch_sim_model
    from unimat_search.eval.potential import AsePotential

    with quiet():
        built = load("relaxers", spec)
    if isinstance(built, BaseCalculator):
        return BatchedRelaxer(AsePotential(built, spec.text))
    if is_torch_sim_model(built):
        return BatchedRelaxer(TorchSimPotential(built, spec.text))
    if not isinstance(built, Relaxer):
        raise PluginError(
            f"{spec.label} is neither a Relaxer, nor an ASE calculator, nor a torch-sim model, "
            f"but a {type(built).__name__}"
        )
    return built


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what libraries print off stdout, and their warnings off stderr."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class Job(Generic[Tag, Item, Result]):
    """Items that a worker gets at once.

    Attributes:
        tag: The caller's own.
        run: Done in a worker: the items, and a result for each. It must be picklable.
        items: What it gets.
        failed: The result of an item that `run` raised for, or that killed its worker, from the reason.
    """

    tag: Tag
    run: Callable[[list[Item]], list[Result]]
    items: Sequence[Item]
    failed: Callable[[str], Result]


def run_jobs(
    next_job: Callable[[], Job[Tag, Item, Result] | None], *, workers: int
) -> Iterator[tuple[Job[Tag, Item, Result], list[Result]]]:
    """Do jobs in `workers` processes, and yield each with its results when it is done.

    Args:
        next_job: Asked, in the caller's thread, as workers get free; None where no job is ready, which is asked again
            after the next result. With none in flight either, that is the end.
        workers: Processes.

    Yields:
        The job and one result for each of its items, in their order. What a dying worker held is tried again with
        nothing else in flight, then item by item; the one that kills its worker again has failed.
    """
    running: dict[Future[list[Result]], Job[Tag, Item, Result]] = {}
    suspects: list[Job[Tag, Item, Result]] = []
    finished = False
    try:
        while True:
            while not suspects and len(running) < 2 * workers and (job := next_job()):
                running[_submit(job, workers)] = job
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    suspects.append(job)
                else:
                    yield job, _results(future, job)
            if not running:  # a broken pool fails everything in flight; one of these broke it
                for job in suspects:
                    yield job, _run_alone(job, workers)
                suspects.clear()
        finished = True
    finally:
        if not finished:  # left early: by an error, an interruption, or a caller who has enough
            worker_processes(workers).shutdown(wait=False, kill_workers=True)


def _submit(job: Job[Tag, Item, Result], workers: int) -> Future[list[Result]]:
    try:
        future: Future[list[Result]] = worker_processes(workers).submit(job.run, list(job.items))
    except BrokenProcessPool as error:  # it broke since the last look at it
        future = Future()
        future.set_exception(error)
    return future


def _run_alone(job: Job[Tag, Item, Result], workers: int) -> list[Result]:
    """Try a job with nothing else in flight; if the worker dies again, each item on its own."""
    future = _submit(job, workers)
    if not isinstance(future.exception(), BrokenProcessPool):
        return _results(future, job)
    if len(job.items) == 1:
        return [job.failed("its process died")]
    return [result for item in job.items for result in _run_alone(replace(job, items=[item]), workers)]


def _results(future: Future[list[Result]], job: Job[Tag, Item, Result]) -> list[Result]:
    error = future.exception()
    return [job.failed(one_line(error)) for _ in job.items] if error else future.result()


def relax_chunks(
    spec: Spec,
    chunks: Iterable[tuple[Tag, Sequence[Structure]]],
    settings: RelaxSettings,
    *,
    workers: int,
) -> Iterator[tuple[Tag, list[Relaxation]]]:
    """Relax chunks of structures in `workers` processes, and yield each chunk when it is done.

    Args:
        spec: The relaxer; every process builds its own.
        chunks: Tagged lists of structures, consumed as workers get free.
        settings: When a relaxation ends.
        workers: Processes.

    Yields:
        The chunk's tag and one relaxation for each of its structures, in their order; see `run_jobs`.
    """
    jobs = (relaxation_job(tag, spec, structures, settings) for tag, structures in chunks)
    for job, results in run_jobs(lambda: next(jobs, None), workers=workers):
        yield job.tag, [replace(result, index=index) for index, result in enumerate(results)]


def relaxation_job(
    tag: Tag, spec: Spec, structures: Sequence[Structure], settings: RelaxSettings
) -> Job[Tag, Structure, Relaxation]:
    """The relaxation of a chunk of structures."""
    return Job(tag, partial(_relax_chunk, spec, settings), structures, _failed_relaxation)


def _failed_relaxation(reason: str) -> Relaxation:
    return Relaxation(-1, detail=reason)


def worker_processes(count: int) -> Any:  # noqa: ANN401 - loky is untyped
    """An executor of processes with one thread each, that end with this one.

    A new one if the last one broke, or stands in another folder (plug-ins are imported from the working one).
    """
    start = (os.getpid(), Path.cwd())
    return get_reusable_executor(max_workers=count, env=ONE_THREAD, initializer=_start_worker, initargs=start)


def _start_worker(parent: int, folder: Path) -> None:
    """Leave interruptions to the parent, and end with it however it ends."""
    process_executor._USE_PSUTIL = False  # it takes a model that is loaded for a leak, and ends the worker
    os.chdir(folder)

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() == parent:
        threading.Thread(target=follow, daemon=True).start()


ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def chunked(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive lists of `size` items, the last one maybe shorter."""
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk


def usable_cores() -> int:
    """Cores that this process may use, a container's quota heeded."""
    return int(joblib.cpu_count())


@lru_cache(maxsize=1)
def _worker_relaxer(spec: str) -> Relaxer:
    import torch

    torch.set_num_threads(1)
    return load_relaxer(Spec.parse(spec))


def _relax_chunk(spec: Spec, settings: RelaxSettings, structures: list[Structure]) -> list[Relaxation]:
    """Relax in a worker; every structure gets its row whatever the relaxer does."""
    with quiet():
        relaxer = _worker_relaxer(spec.text)
        results = dict.fromkeys(range(len(structures)), Relaxation(-1, detail="the relaxer gave no result for it"))
        try:
            for result in relaxer.relax(structures, settings):
                if result.index in results:
                    results[result.index] = judge(structures[result.index], result)
        except Exception as error:  # a relaxer may raise anything
            failed = Relaxation(-1, detail=one_line(error))
            results = {i: failed if result.index < 0 else result for i, result in results.items()}
    return [replace(results[index], index=index) for index in range(len(structures))]
