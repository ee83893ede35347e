"""What the table says: pure functions of records."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from unimat_search.eval.hull import BOUNDS, HullPoint
from unimat_search.eval.intervals import interval_of_mean, wilson_interval
from unimat_search.records import Record

HULL_COUNTS = ("n_below_hull", "n_stable", "n_metastable_25_mev", "n_metastable_100_mev")
"""Counts of what lies below each of `BOUNDS`."""

TIE = 0.005
"""eV/atom: lowest energies nearer than this are the same structure found twice, within what fmax leaves."""


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
    """The converged record with the lowest enthalpy per atom; the earlier one of equals."""
    converged = [record for record in records if record.converged and record.enthalpy_per_atom is not None]
    return min(converged, key=lambda record: record.enthalpy_per_atom or 0.0, default=None)


def delta_e_f(records: Sequence[Record], reference: Sequence[Record]) -> float | None:
    """Lowest energy of one generator minus that of another at one composition, eV/atom; enthalpy under pressure.

    The paper's delta E_f for a pair of structures of equal composition (arXiv:2311.09235, section on
    per-composition formation energy), taken for the lowest of each side: the elemental references cancel,
    so it does not need them. None if either side has no converged structure.
    """
    ours, theirs = lowest(records), lowest(reference)
    if ours is None or theirs is None or ours.enthalpy_per_atom is None or theirs.enthalpy_per_atom is None:
        return None
    return ours.enthalpy_per_atom - theirs.enthalpy_per_atom


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


class Tally:
    """Counts, energies and costs of candidates, taken in as they come."""

    def __init__(self) -> None:
        self.n = self.n_valid = self.n_converged = self.n_relaxed = 0
        self.energies = array("d")
        self.steps = array("q")
        self.failures: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self.generate_seconds = self.relax_seconds = 0.0

    def add(self, records: Iterable[Record]) -> None:
        """Take in more candidates."""
        for record in records:
            self.n += 1
            self.n_valid += record.valid
            self.n_converged += record.converged
            self.n_relaxed += record.relax_seconds > 0
            self.generate_seconds += record.generate_seconds
            self.relax_seconds += record.relax_seconds
            if record.converged:
                self.steps.append(record.n_steps)
                if record.formation_energy_per_atom is not None:
                    self.energies.append(record.formation_energy_per_atom)
            elif record.outcome:
                self.failures[str(record.outcome)] += 1
                if record.detail:
                    self.reasons.setdefault(str(record.outcome), record.detail)

    def summary(self) -> dict[str, Any]:
        """Counts, rates, energies and costs; `n_generated` is the denominator; of reasons the first of each failure."""
        return {
            "n_generated": self.n,
            "n_valid": self.n_valid,
            "n_converged": self.n_converged,
            "convergence_rate": rate(self.n_converged, self.n),
            "convergence_rate_interval": wilson_interval(self.n_converged, self.n),
            "formation_energy_per_atom": min(self.energies, default=None),
            "median_formation_energy_per_atom": _median(self.energies),
            "median_n_steps": _median(self.steps),
            "failures": dict(sorted(self.failures.items())),
            "reasons": dict(sorted(self.reasons.items())),
            "generate_seconds_per_structure": self.generate_seconds / self.n if self.n else None,
            "relax_seconds_per_structure": self.relax_seconds / self.n_relaxed if self.n_relaxed else None,
        }


def _median(values: array[float] | array[int]) -> float | None:
    return float(np.median(values)) if values else None


def summarise_records(records: Iterable[Record]) -> dict[str, Any]:
    """Counts, rates, energies and costs of one generator's candidates; `n_generated` is the denominator."""
    tally = Tally()
    tally.add(records)
    return tally.summary()


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


class Overall:
    """One generator over all compositions, taken in as they come.

    Args:
        known: Whether any composition has a known structure.
    """

    def __init__(self, *, known: bool = False) -> None:
        self._tally = Tally()
        self._values = {name: array("d") for name in ("convergence_rate", "delta_e_f", "e_above_hull")}
        self._rms = array("d")
        self._n = self._n_converged = self._n_known = self._n_found = 0
        self._known = known

    def add(self, entry: Mapping[str, Any], records: Iterable[Record]) -> None:
        """Take in a composition.

        Args:
            entry: What is said of it: `n_converged`, `convergence_rate`, `delta_e_f`, `e_above_hull`, maybe `found`.
            records: Its candidates.
        """
        self._tally.add(records)
        self._n += 1
        self._n_converged += entry["n_converged"] > 0
        for name, values in self._values.items():
            if entry[name] is not None:
                values.append(entry[name])
        if "found" in entry:
            self._n_known += 1
            self._n_found += entry["found"]
            if entry["rms_dist"] is not None:
                self._rms.append(entry["rms_dist"])

    def summary(self) -> dict[str, Any]:
        """Rates over compositions, and what `Tally` says of all candidates but their formation energies."""
        matches = {
            "n_known_compositions": self._n_known,
            "match_rate": rate(self._n_found, self._n_known),
            "match_rate_interval": wilson_interval(self._n_found, self._n_known),
            "rms_dist": _mean(self._rms),
        }
        return {
            **{name: value for name, value in self._tally.summary().items() if "formation_energy" not in name},
            "convergence_rate_interval": self._convergence_interval(),
            "n_compositions": self._n,
            "n_compositions_converged": self._n_converged,
            "composition_convergence_rate": rate(self._n_converged, self._n),
            "composition_convergence_rate_interval": wilson_interval(self._n_converged, self._n),
            **summarise_deltas(self._values["delta_e_f"]),
            **summarise_hull(self._values["e_above_hull"]),
            **(matches if self._n_known or self._known else {}),
        }

    def _convergence_interval(self) -> tuple[float, float] | None:
        """Of the share of structures, over compositions where there are several: candidates of one are alike."""
        if self._n > 1:
            return interval_of_mean(self._values["convergence_rate"])
        return wilson_interval(self._tally.n_converged, self._tally.n)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
