from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimat_search.eval.trials import (
    NEAR_KNOWN,
    Trials,
    above_best,
    collect,
    common_budget,
    differences,
    first_success,
    rates,
    speed_up,
)
from unimat_search.records import Outcome, Record

INF = np.inf


def trials(energies: list[list[float]], *, found: list[list[int]] | None = None, seconds: float = 1.0) -> Trials:
    values = np.array(energies)
    return Trials(
        np.isfinite(values),
        values,
        np.zeros(values.shape, dtype=bool) if found is None else np.array(found, dtype=bool),
        np.full(values.shape, 10.0),
        np.full(values.shape, seconds),
    )


def random_trials(seed: int, compositions: int = 12, tries: int = 6) -> Trials:
    rng = np.random.default_rng(seed)
    energies = np.where(rng.random((compositions, tries)) < 0.8, rng.normal(size=(compositions, tries)), INF)
    found = np.isfinite(energies) & (rng.random(energies.shape) < 0.2)
    return Trials(np.isfinite(energies), energies, found, rng.random(energies.shape) * 50, rng.random(energies.shape))


def test_records_become_rows_and_tries() -> None:
    def record(formula: str, units: int, index: int, energy: float | None, rms: float | None = None) -> Record:
        outcome = Outcome.CONVERGED if energy is not None else Outcome.COLLAPSED
        return Record(
            f"{formula}{units}{index}", "g", formula, units, f"{formula}{units}", 0, index,
            outcome=outcome, enthalpy=energy, n_steps=index, generate_seconds=1.0, relax_seconds=2.0, rms_dist=rms,
        )  # fmt: skip

    made = collect(
        [record("Cu", 2, 0, -8.0), record("Cu", 1, 1, None), record("Cu", 1, 0, -3.5, 0.01), record("Al", 1, 0, -3.0)],
        ["Al", "Cu"],
        4,
    )
    assert made.energies.tolist() == [[-3.0, INF, INF, INF], [-3.5, INF, -4.0, INF]]
    assert made.converged.tolist() == [[True, False, False, False], [True, False, True, False]]
    assert made.found.tolist() == [[False] * 4, [True, False, False, False]]
    assert made.n_steps[1].tolist() == [0, 1, 0, 0]
    assert made.seconds[1].tolist() == [3.0, 3.0, 3.0, 0.0]


def test_rates_of_a_hand_made_case() -> None:
    """Two compositions, three tries: the first finds its crystal at the second, the other comes near at the third."""
    mine = trials([[0.5, 0.0, INF], [INF, 0.6, 0.2 + NEAR_KNOWN]], found=[[0, 1, 0], [0, 0, 0]])
    got = rates(mine, np.array([0.0, 0.2]))
    assert got["composition_convergence_rate"]["value"] == 1.0
    assert got["structure_convergence_rate"]["value"] == pytest.approx(4 / 6)
    assert [got[f"found_at_{k}"]["value"] for k in (1, 3)] == [0.0, 0.5]
    assert got["hit_rate"]["value"] == pytest.approx(1 / 6)
    assert got["reached"]["value"] == 1.0
    assert got["tries_to_success"]["value"] == 2.5
    assert got["steps_to_success"]["value"] == 25.0
    assert got["seconds_to_success"]["value"] == 2.5


def test_compositions_without_a_known_energy_are_left_out_of_what_is_known() -> None:
    mine = trials([[0.0], [5.0]], found=[[1], [0]])
    got = rates(mine, np.array([0.0, np.nan]))
    assert got["found_at_1"] == {"value": 1.0, "interval": pytest.approx((0.2065, 1.0), abs=1e-4), "n": 1}  # Wilson
    assert got["composition_convergence_rate"]["n"] == 2


def test_differences_of_a_hand_made_case() -> None:
    ours = trials([[-1.0], [-2.0], [-3.0], [INF], [-1.0]])
    theirs = trials([[0.0], [-2.001], [-4.0], [-1.0], [INF]])
    got = differences(ours, theirs)
    assert got["delta_e_f"]["n"] == 3
    assert got["delta_e_f"]["value"] == pytest.approx((-1.0 + 0.001 + 1.0) / 3)
    assert got["reduction_rate"]["value"] == pytest.approx(1 / 3)
    assert got["clear_reduction_rate"]["value"] == 0.5
    assert (got["lower"], got["tied"], got["higher"]) == (1, 1, 1)
    assert (got["only_ours_converged"], got["only_theirs_converged"]) == (1, 1)
    assert got["p_converged"] == 1.0


def test_the_signed_rank_test_sees_a_clear_difference() -> None:
    """Eight differences of one sign: 2 / 2^8 (Wilcoxon 1945)."""
    ours = trials([[-1.0 - k / 10] for k in range(8)])
    assert differences(ours, trials([[0.0]] * 8))["p_delta_e_f"] == pytest.approx(2 / 2**8)


def test_a_budget_of_seconds_counts_what_was_done_in_it() -> None:
    mine = trials([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], found=[[0, 0, 1], [0, 0, 1]])
    cut = mine.within(np.array([2.0, 3.0]))
    assert cut.lowest.tolist() == [2.0, 1.0]
    assert cut.found.any(-1).tolist() == [False, True]
    assert cut.seconds.sum(-1).tolist() == [2.0, 3.0]


def test_the_cheapest_generator_keeps_all_its_tries() -> None:
    """Whatever the rounding of its sum."""
    cheap, dear = random_trials(1, 50, 50), trials([[0.0] * 50] * 50, seconds=2.0)
    budget = common_budget({"cheap": cheap, "dear": dear})
    assert (cheap.within(budget).converged == cheap.converged).all()
    assert not dear.within(budget).converged.all()


@pytest.mark.parametrize("relaxed", [0, 1])
def test_a_generator_that_failed_sets_no_budget(relaxed: int) -> None:
    """Also if only some of its candidates did, which makes it cheap."""
    broken = trials([[INF, INF]], seconds=0.1)
    broken.n_steps[:] = [[1] * relaxed + [0] * (2 - relaxed)]
    working = trials([[1.0, 2.0]])
    assert common_budget({"broken": broken, "working": working}).tolist() == [2.0]
    assert common_budget({"broken": broken}).tolist() == [INF]


def test_speed_up_is_a_ratio_of_tries() -> None:
    fast = trials([[0.0, 1.0, 1.0, 1.0]] * 3)
    slow = trials([[1.0, 1.0, 1.0, 0.0]] * 3)
    known = np.zeros(3)
    assert speed_up(fast, slow, known)["value"] == 4.0
    assert speed_up(slow, fast, known)["value"] == 0.25


@given(st.integers(0, 10_000))
def test_laws_of_any_trials(seed: int) -> None:
    one, other = random_trials(seed), random_trials(seed + 1)
    ours, theirs = differences(one, other), differences(other, one)
    assert ours["delta_e_f"]["value"] == pytest.approx(-theirs["delta_e_f"]["value"])
    assert (ours["lower"], ours["higher"]) == (theirs["higher"], theirs["lower"])
    assert ours["p_delta_e_f"] == theirs["p_delta_e_f"]
    best = one.best_after()
    assert (np.diff(np.where(np.isfinite(best), best, 99.0), axis=-1) <= 0).all()
    assert (best[:, -1] == one.lowest).all()
    assert (np.diff(one.found_after().astype(int), axis=-1) >= 0).all()
    above = above_best({"one": one, "other": other}, np.full(12, np.nan))
    assert np.nanmin([above["one"], above["other"]]) == 0.0
    order = np.random.default_rng(seed).permutation(12)
    assert differences(one.take(order), other.take(order))["delta_e_f"]["value"] == pytest.approx(
        ours["delta_e_f"]["value"]
    )


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5))
def test_first_success_is_counted_from_one(successes: list[list[bool]]) -> None:
    expected = [row.index(True) + 1 if any(row) else 4 for row in successes]
    assert first_success(np.array(successes)).tolist() == expected
