"""Candidates of any generator as records: accepted as they are, or failed with the reason."""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice, repeat
from pathlib import Path

import numpy as np
from pymatgen.core import Composition, Element, Lattice, Structure

from unimat_search.cells import is_finite
from unimat_search.eval.parallel import quiet
from unimat_search.eval.patience import Patience, SilentTooLongError
from unimat_search.eval.sanity import structure_problem
from unimat_search.protocol import CellGenerator, FiniteGenerator, LearningGenerator, StructureGenerator
from unimat_search.records import FailedAttempt, Outcome, Record, Task, one_line, storable
from unimat_search.registry import PluginError, Spec, UnknownPluginError, load
from unimat_search.seeds import round_seed

log = logging.getLogger(__name__)

ROUND = 8
"""Candidates that a learning generator is asked for at once, unless it says otherwise."""


def load_generators(specs: Sequence[str]) -> dict[str, StructureGenerator | str]:
    """Build the generators, by label; one that can't be built is the reason in its place, and a warning.

    Raises:
        UnknownPluginError: If a name is unknown.
        PluginError: If none of them can be built.
    """
    loaded: dict[str, StructureGenerator | str] = {}
    for spec in map(Spec.parse, specs):
        try:
            loaded[spec.label] = _load(spec)
        except UnknownPluginError:
            raise
        except PluginError as error:
            loaded[spec.label] = str(error)
    broken = [generator for generator in loaded.values() if isinstance(generator, str)]
    if len(broken) == len(loaded):
        raise PluginError(f"no generator can be used: {'; '.join(broken)}")
    for reason in broken:
        log.warning("generator %s", reason)
    return loaded


def _load(spec: Spec) -> StructureGenerator:
    with quiet():
        built = load("generators", spec)
    if not isinstance(built, StructureGenerator):
        raise PluginError(f"{spec.label} has no method generate(composition, n, *, seed)")
    size = getattr(built, "round_size", ROUND)
    if not isinstance(size, int) or size < 1:
        raise PluginError(f"{spec.label} has the round_size {size!r}, which is no whole number from 1 on")
    return built


def round_size(generator: StructureGenerator | str, n: int) -> int:
    """How many candidates of n a generator is asked for at once: all, unless it learns from what was relaxed."""
    if not isinstance(generator, LearningGenerator):
        return n
    return int(getattr(generator, "round_size", ROUND))


@dataclass(frozen=True)
class Order:
    """Candidates of a task that are asked for at once.

    Attributes:
        task: Whose they are.
        start: Index of the first.
        n: How many.
        seen: The candidates before them, finished, with their structures; for generators that learn.
        time_limit: Seconds that the generator may be silent.
    """

    task: Task
    start: int
    n: int
    seen: Sequence[Record] = field(default_factory=tuple)
    time_limit: float = math.inf

    def failed(self, reason: str) -> list[Record]:
        """All of them, for one reason."""
        failure = FailedAttempt(reason)
        return [accept(self.task, index, failure) for index in range(self.start, self.start + self.n)]


def fill_in_worker(orders: Sequence[Order]) -> list[list[Record]]:
    """Candidates of orders, from generators that this process builds once."""
    return [_fill(order) for order in orders]


def _fill(order: Order) -> list[Record]:
    try:
        return generate(order, _worker_generator(order.task.spec))
    except KeyboardInterrupt:  # the generator's own: the user's do not reach workers
        return order.failed(f"{RAISED} KeyboardInterrupt")


@lru_cache
def _worker_generator(spec: str) -> StructureGenerator:
    return _load(Spec.parse(spec))


def generate(order: Order, generator: StructureGenerator) -> list[Record]:
    """All candidates of an order as records: waiting for their relaxation, or failed with the reason.

    Each counts the same seconds, those of the order shared out: many generators make several structures at once.

    Args:
        order: What to ask for.
        generator: Whom to ask; one that learns is shown what was seen before.
    """
    began = time.perf_counter()
    records = _records(order, generator)
    seconds = (time.perf_counter() - began) / order.n
    return [replace(record, generate_seconds=seconds) for record in records]


def _records(order: Order, generator: StructureGenerator) -> list[Record]:
    with Patience(order.time_limit) as patience:
        attempts = collect(_attempts(order, generator), order.n, patience.heard)
    return [accept(order.task, order.start + place, attempt) for place, attempt in enumerate(attempts)]


RAISED = "the generator raised"


def collect(source: Iterator[object], n: int, heard: Callable[[], None] = lambda: None) -> list[object]:
    """N attempts of a generator; where it raises or ends, the reason in their place; each is `heard`."""
    end = f"the generator gave fewer than {n} structures"
    attempts: list[object] = []
    while len(attempts) < n:
        try:
            with quiet():
                attempts.append(next(source))
        except StopIteration:
            break
        except SilentTooLongError as error:
            end = f"the generator gave {error}"
            break
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a generator may raise anything
            end = f"{RAISED} {one_line(error)}{_place(error)}"
            attempts.append(FailedAttempt(end))
        heard()
    return attempts + [FailedAttempt(end)] * (n - len(attempts))


def _place(error: BaseException) -> str:
    """Where it was raised: the last line of code that is neither ours nor an installed package's."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [one for one in frames if one.filename != __file__ and "site-packages" not in one.filename]
    return f" ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else ""


def _attempts(order: Order, generator: StructureGenerator) -> Iterator[object]:
    composition = order.task.composition
    if order.task.cell:
        seed = round_seed(order.task.seed, order.start)
        yield from in_given_cell(generator, composition, order.n, order.task.cell, seed=seed)
        return
    if order.task.searched and isinstance(generator, FiniteGenerator):
        yield from islice(generator.generate_own(composition, order.n, order.task.searched), order.n)
        return
    if isinstance(generator, LearningGenerator):
        generator.observe(order.seen)
    yield from islice(generator.generate(composition, order.n, seed=round_seed(order.task.seed, order.start)), order.n)


CELL_TOLERANCE = 1e-3
"""Lengths (angstrom) and angles (degrees) that differ by less are those that were given."""


def in_given_cell(
    generator: StructureGenerator, composition: Composition, n: int, cell: Sequence[float], *, seed: int
) -> Iterator[object]:
    """Attempts of a generator in a cell of given lengths and angles; failed ones where it changed or can't be given.

    Args:
        generator: Whom to ask.
        composition: Of the cell.
        n: How many.
        cell: Lengths (angstrom) and angles (degrees).
        seed: For the generator.
    """
    if not isinstance(generator, CellGenerator):
        yield from repeat(FailedAttempt("this generator can't draw in a given cell"), n)
        return
    lattice = Lattice.from_parameters(*cell)
    for attempt in islice(generator.generate_in_cell(composition, n, lattice, seed=seed), n):
        if (
            isinstance(attempt, Structure)
            and np.abs(np.subtract(attempt.lattice.parameters, cell)).max() > CELL_TOLERANCE
        ):
            yield FailedAttempt("the generator changed the cell that was given")
        else:
            yield attempt


def accept(task: Task, index: int, attempt: object) -> Record:
    """A generator's attempt as a record: waiting for its relaxation, or failed with the reason."""
    record = Record(
        task.key(index),
        task.generator,
        task.reduced_formula,
        task.formula_units,
        task.cell_formula,
        task.seed,
        index,
        origin=_origin(attempt),
    )
    checked = check(attempt, task.composition)
    if isinstance(checked, FailedAttempt):
        return replace(record, outcome=Outcome.GENERATOR_FAILED, detail=checked.reason)
    return replace(record, initial_structure=checked, valid=structure_problem(checked) is None)


def _origin(attempt: object) -> str:
    """What a generator says of how it made an attempt."""
    if isinstance(attempt, FailedAttempt):
        return storable(attempt.origin)
    properties = attempt.properties if isinstance(attempt, Structure) else None
    return storable(properties.get("origin", "")) if isinstance(properties, dict) else ""


def check(attempt: object, composition: Composition | None) -> Structure | FailedAttempt:
    """A generator's attempt as a structure of plain elements in a right-handed cell, or why it is none.

    Args:
        attempt: What the generator gave.
        composition: What was asked for; None for any.
    """
    if isinstance(attempt, FailedAttempt):
        return FailedAttempt(" ".join(storable(attempt.reason).split())[:300])
    try:
        return _plain(attempt, composition)
    except ValueError as error:
        return FailedAttempt(storable(error))


def _plain(attempt: object, composition: Composition | None) -> Structure:
    if not isinstance(attempt, Structure):
        raise ValueError(f"the generator gave a {type(attempt).__name__}, not a Structure")
    if not attempt.is_ordered:
        raise ValueError("the generator gave a disordered structure")
    if not len(attempt):
        raise ValueError("the generator gave a structure without atoms")
    symbols = [getattr(site.specie, "symbol", str(site.specie)) for site in attempt]
    given = Composition(Counter(symbol for symbol in symbols if Element.is_valid_symbol(symbol)))
    if given.num_atoms < len(attempt) or given != (composition or given):
        asked = f"asked for {composition.formula}, " if composition else ""
        raise ValueError(f"{asked}the generator gave {attempt.composition.formula}")
    if not is_finite(attempt):
        raise ValueError("the generator gave a coordinate or cell vector that is not a finite number")
    handedness = np.sign(np.linalg.det(attempt.lattice.matrix))
    if handedness == 0:
        raise ValueError("the generator gave a cell without volume")
    matrix = np.ascontiguousarray(handedness * attempt.lattice.matrix)  # as it will be when read from the store
    return Structure(matrix, symbols, handedness * attempt.frac_coords, to_unit_cell=True)
