"""The main job: generators x compositions -> relaxed, scored, stored, summarised."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pymatgen.core import Composition

from unimat_search.eval.backends import Workers, usable_cores
from unimat_search.eval.hull_sources import load_hull
from unimat_search.eval.parallel import load_relaxer, run_jobs
from unimat_search.eval.references import References, references_for
from unimat_search.generation import load_generators
from unimat_search.locks import owned
from unimat_search.plan import CompareSettings, Plan, Search, plan
from unimat_search.protocol import FiniteGenerator, StructureGenerator
from unimat_search.records import one_line
from unimat_search.registry import Spec
from unimat_search.run_folder import RESULTS, check_folder, prepare_folder
from unimat_search.scoring import Scorer
from unimat_search.store import Store
from unimat_search.summary import planned_columns, read_known_of, summarise
from unimat_search.taskqueue import Chunk, TaskQueue

log = logging.getLogger(__name__)


def run_comparison(
    settings: CompareSettings,
    out: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    workers: Workers | None = None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Run a comparison, or what is missing of it, and return its summary.

    Args:
        settings: What to compare.
        out: Folder of the run.
        resume: Go on with the run in `out`; its settings must be the same, but further generators may join it.
        overwrite: Replace the run in `out`.
        workers: Processes that relax, by default one for each usable core, or another backend. No result depends on it.
        on_progress: Called with (candidates finished, candidates in all).

    Returns:
        The content of `summary.json`; see `summarise`.

    Raises:
        RunError: If the folder can't be used.
        FormulaError, PluginError, ValueError: If the settings can't be; nothing was written then.
    """
    out = Path(out)
    searches = plan(settings)
    elements = {symbol for search in searches for symbol in search.formula.amounts}
    known = read_known_of(settings, searches)
    generators = load_generators(settings.generators)
    relaxer = Spec.parse(settings.relaxer)
    built = load_relaxer(relaxer)
    systems = {frozenset(search.formula.amounts) for search in searches}
    load_hull(settings.hull_source, systems, References(built.name))  # what can't be read is said before all else
    workers = workers or usable_cores()
    check_folder(out, settings, resume=resume, overwrite=overwrite)
    with owned(out):
        check_folder(out, settings, resume=resume, overwrite=overwrite)  # somebody else may have come first
        prepare_folder(out, settings, resume=resume)
        references = references_for(relaxer, built, elements, workers=workers)
        log.info("%s; elements: %s", built.name, references.origin)
        for symbol in references.missing(Composition(dict.fromkeys(elements, 1))):
            log.warning("no %s reference for %s: formation energies with it stay empty", built.name, symbol)
        with Store(out / RESULTS) as store:
            scorer = Scorer(references, known, settings.matcher, settings.relax.pressure)
            scorer.rescore(store)
            _run(searches, generators, store, relaxer, settings, scorer, workers, on_progress)
            hull = load_hull(settings.hull_source, systems, references)
            return summarise(settings, planned_columns(settings, store), references, known, hull, store, out)


def _own_shares(
    search: Search, label: str, generator: StructureGenerator | str, store: Store
) -> list[tuple[int, int]] | None:
    """In which cells a `FiniteGenerator` gives its structures, as when it was first asked; None for any other."""
    if len(search.units) == 1:
        return None
    formula = search.formula.reduced_formula
    shares = store.shares(label, formula)
    if shares is None and isinstance(generator, FiniteGenerator):
        shares = _asked_shares(search, generator)
        store.keep_shares(label, formula, search.cells, shares)
    return shares


def _asked_shares(search: Search, generator: FiniteGenerator) -> list[tuple[int, int]]:
    """The shares that a generator says; all in the first cell, where it will fail, if it says none that add up."""
    try:
        shares = [(int(units), int(n)) for units, n in generator.shares(search.formula.cell(1), search.units, search.n)]
    except Exception as error:  # anybody's code may raise anything
        log.warning("a generator can't say in which cells its structures are: %s", one_line(error))
        shares = []
    adds_up = sum(n for _, n in shares) == search.n and {units for units, _ in shares} <= set(search.units)
    return shares if adds_up and all(n > 0 for _, n in shares) else [(search.units[0], search.n)]


def _run(
    searches: Plan,
    generators: dict[str, StructureGenerator | str],
    store: Store,
    relaxer: Spec,
    settings: CompareSettings,
    scorer: Scorer,
    workers: Workers,
    on_progress: Callable[[int, int], None],
) -> None:
    """Generate and relax whatever the store does not hold yet."""
    tasks = (
        task
        for search in searches
        for spec in settings.specs
        for task in search.tasks(spec, settings.seed, _own_shares(search, spec.label, generators[spec.label], store))
    )
    total = len(searches) * len(settings.specs) * settings.n
    done = 0
    log.info("%d compositions, %d generators, %d candidates", len(searches), len(settings.specs), total)

    def report(n: int) -> None:
        nonlocal done
        done += n
        on_progress(done, total)

    report(0)
    patience = settings.generator_time_limit
    queue = TaskQueue(tasks, generators, store, relaxer, settings.relax, settings.chunk, report, patience)
    for job, results in run_jobs(queue.next_job, workers=workers):
        if isinstance(job.tag, Chunk):
            pairs = zip(job.tag.records, results, strict=True)
            queue.relaxed(job.tag, [scorer.score(record, result) for record, result in pairs])
        else:
            queue.generated(job.tag, results[0])
