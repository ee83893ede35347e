"""The lowest structures of a run relaxed again by a dearer judge, DFT say, in the run's own folder."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import tomli_w
from pymatgen.core import Structure

from unimat_search.disk import write_whole
from unimat_search.eval.backends import Workers, usable_cores
from unimat_search.eval.hull_sources import load_hull
from unimat_search.eval.parallel import Job, load_relaxer, relaxation_job, run_jobs
from unimat_search.eval.references import file_stem, references_for
from unimat_search.eval.unique import unite
from unimat_search.locks import owned
from unimat_search.plan import CompareSettings, Search, plan
from unimat_search.records import Outcome, Record, Relaxation, RelaxSettings
from unimat_search.registry import Spec
from unimat_search.run_folder import REFINED, RESULTS, RunError, read_settings
from unimat_search.scoring import Scorer
from unimat_search.store import Store
from unimat_search.summary import MOST_LISTED, Columns, planned_columns, read_known_of, summarise
from unimat_search.symmetry import conventional
from unimat_search.versions import versions

SETTINGS = "refine.toml"


@dataclass(frozen=True)
class RefineSettings:
    """What is refined, and by whom.

    Attributes:
        relaxer: Specification of the second relaxer.
        top: So many of each generator and composition, the lowest first, all different.
        relax: When their relaxations end.

    Raises:
        ValueError: If a value is out of range.
    """

    relaxer: str
    top: int = 3
    relax: RelaxSettings = field(default_factory=lambda: RelaxSettings(fmax=0.02, time_limit=14400.0))

    def __post_init__(self) -> None:
        if not isinstance(self.relaxer, str):
            raise ValueError(f"relaxer must be text, got {self.relaxer!r}")
        if isinstance(self.top, bool) or not (isinstance(self.top, int) and self.top > 0):
            raise ValueError(f"top must be a whole number from 1 on, got {self.top!r}")

    def to_toml(self) -> str:
        """The file `refine.toml`."""
        return tomli_w.dumps({**asdict(self), "versions": versions()})

    @classmethod
    def from_toml(cls, text: str) -> RefineSettings:
        """Read what `to_toml` wrote.

        Raises:
            ValueError: If it is damaged.
        """
        try:
            data = tomllib.loads(text)
            return cls(data["relaxer"], data["top"], RelaxSettings(**data["relax"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{SETTINGS} is damaged: {error}") from error


def refine_run(
    out: Path,
    settings: RefineSettings,
    *,
    workers: Workers | None = None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Relax the lowest structures of a run again, or what is missing of them, and return the summary of that.

    Rows, tables and structures are in `refined/POTENTIAL` of the run's folder; each row is stored as it is done.

    Args:
        out: Folder of a run.
        settings: What to refine, and by whom.
        workers: As of `unimat_search.compare.run_comparison`.
        on_progress: Called with (structures finished, structures in all).

    Returns:
        As `unimat_search.summary.summarise`, of the refined structures; and these, one by one, in "structures".

    Raises:
        RunError: If the folder holds no run, or one that was refined under other settings.
        PluginError: If there is no such relaxer.
    """
    run = read_settings(out)
    spec = Spec.parse(settings.relaxer)
    relaxer = load_relaxer(spec)
    if not (out / RESULTS).is_file():
        raise RunError(f"{out} holds no results to refine")
    folder = out / REFINED / file_stem(relaxer.name)
    workers = workers or usable_cores()
    with owned(out):
        _prepare(folder, settings)
        searches = plan(run)
        known = read_known_of(run, searches)
        systems = {frozenset(search.formula.amounts) for search in searches}
        references = references_for(spec, relaxer, set().union(*systems), workers=workers)
        with Store(out / RESULTS, read_only=True) as first, Store(folder / RESULTS) as store:
            chosen = choose(first, run, settings.top)
            scorer = Scorer(references, known, run.matcher, settings.relax.pressure)
            scorer.rescore(store)
            _refine(chosen, first, store, spec, settings.relax, scorer, workers, on_progress)
            as_run = replace(run, relaxer=settings.relaxer, relax=settings.relax, hull="")
            hull = load_hull(as_run.hull_source, systems, references)
            listed = islice(chosen.items(), MOST_LISTED)
            described = [_described(store.record(key), energy) for key, energy in listed]
            more = {"top": settings.top, "structures": described}
            columns = _chosen_columns(run, store, chosen)
            return summarise(as_run, columns, references, known, hull, store, folder, more)


def _chosen_columns(run: CompareSettings, store: Store, chosen: Container[str]) -> Callable[[Search], Columns]:
    """What the store holds of the chosen candidates."""
    planned = planned_columns(run, store)

    def columns(search: Search) -> Columns:
        own = planned(search)
        return {label: [record for record in records if record.key in chosen] for label, records in own.items()}

    return columns


def _prepare(folder: Path, settings: RefineSettings) -> None:
    """Make the folder, or see that what is in it was done under the same settings; a time limit may change."""
    file = folder / SETTINGS
    if file.is_file():
        stored = RefineSettings.from_toml(file.read_text(encoding="utf-8"))
        same = replace(stored.relax, time_limit=settings.relax.time_limit)
        if (stored.relaxer, same) != (settings.relaxer, settings.relax):
            then, now = (f"{one.relaxer}, {one.relax}" for one in (stored, settings))
            raise RunError(f"{folder} was refined with {then}, not {now}: delete it to begin anew")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, settings.to_toml())


def refined_settings(out: Path) -> list[RefineSettings]:
    """What a run was refined by, so far."""
    files = sorted((out / REFINED).glob(f"*/{SETTINGS}"))
    return [RefineSettings.from_toml(file.read_text(encoding="utf-8")) for file in files]


def choose(store: Store, run: CompareSettings, top: int) -> dict[str, float]:
    """The lowest converged candidates of each composition and generator, all different crystals.

    Returns:
        Enthalpies by key, eV/atom.
    """
    chosen: dict[str, float] = {}
    columns = planned_columns(run, store)
    for records in (column for search in plan(run) for column in columns(search).values()):
        energies = {r.key: r.enthalpy_per_atom for r in records if r.converged and r.enthalpy_per_atom is not None}
        if energies:
            chosen |= {key: energies[key] for key in _different(store, energies, top)}
    return chosen


def _different(store: Store, energies: Mapping[str, float], top: int) -> list[str]:
    """The lowest `top` of candidates that are different crystals; as few are read as may be."""
    keys = sorted(energies, key=lambda key: energies[key])
    count = 2 * top
    while True:
        some = keys[:count]
        structures = [_final(store.record(key)) for key in some]
        families = unite(structures, [energies[key] for key in some])
        if len(families) >= top or count >= len(keys):
            return [some[family[0]] for family in families[:top]]
        count *= 2


def _final(record: Record) -> Structure:
    assert record.final_structure is not None
    return record.final_structure


def _refine(
    chosen: Collection[str],
    first: Store,
    store: Store,
    spec: Spec,
    relax: RelaxSettings,
    scorer: Scorer,
    workers: Workers,
    on_progress: Callable[[int, int], None],
) -> None:
    """Relax what the store does not hold yet, small cells first, one structure a job."""
    done = {record.key for record in store.records() if not _worth_more_time(record, relax)}
    waiting = [key for key in chosen if key not in done]
    waiting.sort(key=lambda key: first.record(key, structures=False).num_sites)
    total, finished = len(chosen), len(chosen) - len(waiting)
    on_progress(finished, total)
    jobs = _jobs(map(first.record, waiting), spec, relax)
    for job, (relaxation,) in run_jobs(lambda: next(jobs, None), workers=workers):
        store.write([scorer.score(job.tag, relaxation)])
        finished += 1
        on_progress(finished, total)


def _jobs(records: Iterable[Record], spec: Spec, relax: RelaxSettings) -> Iterator[Job[Record, Structure, Relaxation]]:
    for record in records:
        start = _final(record)
        fresh = Record(
            record.key,
            record.generator,
            record.reduced_formula,
            record.formula_units,
            record.cell_formula,
            record.seed,
            record.index,
            initial_structure=start,
            valid=record.valid,
            generate_seconds=record.generate_seconds,
            origin=record.origin,
        )
        yield relaxation_job(fresh, spec, [start], relax)


def _worth_more_time(record: Record, relax: RelaxSettings) -> bool:
    """Whether a structure ran out of time that it would now have."""
    return record.outcome is Outcome.TIME_LIMIT and record.relax_seconds < relax.time_limit


def _described(record: Record, before: float) -> dict[str, Any]:
    """One refined structure in numbers; edges (angstrom) and angles (degrees) of its conventional cell."""
    described: dict[str, Any] = {
        "key": record.key,
        "formula": record.reduced_formula,
        "generator": record.generator,
        "outcome": str(record.outcome),
        "detail": record.detail,
        "formation_energy_per_atom": record.formation_energy_per_atom,
        "enthalpy_per_atom": record.enthalpy_per_atom,
        "enthalpy_per_atom_before": before,
        "minutes": record.relax_seconds / 60,
        "space_group": None,
        "cell": None,
    }
    if record.converged and record.final_structure:
        shown, described["space_group"] = conventional(record.final_structure)
        described["cell"] = [round(float(value), 4) for value in shown.lattice.parameters]
    return described
