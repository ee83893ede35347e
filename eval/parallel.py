"""Relaxation over processes, one thread each: chunks of structures in, lists of relaxations out.

A chunk is relaxed as a whole, whatever the number of workers, so results depend on neither the machine's
load nor on what was done before.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from joblib.externals.loky import get_reusable_executor

from unimat_search.eval.relax import BatchedRelaxer, one_line
from unimat_search.protocol import Relaxer
from unimat_search.records import Relaxation, RelaxSettings
from unimat_search.registry import PluginError, Spec, load

if TYPE_CHECKING:
    from pymatgen.core import Structure

Tag = TypeVar("Tag")
Item = TypeVar("Item")

RETRIES = 1
"""How often a chunk is tried again after its worker died."""


def load_relaxer(spec: Spec) -> Relaxer:
    """Build a relaxer from its specification; an ASE calculator is wrapped into one.

    Raises:
        PluginError: If it can't be built, or is neither.
    """
    from ase.calculators.calculator import BaseCalculator

    from unimat_search.eval.potential import AsePotential

    with quiet():
        built = load("relaxers", spec)
    if isinstance(built, BaseCalculator):
        return BatchedRelaxer(AsePotential(built, spec.label))
    if not isinstance(built, Relaxer):
        raise PluginError(f"{spec.label} is neither a Relaxer nor an ASE calculator, but a {type(built).__name__}")
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
        The chunk's tag and one relaxation for each of its structures, in their order. A worker that dies
        costs what it held: that is tried once more, then recorded as failed.
    """
    source = iter(chunks)
    running: dict[Future[list[Relaxation]], tuple[Tag, Sequence[Structure], int]] = {}

    def submit(tag: Tag, structures: Sequence[Structure], attempt: int) -> None:
        executor = get_reusable_executor(max_workers=workers, env=ONE_THREAD)
        future = executor.submit(_relax_chunk, spec, list(structures), settings)
        running[future] = (tag, structures, attempt)

    while True:
        for tag, structures in islice(source, 2 * workers - len(running)):
            submit(tag, structures, 0)
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            tag, structures, attempt = running.pop(future)
            error = future.exception()
            if error is None:
                yield tag, future.result()
            elif isinstance(error, BrokenProcessPool) and attempt < RETRIES:
                submit(tag, structures, attempt + 1)
            else:
                yield tag, [Relaxation(i, detail=one_line(error)) for i in range(len(structures))]


ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def chunked(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive lists of `size` items, the last one maybe shorter."""
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _worker_relaxer(name: str, options: tuple[tuple[str, object], ...], label: str) -> Relaxer:
    import torch

    torch.set_num_threads(1)
    return load_relaxer(Spec(name, dict(options), label))


def _relax_chunk(spec: Spec, structures: list[Structure], settings: RelaxSettings) -> list[Relaxation]:
    """Relax in a worker; every structure gets its row whatever the relaxer does."""
    with quiet():
        relaxer = _worker_relaxer(spec.name, tuple(spec.options.items()), spec.label)
        results = dict.fromkeys(range(len(structures)), Relaxation(-1, detail="the relaxer gave no result for it"))
        try:
            for result in relaxer.relax(structures, settings):
                results[result.index] = result
        except Exception as error:  # a relaxer may raise anything
            failed = Relaxation(-1, detail=one_line(error))
            results = {i: failed if result.index < 0 else result for i, result in results.items()}
    return [replace(results[index], index=index) for index in range(len(structures))]
