"""A second judge: lowest structures of a run relaxed again by another potential."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from unimat_search.compare import RESULTS, read_settings
from unimat_search.eval.metrics import TIE, lowest
from unimat_search.eval.parallel import load_relaxer, relax_chunks, usable_cores
from unimat_search.eval.trials import estimate
from unimat_search.records import Outcome, Record, RelaxSettings
from unimat_search.registry import Spec
from unimat_search.store import Store

Lowest = Mapping[str, Mapping[str, Record]]
"""The lowest candidate by reduced formula and generator."""


def judge_run(run: Path, formulas: Sequence[str], relaxer: str, cache: Path, *, workers: int | None) -> dict[str, Any]:
    """Both potentials' verdicts on the lowest structures of a run.

    Args:
        run: Folder of a comparison.
        formulas: Reduced formulas to judge.
        relaxer: The second potential.
        cache: File of what it said before, by candidate.
        workers: Processes; by default one for each usable core.

    Returns:
        The potential's name; delta E_f and reduction rate of each generator against the first one under both; and how
        often both order two structures of one composition alike, where the first judge sees more than a tie.
    """
    settings = read_settings(run)
    found: dict[str, dict[str, Record]] = {}
    with Store(run / RESULTS, read_only=True) as store:
        records = [record for record in store.records() if record.reduced_formula in formulas]
        for formula in formulas:
            best = {g: lowest([r for r in records if (r.reduced_formula, r.generator) == (formula, g)])
                    for g in settings.generators}  # fmt: skip
            found[formula] = {g: record for g, record in best.items() if record}
        structures = {
            record.key: store.record(record.key).final_structure for row in found.values() for record in row.values()
        }
    spec = Spec.parse(relaxer)
    energies = _energies(
        {key: structure for key, structure in structures.items() if structure},
        spec,
        settings.relax,
        cache,
        workers or usable_cores(),
    )
    return {"potential": load_relaxer(spec).name, "compositions": len(formulas)} | verdicts(
        found, energies, settings.generators
    )


def _energies(
    structures: Mapping[str, Structure], spec: Spec, relax: RelaxSettings, cache: Path, workers: int
) -> dict[str, float]:
    """Energy of each structure relaxed by the second judge, eV/atom; what did not converge is left out."""
    said: dict[str, float | None] = json.loads(cache.read_text(encoding="utf-8")) if cache.is_file() else {}
    chunks = ((key, [structure]) for key, structure in structures.items() if key not in said)
    for key, (result,) in relax_chunks(spec, chunks, relax, workers=workers):
        good = result.outcome is Outcome.CONVERGED and result.energy is not None
        said[key] = result.energy / len(structures[key]) if good and result.energy is not None else None
        partial = cache.with_suffix(".partial")
        partial.write_text(json.dumps(said, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        partial.replace(cache)
    return {key: energy for key, energy in said.items() if energy is not None and key in structures}


def verdicts(found: Lowest, energies: Mapping[str, float], generators: Sequence[str]) -> dict[str, Any]:
    """What both judges say.

    Args:
        found: The lowest candidates; their energies are the first judge's.
        energies: The second judge's by key, eV/atom.
        generators: The first one is the reference of the others.
    """
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in generators[1:]}
    orders: list[bool] = []
    for row in found.values():
        both = {
            name: (record.energy_per_atom, energies[record.key])
            for name, record in row.items()
            if record.key in energies and record.energy_per_atom is not None
        }
        if generators[0] in both:
            first = np.array(both[generators[0]])
            for name in pairs:
                if name in both:
                    ours, theirs = np.array(both[name]) - first
                    pairs[name].append((float(ours), float(theirs)))
        for one, other in combinations(both.values(), 2):
            if abs(one[0] - other[0]) > TIE:
                orders.append((one[0] < other[0]) == (one[1] < other[1]))
    return {
        "same_order": estimate(np.array(orders, dtype=float)),
        "generators": {name: _verdict(np.array(deltas).reshape(-1, 2)) for name, deltas in pairs.items()},
    }


def _verdict(deltas: np.ndarray) -> dict[str, Any]:
    """Estimates under both judges. (c, 2)."""
    reduced = (deltas < 0).astype(float)
    return {
        "ours": estimate(deltas[:, 0]),
        "theirs": estimate(deltas[:, 1]),
        "reduced_ours": estimate(reduced[:, 0]),
        "reduced_theirs": estimate(reduced[:, 1]),
    }
