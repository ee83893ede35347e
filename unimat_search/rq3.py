"""The paper's headline experiment: generators against random search on compositions that no model saw."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from unimat_search.compare import run_comparison
from unimat_search.disk import whole, write_whole
from unimat_search.eval.backends import Workers, usable_cores
from unimat_search.eval.intervals import estimate
from unimat_search.eval.metrics import HULL_COUNTS
from unimat_search.eval.parallel import load_relaxer, relax_chunks
from unimat_search.eval.trials import (
    Trials,
    above_best,
    collect_all,
    common_budget,
    differences,
    outcomes,
    rates,
    speed_up,
)
from unimat_search.files import read_structures, write_extxyz
from unimat_search.formula import parse_formula
from unimat_search.generation import load_generators
from unimat_search.judge import judge_run
from unimat_search.plan import SETTINGS, CompareSettings
from unimat_search.records import MatchSettings, Outcome, Record, RelaxSettings
from unimat_search.registry import Spec
from unimat_search.run_folder import RESULTS, RunError, move_reference, read_settings
from unimat_search.store import Store
from unimat_search.unimat.sources import find_data
from unimat_search.zero_shot import TEST, Target, read_targets

GENERATORS = ("airss:standard", "airss:paper", "airss", "pyxtal", "unimat", "unimat+airss")
RUN, KNOWN, KNOWN_ENERGIES, TABLES, JUDGED = "run", "known.extxyz", "known.json", "rq3.json", "judged.json"

VERSION = 1
"""Of the file of tables: to be raised with every change of it."""

HULL_KEYS = ("n_hull_distances", *HULL_COUNTS)

RELAX = RelaxSettings(time_limit=60.0)
"""Nearly all relaxations end within 20 s on one core; starts far too dense can take minutes and get nowhere."""

PAPER = {
    "source": "UniMat, arXiv:2311.09235, DFT",
    "composition_convergence_rate": {"airss:paper": 0.55, "unimat": 0.817},
    "pairs": {"unimat against airss:paper": {"delta_e_f": -0.68, "reduction_rate": 0.80}},
}


def reproduce(
    out: Path,
    data_dir: Path | None,
    *,
    compositions: int | None = None,
    n: int = 100,
    generators: Sequence[str] = GENERATORS,
    seed: int = 0,
    relaxer: str = "chgnet",
    workers: Workers | None = None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Run the experiment, or what is missing of it, and return its tables.

    Args:
        out: Folder: the run in `run`, the known structures, the tables.
        data_dir: Folder of data sets; what it lacks is downloaded.
        compositions: How many of the 466.
        n: Candidates of each generator for each composition.
        generators: The first one is the reference of the others. Those that a folder has stay, others join them.
        seed: Given to every generator.
        relaxer: The potential.
        workers: Processes of this machine, or another backend.
        on_progress: Called with (candidates finished, candidates in all).

    Raises:
        RunError: If the data are missing, or the folder holds another run.
    """
    targets = read_targets(data_dir, compositions)
    known = _known_structures(targets, data_dir)
    settings = CompareSettings(
        formulas=tuple(target.formula for target in targets),
        generators=tuple(generators),
        n=n,
        seed=seed,
        relaxer=relaxer,
        relax=RELAX,
        reference=str((out / KNOWN).resolve()),
        matcher=MatchSettings(),
    )
    resume = (out / RUN / SETTINGS).is_file()
    if resume:  # the folder may have been moved, generators may have joined
        move_reference(out / RUN, (out / KNOWN).resolve())
        stored = read_settings(out / RUN)
        settings = replace(settings, hull=stored.hull, generators=stored.joined_by(generators).generators)
    else:  # what can't be loaded is said before anything is written
        load_generators(settings.generators)
        load_relaxer(Spec.parse(relaxer))
        out.mkdir(parents=True, exist_ok=True)
        _write_known(targets, known, out)
    summary = run_comparison(settings, out / RUN, resume=resume, workers=workers, on_progress=on_progress)
    energies = _known_energies(out, known, Spec.parse(relaxer), settings.relax, workers or usable_cores())
    with Store(out / RUN / RESULTS, read_only=True) as store:
        tables = analyse(list(store.records()), targets, settings, energies)
    counted = {name: {key: row[key] for key in HULL_KEYS} for name, row in summary["overall"].items()}
    tables["hull"] = {"reference": summary["hull_reference"], "generators": counted}
    write_whole(out / TABLES, json.dumps(tables, indent=1) + "\n")
    return tables


def _known_structures(targets: Sequence[Target], data_dir: Path | None) -> dict[str, Structure]:
    """The known structures by reduced formula, as the list writes it."""
    names = {target.material_id: target.reduced_formula for target in targets}
    elements = {frozenset(parse_formula(formula).amounts) for formula in names.values()}
    file = find_data(TEST, data_dir)
    geometries = dict(read_structures(file, element_sets=elements))
    missing = [name for name in names if name not in geometries]
    if missing:
        raise RunError(f"{file} has no {missing[0]}")
    return {formula: geometries[name] for name, formula in names.items()}


def _write_known(targets: Sequence[Target], known: Mapping[str, Structure], out: Path) -> None:
    """The file of known structures that a new run compares with; what was there is of another run."""
    for name in (KNOWN_ENERGIES, JUDGED, TABLES):
        (out / name).unlink(missing_ok=True)
    with whole(out / KNOWN) as partial:
        write_extxyz(partial, [(target.material_id, known[target.reduced_formula]) for target in targets])


def _known_energies(
    out: Path, known: Mapping[str, Structure], relaxer: Spec, relax: RelaxSettings, workers: Workers
) -> dict[str, float]:
    """Energies of the known structures that converged, relaxed as the candidates are, eV/atom."""
    file = out / KNOWN_ENERGIES
    kept: dict[str, float | None] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    chunks = ((formula, [structure]) for formula, structure in known.items() if formula not in kept)
    for formula, (result,) in relax_chunks(relaxer, chunks, relax, workers=workers):
        energy = result.energy if result.outcome is Outcome.CONVERGED else None
        if result.outcome is not Outcome.RELAXER_FAILED:  # that is tried again: its process may have died
            kept[formula] = None if energy is None else energy / len(known[formula])
    write_whole(file, json.dumps({formula: kept[formula] for formula in known if formula in kept}, indent=1) + "\n")
    return {formula: energy for formula in known if (energy := kept.get(formula)) is not None}


def analyse(
    records: Sequence[Record], targets: Sequence[Target], settings: CompareSettings, energies: Mapping[str, float]
) -> dict[str, Any]:
    """All tables of a run.

    Args:
        records: Of the run, without structures.
        targets: Its compositions.
        settings: Its settings.
        energies: Of the known structures, eV/atom.
    """
    formulas = [parse_formula(target.reduced_formula).reduced_formula for target in targets]
    known = np.array([energies.get(target.reduced_formula, np.nan) for target in targets])
    trials = collect_all(records, settings.labels, formulas, settings.n)
    budget = common_budget(trials)
    groups = [target.groups for target in targets]
    return {
        "version": VERSION,
        "targets": [
            asdict(target) | {"known_energy_per_atom": _finite(e)} for target, e in zip(targets, known, strict=True)
        ],
        "settings": json.loads(json.dumps(asdict(settings))),
        "paper": PAPER,
        "equal_structures": _table(trials, known),
        "equal_seconds": _outcomes({name: one.within(budget) for name, one in trials.items()}, known),
        "by": {
            column: {
                value: _table(_part(trials, groups, column, value), known[_rows(groups, column, value)])
                for value in values
            }
            for column in groups[0]
            if len(values := sorted({group[column] for group in groups}, key=_natural)) > 1
        },
        "pairs": {
            f"{ours} against {theirs}": differences(trials[ours], trials[theirs])
            for i, theirs in enumerate(trials)
            for ours in list(trials)[i + 1 :]
        },
        "origins": _origins(records),
        "compositions": _per_composition(trials, targets, known),
    }


def _natural(text: str) -> tuple[int, str]:
    """Orders "3-5" before "11-20"."""
    number = re.match(r"\d+", text)
    return int(number[0]) if number else 0, text


def _rows(groups: Sequence[Mapping[str, str]], column: str, value: str) -> NDArray[np.int64]:
    return np.array([row for row, group in enumerate(groups) if group[column] == value], dtype=np.int64)


def _part(
    trials: Mapping[str, Trials], groups: Sequence[Mapping[str, str]], column: str, value: str
) -> dict[str, Trials]:
    return {name: one.take(_rows(groups, column, value)) for name, one in trials.items()}


def _table(trials: Mapping[str, Trials], known: NDArray[np.float64]) -> dict[str, Any]:
    """Each generator's rates, and its differences from the first one."""
    reference = next(iter(trials.values()))
    table = _outcomes(trials, known)
    for name, one in trials.items():
        table[name] |= rates(one, known)
        if one is not reference:
            table[name]["speed_up"] = speed_up(one, reference, known)
    return table


def _outcomes(trials: Mapping[str, Trials], known: NDArray[np.float64]) -> dict[str, Any]:
    """What each generator reached by composition, and its differences from the first one."""
    reference = next(iter(trials.values()))
    above = above_best(trials, known)
    return {
        name: outcomes(one, known)
        | {"above_best": estimate(above[name][np.isfinite(above[name])])}
        | (differences(one, reference) if one is not reference else {})
        for name, one in trials.items()
    }


def _origins(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """What the arms of generators that have some gave: tries, convergence, hits, seconds, and lowest structures."""
    named = [record for record in records if record.origin]
    lowest: dict[tuple[str, str], Record] = {}
    for record in named:
        key = (record.generator, record.reduced_formula)
        if record.converged and (key not in lowest or (record.energy or 0.0) < (lowest[key].energy or 0.0)):
            lowest[key] = record
    table: dict[str, dict[str, Any]] = {}
    for generator, origin in sorted({(r.generator, r.origin) for r in named}):
        own = [r for r in named if (r.generator, r.origin) == (generator, origin)]
        table[f"{generator}: {origin}"] = {
            "tries": len(own),
            "convergence_rate": sum(r.converged for r in own) / len(own),
            "hit_rate": sum(r.rms_dist is not None for r in own) / len(own),
            "lowest_of_compositions": sum(r.generator == generator and r.origin == origin for r in lowest.values()),
            "seconds_per_structure": sum(r.generate_seconds + r.relax_seconds for r in own) / len(own),
        }
    return table


def _per_composition(
    trials: Mapping[str, Trials], targets: Sequence[Target], known: NDArray[np.float64]
) -> list[dict[str, Any]]:
    return [
        {
            "formula": target.formula,
            "known": _finite(known[row]),
            **{
                name: {
                    "lowest": _finite(one.lowest[row]),
                    "converged": int(one.converged[row].sum()),
                    "found": int(one.found[row].sum()),
                }
                for name, one in trials.items()
            },
        }
        for row, target in enumerate(targets)
    ]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def judged_tables(
    out: Path, tables: dict[str, Any], relaxer: str, count: int, *, workers: Workers | None = None
) -> dict[str, Any]:
    """Tables with a second potential's verdict on the lowest structures of the first `count` compositions."""
    formulas = [parse_formula(target["reduced_formula"]).reduced_formula for target in tables["targets"][:count]]
    judged = tables | {"judge": judge_run(out / RUN, formulas, relaxer, out / JUDGED, workers=workers)}
    write_whole(out / TABLES, json.dumps(judged, indent=1) + "\n")
    return judged
