"""Relaxation over processes, one thread each: chunks of structures in, lists of relaxations out.

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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import joblib
from joblib.externals.loky import get_reusable_executor

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
        return BatchedRelaxer(AsePotential(built, spec.label))
    if is_torch_sim_model(built):
        return BatchedRelaxer(TorchSimPotential(built, spec.label))
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
        chunks: Tagged lists of structures, consumed as workers get free, in the caller's thread.
        settings: When a relaxation ends.
        workers: Processes.

    Yields:
        The chunk's tag and one relaxation for each of its structures, in their order. What a dying worker
        held is tried again with nothing else in flight, then structure by structure; the one that kills its
        worker again is recorded as failed.
    """
    pool = _Pool(spec, settings, workers)
    source = iter(chunks)
    running: dict[Future[list[Relaxation]], tuple[Tag, Sequence[Structure]]] = {}
    suspects: list[tuple[Tag, Sequence[Structure]]] = []
    finished = False
    try:
        while True:
            for tag, structures in islice(source, 0 if suspects else 2 * workers - len(running)):
                running[pool.submit(structures)] = (tag, structures)
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                tag, structures = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    suspects.append((tag, structures))
                else:
                    yield tag, _results(future, len(structures))
            if not running:  # a broken pool fails everything in flight; one of these broke it
                for tag, structures in suspects:
                    yield tag, pool.relax_alone(structures)
                suspects.clear()
        finished = True
    finally:
        if not finished:  # left early: by an error, an interruption, or a caller who has enough
            pool.kill()


class _Pool:
    """Worker processes that are replaced when one dies."""

    def __init__(self, spec: Spec, settings: RelaxSettings, workers: int) -> None:
        self.spec = spec
        self.settings = settings
        self.workers = workers

    def submit(self, structures: Sequence[Structure]) -> Future[list[Relaxation]]:
        try:
            future: Future[list[Relaxation]] = self._executor().submit(
                _relax_chunk, self.spec, list(structures), self.settings
            )
        except BrokenProcessPool as error:  # it broke since the last look at it
            future = Future()
            future.set_exception(error)
        return future

    def relax_alone(self, structures: Sequence[Structure]) -> list[Relaxation]:
        """Relax with nothing else in flight; if the worker dies again, each structure on its own."""
        future = self.submit(structures)
        if not isinstance(future.exception(), BrokenProcessPool):
            return _results(future, len(structures))
        if len(structures) == 1:
            return [Relaxation(0, detail="its process died")]
        return [replace(self.relax_alone([s])[0], index=index) for index, s in enumerate(structures)]

    def kill(self) -> None:
        self._executor().shutdown(wait=False, kill_workers=True)

    def _executor(self) -> Any:  # noqa: ANN401 - loky is untyped
        return worker_processes(self.workers)


def worker_processes(count: int) -> Any:  # noqa: ANN401 - loky is untyped
    """An executor of processes with one thread each, that end with this one; a new one if the last one broke."""
    return get_reusable_executor(max_workers=count, env=ONE_THREAD, initializer=_start_worker, initargs=(os.getpid(),))


def _results(future: Future[list[Relaxation]], n: int) -> list[Relaxation]:
    error = future.exception()
    return [Relaxation(i, detail=one_line(error)) for i in range(n)] if error else future.result()


def _start_worker(parent: int) -> None:
    """Leave interruptions to the parent, and end with it however it ends."""

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
def _worker_relaxer(label: str) -> Relaxer:
    import torch

    torch.set_num_threads(1)
    return load_relaxer(Spec.parse(label))


def _relax_chunk(spec: Spec, structures: list[Structure], settings: RelaxSettings) -> list[Relaxation]:
    """Relax in a worker; every structure gets its row whatever the relaxer does."""
    with quiet():
        relaxer = _worker_relaxer(spec.label)
        results = dict.fromkeys(range(len(structures)), Relaxation(-1, detail="the relaxer gave no result for it"))
        try:
            for result in relaxer.relax(structures, settings):
                if result.index in results:
                    results[result.index] = judge(structures[result.index], result)
        except Exception as error:  # a relaxer may raise anything
            failed = Relaxation(-1, detail=one_line(error))
            results = {i: failed if result.index < 0 else result for i, result in results.items()}
    return [replace(results[index], index=index) for index in range(len(structures))]
