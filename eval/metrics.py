"""What the table says: pure functions of records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from unimat_search.eval.hull import BOUNDS, HullPoint
from unimat_search.records import Record

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

HULL_COUNTS = ("n_below_hull", "n_stable", "n_metastable_25_mev", "n_metastable_100_mev")
"""Counts of what lies below each of `BOUNDS`."""

TIE = 0.005
"""eV/atom: lowest energies nearer than this are the same structure found twice, within what fmax leaves."""


def wilson_interval(successes: int, trials: int) -> tuple[float, float] | None:
    """95 % interval of a rate (Wilson, J. Am. Stat. Assoc. 22, 209 (1927)); None without trials."""
    if trials == 0:
        return None
    rate = successes / trials
    scale = 1 + Z95**2 / trials
    centre = (rate + Z95**2 / (2 * trials)) / scale
    half = Z95 / scale * math.sqrt(rate * (1 - rate) / trials + Z95**2 / (4 * trials**2))
    return (max(0.0, centre - half), min(1.0, centre + half))


def rate(successes: int, trials: int) -> float | None:
    """Share of successes; None without trials."""
    return successes / trials if trials else None


def by_column(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Records by reduced formula and generator, each in the order given."""
    columns: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        columns.setdefault((record.reduced_formula, record.generator), []).append(record)
    return columns


def lowest(records: Iterable[Record]) -> Record | None:
    """The converged record with the lowest energy per atom; the earlier one of equals."""
    converged = [record for record in records if record.converged and record.energy_per_atom is not None]
    return min(converged, key=lambda record: record.energy_per_atom or 0.0, default=None)


def delta_e_f(records: Sequence[Record], reference: Sequence[Record]) -> float | None:
    """Lowest energy of one generator minus that of another at one composition, eV/atom.

    The paper's delta E_f for a pair of structures of equal composition (arXiv:2311.09235, section on
    per-composition formation energy), taken for the lowest of each side: the elemental references cancel,
    so it does not need them. None if either side has no converged structure.
    """
    ours, theirs = lowest(records), lowest(reference)
    if ours is None or theirs is None or ours.energy_per_atom is None or theirs.energy_per_atom is None:
        return None
    return ours.energy_per_atom - theirs.energy_per_atom


def hull_distances(record: Record | None, point: HullPoint | None) -> dict[str, float | None]:
    """How far a structure lies above the hull of its chemical system, with and without the phases of its composition.

    eV/atom; None without a structure, a formation energy or a hull.
    """
    energy = record.formation_energy_per_atom if record else None
    if energy is None or point is None:
        return {"e_above_hull": None, "decomposition_energy": None}
    return {"e_above_hull": point.e_above_hull(energy), "decomposition_energy": point.decomposition_energy(energy)}


def summarise_hull(distances: Sequence[float]) -> dict[str, Any]:
    """How many of the e_above_hull (eV/atom) are under each of `BOUNDS`: below the hull, stable, metastable, widely."""
    counts = [sum(distance < bound for distance in distances) for bound in BOUNDS]
    return {"n_hull_distances": len(distances), **dict(zip(HULL_COUNTS, counts, strict=True))}


def summarise_deltas(deltas: Sequence[float]) -> dict[str, Any]:
    """Mean and median delta E_f, and the reduction rate: the share of compositions where it is negative.

    Ties within `TIE` are counted beside it: two searches that find the same ground state differ by noise.
    """
    reduced = sum(delta < 0 for delta in deltas)
    return {
        "n_pairs": len(deltas),
        "delta_e_f": fmean(deltas) if deltas else None,
        "median_delta_e_f": median(deltas) if deltas else None,
        "reduction_rate": rate(reduced, len(deltas)),
        "reduction_rate_interval": wilson_interval(reduced, len(deltas)),
        "tie_rate": rate(sum(abs(delta) <= TIE for delta in deltas), len(deltas)),
    }


def summarise_records(records: Sequence[Record]) -> dict[str, Any]:
    """Counts, rates, energies and costs of one generator's candidates; `n_generated` is the denominator."""
    converged = [record for record in records if record.converged]
    energies = [r.formation_energy_per_atom for r in converged if r.formation_energy_per_atom is not None]
    relaxed = [record for record in records if record.relax_seconds > 0]
    failures = Counter(str(r.outcome) for r in records if r.outcome and not r.converged)
    return {
        "n_generated": len(records),
        "n_valid": sum(record.valid for record in records),
        "n_converged": len(converged),
        "convergence_rate": rate(len(converged), len(records)),
        "convergence_rate_interval": wilson_interval(len(converged), len(records)),
        "formation_energy_per_atom": min(energies, default=None),
        "median_formation_energy_per_atom": median(energies) if energies else None,
        "median_n_steps": median([record.n_steps for record in converged]) if converged else None,
        "failures": dict(sorted(failures.items())),
        "generate_seconds_per_structure": _mean([record.generate_seconds for record in records]),
        "relax_seconds_per_structure": _mean([record.relax_seconds for record in relaxed]),
    }


def summarise_matches(records: Sequence[Record]) -> dict[str, Any]:
    """How a generator did against known structures of one composition.

    `first_match` counts candidates from 1 in the order in which cells are tried.
    """
    hits = [(i, r.rms_dist) for i, r in enumerate(records, start=1) if r.rms_dist is not None]
    return {
        "found": bool(hits),
        "n_matched": len(hits),
        "first_match": hits[0][0] if hits else None,
        "rms_dist": min((distance for _, distance in hits), default=None),
    }


def summarise_overall(per_composition: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> dict[str, Any]:
    """One generator over all compositions.

    Args:
        per_composition: Its entries, one for each composition, with `delta_e_f`, `e_above_hull` and maybe `found`.
        records: All its candidates.
    """
    n_converged = sum(entry["n_converged"] > 0 for entry in per_composition)
    known = [entry for entry in per_composition if "found" in entry]
    found = sum(entry["found"] for entry in known)
    matches = {
        "n_known_compositions": len(known),
        "match_rate": rate(found, len(known)),
        "match_rate_interval": wilson_interval(found, len(known)),
        "rms_dist": _mean([entry["rms_dist"] for entry in known if entry["rms_dist"] is not None]),
    }
    return {
        **{k: v for k, v in summarise_records(records).items() if "formation_energy" not in k},
        "n_compositions": len(per_composition),
        "n_compositions_converged": n_converged,
        "composition_convergence_rate": rate(n_converged, len(per_composition)),
        "composition_convergence_rate_interval": wilson_interval(n_converged, len(per_composition)),
        **summarise_deltas([e["delta_e_f"] for e in per_composition if e["delta_e_f"] is not None]),
        **summarise_hull([e["e_above_hull"] for e in per_composition if e["e_above_hull"] is not None]),
        **(matches if known else {}),
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
