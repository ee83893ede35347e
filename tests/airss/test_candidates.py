from __future__ import annotations

from itertools import product

import moyopy
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pymatgen.core import Structure

from unimat_search.airss.candidates import Wish, build_arrays, build_structures, make_plan
from unimat_search.airss.settings import ORDERS, BuildSettings
from unimat_search.airss.symmetry import space_group
from unimat_search.records import FailedAttempt

SILICA = np.array([[3.0, 1.6], [1.6, 2.58]])
"""Si-Si, Si-O, O-O of the original's own example, angstrom."""

IMAGES = np.array(list(product(range(-2, 3), repeat=3)))


def wishes(count: int, volume: float, separations: NDArray[np.float64], seed: int = 0) -> list[Wish]:
    return [Wish(np.random.default_rng([seed, k]), (0.95 * volume, 1.05 * volume), separations) for k in range(count)]


def nearest(lattice: NDArray[np.float64], coords: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each atom to the nearest image of each other, over 5 x 5 x 5 cells. (n, n)."""
    vectors = (coords[:, None, None] - coords[None, :, None] + IMAGES) @ lattice
    distances = np.linalg.norm(vectors, axis=-1)
    distances[distances < 1e-9] = np.inf
    return np.asarray(distances.min(-1))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.sampled_from(ORDERS),
    st.sampled_from([0, 1, None]),
    st.floats(0, 0.3),
)
def test_laws_of_what_is_built(seed: int, counts: list[int], order: int, extra: int | None, slack: float) -> None:
    """Composition, volume window, separations, symmetry."""
    rng = np.random.default_rng(seed)
    separations = rng.uniform(1.5, 3.0, (len(counts), len(counts)))
    separations = (separations + separations.T) / 2
    volume = 14.0 * sum(counts)
    plan = make_plan(
        tuple(counts), BuildSettings(operations=(order, order), extra_sites=extra, slack=slack, budget=2_000_000)
    )
    assume(plan is not None)
    assert plan is not None
    built = build_arrays(plan, wishes(4, volume, separations, seed))
    for group, lattice, coords, species, lost in zip(
        built.groups, built.lattices, built.coords, built.species, built.slacks, strict=True
    ):
        if group < 0:
            continue
        assert np.bincount(species, minlength=len(counts)).tolist() == counts
        assert 0.95 * volume <= np.linalg.det(lattice) <= 1.05 * volume * (1 + 1e-9)
        assert ((coords >= 0) & (coords < 1)).all()
        assert lost == slack
        assert (nearest(lattice, coords) >= (1 - lost) * separations[np.ix_(species, species)] - 1e-6).all()
        found = moyopy.MoyoDataset(moyopy.Cell(lattice.tolist(), coords.tolist(), (species + 1).tolist()), symprec=1e-4)
        assert len(found.operations) % order == 0
        if len(found.operations) == order:
            assert found.number == plan.groups.numbers[group]


def test_the_groups_drawn_are_found_again() -> None:
    """On general positions alone a structure has the group that was drawn."""
    plan = make_plan((8, 8), BuildSettings(operations=(4, 4), extra_sites=0))
    assert plan is not None
    built = build_arrays(plan, wishes(40, 300.0, np.full((2, 2), 1.5)))
    numbers = plan.groups.numbers[built.groups]
    found = [
        moyopy.MoyoDataset(moyopy.Cell(cell.tolist(), coords.tolist(), kinds.tolist()), symprec=1e-4).number
        for cell, coords, kinds in zip(built.lattices, built.coords, built.species, strict=True)
    ]
    assert (built.groups >= 0).all()
    assert np.mean(np.array(found) == numbers) > 0.9
    assert len({*numbers.tolist()}) > 15
    assert {space_group(number).order for number in numbers.tolist()} == {4}


def test_groups_are_drawn_evenly_or_by_the_count_of_operations() -> None:
    """Of 57 groups with two to four operations four have three: 7 %, but a third of what the original draws."""
    shares = {}
    for by_count in (False, True):
        plan = make_plan((12,), BuildSettings(operations=(2, 4), by_count=by_count, extra_sites=None))
        assert plan is not None
        built = build_arrays(plan, wishes(600, 600.0, np.array([[1.0]])))
        drawn = plan.groups.numbers[built.groups]
        shares[by_count] = np.mean([space_group(number).order == 3 for number in drawn.tolist()])
    assert shares[False] == pytest.approx(4 / 57, abs=0.04)
    assert shares[True] == pytest.approx(1 / 3, abs=0.07)


def test_groups_are_as_frequent_as_each_other_where_the_group_is_held() -> None:
    """YAl3's twelve atoms hardly fit into most groups with many operations; with slack that grows they do in time."""
    shares = {}
    for persistence in (1, 100_000):
        options = BuildSettings((1, 48), extra_sites=None, slack_growth=0.01, persistence=persistence)
        plan = make_plan((9, 3), options)
        assert plan is not None
        built = build_arrays(plan, wishes(400, 180.0, np.array([[2.6, 2.7], [2.7, 3.3]])))
        drawn = plan.groups.numbers[built.groups].tolist()
        shares[persistence] = np.mean([space_group(number).order >= 12 for number in drawn])
        possible = np.mean([space_group(number).order >= 12 for number in plan.groups.numbers.tolist()])
    assert shares[1] < 0.6 * possible
    assert shares[100_000] == pytest.approx(possible, abs=0.08)


def test_a_structure_does_not_depend_on_the_batch() -> None:
    plan = make_plan((2, 4), BuildSettings(operations=(1, 8)))
    assert plan is not None
    together = build_arrays(plan, wishes(6, 70.0, SILICA))
    alone = [build_arrays(plan, [wish]) for wish in wishes(6, 70.0, SILICA)]
    assert np.array_equal(together.coords, np.concatenate([one.coords for one in alone]))
    assert np.array_equal(together.lattices, np.concatenate([one.lattices for one in alone]))


def test_overlap_is_relieved_under_symmetry_and_with_the_cell() -> None:
    """Separations that slack lets go are won back by the soft spheres, and more of them where the cell adapts."""
    kept = {}
    for adapt in (False, True):
        options = BuildSettings(operations=(2, 4), slack=0.3, overlap=0.1, adapt=adapt)
        plan = make_plan((4, 8), options)
        assert plan is not None
        built = build_arrays(plan, wishes(30, 140.0, SILICA))
        assert (built.groups >= 0).all()
        ratios = [
            (nearest(cell, coords) / SILICA[np.ix_(kinds, kinds)]).min()
            for cell, coords, kinds in zip(built.lattices, built.coords, built.species, strict=True)
        ]
        assert min(ratios) > 0.9  # an energy of 0.1 an atom
        assert np.linalg.det(built.lattices) == pytest.approx(140.0, rel=0.051)
        kept[adapt] = built.work.mean()
        for group, cell, coords, kinds in zip(built.groups, built.lattices, built.coords, built.species, strict=True):
            found = moyopy.MoyoDataset(moyopy.Cell(cell.tolist(), coords.tolist(), kinds.tolist()), symprec=1e-3)
            assert len(found.operations) >= space_group(int(plan.groups.numbers[group])).order
    assert kept[True] != kept[False]


def test_shaking_what_is_left_ends_in_relieved_structures() -> None:
    """It takes the place of new draws, which are the better use of the same work: both get there."""
    made = {}
    for rash in (0.0, 0.5):
        options = BuildSettings(slack=0.5, overlap=0.01, rash=rash, budget=200_000)
        plan = make_plan((4, 8), options)
        assert plan is not None
        built = build_arrays(plan, wishes(40, 122.0, SILICA))
        made[rash] = built.groups >= 0
        for cell, coords, kinds in zip(
            *(x[made[rash]] for x in (built.lattices, built.coords, built.species)), strict=True
        ):
            assert (nearest(cell, coords) / SILICA[np.ix_(kinds, kinds)]).min() > 0.96
    assert 10 < made[0.5].sum() < made[0.0].sum()


def test_rejection_without_pushes() -> None:
    plan = make_plan((4,), BuildSettings(push=False))
    assert plan is not None
    built = build_arrays(plan, wishes(5, 200.0, np.array([[2.0]])))
    assert (built.groups >= 0).all()
    for cell, coords in zip(built.lattices, built.coords, strict=True):
        assert nearest(cell, coords).min() >= 2.0


def test_the_impossible_ends_with_a_reason() -> None:
    make_plan((1,), BuildSettings())
    build_structures(["Al"], [1], wishes(1, 20.0, np.array([[1.0]])), BuildSettings())  # compiles
    cases = {
        "can't keep 5.00 angstrom apart in": (["Al"], [8], 100.0, np.array([[5.0]]), BuildSettings()),
        "no space group has sites for": (["Al"], [5], 60.0, np.array([[1.0]]), BuildSettings(groups=(225,))),
        "no room for": (["Al"], [8], 100.0, np.array([[2.6]]), BuildSettings(budget=1_000_000)),
    }
    for reason, (symbols, counts, volume, separations, options) in cases.items():
        (result,) = build_structures(symbols, counts, wishes(1, volume, separations), options)
        assert isinstance(result, FailedAttempt)
        assert reason in result.reason
        assert "\n" not in result.reason


def test_structures_are_right_handed_and_sorted() -> None:
    (structure,) = build_structures(["O", "Si"], [4, 2], wishes(1, 70.0, SILICA[::-1, ::-1]), BuildSettings())
    assert isinstance(structure, Structure)
    assert [site.specie.symbol for site in structure] == ["O"] * 4 + ["Si"] * 2
    assert np.linalg.det(structure.lattice.matrix) > 0


@pytest.mark.parametrize(
    "options",
    [
        {"operations": (0, 4)},
        {"operations": (5, 5)},
        {"operations": (4, 2)},
        {"groups": (231,)},
        {"rank": (3, 2)},
        {"slack": 1.0},
        {"overlap": -0.1},
        {"budget": 0},
        {"extra_sites": -1},
    ],
)
def test_bad_settings_are_named(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"operations|groups|rank|slack|overlap|budget|extra_sites"):
        BuildSettings(**options)  # type: ignore[arg-type]


def test_choices_of_space_groups() -> None:
    assert BuildSettings().space_groups() == (1,)
    assert len(BuildSettings(operations=(2, 4)).space_groups()) == 57
    assert len(BuildSettings(operations=(1, 48), chiral=True).space_groups()) == 65
    assert set(BuildSettings(operations=(1, 48), symmorphic=True).space_groups()) >= {1, 2, 3, 225, 229}
    assert len(BuildSettings(operations=(1, 48), symmorphic=True).space_groups()) == 73
    assert len(BuildSettings(operations=(1, 48), rank=(1, 20)).space_groups()) == 20
    cubic = BuildSettings(operations=(1, 48), constraints=(-1, -1, -1, 90, 90, 90)).space_groups()
    assert {1, 16, 195, 225} <= set(cubic)
    assert 143 not in cubic
    with pytest.raises(ValueError, match="no space group is left"):
        BuildSettings(operations=(48, 48), chiral=True).space_groups()
