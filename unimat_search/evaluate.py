"""The proxy table of any set of structures, held against a data set."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, compress, count, islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Composition, Structure

from unimat_search.baselines.published import Published
from unimat_search.disk import cache_folder, write_whole
from unimat_search.eval.backends import usable_cores
from unimat_search.eval.coverage import CUTOFFS
from unimat_search.eval.hull import BOUNDS, STABLE, Hull
from unimat_search.eval.hull_sources import load_hull
from unimat_search.eval.metrics import HULL_COUNTS, rate, summarise_hull
from unimat_search.eval.parallel import DEFAULT_CHUNK, DIED, chunked, load_relaxer, quiet, relax_chunks
from unimat_search.eval.proxy import LIBRARIES, VERSION, Facts, facts_of, is_flat, proxy_metrics
from unimat_search.eval.references import References, file_stem, references_for
from unimat_search.eval.report import Row, Section, number
from unimat_search.eval.sanity import FORMATION_ENERGY_WINDOW, energy_problem
from unimat_search.eval.sets import (
    KnownCrystals,
    displacement,
    distribution_distance,
    families,
    match_everyone,
    rms_distances,
)
from unimat_search.files import read_crystals
from unimat_search.fingerprint import FloatArray
from unimat_search.formats import UNREAD
from unimat_search.records import BENCHMARK_MATCH, FailedAttempt, MatchSettings, Outcome, Relaxation, RelaxSettings
from unimat_search.registry import Spec
from unimat_search.unimat.elements import SYMBOLS, composition_key, composition_numbers
from unimat_search.unimat.sources import find_data, read_source
from unimat_search.unimat.structures import StructureSet

TABLE_VERSION = f"{VERSION}.5"
"""Raise the last digit when the numbers of the same samples change; kept tables carry it."""

MOST_PAIRS = 50_000
"""Samples times test structures of their compositions: with more (ten minutes), only first samples are matched."""

AS_THEY_ARE = RelaxSettings(max_steps=0)
"""Evaluates, and moves nothing."""

MATCHES = ("match_rate_at_1", "match_rmse_at_1", "match_everyone_rate", "match_everyone_distance")
"""What is told of samples of known compositions."""


@dataclass(frozen=True)
class Samples:
    """Generated crystals.

    Attributes:
        attempts: By name, in their order.
    """

    attempts: Mapping[str, Structure | FailedAttempt]

    @property
    def n_generated(self) -> int:
        """All of them: the denominator."""
        return len(self.attempts)

    @property
    def structures(self) -> list[Structure]:
        """Those that could be read."""
        return [one for one in self.attempts.values() if isinstance(one, Structure)]

    @property
    def reasons(self) -> Counter[str]:
        """Why the others could not, and how often."""
        return Counter(one.reason for one in self.attempts.values() if isinstance(one, FailedAttempt))


@dataclass(frozen=True)
class Benchmark:
    """A data set to be held against.

    Attributes:
        name: "mp_20".
        test: What the samples should be like.
        train: What they should not merely repeat; None where no training split is to be had.
        train_name: "mp_20/train"; some sets come with a part of it alone, "carbon_24/train_partial".
    """

    name: str
    test: StructureSet
    train: StructureSet | None = None
    train_name: str | None = None


def read_samples(path: Path) -> Samples:
    """All crystals of a file, folder or archive; a name that comes again is numbered.

    Raises:
        ValueError: If a file as a whole can't be read.
    """
    attempts: dict[str, Structure | FailedAttempt] = {}
    with quiet():
        for name, attempt in read_crystals(path):
            unique = next(one for one in chain([name], (f"{name}#{k}" for k in count(2))) if one not in attempts)
            attempts[unique] = attempt
    return Samples(attempts)


def read_benchmark(name: str, data_dir: Path | None) -> Benchmark:
    """A public data set ("mp-20", "perov-5", "carbon-24", "mpts-52") with its splits.

    Raises:
        ValueError: If it has no test split.
    """
    key = name.replace("-", "_")
    test = read_source(f"{key}/test", data_dir).structures
    for split in ("train", "train_partial"):
        try:
            find_data(f"{key}/{split}", data_dir)
        except ValueError:
            continue
        return Benchmark(key, test, read_source(f"{key}/{split}", data_dir).structures, f"{key}/{split}")
    return Benchmark(key, test)


def evaluate(
    samples: Samples,
    benchmark: Benchmark,
    *,
    asked: Sequence[Composition] = (),
    relaxer: Spec | None = None,
    hull: str = "",
    workers: int | None = None,
) -> dict[str, Any]:
    """The proxy table; with a relaxer, energies, stability and S.U.N. too.

    Args:
        samples: What was generated.
        benchmark: What it is held against.
        asked: The composition that each sample was asked for, if compositions were: a failed one does not match it.
        relaxer: Relaxes the valid samples.
        hull: See `unimat_search.eval.hull_sources.load_hull`.
        workers: Processes.

    Returns:
        Numbers by name; shares are of all samples, energies eV/atom.

    Raises:
        UserError: If the hull can't be had.
    """
    workers = workers or usable_cores()
    structures = samples.structures
    if relaxer:  # what can't be had is said before anything is computed
        systems = {frozenset(el.symbol for el in one.composition.elements) for one in structures}
        elements = set().union(*systems, (SYMBOLS[z] for z in np.unique(benchmark.test.numbers)))
        references = references_for(relaxer, load_relaxer(relaxer), elements, workers=workers)
        phases = load_hull(hull, systems, references)
    facts = facts_of(structures, workers=workers)
    known = _known_facts(benchmark.test, workers)
    cutoffs = CUTOFFS.get(benchmark.name, CUTOFFS["mp_20"])
    with quiet():
        table = proxy_metrics(facts, known, samples.n_generated, cutoffs)
        usable = [valid and not is_flat(one) for valid, one in zip(facts.valid_structure, structures, strict=True)]
        valid = list(compress(structures, usable))
        table |= {
            "unreadable": dict(samples.reasons.most_common()),
            "unique": rate(len(families(valid)), samples.n_generated),
            "novel": rate(sum(_new(valid, benchmark.train)), samples.n_generated) if benchmark.train else None,
            "novel_against": benchmark.train_name,
        }
        table |= _matches(_by_composition(samples, usable, asked), benchmark.test, BENCHMARK_MATCH)
    if relaxer:
        sound = [structures[row] for row in np.flatnonzero(facts.valid)]
        table |= _energies(sound, benchmark.test, relaxer, references, workers)
        table |= _stability(valid, benchmark.train, relaxer, references, phases, samples.n_generated, workers)
    return table


def _known_facts(structures: StructureSet, workers: int) -> Facts:
    """Of a data set, computed once and kept."""
    libraries = "-".join(f"{name}{version(name)}" for name in LIBRARIES)
    file = cache_folder() / "evaluate" / f"{structures.sha256}-{libraries}-{VERSION}.npz"
    return facts_of(all_structures(structures), workers=workers, kept_in=file)


def _new(structures: Sequence[Structure], train: StructureSet) -> list[bool]:
    """Whether each structure is none of the training set's."""
    known = KnownCrystals(_by_formula(train, {structure.composition.reduced_formula for structure in structures}))
    return [structure not in known for structure in structures]


def _by_composition(
    samples: Samples, valid: Sequence[bool], asked: Sequence[Composition]
) -> dict[str, list[Structure | None]]:
    """Samples by reduced formula, in their order; None for what is not valid, or failed where a composition was asked.

    What failed where none was asked has no composition.
    """
    made: dict[str, list[Structure | None]] = {}
    flags = iter(valid)
    for attempt, composition in zip_longest(samples.attempts.values(), asked):
        if isinstance(attempt, Structure):
            usable = attempt if next(flags) else None
            made.setdefault(attempt.composition.reduced_formula, []).append(usable)
        elif composition is not None:
            made.setdefault(composition.reduced_formula, []).append(None)
    return made


def _matches(
    made: Mapping[str, Sequence[Structure | None]], test: StructureSet, matcher: MatchSettings
) -> dict[str, Any]:
    """`MATCHES` over the test structures whose composition was generated; None where none was.

    A sample without a valid structure matches nothing.
    """
    known = _by_formula(test, made.keys())
    if not known:
        return {"n_asked": 0, **dict.fromkeys(MATCHES)}
    few = sum(len(made[formula]) * len(polymorphs) for formula, polymorphs in known.items()) <= MOST_PAIRS
    asked = {formula: ones if few else ones[:1] for formula, ones in made.items()}
    distances = [rms_distances(asked[formula], polymorphs, matcher) for formula, polymorphs in known.items()]
    first = np.concatenate([table[0] for table in distances])
    matched = first[np.isfinite(first)]
    numbers = (len(matched) / len(first), float(matched.mean()) if len(matched) else None)
    everyone = match_everyone(distances, matcher) if few else (None, None)
    return {"n_asked": len(first), **dict(zip(MATCHES, (*numbers, *everyone), strict=True))}


def _stability(
    structures: Sequence[Structure],
    train: StructureSet | None,
    relaxer: Spec,
    references: References,
    hull: Hull | None,
    n_generated: int,
    workers: int,
) -> dict[str, Any]:
    """Relaxed: convergence, formation energies, distance to the hull, S.U.N., and how far atoms moved.

    Args:
        structures: To relax.
        train: What is not new; without it S.U.N. can't be told.
        relaxer: The potential.
        references: Its elemental energies.
        hull: What distances are counted from.
        n_generated: The denominator.
        workers: Processes.
    """
    results = _relaxed(structures, relaxer, RelaxSettings(), workers)
    failed = {row: reason for row, result in results.items() if (reason := _failure(result, references))}
    results = {row: result for row, result in results.items() if row not in failed}
    energies = {
        row: energy for row, one in results.items() if (energy := _formation_energy(one, references)) is not None
    }
    above = {
        row: hull.at(structures[row].composition).e_above_hull(energy) if hull else math.nan
        for row, energy in energies.items()
    }
    moved = [displacement(structures[row], one.structure) for row, one in results.items() if one.structure]
    return {
        "hull_reference": hull.reference if hull else None,
        "convergence_rate": rate(len(results), n_generated),
        "failures": dict(Counter(failed.values()).most_common()),
        "formation_energy_per_atom": float(np.mean(list(energies.values()))) if energies else None,
        "displacement": float(np.mean(moved)) if moved else None,
        "lowest": _lowest(structures, energies),
        **(summarise_hull(list(above.values())) if hull else {}),
        "stable_unique_new": rate(_stable_unique_new(results, above, train), n_generated) if hull and train else None,
    }


def _failure(result: Relaxation, references: References) -> str:
    """Why a relaxation does not count, or nothing."""
    if result.outcome is not Outcome.CONVERGED:
        return f"{result.outcome}: {result.detail}" if result.detail else str(result.outcome)
    problem = energy_problem(_formation_energy(result, references))
    return problem.detail if problem else ""


def _stable_unique_new(results: Mapping[int, Relaxation], above: Mapping[int, float], train: StructureSet) -> int:
    """How many different relaxed crystals are on the hull or below it, and none of the training set's."""
    low = (results[row].structure for row, value in above.items() if value < STABLE)
    relaxed = [structure for structure in low if structure is not None]
    with quiet():
        return sum(_new([relaxed[family[0]] for family in families(relaxed)], train))


def _lowest(structures: Sequence[Structure], energies: Mapping[int, float]) -> dict[str, float]:
    """The lowest of the energies of structures (by position) at each reduced formula."""
    lowest: dict[str, float] = {}
    for row, energy in energies.items():
        formula = structures[row].composition.reduced_formula
        lowest[formula] = min(energy, lowest.get(formula, energy))
    return lowest


def _energies(
    structures: Sequence[Structure], test: StructureSet, relaxer: Spec, references: References, workers: int
) -> dict[str, Any]:
    """Wasserstein distance of formation energies, eV/atom, all structures as they are."""
    stem = f"{test.sha256}-{file_stem(references.potential)}-{VERSION}"
    file = cache_folder() / "evaluate" / f"{stem}.json"
    if not file.is_file():
        results = _relaxed(all_structures(test), relaxer, AS_THEY_ARE, workers)
        computed = _static_energies(results.values())
        if computed and not any(result.detail == DIED for result in results.values()):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(computed) + "\n", alone=False)
    else:
        computed = json.loads(file.read_text(encoding="utf-8"))
    known = _within_bounds(computed, references)
    made = _within_bounds(_static_energies(_relaxed(structures, relaxer, AS_THEY_ARE, workers).values()), references)
    return {
        "potential": references.potential,
        "energy_distance": distribution_distance(made, known),
    }


def _static_energies(results: Iterable[Relaxation]) -> list[tuple[str, float]]:
    """Cell formulas and total energies (eV) of what was evaluated; without those that the potential can't take."""
    return [
        (result.structure.composition.formula, result.energy)
        for result in results
        if result.structure is not None and result.energy is not None
    ]


def _within_bounds(energies: Sequence[tuple[str, float]], references: References) -> FloatArray:
    """Formation energies, eV/atom, of formulas and total energies; what no crystal has counts as the bound."""
    found = [references.formation_energy_per_atom(Composition(formula), energy) for formula, energy in energies]
    known = np.array([energy for energy in found if energy is not None], dtype=float)
    bounded: FloatArray = np.clip(known, *FORMATION_ENERGY_WINDOW)
    return bounded


def _relaxed(
    structures: Sequence[Structure], relaxer: Spec, settings: RelaxSettings, workers: int
) -> dict[int, Relaxation]:
    """Relaxations by position, in its order."""
    order = sorted(range(len(structures)), key=lambda row: len(structures[row]))
    chunks = ((rows, [structures[row] for row in rows]) for rows in chunked(order, DEFAULT_CHUNK))
    done = relax_chunks(relaxer, chunks, settings, workers=workers)
    return dict(sorted(pair for rows, results in done for pair in zip(rows, results, strict=True)))


def _formation_energy(result: Relaxation, references: References) -> float | None:
    if result.structure is None or result.energy is None:
        return None
    return references.formation_energy_per_atom(result.structure.composition, result.energy)


def all_structures(structures: StructureSet) -> list[Structure]:
    """The structures of a data set as pymatgen's."""
    return [
        Structure(one.cells[0].astype(float), one.numbers.tolist(), one.frac_coords.astype(float)) for one in structures
    ]


def _by_formula(structures: StructureSet, formulas: Collection[str]) -> dict[str, list[Structure]]:
    """The structures of some reduced formulas."""
    keys = {composition_key(composition_numbers(Composition(formula))): formula for formula in formulas}
    found: dict[str, list[Structure]] = {}
    for structure in all_structures(structures.where(keys.__contains__)):
        found.setdefault(structure.composition.reduced_formula, []).append(structure)
    return found


NAMES = {
    "valid_structure": "valid structures (0.5 angstrom)",
    "sane_structure": "valid structures (ours)",
    "valid_composition": "valid compositions (SMACT)",
    "valid": "valid",
    "coverage_recall": "COV-R",
    "coverage_precision": "COV-P",
    "density_distance": "density, Wasserstein (g/cm3)",
    "num_elements_distance": "number of elements, Wasserstein",
    "energy_distance": "formation energy, Wasserstein (eV/atom)",
    "unique": "unique",
    "novel": "new",
    "n_asked": "test structures of its compositions",
    "match_rate_at_1": "match rate, first sample",
    "match_rmse_at_1": "RMSE of these",
    "match_everyone_rate": "METRe",
    "match_everyone_distance": "cRMSE",
    "convergence_rate": "converged",
    "formation_energy_per_atom": "formation energy of what converged, mean (eV/atom)",
    "displacement": "displacement, mean (angstrom)",
    "stable_unique_new": "stable, unique and new",
}
"""Rows of the table."""


def compared(papers: Sequence[Published], tables: Mapping[str, Mapping[str, Any]]) -> list[Published]:
    """The papers that report something of what was measured."""
    measured = {key for table in tables.values() for key, value in table.items() if value is not None}
    return [paper for paper in papers if measured & paper.metrics.keys()]


def sections(tables: Mapping[str, Mapping[str, Any]], papers: Sequence[Published]) -> list[Section]:
    """A column for each set of samples, then papers' numbers in columns of their own."""
    rows: list[Row] = []
    for key, name in NAMES.items():
        if any(key in table for table in tables.values()):
            ours = {column: _number(table.get(key)) for column, table in tables.items()}
            theirs = {f"{paper.name} (paper)": number(paper.metrics.get(key)) for paper in papers}
            rows.append({"metric": name} | ours | theirs)
    return [("Proxy metrics", rows)]


def _number(value: float | None) -> str:
    return str(value) if isinstance(value, int) else number(value)


def _compositions(tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Who was given compositions, where that is known."""
    given = [name for name, one in tables.items() if not one.get("makes_compositions", True)]
    if not given:
        return []
    return [
        f"Given compositions and numbers of atoms of training crystals: {', '.join(given)}; valid compositions, number "
        "of elements and the composition's part of COV are the data's there, not the generator's."
    ]


def _reasons(tables: Mapping[str, Mapping[str, Any]], key: str, what: str) -> list[str]:
    """How many of whose samples fell out, and the commonest reasons."""
    lines = []
    for name, reasons in ((name, table.get(key)) for name, table in tables.items()):
        if reasons:
            shown = "; ".join(f"{count} {reason.removeprefix(UNREAD)}" for reason, count in islice(reasons.items(), 3))
            rest = f"; {len(reasons) - 3} other reasons" if len(reasons) > 3 else ""
            lines.append(f"{name}: {sum(reasons.values())} {what}: {shown}{rest}.")
    return lines


def _against(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """What "new" was counted against."""
    names = {one["novel_against"] for one in tables.values() if one.get("novel_against")}
    if not names:
        return "can't be told without a training set"
    return f"none of {' and '.join(sorted(names))} is".replace("train_partial", "train (a part of it)")


def footnotes(tables: Mapping[str, Mapping[str, Any]], papers: Sequence[Published]) -> str:
    """What the numbers mean."""
    lines = [
        "Shares are of all samples: "
        + ", ".join(f"{name} {one['n_generated']} ({one['n_read']} can be read)" for name, one in tables.items()),
        *_reasons(tables, "unreadable", "can't be read"),
        *_reasons(tables, "failures", "did not converge"),
        *_compositions(tables),
        "COV-R, COV-P: CrystalNN and Magpie fingerprints, CDVAE's cut-offs; Wasserstein distances: of valid samples.",
        f"unique: no earlier sample is the same crystal; new: {_against(tables)} (StructureMatcher 0.2, 0.3, 5).",
    ]
    if any(one["n_asked"] for one in tables.values()):
        lines.append(
            "Match rate: share of the test structures of a generator's compositions (so of other ones for each) that "
            "the first sample of theirs matches; METRe: that any does (StructureMatcher 0.3, 0.5, 10); cRMSE: mean "
            f"distance, the tolerance where none does; both left out with more than {MOST_PAIRS} pairs."
        )
    for name, one in tables.items():
        if one.get("hull_reference"):
            below = [f"{one[key]} below {bound:g}" for key, bound in zip(HULL_COUNTS, BOUNDS, strict=True)]
            of = f"e_above_hull, eV/atom, of {one['n_hull_distances']} structures"
            lines.append(f"{name}: {of}: {', '.join(below)}.")
    hulls = {one["hull_reference"]: None for one in tables.values() if one.get("hull_reference")}
    lines += [f"Hull: {hull}." for hull in hulls]
    protocols: dict[str, list[str]] = {}
    for paper in papers:
        protocol = f"{paper.protocol}. Comparable: {paper.comparable}."
        protocols.setdefault(protocol, []).append(f"{paper.name}: {paper.citation}")
    lines += ["; ".join([*citations, protocol]) for protocol, citations in protocols.items()]
    return "\n".join(lines)
