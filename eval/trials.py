"""Generators against each other over many compositions: rates, differences and searches, with their uncertainty.

Everything is an array over (compositions, tries): what a search found after k tries, or after so many seconds, is
a matter of cumulating along the last axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from unimat_search.eval.intervals import estimate, share
from unimat_search.eval.metrics import TIE
from unimat_search.records import Record

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NEAR_KNOWN = 0.010
"""eV/atom: a search that gets so near the known structure's energy, or below, has reached it."""


@dataclass(frozen=True)
class Trials:
    """The candidates of one generator, in the order in which they were made. c compositions, n tries.

    Attributes:
        converged: (c, n)
        energies: Enthalpies of what converged, eV/atom, infinite for the rest. (c, n)
        found: Whether it is the known structure. (c, n)
        n_steps: Of the optimizer. (c, n)
        seconds: Generation and relaxation. (c, n)
    """

    converged: BoolArray
    energies: FloatArray
    found: BoolArray
    n_steps: FloatArray
    seconds: FloatArray

    def take(self, rows: NDArray[np.int64]) -> Trials:
        """These compositions."""
        return Trials(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def within(self, seconds: FloatArray) -> Trials:
        """What was done within a budget of each composition; what came later did not happen. (c,) seconds."""
        done = self.seconds.cumsum(-1) <= seconds[:, None]
        return Trials(
            self.converged & done,
            np.where(done, self.energies, np.inf),
            self.found & done,
            np.where(done, self.n_steps, 0.0),
            np.where(done, self.seconds, 0.0),
        )

    @property
    def lowest(self) -> FloatArray:
        """Lowest energy of each composition, eV/atom, infinite where nothing converged. (c,)."""
        return np.asarray(self.energies.min(-1))

    def best_after(self) -> FloatArray:
        """Lowest energy after each try, eV/atom. (c, n)."""
        return np.minimum.accumulate(self.energies, axis=-1)

    def found_after(self) -> BoolArray:
        """Whether the known structure was found by each try. (c, n)."""
        return np.logical_or.accumulate(self.found, axis=-1)

    def reached(self, energies: FloatArray) -> BoolArray:
        """Tries that found the known structure or came within `NEAR_KNOWN` of its energy. (c,) -> (c, n)."""
        return self.found | (self.energies <= energies[:, None] + NEAR_KNOWN)


def collect(records: Sequence[Record], formulas: Sequence[str], n: int) -> Trials:
    """One generator's records as arrays.

    Args:
        records: Without structures, in any order.
        formulas: Reduced formulas: the rows.
        n: Tries of each; what is missing counts as not converged.
    """
    rows = {formula: row for row, formula in enumerate(formulas)}
    shape = (len(formulas), n)
    trials = Trials(
        np.zeros(shape, dtype=bool),
        np.full(shape, np.inf),
        np.zeros(shape, dtype=bool),
        np.zeros(shape),
        np.zeros(shape),
    )
    taken: dict[str, int] = {}
    for record in sorted(records, key=lambda record: (record.formula_units, record.index)):
        row, column = rows[record.reduced_formula], taken.get(record.reduced_formula, 0)
        taken[record.reduced_formula] = column + 1
        trials.n_steps[row, column] = record.n_steps
        trials.seconds[row, column] = record.generate_seconds + record.relax_seconds
        if record.converged and record.enthalpy_per_atom is not None:
            trials.converged[row, column] = True
            trials.energies[row, column] = record.enthalpy_per_atom
            trials.found[row, column] = record.rms_dist is not None
    return trials


def collect_all(
    records: Sequence[Record], generators: Sequence[str], formulas: Sequence[str], n: int
) -> dict[str, Trials]:
    """The trials of each generator; see `collect`."""
    return {name: collect([r for r in records if r.generator == name], formulas, n) for name in generators}


def outcomes(trials: Trials, known: FloatArray) -> dict[str, Any]:
    """What one generator reached, by composition.

    Args:
        trials: Its candidates.
        known: Energy of each composition's known structure, relaxed by the same potential, eV/atom; NaN where there is
            none, and these are left out of what is asked about known structures. (c,)
    """
    there = ~np.isnan(known)
    return {
        "composition_convergence_rate": share(trials.converged.any(-1)),
        "found": share(trials.found[there].any(-1)),
        "reached": share(trials.reached(known)[there].any(-1)),
    }


def rates(trials: Trials, known: FloatArray) -> dict[str, Any]:
    """`outcomes`, and how often and at what cost candidates succeed."""
    n = trials.converged.shape[1]
    there = ~np.isnan(known)
    found = trials.found_after()[there]
    tries = first_success(trials.reached(known)[there])
    return outcomes(trials, known) | {
        "structure_convergence_rate": estimate(trials.converged.mean(-1)),
        **{f"found_at_{k}": share(found[:, k - 1]) for k in sorted({1, min(10, n), n})},
        "hit_rate": estimate(trials.found[there].mean(-1)),
        "tries_to_success": estimate(tries),
        "steps_to_success": estimate(_until(trials.n_steps[there], tries)),
        "seconds_to_success": estimate(_until(trials.seconds[there], tries)),
        "median_n_steps": float(np.median(trials.n_steps[trials.converged])) if trials.converged.any() else None,
        "seconds_per_structure": float(trials.seconds.mean()),
    }


def first_success(successes: BoolArray) -> FloatArray:
    """Tries until the first success, counted from 1; all of them where there is none. (c, n) -> (c,)."""
    n = successes.shape[1]
    return np.where(successes.any(-1), successes.argmax(-1) + 1.0, float(n))


def _until(costs: FloatArray, tries: FloatArray) -> FloatArray:
    """Sum of the costs up to these tries. (c, n), (c,) -> (c,)."""
    return np.asarray(np.take_along_axis(costs.cumsum(-1), tries.astype(int)[:, None] - 1, -1)[:, 0])


def differences(ours: Trials, theirs: Trials) -> dict[str, Any]:
    """Delta E_f of the lowest structures and the reduction rate (arXiv:2311.09235, per-composition formation energy).

    The p-values are of the Wilcoxon signed-rank test of the differences, and of McNemar's exact test of which side
    converged at all.
    """
    both = np.isfinite(ours.lowest) & np.isfinite(theirs.lowest)
    deltas = ours.lowest[both] - theirs.lowest[both]
    clear = np.abs(deltas) > TIE
    only_ours = int((np.isfinite(ours.lowest) & ~np.isfinite(theirs.lowest)).sum())
    only_theirs = int((~np.isfinite(ours.lowest) & np.isfinite(theirs.lowest)).sum())
    return {
        "delta_e_f": estimate(deltas),
        "median_delta_e_f": estimate(deltas, np.median),
        "reduction_rate": share(deltas < 0),
        "clear_reduction_rate": share(deltas[clear] < 0),
        "lower": int((deltas < -TIE).sum()),
        "tied": int((~clear).sum()),
        "higher": int((deltas > TIE).sum()),
        "p_delta_e_f": _wilcoxon(deltas[clear]),
        "only_ours_converged": only_ours,
        "only_theirs_converged": only_theirs,
        "p_converged": _sign_test(only_ours, only_theirs),
    }


def speed_up(ours: Trials, theirs: Trials, known: FloatArray) -> dict[str, Any]:
    """How many times fewer tries we need to reach the known structures: ratio of the mean tries.

    A search that never reaches its structure counts with all its tries, as if the next one would: the ratio is too near
    to 1 where the worse side fails more often, and says nothing where both mostly fail.
    """
    there = ~np.isnan(known)
    tries = np.stack([first_success(side.reached(known)[there]) for side in (ours, theirs)], axis=-1)
    return estimate(tries, _ratio_of_means)


def _ratio_of_means(pairs: FloatArray, axis: int) -> FloatArray:
    means = pairs.mean(axis)
    return np.asarray(means[..., 1] / means[..., 0])


def _wilcoxon(deltas: FloatArray) -> float | None:
    return float(stats.wilcoxon(deltas).pvalue) if len(deltas) else None


def _sign_test(ours: int, theirs: int) -> float | None:
    return float(stats.binomtest(ours, ours + theirs).pvalue) if ours + theirs else None


def above_best(trials: Mapping[str, Trials], known: FloatArray) -> dict[str, FloatArray]:
    """Lowest energy of each generator above the best of all, the known structure among them, eV/atom. (c,) each."""
    best = np.fmin(np.min([one.lowest for one in trials.values()], axis=0), known)
    with np.errstate(invalid="ignore"):  # nothing converged, nothing known
        return {name: one.lowest - best for name, one in trials.items()}


def common_budget(trials: Mapping[str, Trials]) -> FloatArray:
    """Seconds that the cheapest generator took for each composition, of those that relaxed every candidate. (c,).

    A generator that fails is not cheap. Infinite where none did.
    """
    costs = np.stack([one.seconds.cumsum(-1)[:, -1] for one in trials.values()])  # as `within` adds them up
    worked = np.stack([((one.n_steps > 0) | one.converged).all(-1) for one in trials.values()])
    return np.asarray(np.where(worked, costs, np.inf).min(0))
