"""A second judge: lowest structures of a run relaxed again by another potential."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from unimat_search.disk import write_whole
from unimat_search.eval.backends import Workers, usable_cores
from unimat_search.eval.intervals import estimate, share
from unimat_search.eval.metrics import TIE, by_column, lowest
from unimat_search.eval.parallel import load_relaxer, relax_chunks
from unimat_search.records import Outcome, Record, RelaxSettings
from unimat_search.registry import Spec
from unimat_search.run_folder import RESULTS, read_settings
from unimat_search.store import Store

Lowest = Mapping[str, Mapping[str, Record]]
"""The lowest candidate by reduced formula and generator."""


def judge_run(
    run: Path, formulas: Sequence[str], relaxer: str, cache: Path, *, workers: Workers | None
) -> dict[str, Any]:
    """Both potentials' verdicts on the lowest structures of a run.

    Args:
        run: Folder of a comparison.
        formulas: Reduced formulas to judge.
        relaxer: The second potential.
        cache: File of what it said before, by potential and candidate.
        workers: Processes, by default one for each usable core, or another backend.

    Returns:
        The potential's name; delta E_f and reduction rate of each generator against the first one under both; and how
        often both order two structures of one composition alike, where the first judge sees more than a tie.
    """
    settings = read_settings(run)
    spec = Spec.parse(relaxer)
    potential = load_relaxer(spec).name
    with Store(run / RESULTS, read_only=True) as store:
        found = _lowest(store, formulas, settings.labels)
        structures = {
            record.key: structure
            for row in found.values()
            for record in row.values()
            if (structure := store.record(record.key).final_structure)
        }
    energies = _energies(structures, spec, potential, settings.relax, cache, workers or usable_cores())
    return {"potential": potential, "compositions": len(formulas)} | verdicts(found, energies, settings.labels)


def _lowest(store: Store, formulas: Sequence[str], generators: Sequence[str]) -> dict[str, dict[str, Record]]:
    columns = by_column(store.records())
    best = {(formula, name): lowest(columns.get((formula, name), [])) for formula in formulas for name in generators}
    return {f: {name: one for name in generators if (one := best[f, name]) is not None} for f in formulas}


def _energies(
    structures: Mapping[str, Structure], spec: Spec, potential: str, relax: RelaxSettings, cache: Path, workers: Workers
) -> dict[str, float]:
    """Energy of each structure relaxed by the second judge, eV/atom; what did not converge is left out."""
    all_said: dict[str, dict[str, float | None]] = (
        json.loads(cache.read_text(encoding="utf-8")) if cache.is_file() else {}
    )
    said = all_said.setdefault(potential, {})
    chunks = ((key, [structure]) for key, structure in structures.items() if key not in said)
    for key, (result,) in relax_chunks(spec, chunks, relax, workers=workers):
        if result.outcome is Outcome.RELAXER_FAILED:  # not the structure's fault: asked again the next time
            continue
        converged = result.outcome is Outcome.CONVERGED and result.energy is not None
        said[key] = result.energy / len(structures[key]) if converged and result.energy is not None else None
        write_whole(cache, json.dumps(all_said, indent=1, sort_keys=True) + "\n")
    return {key: energy for key, energy in said.items() if energy is not None and key in structures}


def verdicts(found: Lowest, energies: Mapping[str, float], generators: Sequence[str]) -> dict[str, Any]:
    """What both judges say.

    Args:
        found: The lowest candidates; their energies are the first judge's.
        energies: The second judge's by key, eV/atom.
        generators: The first one is the reference of the others.
    """
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in generators[1:]}
    orders: list[tuple[int, int]] = []
    for row in found.values():
        both = {
            name: (record.enthalpy_per_atom, energies[record.key])
            for name, record in row.items()
            if record.key in energies and record.enthalpy_per_atom is not None
        }
        if generators[0] in both:
            first = np.array(both[generators[0]])
            for name in pairs:
                if name in both:
                    ours, theirs = np.array(both[name]) - first
                    pairs[name].append((float(ours), float(theirs)))
        clear = [(one, other) for one, other in combinations(both.values(), 2) if abs(one[0] - other[0]) > TIE]
        orders.append((sum((one[0] < other[0]) == (one[1] < other[1]) for one, other in clear), len(clear)))
    return {
        "same_order": estimate(np.array([pair for pair in orders if pair[1]]).reshape(-1, 2), _agreement),
        "generators": {name: _verdict(np.array(deltas).reshape(-1, 2)) for name, deltas in pairs.items()},
    }


def _agreement(counts: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
    """Share of the pairs that agree, of (agreeing, counted) by composition."""
    sums = counts.sum(axis)
    return np.asarray(sums[..., 0] / sums[..., 1])


def _verdict(deltas: NDArray[np.float64]) -> dict[str, Any]:
    """Estimates under both judges. (c, 2)."""
    return {
        "ours": estimate(deltas[:, 0]),
        "theirs": estimate(deltas[:, 1]),
        "reduced_ours": share(deltas[:, 0] < 0),
        "reduced_theirs": share(deltas[:, 1] < 0),
        "clearly_ours": _clearly_reduced(deltas[:, 0]),
        "clearly_theirs": _clearly_reduced(deltas[:, 1]),
    }


def _clearly_reduced(deltas: NDArray[np.float64]) -> dict[str, Any]:
    """Of the differences that are no tie, the share that is negative. (c,)."""
    return share(deltas[np.abs(deltas) > TIE] < 0)
