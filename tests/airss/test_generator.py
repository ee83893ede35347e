from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.airss import RandomSearch, paper, standard, wide
from unimat_search.airss.knowledge import expect_from_radii, expect_from_table
from unimat_search.eval.sanity import structure_problem
from unimat_search.fingerprint import neighbour_pairs
from unimat_search.records import FailedAttempt
from unimat_search.registry import Spec, load
from unimat_search.testing import check_generator

CHGNET_ELEMENTS = [
    *("H", "Li", "Be", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca", "Ti", "Mn", "Fe"),
    *("Cu", "Zn", "Ga", "As", "Se", "Br", "Rb", "Sr", "Y", "Ag", "In", "Sn", "I", "Cs", "Ba", "Tb", "W", "Au", "U"),
]


@st.composite
def cells(draw: st.DrawFn) -> Composition:
    """Any composition of 1 to 20 atoms."""
    symbols = draw(st.lists(st.sampled_from(CHGNET_ELEMENTS), min_size=1, max_size=5, unique=True))
    counts = draw(st.lists(st.integers(1, 4), min_size=len(symbols), max_size=len(symbols)))
    return Composition(dict(zip(symbols, counts, strict=True)))


@pytest.mark.parametrize("make", [RandomSearch, standard, paper, wide])
def test_the_contract(make: type[RandomSearch]) -> None:
    check_generator(make(), "Sr2Ti2O6", n=6)


@settings(max_examples=40, deadline=None)
@given(cells(), st.integers(0, 2**31))
def test_any_composition_gives_sensible_cells(composition: Composition, seed: int) -> None:
    for structure in RandomSearch().generate(composition, 2, seed=seed):
        if isinstance(structure, FailedAttempt):
            assert "no space group" in structure.reason or composition.num_atoms > 4
            continue
        assert structure.composition == composition
        assert 0.95 <= structure.volume / expect_from_table(composition).volume <= 1.05 + 1e-9
        assert structure_problem(structure) is None


def test_separations_are_kept_but_for_the_slack() -> None:
    composition = Composition("Na4Cl4")
    expected = expect_from_table(composition)
    search = RandomSearch(operations="1-48", extra_sites="any", slack_growth=0.0, separation=0.9)
    for structure in search.generate(composition, 20, seed=0):
        assert isinstance(structure, Structure)
        kinds = [["Cl", "Na"].index(site.specie.symbol) for site in structure]
        allowed = 0.9 * expected.separations[np.ix_(kinds, kinds)]
        centers, neighbors, distances = neighbour_pairs(structure.lattice.matrix, structure.cart_coords, 6.0)
        assert (distances > allowed[centers, neighbors] - 1e-6).all()


def test_a_range_of_separations_is_drawn_for_each_pair() -> None:
    def nearest(search: RandomSearch) -> list[float]:
        structures = search.generate(Composition("Al4"), 40, seed=0)
        return [min(s.get_distance(i, j) for i in range(4) for j in range(i)) for s in structures]  # type: ignore[union-attr]

    wide = nearest(RandomSearch(operations=1, separation="0.5-1.0", volume=1.5))
    narrow = nearest(RandomSearch(operations=1, separation="1.0", volume=1.5))
    assert min(wide) < 0.9 * min(narrow)


@given(st.integers(0, 2**31), st.integers(1, 20))
def test_structure_k_does_not_depend_on_how_many_are_asked_for(seed: int, n: int) -> None:
    search = RandomSearch()
    few = list(search.generate(Composition("Ti2O4"), n, seed=seed))
    many = list(search.generate(Composition("O4Ti2"), n + 3, seed=seed))
    assert few == many[:n]


def test_presets_are_columns_of_a_comparison() -> None:
    for name in ("airss", "airss:standard", "airss:paper", "airss:wide"):
        search = load("generators", Spec.parse(f"{name},operations=2"))
        assert search.settings.operations == (2, 2)


def test_the_papers_volumes_reach_from_dense_to_loose() -> None:
    composition = Composition("Mg4O4")
    volumes = [s.volume for s in paper().generate(composition, 40, seed=0) if isinstance(s, Structure)]
    assert len(volumes) == 40
    ratios = np.array(volumes) / expect_from_radii(composition).volume
    assert 0.4 <= ratios.min() < 0.5
    assert 1.1 < ratios.max() <= 1.2 + 1e-9


def test_examples_say_volume_and_separations(tmp_path: Path) -> None:
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(6.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0, 0]])
    salt.to(str(tmp_path / "salt.cif"))
    search = RandomSearch(like=str(tmp_path), separation=1.0, operations=1, volume=1.6, slack_growth=0.0)
    (structure,) = search.generate(Composition("Na2Cl2"), 1, seed=0)
    assert isinstance(structure, Structure)
    assert structure.volume == pytest.approx(1.6 * 2 * 54.0)
    assert structure.get_neighbors(structure[0], 2.99) == []


def test_space_groups_by_number() -> None:
    assert load("generators", Spec.parse("airss,groups=225")).settings.groups == (225,)
    assert RandomSearch(groups=[14, 62]).settings.groups == (14, 62)


def test_space_group_ranks() -> None:
    search = RandomSearch(operations="1-48", rank=10)
    assert len(search.settings.space_groups()) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operations": 0}, "operations"),
        ({"operations": "5"}, "operations must be"),
        ({"operations": "4-2"}, "range '4-2' is empty"),
        ({"operations": "two"}, "no number"),
        ({"volume": 0.0}, "volume must be positive"),
        ({"volume": "2-1"}, "empty"),
        ({"separation": 0.0}, "separation must be positive"),
        ({"expect": "hope"}, "table or radii"),
        ({"like": "/nowhere"}, "does not exist"),
        ({"extra_sites": "some"}, "extra_sites must be"),
        ({"colour": 1}, "unknown option 'colour'"),
        ({"step": "fast"}, "step must be a number"),
        ({"chiral": "no"}, "chiral must be true or false"),
        ({"budget": 1.5}, "budget must be a whole number"),
        ({"constraints": 5}, "six numbers"),
        ({"groups": "x"}, "no number"),
        ({"operations": 48, "chiral": True}, "no space group is left"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomSearch(**options)  # type: ignore[arg-type]
