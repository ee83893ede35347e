"""Work over processes, one thread each: jobs of any kind, and relaxation of chunks of structures.

A chunk is relaxed as a whole, whatever the number of workers, so results depend on neither the machine's
load nor on what was done before; only what a worker died of is tried again item by item.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from unimat_search.eval.backends import Backend, JobLostError, WorkerDiedError, Workers, backend_of
from unimat_search.eval.patience import Patience, SilentTooLongError
from unimat_search.eval.relax import BatchedRelaxer
from unimat_search.eval.sanity import judge
from unimat_search.protocol import Relaxer
from unimat_search.records import Relaxation, RelaxSettings, one_line
from unimat_search.registry import PluginError, Spec, load

if TYPE_CHECKING:
    from pymatgen.core import Structure

log = logging.getLogger(__name__)

STARTING = 300.0
"""Seconds that a worker may need to load a relaxer, and to notice that a time limit is over."""

DIED = "its process died"
"""The reason of what killed a worker twice."""

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
    """Keep what libraries print to themselves, and their warnings; with verbose logs they may talk on stderr."""
    with contextlib.ExitStack() as stack:
        if log.isEnabledFor(logging.INFO):
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        else:
            nowhere = _Nowhere()
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        yield


class _Nowhere(io.TextIOBase):
    """Forgets what is written: a plug-in may print for hours."""

    def write(self, text: str) -> int:
        return len(text)

    def writable(self) -> bool:
        return True


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


class _Pursuit(Generic[Tag, Item, Result]):
    """A job and how far it is done: at once, or in parts if a worker died of it."""

    def __init__(self, job: Job[Tag, Item, Result]) -> None:
        self.job = job
        self.results: list[Result] = []
        self._parts = deque([list(job.items)])

    @property
    def part(self) -> list[Item] | None:
        """What is to be done next; None at the end."""
        return self._parts[0] if self._parts else None

    def survived(self, results: list[Result]) -> None:
        """Take in the results of the part."""
        self._parts.popleft()
        self.results += results

    def raised(self, error: Exception) -> None:
        """All items of the part have failed."""
        self.survived([self.job.failed(one_line(error)) for _ in self._parts[0]])

    def killed_its_worker(self) -> None:
        """Go on item by item; an item that is alone has failed."""
        part = self._parts[0]
        if len(part) == 1:
            self.survived([self.job.failed(DIED)])
        else:
            self._parts.popleft()
            self._parts.extendleft([item] for item in reversed(part))


class _Dispatcher(Generic[Tag, Item, Result]):
    """Keeps a backend busy; see `run_jobs`."""

    def __init__(self, next_job: Callable[[], Job[Tag, Item, Result] | None], backend: Backend) -> None:
        self._next_job = next_job
        self._backend = backend
        self._running: dict[Any, _Pursuit[Tag, Item, Result]] = {}
        self._lost: list[_Pursuit[Tag, Item, Result]] = []
        self._suspects: deque[_Pursuit[Tag, Item, Result]] = deque()

    def run(self) -> Iterator[tuple[Job[Tag, Item, Result], list[Result]]]:
        """Yield jobs with their results."""
        while self._fill():
            for ticket in self._backend.wait(self._running):
                pursuit = self._running.pop(ticket)
                self._take_in(ticket, pursuit)
                if pursuit.part is None:
                    yield pursuit.job, pursuit.results

    def _fill(self) -> bool:
        """Submit what may be in flight; False if nothing is left.

        One suspect is tried at a time, and where a dying worker takes others with it, with nothing else in flight.
        """
        alone = not self._backend.isolates
        while not (alone and self._suspects) and len(self._running) < self._backend.slots:
            pursuit = self._lost.pop() if self._lost else self._new()
            if pursuit is None:
                break
            self._submit(pursuit)
        if self._suspects and self._suspects[0] not in self._running.values() and not (alone and self._running):
            self._submit(self._suspects[0])
        return bool(self._running)

    def _new(self) -> _Pursuit[Tag, Item, Result] | None:
        job = self._next_job()
        return None if job is None else _Pursuit(job)

    def _submit(self, pursuit: _Pursuit[Tag, Item, Result]) -> None:
        assert pursuit.part is not None
        self._running[self._backend.submit(pursuit.job.run, pursuit.part)] = pursuit

    def _take_in(self, ticket: Any, pursuit: _Pursuit[Tag, Item, Result]) -> None:  # noqa: ANN401
        suspected = pursuit in self._suspects
        try:
            pursuit.survived(self._backend.results(ticket))
        except WorkerDiedError:
            log.info("a worker died; what it held is tried again")
            if suspected or self._backend.isolates:
                pursuit.killed_its_worker()
            if not suspected and pursuit.part:
                self._suspects.append(pursuit)
        except JobLostError:
            if not suspected:
                self._lost.append(pursuit)
        except Exception as error:  # a job may raise anything
            pursuit.raised(error)
        if suspected and pursuit.part is None:
            self._suspects.remove(pursuit)


def run_jobs(
    next_job: Callable[[], Job[Tag, Item, Result] | None], *, workers: Workers
) -> Iterator[tuple[Job[Tag, Item, Result], list[Result]]]:
    """Do jobs, and yield each with its results when it is done.

    Args:
        next_job: Asked, in the caller's thread, as workers get free; None where no job is ready, which is asked again
            after the next result. With none in flight either, that is the end.
        workers: Processes of this machine, or another backend.

    Yields:
        The job and one result for each of its items, in their order. What a dying worker held is tried again, one job
        at a time and in the end item by item; the one that kills its worker again has failed. What was lost on its way
        is submitted again.
    """
    backend = backend_of(workers)
    finished = False
    try:
        yield from _Dispatcher(next_job, backend).run()
        finished = True
    finally:
        if not finished:  # left early: by an error, an interruption, or a caller who has enough
            backend.abandon()


def relax_chunks(
    spec: Spec,
    chunks: Iterable[tuple[Tag, Sequence[Structure]]],
    settings: RelaxSettings,
    *,
    workers: Workers,
) -> Iterator[tuple[Tag, list[Relaxation]]]:
    """Relax chunks of structures, and yield each chunk when it is done.

    Args:
        spec: The relaxer; every process builds its own.
        chunks: Tagged lists of structures, consumed as workers get free.
        settings: When a relaxation ends.
        workers: Processes of this machine, or another backend.

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


def chunked(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive lists of `size` items, the last one maybe shorter."""
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk


@lru_cache(maxsize=1)
def _worker_relaxer(spec: str) -> Relaxer:
    import torch

    torch.set_num_threads(1)
    return load_relaxer(Spec.parse(spec))


def _relax_chunk(spec: Spec, settings: RelaxSettings, structures: list[Structure]) -> list[Relaxation]:
    """Relax in a worker; every structure gets its row whatever the relaxer does, and failures their share of time."""
    results = dict.fromkeys(range(len(structures)), Relaxation(-1, detail="the relaxer gave no result for it"))
    started = time.perf_counter()
    with quiet(), Patience(len(structures) * settings.time_limit + STARTING) as patience:
        try:
            for result in _worker_relaxer(spec.text).relax(structures, settings):
                patience.heard()
                if result.index in results:
                    results[result.index] = judge(structures[result.index], result)
        except (Exception, SystemExit, SilentTooLongError) as error:  # a relaxer may raise anything
            failed = Relaxation(-1, detail=one_line(error))
            results = {i: failed if result.index < 0 else result for i, result in results.items()}
    done = [result.seconds for result in results.values() if result.index >= 0]
    seconds = max(0.0, time.perf_counter() - started - sum(done)) / max(1, len(structures) - len(done))
    return [
        replace(result, index=index) if result.index >= 0 else replace(result, index=index, seconds=seconds)
        for index, result in results.items()
    ]
