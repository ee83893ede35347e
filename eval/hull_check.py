"""A hull of relaxed phases held against the Materials Project's: the potential's own error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition

from unimat_search.eval.hull import Hull, Phase
from unimat_search.eval.hull_build import RelaxedPhase, phases_file
from unimat_search.eval.references import References

FloatArray = NDArray[np.float64]

ON_HULL = 1e-6
"""eV/atom: phases nearer to their hull are on it."""


@dataclass(frozen=True)
class Agreement:
    """Two hulls' verdicts on the same phases; energies in eV/atom.

    Attributes:
        n: Phases.
        above_hull: Mean absolute difference of e_above_hull.
        above_hull_bias: Mean difference, the tested hull's minus the true one's.
        decomposition: Mean absolute difference of decomposition_energy, of compounds.
        stable_agree: Share of the phases that both call on the hull, or both above it.
        stable_precision: Of those that the tested hull has on it, the share that the true one has; NaN of none.
        stable_recall: The other way round.
    """

    n: int
    above_hull: float
    above_hull_bias: float
    decomposition: float
    stable_agree: float
    stable_precision: float
    stable_recall: float


def true_phases(data_dir: Path) -> dict[str, Phase]:
    """The Materials Project's phases near its hull of 2021, by material id."""
    import pyarrow.parquet as pq

    columns = ["material_id", "formula", "formation_energy_per_atom", "mp_2021_id"]
    rows = pq.read_table(phases_file(data_dir), columns=columns).to_pylist()
    return {
        row["material_id"]: Phase(Composition(row["formula"]).reduced_formula, row["formation_energy_per_atom"])
        for row in rows
        if row["mp_2021_id"]
    }


def check_hull(
    relaxed: Sequence[RelaxedPhase],
    references: References,
    true: Mapping[str, Phase],
    *,
    sample: int | None = None,
    seed: int = 0,
) -> dict[str, Agreement]:
    """How a hull of relaxed phases agrees with the true one, and what of that its missing phases explain.

    Args:
        relaxed: Phases of the hull to test.
        references: Of the potential that relaxed them.
        true: All phases of the true hull, by material id.
        sample: So many phases are judged, drawn at random; by default all.
        seed: Of the draw.

    Returns:
        By name: "relaxed", the potential's hull against the true one; "missing phases", the true energies of the phases
        that it has against the true hull; "potential", the potential's hull against these: its own error.

    Raises:
        ValueError: If no phase is in both, or the phases are of another potential.
    """
    if others := {phase.potential for phase in relaxed} - {references.potential}:
        raise ValueError(f"the phases were relaxed by {min(others)}, not by {references.potential}; give --relaxer")
    ours = _formation_energies(relaxed, references)
    shared = sorted(name for name in ours if name in true)
    if not shared:
        raise ValueError("the file shares no phase with the data")
    judged = np.random.default_rng(seed).permutation(shared)[:sample].tolist()
    own = {name: Phase(true[name].reduced_formula, ours[name]) for name in shared}
    relaxed_hull, same_phases, everything = (
        _distances([phases[name] for name in judged], Hull("", list(phases.values())))
        for phases in (own, {name: true[name] for name in shared}, true)
    )
    return {
        "relaxed": _agreement(relaxed_hull, everything),
        "missing phases": _agreement(same_phases, everything),
        "potential": _agreement(relaxed_hull, same_phases),
    }


def rows(checked: Mapping[str, Agreement]) -> list[dict[str, str]]:
    """A table of `check_hull`, energies in meV/atom."""
    return [
        {
            "error": name,
            "phases": str(one.n),
            "above hull": f"{1000 * one.above_hull:.1f}",
            "bias": f"{1000 * one.above_hull_bias:+.1f}",
            "decomposition": f"{1000 * one.decomposition:.1f}",
            "stable: both agree": f"{one.stable_agree:.3f}",
            "precision": f"{one.stable_precision:.3f}",
            "recall": f"{one.stable_recall:.3f}",
        }
        for name, one in checked.items()
    ]


def _formation_energies(relaxed: Sequence[RelaxedPhase], references: References) -> dict[str, float]:
    energies: dict[str, float] = {}
    for phase in relaxed:
        composition = Composition(phase.formula)
        if phase.energy_per_atom:
            total = float(phase.energy_per_atom) * composition.num_atoms
            formation = references.formation_energy_per_atom(composition, total)
            if formation is not None:
                energies[phase.material_id] = formation
    return energies


def _distances(phases: Sequence[Phase], hull: Hull) -> FloatArray:
    """e_above_hull and decomposition_energy (NaN for elements) of phases, (n, 2)."""
    rows = []
    for phase in phases:
        point = hull.at(Composition(phase.reduced_formula))
        decomposition = point.decomposition_energy(phase.formation_energy_per_atom)
        rows.append(
            (point.e_above_hull(phase.formation_energy_per_atom), np.nan if decomposition is None else decomposition)
        )
    return np.array(rows, dtype=float).reshape(-1, 2)


def _agreement(tested: FloatArray, expected: FloatArray) -> Agreement:
    difference = tested - expected
    ours, theirs = tested[:, 0] < ON_HULL, expected[:, 0] < ON_HULL
    both = (ours & theirs).sum()
    compounds = difference[np.isfinite(difference[:, 1]), 1]
    return Agreement(
        n=len(tested),
        above_hull=float(np.abs(difference[:, 0]).mean()),
        above_hull_bias=float(difference[:, 0].mean()),
        decomposition=float(np.abs(compounds).mean()) if len(compounds) else math.nan,
        stable_agree=float((ours == theirs).mean()),
        stable_precision=float(both / ours.sum()) if ours.any() else math.nan,
        stable_recall=float(both / theirs.sum()) if theirs.any() else math.nan,
    )
