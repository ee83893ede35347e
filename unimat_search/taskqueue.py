"""What to do next in a run: candidates to generate or to relax, whatever the store does not hold yet."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from unimat_search.eval.parallel import Job, chunked, relaxation_job
from unimat_search.generation import RAISED, Order, fill_in_worker, round_size
from unimat_search.protocol import StructureGenerator
from unimat_search.records import Outcome, Record, RelaxSettings, Task
from unimat_search.registry import Spec
from unimat_search.store import Store

log = logging.getLogger(__name__)

MOST_WARNINGS = 20


@dataclass(eq=False)
class OpenTask:
    """A task on its way.

    Attributes:
        task: What is asked for.
        round_size: Candidates that are generated at once; the next ones wait until these are relaxed.
        records: Those that were generated, by index.
        in_flight: Orders and chunks that workers have, or that wait for one.
    """

    task: Task
    round_size: int
    records: dict[int, Record] = field(default_factory=dict)
    in_flight: int = 0

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return not self.in_flight and len(self.records) == self.task.n

    def next_order(self) -> Order | None:
        """What to generate next; None while a round is in flight, and at the end."""
        start = len(self.records)
        if self.in_flight or start == self.task.n:
            return None
        seen = tuple(self.records[index] for index in range(start))
        return Order(self.task, start, min(self.round_size, self.task.n - start), seen)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Candidates that are relaxed by one worker."""

    owner: OpenTask
    records: Sequence[Record]


class TaskQueue:
    """Hands out jobs, and stores what comes back.

    Args:
        tasks: What to do, in this order as far as rounds allow.
        generators: By label; the reason in the place of one that can't be built.
        store: What was done before, and what is done now.
        relaxer: The potential.
        relax: When a relaxation ends.
        chunk: Candidates of one task that a worker gets at once. A chunk is the same whatever the number of workers
            and however often the run was resumed.
        on_done: Told of each number of candidates that are finished.
        patience: Seconds that a generator may be silent.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        generators: dict[str, StructureGenerator | str],
        store: Store,
        relaxer: Spec,
        relax: RelaxSettings,
        chunk: int,
        on_done: Callable[[int], None],
        patience: float = math.inf,
    ) -> None:
        self._tasks = iter(tasks)
        self._generators = generators
        self._store = store
        self._relaxer = relaxer
        self._relax = relax
        self._chunk = chunk
        self._on_done = on_done
        self._patience = patience
        self._said: set[tuple[str, str]] = set()
        self._open: list[OpenTask] = []
        self._chunks: deque[Chunk] = deque()

    def next_job(self) -> Job[Any, Any, Any] | None:
        """The next thing to do; None while everything waits for results, and at the end."""
        while True:
            if self._chunks:
                chunk = self._chunks.popleft()
                structures = [r.initial_structure for r in chunk.records if r.initial_structure is not None]
                return relaxation_job(chunk, self._relaxer, structures, self._relax)
            ready = next(self._orders(), None)
            if ready is None and not self._open_next():
                return None
            if ready is not None and (job := self._generation_job(*ready)):
                return job

    def generated(self, owner: OpenTask, records: Sequence[Record]) -> None:
        """Take in what was generated."""
        owner.in_flight -= 1
        self._store.write(records)
        made = sum(record.outcome is None for record in records)
        log.info("%s, %s: %d of %d made", owner.task.generator, owner.task.cell_formula, made, len(records))
        for reason in {r.detail for r in records if r.detail.startswith(RAISED)}:
            self._warn(owner.task, reason)
        self._take_in(owner, records)

    def _warn(self, task: Task, reason: str) -> None:
        """Say what a generator raised, once, and not for ever: nobody may read it, and the table counts it."""
        if (task.generator, reason) in self._said or len(self._said) > MOST_WARNINGS:
            return
        self._said.add((task.generator, reason))
        if len(self._said) > MOST_WARNINGS:
            log.warning("generators raise more than this; the table counts it")
        else:
            log.warning("%s, %s: %s", task.generator, task.cell_formula, reason)

    def relaxed(self, chunk: Chunk, records: Sequence[Record]) -> None:
        """Take in what was relaxed."""
        chunk.owner.in_flight -= 1
        self._store.write(records)
        task, converged = chunk.owner.task, sum(record.converged for record in records)
        log.info("%s, %s: %d of %d converged", task.generator, task.cell_formula, converged, len(records))
        for record in records:
            log.debug("%s: %s %s", record.key, record.outcome, record.detail)
        self._keep(chunk.owner, records)
        self._on_done(len(records))

    def _orders(self) -> Iterator[tuple[OpenTask, Order]]:
        self._open = [owner for owner in self._open if not owner.finished]
        return ((owner, order) for owner in self._open if (order := owner.next_order()))

    def _open_next(self) -> bool:
        """Open the next task, with what the store holds of it; False if there is none."""
        task = next(self._tasks, None)
        if task is None:
            return False
        owner = OpenTask(task, round_size(self._generators[task.generator], task.n))
        rounds = list(chunked(self._store.task_records(task), owner.round_size))
        while rounds and all(record.outcome is Outcome.GENERATOR_FAILED for record in rounds[-1]):
            rounds.pop()  # it is asked again: it may have been repaired
        self._open.append(owner)
        self._take_in(owner, [record for part in rounds for record in part])
        return True

    def _generation_job(self, owner: OpenTask, order: Order) -> Job[Any, Any, Any] | None:
        generator = self._generators[order.task.generator]
        owner.in_flight += 1
        if isinstance(generator, str):
            self.generated(owner, order.failed(generator))
            return None
        return Job(owner, fill_in_worker, [replace(order, time_limit=self._patience)], order.failed)

    def _take_in(self, owner: OpenTask, records: Sequence[Record]) -> None:
        self._keep(owner, records)
        waiting = [record for record in records if record.outcome is None]
        for part in chunked(waiting, self._chunk):
            self._chunks.append(Chunk(owner, part))
            owner.in_flight += 1
        self._on_done(len(records) - len(waiting))

    def _keep(self, owner: OpenTask, records: Sequence[Record]) -> None:
        owner.records.update((record.index, record) for record in records)
