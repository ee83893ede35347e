"""How sure a number is: 95 % intervals over compositions, which are what a repetition would draw anew.

Wilson's for shares, a bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993) for means, medians and
ratios.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

RESAMPLES = 4000

FEWEST = 5
"""Values that a bootstrap needs: of fewer it is hardly more than their range."""


def wilson_interval(successes: int, trials: int) -> tuple[float, float] | None:
    """95 % interval of a rate (Wilson, J. Am. Stat. Assoc. 22, 209 (1927)); None without trials."""
    if trials == 0:
        return None
    rate = successes / trials
    scale = 1 + Z95**2 / trials
    centre = (rate + Z95**2 / (2 * trials)) / scale
    half = Z95 / scale * math.sqrt(rate * (1 - rate) / trials + Z95**2 / (4 * trials**2))
    return (max(0.0, centre - half), min(1.0, centre + half))


def share(rows: ArrayLike) -> dict[str, Any]:
    """Share of compositions with its Wilson interval: a bootstrap of all or nothing would have no width. (c,)."""
    successes = np.asarray(rows, dtype=bool)
    n = len(successes)
    return {
        "value": float(successes.mean()) if n else None,
        "interval": wilson_interval(int(successes.sum()), n),
        "n": n,
    }


def estimate(values: FloatArray, statistic: Callable[..., Any] = np.mean) -> dict[str, Any]:
    """A statistic over compositions, its interval, and how many there are; None where there are none."""
    return {
        "value": float(statistic(values, axis=0)) if len(values) else None,
        "interval": interval(values, statistic),
        "n": len(values),
    }


def interval(values: FloatArray, statistic: Callable[..., Any] = np.mean) -> tuple[float, float] | None:
    """95 % interval of a statistic over compositions; None of fewer than `FEWEST`, and where all are equal.

    Args:
        values: One row for each composition. (c,) or (c, k)
        statistic: Of the values along their first axis (argument `axis`).
    """
    if not _tell_enough(values):
        return None
    rng = np.random.default_rng(0)
    return _quantiles(statistic(values[rng.integers(len(values), size=(RESAMPLES, len(values)))], axis=1))


def interval_of_mean(values: Sequence[float]) -> tuple[float, float] | None:
    """`interval` of a mean, for any number of values of which few differ."""
    if not _tell_enough(np.asarray(values)):
        return None
    distinct, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(values), counts / len(values), size=RESAMPLES)
    return _quantiles(drawn @ distinct / len(values))


def _tell_enough(values: FloatArray) -> bool:
    return len(values) >= FEWEST and bool((values != values[0]).any())


def _quantiles(drawn: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def curve(values: NDArray[Any], statistic: Callable[..., Any] = np.mean) -> dict[str, list[float | None]]:
    """A statistic over compositions after each try, and its band; None where it is not finite. (c, n).

    Truths are shares, with Wilson's band; of fewer than `FEWEST` compositions numbers have none.
    """
    middle = statistic(values, axis=0)
    low, high = _wilson_band(values) if values.dtype == bool else _band(values, statistic)
    lines = {"middle": middle, "low": low, "high": high}
    return {name: [float(y) if np.isfinite(y) else None for y in line] for name, line in lines.items()}


def _wilson_band(values: NDArray[Any]) -> tuple[list[float], list[float]]:
    bounds = [wilson_interval(int(successes), len(values)) or (math.nan, math.nan) for successes in values.sum(0)]
    return [low for low, _ in bounds], [high for _, high in bounds]


def _band(values: FloatArray, statistic: Callable[..., Any]) -> tuple[FloatArray, FloatArray]:
    if len(values) < FEWEST:
        nothing = np.full(values.shape[1], np.nan)
        return nothing, nothing
    rng = np.random.default_rng(0)
    rows = rng.integers(len(values), size=(RESAMPLES // 4, len(values)))
    with np.errstate(invalid="ignore"):
        drawn = np.stack([statistic(values[chosen], axis=0) for chosen in rows])  # all at once is much memory
        low, high = np.quantile(drawn, (0.025, 0.975), axis=0, method="nearest")
    return low, high
