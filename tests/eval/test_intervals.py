from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from unimat_search.eval.intervals import FEWEST, curve, estimate, interval, interval_of_mean, share, wilson_interval

INF = np.inf


@given(st.integers(1, 500), st.data())
def test_wilson_interval_is_scipys(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_nothing_has_no_interval() -> None:
    assert wilson_interval(0, 0) is None
    assert interval_of_mean([]) is None
    assert estimate(np.zeros(0)) == {"value": None, "interval": None, "n": 0}
    assert share([]) == {"value": None, "interval": None, "n": 0}


def test_estimates_hold_what_they_estimate_and_repeat() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, 200)
    first = estimate(values)
    low, high = first["interval"]
    assert low < first["value"] < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(200), rel=0.1)
    assert estimate(values) == first


@pytest.mark.parametrize("values", [[-0.1], [0.1, 0.4, 0.2, 0.3], [1.0] * 100])
def test_too_few_and_equal_values_have_no_bootstrap(values: list[float]) -> None:
    """Their resamples differ too little to say anything."""
    assert interval(np.array(values)) is None
    assert interval_of_mean(values) is None
    assert estimate(np.array(values))["value"] == pytest.approx(np.mean(values))


@given(st.lists(st.integers(0, 10), min_size=FEWEST, max_size=200).filter(lambda one: len(set(one)) > 1))
def test_both_bootstraps_of_a_mean_agree(tenths: list[int]) -> None:
    values = [tenth / 10 for tenth in tenths]
    spread, step = np.std(values) / np.sqrt(len(values)), 0.1 / len(values)
    assert interval_of_mean(values) == pytest.approx(interval(np.array(values)), abs=0.35 * spread + step)


def test_curves_say_nothing_where_nothing_is_finite() -> None:
    line = curve(np.array([[INF, 1.0], [INF, 3.0], [INF, 1.0], [INF, 2.0], [INF, 2.0]]), np.median)
    assert line == {"middle": [None, 2.0], "low": [None, 1.0], "high": [None, 3.0]}


def test_curves_of_few_compositions_have_no_band() -> None:
    assert curve(np.array([[2.0, 1.0]]), np.median) == {"middle": [2.0, 1.0], "low": [None] * 2, "high": [None] * 2}


def test_curves_of_shares_have_wilsons_band() -> None:
    """Which has a width where all is won or lost."""
    line = curve(np.array([[False, True]] * 4))
    assert line["middle"] == [0.0, 1.0]
    low, high = wilson_interval(4, 4) or (0.0, 0.0)
    assert (line["low"], line["high"]) == ([0.0, low], [pytest.approx(1 - low), high])
