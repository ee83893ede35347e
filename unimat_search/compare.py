"""The main job: generators x compositions -> relaxed, scored, stored, summarised."""

from __future__ import annotations

import json
import logging
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w
from pymatgen.core import Composition

from unimat_search.eval.backends import Workers, usable_cores
from unimat_search.eval.hull import Hull, HullPoint
from unimat_search.eval.hull_sources import load_hull
from unimat_search.eval.match import Known, best_match, read_known
from unimat_search.eval.metrics import (
    by_column,
    delta_e_f,
    hull_distances,
    lowest,
    summarise_matches,
    summarise_overall,
    summarise_records,
)
from unimat_search.eval.parallel import DEFAULT_CHUNK, load_relaxer, run_jobs
from unimat_search.eval.references import References, references_for
from unimat_search.eval.sanity import FORMATION_ENERGY_WINDOW
from unimat_search.files import write_whole
from unimat_search.formula import Formula, parse_formula, parse_units, share_out
from unimat_search.generation import load_generators
from unimat_search.protocol import StructureGenerator
from unimat_search.records import (
    MatchSettings,
    Outcome,
    Record,
    Relaxation,
    RelaxSettings,
    Task,
    UserError,
    one_line,
)
from unimat_search.registry import Spec, parse_all
from unimat_search.store import Store
from unimat_search.taskqueue import Chunk, TaskQueue
from unimat_search.versions import versions

log = logging.getLogger(__name__)

RESULTS, SETTINGS, SUMMARY, TABLE, BEST = "results.sqlite", "run.toml", "summary.json", "summary.csv", "best"
REFINED = "refined"
"""Folder of what was relaxed again, by potential."""

MANY = 2**63 - 1
"""The largest number that the store holds."""

MOST_ATOMS = 1000


class RunError(UserError):
    """A run that can't be started or resumed; the message is one line."""


@dataclass(frozen=True)
class CompareSettings:
    """Everything that decides a run's results.

    Attributes:
        formulas: Compositions, as the user wrote them.
        generators: Specifications `NAME[,key=value,...]`; the first one is the reference of the others.
        n: Candidates of each generator for each composition.
        formula_units: "1-4", "2", "1,2,4"; empty for every number that fits.
        max_atoms: Atoms in a cell at most.
        seed: Given to every generator.
        relaxer: Specification of the relaxer.
        relax: What is relaxed, and when that ends.
        chunk: Candidates of one task that a worker gets at once. A chunk is the same whatever the number of workers
            and however often a run was resumed, which is why results do not depend on either.
        reference: Path of known structures; empty for none.
        matcher: When a known structure counts as found.
        hull: What hull distances count from, see `unimat_search.eval.hull_sources.load_hull`.

    Raises:
        ValueError: If a value is out of range or named twice.
    """

    formulas: tuple[str, ...]
    generators: tuple[str, ...] = ("airss", "pyxtal")
    n: int = 20
    formula_units: str = ""
    max_atoms: int = 20
    seed: int = 0
    relaxer: str = "chgnet"
    relax: RelaxSettings = field(default_factory=RelaxSettings)
    chunk: int = DEFAULT_CHUNK
    reference: str = ""
    matcher: MatchSettings = field(default_factory=MatchSettings)
    hull: str = ""

    def __post_init__(self) -> None:
        if not self.formulas:
            raise ValueError("no formula is given")
        if not self.generators:
            raise ValueError("no generator is given")
        for text in (*self.formulas, *self.generators, self.formula_units, self.relaxer, self.reference, self.hull):
            if not isinstance(text, str):
                raise ValueError(f"{text!r} must be text")
        for name, largest in (("n", MANY), ("max_atoms", MOST_ATOMS), ("seed", MANY), ("chunk", MANY)):
            value = getattr(self, name)
            if not isinstance(value, int) or not (name != "seed") <= value <= largest:
                raise ValueError(f"{name} must be a whole number from {int(name != 'seed')} to {largest}, got {value}")
        parse_all(self.generators)

    @cached_property
    def specs(self) -> tuple[Spec, ...]:
        """The generators, all different."""
        return parse_all(self.generators)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The generators' names in rows and tables."""
        return tuple(spec.label for spec in self.specs)

    def joined_by(self, generators: Sequence[str]) -> CompareSettings:
        """The same with further generators; those that it has stay where they are."""
        new = [generator for generator in generators if generator not in self.generators]
        return replace(self, generators=(*self.generators, *new))

    def to_toml(self, used: Mapping[str, str] | None = None) -> str:
        """The file `run.toml`: the settings, and the versions that they were used with: the present ones, or others."""
        return tomli_w.dumps({**asdict(self), "versions": dict(used or versions())})

    @classmethod
    def from_toml(cls, text: str) -> CompareSettings:
        """Read what `to_toml` wrote.

        Raises:
            ValueError: If it is damaged.
        """
        data = {k: v for k, v in tomllib.loads(text).items() if k in {f.name for f in fields(cls)}}
        try:
            for name in ("formulas", "generators"):
                data[name] = tuple(data[name])
            data |= {"relax": RelaxSettings(**data["relax"]), "matcher": MatchSettings(**data["matcher"])}
            return cls(**data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{SETTINGS} is damaged: {one_line(error)}") from error


@dataclass(frozen=True)
class Search:
    """A composition with the cells that are tried."""

    formula: Formula
    shares: Sequence[tuple[int, int]]

    def tasks(self, generator: Spec, seed: int) -> list[Task]:
        """One task for each number of formula units."""
        return [
            Task(
                generator.label,
                self.formula.reduced_formula,
                units,
                self.formula.cell(units).alphabetical_formula,
                n,
                seed,
                generator.text,
            )
            for units, n in self.shares
        ]


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
    load_hull(settings.hull, systems, References(built.name))  # what can't be read is said before anything is written
    workers = workers or usable_cores()
    _prepare_folder(out, settings, resume=resume, overwrite=overwrite)
    references = references_for(relaxer, built, elements, workers=workers)
    for symbol in references.missing(Composition(dict.fromkeys(elements, 1))):
        log.warning("no %s reference for %s: formation energies with it stay empty", built.name, symbol)
    tasks = [t for s in searches for spec in settings.specs for t in s.tasks(spec, settings.seed)]
    with Store(out / RESULTS) as store:
        _run(tasks, generators, store, relaxer, settings, references, known, workers, on_progress)
        planned = {task.key(index) for task in tasks for index in range(task.n)}
        records = [record for record in store.records() if record.key in planned]
        hull = load_hull(settings.hull, systems, references)
        summary = summarise(records, settings, references, known, hull)
        _write_summary(summary, out)
        write_best_of(summary, store, out / BEST)
    return summary


def plan(settings: CompareSettings) -> list[Search]:
    """The cells to search, candidates shared out over them.

    Raises:
        FormulaError: If a formula can't be used.
        ValueError: If one composition is asked for twice.
    """
    wanted = parse_units(settings.formula_units) if settings.formula_units else None
    searches: dict[str, Search] = {}
    for text in settings.formulas:
        formula = parse_formula(text)
        if formula.reduced_formula in searches:
            other = searches[formula.reduced_formula].formula.text
            raise ValueError(f"{text!r} and {other!r} are one composition; ask for one of them")
        units = formula.formula_units(wanted, settings.max_atoms)
        searches[formula.reduced_formula] = Search(formula, share_out(settings.n, units))
    return list(searches.values())


def read_known_of(settings: CompareSettings, searches: Sequence[Search]) -> Known | None:
    """The known structures of a run's compositions; None if it has no reference."""
    if not settings.reference:
        return None
    known = read_known(Path(settings.reference), {frozenset(s.formula.amounts) for s in searches})
    for search in searches:
        if not _is_known(search, known):
            log.warning("%s holds no structure of %s", settings.reference, search.formula.reduced_formula)
    return known


def _is_known(search: Search, known: Known | None) -> bool:
    return known is not None and search.formula.cell(1).reduced_formula in known


def read_settings(out: Path) -> CompareSettings:
    """The settings of the run in a folder.

    Raises:
        RunError: If the folder holds no run.
        ValueError: If its settings are damaged.
    """
    if not (out / SETTINGS).is_file():
        raise RunError(f"{out} holds no run to resume")
    return CompareSettings.from_toml((out / SETTINGS).read_text(encoding="utf-8"))


def _prepare_folder(out: Path, settings: CompareSettings, *, resume: bool, overwrite: bool) -> None:
    """Make the run's folder, or see that it is the right one."""
    if resume:
        stored = read_settings(out)
        _check_same(settings, stored)
        _warn_of_versions(out)
        if settings != stored:
            write_whole(out / SETTINGS, settings.to_toml(_stored_versions(out)))
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not overwrite:
            raise RunError(f"{out} exists; use --resume to go on with it, --overwrite to replace it, or another --out")
        if not (out / SETTINGS).is_file():
            raise RunError(f"{out} is not the folder of a run: it is not overwritten")
    try:
        for name in (RESULTS, f"{RESULTS}-wal", f"{RESULTS}-shm", SUMMARY, TABLE, SETTINGS):
            (out / name).unlink(missing_ok=True)
        for name in (BEST, REFINED):
            shutil.rmtree(out / name, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / SETTINGS, settings.to_toml())
    except OSError as error:
        raise RunError(f"{out} can't be written: {error}") from error


def _check_same(settings: CompareSettings, stored: CompareSettings) -> None:
    """See that a run can be gone on with: generators may join it, and what hull distances count from may change."""
    ours, theirs = asdict(settings), asdict(stored)
    ours["generators"] = ours["generators"][: len(theirs["generators"])]
    for name in ours.keys() - {"hull"}:
        if ours[name] != theirs[name]:
            raise RunError(f"the run to resume has {name} = {theirs[name]}, not {ours[name]}; leave the option out")


def _stored_versions(out: Path) -> dict[str, str]:
    found: dict[str, str] = tomllib.loads((out / SETTINGS).read_text(encoding="utf-8")).get("versions", {})
    return found


def _warn_of_versions(out: Path) -> None:
    stored = _stored_versions(out)
    for package, now in versions().items():
        if stored.get(package) != now:
            log.warning("the run was started with %s %s, this is %s", package, stored.get(package), now)


def _run(
    tasks: Sequence[Task],
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
    total = sum(task.n for task in tasks)
    done = 0

    def report(n: int) -> None:
        nonlocal done
        done += n
        on_progress(done, total)

    report(0)
    queue = TaskQueue(tasks, generators, store, relaxer, settings.relax, settings.chunk, report)
    for job, results in run_jobs(queue.next_job, workers=workers):
        if isinstance(job.tag, Chunk):
            pairs = zip(job.tag.records, results, strict=True)
            queue.relaxed(job.tag, [score(r, result, references, known, settings.matcher) for r, result in pairs])
        else:
            queue.generated(job.tag, results[0])


def score(
    record: Record,
    relaxation: Relaxation,
    references: References,
    known: Known | None,
    matcher: MatchSettings,
) -> Record:
    """A candidate with its relaxation, its formation energy and its match."""
    record = replace(
        record,
        outcome=relaxation.outcome,
        detail=relaxation.detail,
        final_structure=relaxation.structure,
        energy=relaxation.energy,
        n_steps=relaxation.n_steps,
        max_force=relaxation.max_force,
        relax_seconds=relaxation.seconds,
    )
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


def summarise(
    records: Sequence[Record],
    settings: CompareSettings,
    references: References,
    known: Known | None,
    hull: Hull | None,
) -> dict[str, Any]:
    """The run in numbers, under the vocabulary's names; energies in eV/atom, times in seconds.

    Args:
        records: All rows, without structures.
        settings: The run's settings.
        references: What formation energies were counted from, and of which potential.
        known: The known structures.
        hull: What hull distances are counted from.
    """
    first = settings.labels[0]
    columns = by_column(sorted(records, key=lambda record: (record.formula_units, record.index)))
    compositions: list[dict[str, Any]] = []
    for search in plan(settings):
        own = {label: columns.get((search.formula.reduced_formula, label), []) for label in settings.labels}
        point = hull.at(search.formula.cell(1)) if hull else None
        compositions.append(
            {
                "formula": search.formula.text,
                "reduced_formula": search.formula.reduced_formula,
                "missing_references": references.missing(search.formula.cell(1)),
                "generators": {
                    label: _summarise_generator(
                        rows, own[first] if label != first else [], search, point, known=_is_known(search, known)
                    )
                    for label, rows in own.items()
                },
            }
        )
    return {
        "generators": list(settings.labels),
        "reference_generator": first,
        "potential": references.potential,
        "elemental_references": references.origin,
        "hull_reference": hull.reference if hull else None,
        "seed": settings.seed,
        "relax": asdict(settings.relax),
        "matcher": asdict(settings.matcher) if known is not None else None,
        "compositions": compositions,
        "overall": {
            label: summarise_overall(
                [entry["generators"][label] for entry in compositions],
                [record for record in records if record.generator == label],
            )
            for label in settings.labels
        },
    }


def _summarise_generator(
    records: Sequence[Record], reference: Sequence[Record], search: Search, point: HullPoint | None, *, known: bool
) -> dict[str, Any]:
    best = lowest(records)
    return {
        **summarise_records(records),
        "energy_per_atom": best.energy_per_atom if best else None,
        "delta_e_f": delta_e_f(records, reference),
        **hull_distances(best, point),
        "best": best.key if best else None,
        **(summarise_matches(records) if known else {}),
        "by_formula_units": {
            str(units): summarise_records([r for r in records if r.formula_units == units])
            for units, _ in search.shares
        },
    }


def _write_summary(summary: dict[str, Any], out: Path) -> None:
    from unimat_search.eval.report import to_csv

    (out / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    (out / TABLE).write_text(to_csv(summary), encoding="utf-8")


def write_best_of(summary: Mapping[str, Any], store: Store, folder: Path) -> None:
    """The lowest structure of each generator and composition, as CIF and extxyz."""
    from unimat_search.eval.export import write_best

    shutil.rmtree(folder, ignore_errors=True)
    for entry in summary["compositions"]:
        for values in entry["generators"].values():
            if values["best"]:
                write_best(store.record(values["best"]), folder)
