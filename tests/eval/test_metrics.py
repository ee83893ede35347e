from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimat_search.eval import metrics
from unimat_search.records import Outcome, Record


def record(index: int = 0, energy: float | None = None, outcome: Outcome = Outcome.CONVERGED, **more: Any) -> Record:
    """A row of a 2-atom cell; `energy` in eV/atom."""
    total = None if energy is None else 2 * energy
    return Record(
        f"g/NaCl/0/{index}", "g", "NaCl", 1, "Cl1 Na1", 0, index,
        outcome=outcome, energy=total, enthalpy=total, formation_energy_per_atom=energy, **more,
    )  # fmt: skip


def test_nothing_has_no_rate() -> None:
    assert metrics.rate(0, 0) is None
    assert metrics.summarise_records([])["convergence_rate"] is None
    assert metrics.summarise_deltas([])["reduction_rate"] is None


def test_lowest_ignores_what_did_not_converge() -> None:
    rows = [record(0, -5.0, Outcome.UNPHYSICAL_ENERGY), record(1, -1.0), record(2, -2.0), record(3, None)]
    best = metrics.lowest(rows)
    assert best is not None
    assert best.index == 2
    assert metrics.lowest(rows[:1]) is None


def test_delta_is_negative_where_the_generator_is_lower() -> None:
    ours, theirs = [record(0, -2.0), record(1, -1.0)], [record(0, -1.5)]
    assert metrics.delta_e_f(ours, theirs) == pytest.approx(-0.5)
    assert metrics.delta_e_f(theirs, ours) == pytest.approx(0.5)
    assert metrics.delta_e_f(ours, []) is None
    assert metrics.delta_e_f([], ours) is None


def test_deltas_over_compositions() -> None:
    summary = metrics.summarise_deltas([-0.5, -0.001, 0.004, 0.2])
    assert summary["n_pairs"] == 4
    assert summary["delta_e_f"] == pytest.approx(-0.07425)
    assert summary["median_delta_e_f"] == pytest.approx(0.0015)
    assert summary["reduction_rate"] == 0.5
    assert summary["tie_rate"] == 0.5


def test_records_in_numbers() -> None:
    rows = [
        record(0, -1.0, valid=True, n_steps=10, relax_seconds=1.0, generate_seconds=0.1),
        record(1, -2.0, valid=True, n_steps=30, relax_seconds=3.0, generate_seconds=0.3),
        record(2, None, Outcome.EXPLODED, valid=True, n_steps=500, relax_seconds=8.0),
        record(3, None, Outcome.GENERATOR_FAILED),
    ]
    summary = metrics.summarise_records(rows)
    assert summary["n_generated"] == 4
    assert summary["n_valid"] == 3
    assert summary["n_converged"] == 2
    assert summary["convergence_rate"] == 0.5
    assert summary["formation_energy_per_atom"] == -2.0
    assert summary["median_formation_energy_per_atom"] == -1.5
    assert summary["median_n_steps"] == 20
    assert summary["failures"] == {"exploded": 1, "generator_failed": 1}
    assert summary["relax_seconds_per_structure"] == 4.0
    assert summary["generate_seconds_per_structure"] == pytest.approx(0.1)


def test_a_missing_reference_empties_formation_energies_only() -> None:
    rows = [record(0, None), record(1, None)]
    summary = metrics.summarise_records(rows)
    assert summary["formation_energy_per_atom"] is None
    assert summary["convergence_rate"] == 1.0


def test_matches() -> None:
    rows = [record(0, -1.0), record(1, -2.0, rms_dist=0.2), record(2, -2.0, rms_dist=0.1), record(3)]
    assert metrics.summarise_matches(rows) == {
        "found": True,
        "n_matched": 2,
        "first_match": 2,
        "rms_dist": 0.1,
    }
    assert metrics.summarise_matches(rows[:1])["first_match"] is None


@given(st.lists(st.floats(-3, 1), min_size=1, max_size=20), st.randoms())
def test_metrics_do_not_depend_on_the_order_of_rows(energies: list[float], shuffle: random.Random) -> None:
    rows = [record(i, energy) for i, energy in enumerate(energies)]
    shuffled = rows.copy()
    shuffle.shuffle(shuffled)
    before, after = metrics.summarise_records(rows), metrics.summarise_records(shuffled)
    for key in ("n_converged", "formation_energy_per_atom", "median_formation_energy_per_atom"):
        assert before[key] == after[key]
    assert metrics.delta_e_f(shuffled, rows) == 0


def test_overall_counts_compositions() -> None:
    entries: list[dict[str, Any]] = [
        {"n_converged": 3, "delta_e_f": -0.5, "e_above_hull": -0.01, "found": True, "rms_dist": 0.1},
        {"n_converged": 0, "delta_e_f": None, "e_above_hull": None, "found": False, "rms_dist": None},
        {"n_converged": 1, "delta_e_f": 0.1, "e_above_hull": 0.02},
    ]
    tally = metrics.Overall()
    for entry, rows in zip(entries, ([record(0, -1.0)], [], []), strict=True):
        tally.add({"convergence_rate": None} | entry, rows)
    overall = tally.summary()
    assert overall["composition_convergence_rate"] == pytest.approx(2 / 3)
    assert overall["reduction_rate"] == 0.5
    assert overall["match_rate"] == 0.5
    assert overall["n_known_compositions"] == 2
    assert overall["n_hull_distances"] == 2
    assert [overall[name] for name in metrics.HULL_COUNTS] == [1, 1, 2, 2]
    assert "formation_energy_per_atom" not in overall
    assert overall["convergence_rate_interval"] is None


def test_the_interval_of_all_structures_is_over_compositions() -> None:
    """Two of a hundred compositions fail in all of their fifty structures: those are two failures, not a hundred."""
    tally = metrics.Overall()
    for failed in [True] * 2 + [False] * 98:
        rows = [record(i, -1.0, Outcome.NOT_CONVERGED if failed else Outcome.CONVERGED) for i in range(50)]
        tally.add({"e_above_hull": None, "delta_e_f": None} | metrics.summarise_records(rows), rows)
    low, high = tally.summary()["convergence_rate_interval"]
    assert low == pytest.approx(0.95, abs=0.011)
    assert high == 1.0


def test_lowest_goes_by_enthalpy() -> None:
    """3 atoms under 50 GPa: -12 eV at 60 cubic angstrom are worth less than -11 eV at 50."""
    loose, dense = replace(record(0, -4.0), enthalpy=6.7), replace(record(1, -3.7), enthalpy=4.6)
    assert metrics.lowest([loose, dense]) is dense
    assert metrics.delta_e_f([dense], [loose]) == pytest.approx(-1.05)
