from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition, Structure

from unimat_search.records import FailedAttempt, Outcome, Record
from unimat_search.seeded import ARMS, SeededSearch, parents, shares
from unimat_search.testing import check_generator

CELL = Composition("Na2Cl2")


def search(arms: str, **options: Any) -> SeededSearch:
    return SeededSearch(arms=arms, model={"steps": 8}, **options)


def relaxed(structures: list[Structure], energies: list[float]) -> list[Record]:
    return [
        Record(
            f"k{index}",
            "g",
            "NaCl",
            2,
            "Cl2 Na2",
            0,
            index,
            structure,
            True,
            outcome=Outcome.CONVERGED,
            final_structure=structure,
            energy=energy,
            enthalpy=energy,
        )
        for index, (structure, energy) in enumerate(zip(structures, energies, strict=True))
    ]


def structures(generator: SeededSearch, n: int, *, seed: int) -> list[Structure]:
    made = list(generator.generate(CELL, n, seed=seed))
    return [one for one in made if isinstance(one, Structure)]


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_keeps_the_contract_before_and_after_it_has_seen_anything(arm: str) -> None:
    generator = search(arm, adapt=False)
    check_generator(generator, "Na2Cl2")
    first = structures(generator, 4, seed=0)
    generator.observe(relaxed(first, [-10.0, -9.0, -8.0, -7.0]))
    made = structures(generator, 4, seed=3)
    assert {one.properties["origin"] for one in made} == {arm}
    assert all(one.composition == CELL for one in made)
    assert structures(generator, 4, seed=3) == made
    assert structures(generator, 4, seed=4) != made


def test_an_arm_that_cannot_make_anything_is_charged() -> None:
    """Its failures say whose they are, and its share falls."""
    generator = search("cell airss", airss={"separation": 9.0, "slack_growth": 0.0})
    generator.observe(())
    made = list(generator.generate(CELL, 4, seed=0))
    failed = [one for one in made if isinstance(one, FailedAttempt)]
    assert {one.origin for one in failed} == {"cell", "airss"}
    record = relaxed([Structure(np.eye(3), ["Na"], [[0, 0, 0]])], [-1.0])[0]
    failure = replace(record, origin="airss", outcome=Outcome.GENERATOR_FAILED, final_structure=None, energy=None)
    first, second = shares([failure] * 8, ("cell", "airss"))
    assert first > second


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rounds": 0}, "rounds must be a whole number of 4 or more, got 0"),
        ({"rounds": 3}, "rounds must be a whole number of 4 or more, got 3"),
        ({"rounds": 0, "adapt": False}, "rounds must be a whole number of 1 or more, got 0"),
        ({"adapt": "no"}, "adapt must be true or false, got 'no'"),
        ({"repair": 1.0}, "repair must be a time from 0 to less than 1, got 1.0"),
        ({"hop": [0.5, -1]}, "hop must be a time from 0 to less than 1, got -1"),
        ({"hop": "abc"}, "hop must be a time"),
        ({"hop": []}, "hop must name a time"),
        ({"shake": -1.0}, "amplitude must be 0 or more"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SeededSearch(**options)


@pytest.mark.parametrize("arm", ["hop", "shake"])
def test_what_learns_starts_with_samples_and_stays_near_what_is_low(arm: str) -> None:
    generator = search(arm, hop=(0.9,), shake=0.1, strain=0.01)
    generator.observe(())
    first = structures(generator, 4, seed=0)
    assert {one.properties["origin"] for one in first} == {"sample"}
    generator.observe(relaxed(first[:1], [-10.0]))
    (near,) = structures(generator, 1, seed=5)
    assert near.volume == pytest.approx(first[0].volume, rel=0.3)


def test_arms_take_turns() -> None:
    generator = search("sample airss repair", adapt=False)
    generator.observe(())
    assert [one.properties["origin"] for one in structures(generator, 7, seed=0)] == [
        *("sample", "airss", "repair") * 2,
        "sample",
    ]


def test_an_element_that_the_model_never_saw_is_left_to_random_search() -> None:
    generator = search("sample hop airss")
    generator.observe(())
    assert generator.unimat.unseen(Composition("RnO2")) == ["Rn"]
    made = list(generator.generate(Composition("Rn2O4"), 4, seed=0))
    assert {one.properties["origin"] for one in made if isinstance(one, Structure)} == {"airss"}
    assert not [one for one in made if isinstance(one, FailedAttempt)]


def test_parents_are_low_distinct_and_relaxed() -> None:
    made = structures(search("airss"), 7, seed=0)
    records = relaxed(made, [-4.0, -10.0, -9.999, -9.0, -8.0, -7.0, -20.0])
    records[-1] = replace(records[-1], outcome=Outcome.NOT_CONVERGED)
    chosen = parents(records)
    assert [made.index(one) for one in chosen] == [1, 3, 4, 5]
    assert parents(()) == []


def brought(*tries: tuple[str, float, int]) -> list[Record]:
    """Records of arms, total energies and steps."""
    return [
        replace(record, origin=arm, n_steps=steps)
        for record, (arm, _, steps) in zip(
            relaxed([Structure(np.eye(3), ["Na"], [[0, 0, 0]])] * len(tries), [energy for _, energy, _ in tries]),
            tries,
            strict=True,
        )
    ]


def test_arms_that_nobody_tried_have_equal_shares() -> None:
    assert shares([], ("sample", "hop")).tolist() == [0.5, 0.5]


def test_the_arm_that_finds_low_structures_gets_more() -> None:
    seen = brought(("sample", -10.0, 30), ("hop", -12.0, 30), ("hop", -12.4, 30), ("sample", -9.0, 30))
    first, second = shares(seen, ("sample", "hop"))
    assert second > first


def test_the_same_structure_again_brings_nothing() -> None:
    once = brought(("hop", -12.0, 30), ("sample", -12.0, 30))
    first, second = shares(once, ("sample", "hop"))
    assert second > first


def test_dear_candidates_bring_less() -> None:
    seen = brought(("hop", -12.0, 300), ("sample", -12.1, 20))
    first, second = shares(seen, ("sample", "hop"))
    assert first > second


@given(st.lists(st.tuples(st.sampled_from(sorted(ARMS)), st.floats(-20, 20), st.integers(0, 500)), max_size=20))
def test_shares_are_shares(tries: list[tuple[str, float, int]]) -> None:
    got = shares(brought(*tries), tuple(ARMS))
    assert got.sum() == pytest.approx(1.0)
    assert (got > 0).all()


def test_a_search_that_adapts_hands_out_the_shares() -> None:
    generator = search("sample airss hop shake", adapt=True)
    generator.observe(())
    assert generator.choose(5) == ["sample", "airss", "hop", "shake", "sample"]
    generator.observe(brought(*[("hop", -12.0 - k / 50, 10) for k in range(8)]))
    chosen = generator.choose(8)
    assert len(chosen) == 8
    assert chosen.count("hop") > 2
    assert generator.choose(8) == chosen


def test_unknown_arms_are_named() -> None:
    with pytest.raises(ValueError, match=r"some of sample repair cell airss shake hop, got 'sample guess'"):
        SeededSearch(arms="sample guess")
