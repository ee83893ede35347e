"""The main job: generators x compositions -> relaxed, scored, stored, summarised."""

from __future__ import annotations

import logging
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pymatgen.core import Composition

from unimat_search.disk import write_whole
from unimat_search.eval.backends import Workers, usable_cores
from unimat_search.eval.hull_sources import load_hull
from unimat_search.eval.match import Known, best_match, read_known
from unimat_search.eval.parallel import load_relaxer, run_jobs
from unimat_search.eval.references import References, references_for
from unimat_search.eval.sanity import FORMATION_ENERGY_WINDOW
from unimat_search.generation import load_generators
from unimat_search.locks import is_empty, owned
from unimat_search.plan import SETTINGS, CompareSettings, Plan, plan
from unimat_search.protocol import StructureGenerator
from unimat_search.records import EV_PER_CUBIC_ANGSTROM, MatchSettings, Outcome, Record, Relaxation, UserError
from unimat_search.registry import Spec
from unimat_search.store import Store
from unimat_search.summary import BEST, SUMMARY, TABLE, is_known, planned_columns, summarise
from unimat_search.taskqueue import Chunk, TaskQueue
from unimat_search.versions import versions

log = logging.getLogger(__name__)

RESULTS = "results.sqlite"
REFINED = "refined"
"""Folder of what was relaxed again, by potential."""


class RunError(UserError):
    """A run that can't be started or resumed; the message is one line."""


def run_comparison(
    settings: CompareSettings,
    out: Path,
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
    searches = plan(settings)
    elements = {symbol for search in searches for symbol in search.formula.amounts}
    known = read_known_of(settings, searches)
    generators = load_generators(settings.generators)
    relaxer = Spec.parse(settings.relaxer)
    built = load_relaxer(relaxer)
    systems = {frozenset(search.formula.amounts) for search in searches}
    load_hull(settings.hull_source, systems, References(built.name))  # what can't be read is said before all else
    workers = workers or usable_cores()
    _check_folder(out, settings, resume=resume, overwrite=overwrite)
    with owned(out):
        _check_folder(out, settings, resume=resume, overwrite=overwrite)  # somebody else may have come first
        _prepare_folder(out, settings, resume=resume)
        references = references_for(relaxer, built, elements, workers=workers)
        log.info("%s; elements: %s", built.name, references.origin)
        for symbol in references.missing(Composition(dict.fromkeys(elements, 1))):
            log.warning("no %s reference for %s: formation energies with it stay empty", built.name, symbol)
        with Store(out / RESULTS) as store:
            rescore(store, references, known, settings.matcher)
            _run(searches, generators, store, relaxer, settings, references, known, workers, on_progress)
            hull = load_hull(settings.hull_source, systems, references)
            return summarise(settings, planned_columns(settings, store), references, known, hull, store, out)


def read_known_of(settings: CompareSettings, searches: Plan) -> Known | None:
    """The known structures of a run's compositions; None if it has no reference."""
    if not settings.reference:
        return None
    known = read_known(Path(settings.reference), {frozenset(s.formula.amounts) for s in searches})
    for search in searches:
        if not is_known(search, known):
            log.warning("%s holds no structure of %s", settings.reference, search.formula.reduced_formula)
    return known


def read_settings(out: Path) -> CompareSettings:
    """The settings of the run in a folder.

    Raises:
        RunError: If the folder holds no run.
        ValueError: If its settings are damaged.
    """
    if not (out / SETTINGS).is_file():
        raise RunError(f"{out} holds no run to resume")
    return CompareSettings.from_toml((out / SETTINGS).read_text(encoding="utf-8"))


def _check_folder(out: Path, settings: CompareSettings, *, resume: bool, overwrite: bool) -> None:
    """See that a folder is the right one, and change nothing."""
    if resume:
        _check_same(settings, read_settings(out))
    elif out.exists() and not (out.is_dir() and is_empty(out)):
        if not overwrite:
            raise RunError(f"{out} exists; use --resume to go on with it, --overwrite to replace it, or another --out")
        if not (out / SETTINGS).is_file():
            raise RunError(f"{out} is not the folder of a run: it is not overwritten")


def _prepare_folder(out: Path, settings: CompareSettings, *, resume: bool) -> None:
    """Note the settings in the run's folder; what is in it goes, unless the run goes on."""
    if resume:
        _warn_of_versions(out)
        if settings != read_settings(out):
            write_whole(out / SETTINGS, settings.to_toml(_stored_versions(out)))
        return
    try:
        for name in (SETTINGS, RESULTS, f"{RESULTS}-wal", f"{RESULTS}-shm", SUMMARY, TABLE):
            (out / name).unlink(missing_ok=True)
        for name in (BEST, REFINED):
            shutil.rmtree(out / name, ignore_errors=True)
        write_whole(out / SETTINGS, settings.to_toml())
    except OSError as error:
        raise RunError(f"{out} can't be written: {error}") from error


def _check_same(settings: CompareSettings, stored: CompareSettings) -> None:
    """See that a run can be gone on with: generators may join it and get more time, hulls may change."""
    ours, theirs = asdict(settings), asdict(stored)
    ours["generators"] = ours["generators"][: len(theirs["generators"])]
    for name in ours.keys() - {"hull", "generator_time_limit"}:
        if ours[name] != theirs[name]:
            raise RunError(f"the run to resume has {name} = {theirs[name]}, not {ours[name]}; leave the option out")


def _stored_versions(out: Path) -> dict[str, str]:
    found = tomllib.loads((out / SETTINGS).read_text(encoding="utf-8")).get("versions", {})
    return dict(found) if isinstance(found, dict) else {}


def _warn_of_versions(out: Path) -> None:
    stored = _stored_versions(out)
    for package, now in versions().items():
        if stored.get(package) != now:
            log.warning("the run was started with %s %s, this is %s", package, stored.get(package), now)


def _run(
    searches: Plan,
    generators: dict[str, StructureGenerator | str],
    store: Store,
    relaxer: Spec,
    settings: CompareSettings,
    references: References,
    known: Known | None,
    workers: Workers,
    on_progress: Callable[[int, int], None],
) -> None:
    """Generate and relax whatever the store does not hold yet."""
    tasks = (task for search in searches for spec in settings.specs for task in search.tasks(spec, settings.seed))
    total = len(searches) * len(settings.specs) * settings.n
    done = 0
    log.info("%d compositions, %d generators, %d candidates", len(searches), len(settings.specs), total)

    def report(n: int) -> None:
        nonlocal done
        done += n
        on_progress(done, total)

    report(0)
    patience, pressure = settings.generator_time_limit, settings.relax.pressure
    queue = TaskQueue(tasks, generators, store, relaxer, settings.relax, settings.chunk, report, patience)
    for job, results in run_jobs(queue.next_job, workers=workers):
        if isinstance(job.tag, Chunk):
            pairs = zip(job.tag.records, results, strict=True)
            scored = [score(r, result, pressure, references, known, settings.matcher) for r, result in pairs]
            queue.relaxed(job.tag, scored)
        else:
            queue.generated(job.tag, results[0])


def rescore(store: Store, references: References, known: Known | None, matcher: MatchSettings) -> None:
    """Give formation energies to what converged while a reference was missing that is there now."""
    lacking = store.without_formation_energy()
    keys = [record.key for record in lacking if not references.missing(Composition(record.cell_formula))]
    for key in keys:
        store.write([_assessed(store.record(key), references, known, matcher)])


def score(
    record: Record,
    relaxation: Relaxation,
    pressure: float,
    references: References,
    known: Known | None,
    matcher: MatchSettings,
) -> Record:
    """A candidate with its relaxation under a pressure (GPa), its formation energy and its match."""
    record = replace(
        record,
        outcome=relaxation.outcome,
        detail=relaxation.detail,
        final_structure=relaxation.structure,
        energy=relaxation.energy,
        enthalpy=_enthalpy(relaxation, pressure),
        n_steps=relaxation.n_steps,
        max_force=relaxation.max_force,
        relax_seconds=relaxation.seconds,
    )
    return _assessed(record, references, known, matcher)


def _enthalpy(relaxation: Relaxation, pressure: float) -> float | None:
    """Energy plus pressure (GPa) times volume, eV."""
    if relaxation.energy is None or relaxation.structure is None:
        return None
    return relaxation.energy + pressure * float(relaxation.structure.volume) / EV_PER_CUBIC_ANGSTROM


def _assessed(record: Record, references: References, known: Known | None, matcher: MatchSettings) -> Record:
    """A relaxed candidate with its formation energy and its match."""
    if not record.converged or record.energy is None or record.final_structure is None:
        return record
    formation_energy = references.formation_energy_per_atom(Composition(record.cell_formula), record.energy)
    low, high = FORMATION_ENERGY_WINDOW
    if formation_energy is not None and not low < formation_energy < high:
        detail = f"{formation_energy:.2f} eV/atom of formation, outside {low} to {high}"
        return replace(record, outcome=Outcome.UNPHYSICAL_ENERGY, detail=detail)
    match = best_match(record.final_structure, known, matcher) if known else None
    return replace(
        record,
        formation_energy_per_atom=formation_energy,
        match=match.name if match else "",
        rms_dist=match.rms_dist if match else None,
    )
