"""Samples of any generator without a composition given: the paper's RQ1 (proxy metrics) and RQ4 (energies)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Composition, Structure
from scipy.stats import permutation_test, rankdata

from unimat_search.disk import whole, write_whole
from unimat_search.eval.hull_sources import hull_digest, load_hull
from unimat_search.eval.intervals import estimate
from unimat_search.eval.metrics import summarise_deltas
from unimat_search.eval.parallel import load_relaxer
from unimat_search.eval.references import References
from unimat_search.eval.report import Row, Section, hull_counts, number, with_interval
from unimat_search.evaluate import NAMES, TABLE_VERSION, Benchmark, evaluate, read_samples
from unimat_search.generation import check, collect, load_generators
from unimat_search.locks import is_empty, owned
from unimat_search.protocol import FreeGenerator, StructureGenerator
from unimat_search.records import FailedAttempt, UserError, plain
from unimat_search.registry import Spec, parse_all
from unimat_search.unimat.elements import SYMBOLS

GENERATORS = ("unimat", "cdvae", "substitution", "airss:standard", "uniform")
PROXIES = (
    "valid_structure",
    "sane_structure",
    "valid_composition",
    "coverage_recall",
    "coverage_precision",
    "density_distance",
    "num_elements_distance",
    "energy_distance",
    "unique",
    "novel",
)
"""What can be told without a relaxation."""

OUTCOMES = ("stable_unique_new", "convergence_rate")
"""What proxy metrics are to predict."""


def sample_freely(
    generator: StructureGenerator, n: int, benchmark: Benchmark, *, seed: int
) -> list[Structure | FailedAttempt]:
    """N samples: of compositions that the generator makes itself, or drawn from the training set.

    Every generator of the second kind is asked for the same compositions. What a generator gives is checked as in a
    comparison.

    Args:
        generator: See `makes_compositions`.
        n: How many.
        benchmark: Whose training set compositions are drawn from.
        seed: Of the samples and of the draw.
    """
    if isinstance(generator, FreeGenerator) and makes_compositions(generator):
        return _collected(lambda: generator.generate_freely(n, seed=seed), n, None)
    samples = []
    for index, asked in enumerate(drawn_compositions(n, benchmark, seed=seed)):
        samples += _collected(partial(generator.generate, asked, 1, seed=seed + index), 1, asked)
    return samples


def drawn_compositions(n: int, benchmark: Benchmark, *, seed: int) -> list[Composition]:
    """What generators are asked for that do not make compositions: N cells of the training set at random."""
    source = benchmark.train or benchmark.test
    rows = np.random.default_rng(seed).integers(len(source), size=n)
    return [Composition("".join(SYMBOLS[z] for z in source.take([row]).numbers)) for row in rows]


def makes_compositions(generator: StructureGenerator) -> bool:
    """Whether it is a `FreeGenerator` that, by its own account, does not draw them from data."""
    return isinstance(generator, FreeGenerator) and bool(getattr(generator, "makes_compositions", True))


def _collected(
    make: Callable[[], Iterable[object]], n: int, composition: Composition | None
) -> list[Structure | FailedAttempt]:
    """N attempts of what `make` gives, checked."""

    def made() -> Iterator[object]:
        yield from islice(make(), n)

    return [check(attempt, composition) for attempt in collect(made(), n)]


def write_samples(attempts: Sequence[Structure | FailedAttempt], file: Path) -> None:
    """Samples as parquet; one that failed is a row without atoms, and with the reason."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = [attempt if isinstance(attempt, Structure) else None for attempt in attempts]
    table = pa.table(
        {
            "material_id": [f"{file.stem}-{index}" for index in range(len(made))],
            "numbers": pa.array([list(one.atomic_numbers) if one else [] for one in made], pa.list_(pa.int64())),
            "frac_coords": pa.array([one.frac_coords.ravel() if one else [] for one in made], pa.list_(pa.float64())),
            "cell": pa.array([one.lattice.matrix.ravel() if one else [] for one in made], pa.list_(pa.float64())),
            "reason": ["" if isinstance(attempt, Structure) else attempt.reason for attempt in attempts],
        }
    )
    with whole(file) as partial:
        pq.write_table(table, partial)


def reproduce(
    out: Path,
    benchmark: Benchmark,
    *,
    generators: Sequence[str] = GENERATORS,
    n: int = 1000,
    seed: int = 0,
    relaxer: Spec | None = None,
    hull: str = "",
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Samples of generators held against a data set; what the folder holds already is not done again.

    Args:
        out: Folder: samples and a table of each generator, and the tables of all.
        benchmark: The data set.
        generators: Specifications.
        n: Samples of each.
        seed: Of every generator.
        relaxer: Relaxes the samples, for energies and stability.
        hull: See `unimat_search.eval.hull_sources.load_hull`.
        workers: Processes.
        on_progress: Called with (generators finished, generators in all).

    Raises:
        UserError: If the folder is of another run, a generator or the relaxer can't be loaded, or the hull not be had.
    """
    settings = {
        "data": benchmark.name,
        "test_sha256": benchmark.test.sha256,
        "train_sha256": benchmark.train.sha256 if benchmark.train else None,
        "n": n,
        "seed": seed,
    }
    texts = {spec.label: spec.text for spec in parse_all(generators)}
    loaded = _loaded(generators)
    kind = ""
    if relaxer:
        potential = load_relaxer(relaxer).name
        load_hull(hull, (), References(potential))  # what can't be read is said before anything is written
        kind = f"-{_stem(f'{relaxer.text}-{hull}', hull_digest(hull, potential))}"
    _same_run(out, settings)
    with owned(out):
        tables: dict[str, Any] = {}
        for name, generator in loaded.items():
            on_progress(len(tables), len(loaded))
            stem = _stem(texts[name], _content(texts[name]))
            samples = out / f"{stem}.parquet"
            if not samples.is_file():
                write_samples(sample_freely(generator, n, benchmark, seed=seed), samples)
            table = out / f"{stem}{kind}-{TABLE_VERSION}.json"
            if not table.is_file():
                free = makes_compositions(generator)
                asked = [] if free else drawn_compositions(n, benchmark, seed=seed)
                made = read_samples(samples)
                found = evaluate(made, benchmark, asked=asked, relaxer=relaxer, hull=hull, workers=workers)
                found["makes_compositions"] = free
                write_whole(table, json.dumps(found, indent=1) + "\n")
            tables[name] = json.loads(table.read_text(encoding="utf-8"))
        on_progress(len(tables), len(loaded))
    return {"settings": settings | {"relaxer": relaxer.label if relaxer else None}, "generators": tables}


def _loaded(generators: Sequence[str]) -> dict[str, StructureGenerator]:
    loaded: dict[str, StructureGenerator] = {}
    for name, generator in load_generators(generators).items():
        if isinstance(generator, str):
            raise UserError(generator)
        loaded[name] = generator
    return loaded


def _same_run(out: Path, settings: Mapping[str, Any]) -> None:
    """See that a folder is new, or of a run with these settings."""
    file = out / "settings.json"
    if file.is_file():
        try:
            stored = dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(f"{file} is damaged; give another --out") from error
        for name, value in settings.items():
            if stored.get(name) != value:
                raise UserError(f"{out} is of a run with {name} = {stored.get(name)}, not {value}; give another --out")
        return
    if out.exists() and not (out.is_dir() and is_empty(out)):
        raise UserError(f"{out} is not the folder of such a run; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(dict(settings), indent=1) + "\n")


def _stem(text: str, content: str) -> str:
    """A name for a file, legible, and another one for another text or content."""
    digest = hashlib.sha256(f"{text}\0{content}".encode()).hexdigest()[:8]
    return f"{plain(text)[:60]}-{digest}"


def _content(text: str) -> str:
    """A digest of the files and folders that a specification names."""
    digest = hashlib.sha256()
    for named in (Path(value) for value in Spec.parse(text).options.values() if value and isinstance(value, str)):
        for file in [named] if named.is_file() else sorted(named.rglob("*")) if named.is_dir() else ():
            if file.is_file():
                digest.update(file.read_bytes())
    return digest.hexdigest()


def pairs(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Lowest relaxed energies of two generators at the compositions that both made (the paper's delta E_f), if any."""
    found = {}
    for theirs, ours in combinations(tables, 2):
        first, second = tables[ours]["lowest"], tables[theirs]["lowest"]
        deltas = [first[formula] - second[formula] for formula in first if formula in second]
        if deltas:
            found[f"{ours} against {theirs}"] = summarise_deltas(deltas) | {"mean": estimate(np.array(deltas))}
    return found


def predictions(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any] | None]]:
    """How well each proxy metric orders the generators as an outcome does: see `_rank_correlation`.

    None where one of the two is the same for all; nothing with fewer than four generators.
    """
    if len(tables) < 4:
        return {}
    return {
        proxy: {outcome: _rank_correlation(tables, proxy, outcome) for outcome in OUTCOMES}
        for proxy in PROXIES
        if any(table.get(proxy) is not None for table in tables.values())
    }


def _rank_correlation(tables: Mapping[str, Mapping[str, Any]], proxy: str, outcome: str) -> dict[str, Any] | None:
    """Spearman's rank correlation, its p by permutations (all of them, of up to seven generators), and their number."""
    both = [(table.get(proxy), table.get(outcome)) for table in tables.values()]
    known = np.array([pair for pair in both if None not in pair], dtype=float).reshape(-1, 2)
    if len(known) < 4 or (np.ptp(known, axis=0) == 0).any():
        return None
    first, second = rankdata(known, axis=0).T
    test = permutation_test(
        (first,), lambda ranks: float(np.corrcoef(ranks, second)[0, 1]), permutation_type="pairings", rng=0
    )
    return {"value": float(test.statistic), "p": float(test.pvalue), "n": len(known)}


def energy_sections(tables: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """Tables of relaxed samples: stability, every pair, and what proxy metrics foretell."""
    stability: list[Row] = [
        {
            "generator": name,
            "converged": number(table["convergence_rate"]),
            **(hull_counts(table) if table.get("hull_reference") else {}),
            "stable, unique, new": number(table["stable_unique_new"]),
        }
        for name, table in tables.items()
    ]
    deltas: list[Row] = [
        {
            "pair": name,
            "compositions": row["n_pairs"],
            "delta E_f mean": with_interval(row["mean"]["value"], row["mean"]["interval"], 3),
            "median": number(row["median_delta_e_f"]),
            "reduced": with_interval(row["reduction_rate"], row["reduction_rate_interval"]),
            "tied": number(row["tie_rate"], 2),
        }
        for name, row in pairs(tables).items()
    ]
    foretold: list[Row] = [
        {"proxy metric": NAMES[proxy]} | {NAMES[outcome]: _correlation(value) for outcome, value in row.items()}
        for proxy, row in predictions(tables).items()
    ]
    correlations = f"Rank correlation over {len(tables)} generators (Spearman's; p by permutation): no proof"
    titles = ("Stability of relaxed samples", "Lowest energies, every pair", correlations)
    return [(title, rows) for title, rows in zip(titles, (stability, deltas, foretold), strict=True) if rows]


def _correlation(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else f"{found['value']:.2f} (p {found['p']:.2f})"
