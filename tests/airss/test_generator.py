from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Structure

from unimat_search.airss import RandomSearch
from unimat_search.airss.cell import element_volumes, expected_volume
from unimat_search.airss.generator import pair_radii
from unimat_search.eval.sanity import neighbour_pairs, structure_problem
from unimat_search.records import FailedAttempt
from unimat_search.testing import check_generator

CHGNET_ELEMENTS = sorted(set(element_volumes()) - {"Po", "At", "Rn", "Fr", "Ra", "Am", "Cm"})


@st.composite
def cells(draw: st.DrawFn) -> Composition:
    """Any composition of 1 to 20 atoms."""
    symbols = draw(st.lists(st.sampled_from(CHGNET_ELEMENTS), min_size=1, max_size=5, unique=True))
    counts = draw(st.lists(st.integers(1, 4), min_size=len(symbols), max_size=len(symbols)))
    return Composition(dict(zip(symbols, counts, strict=True)))


def test_the_contract() -> None:
    check_generator(RandomSearch(), "Sr2Ti2O6", n=6)


@settings(max_examples=60)
@given(cells(), st.integers(0, 2**31))
def test_any_composition_gives_sensible_cells(composition: Composition, seed: int) -> None:
    search = RandomSearch()
    for structure in search.generate(composition, 2, seed=seed):
        assert isinstance(structure, Structure)
        assert structure.composition == composition
        symbols = [site.specie.symbol for site in structure]
        least = search.least_distances(composition, 0.9 * expected_volume(composition))
        kinds = [sorted({*symbols}).index(symbol) for symbol in symbols]
        allowed = least[np.ix_(kinds, kinds)]
        centers, neighbors, distances = neighbour_pairs(structure.lattice.matrix, structure.cart_coords, 6.0)
        assert (distances > allowed[centers, neighbors] - 1e-4).all()
        assert 0.9 < structure.volume / expected_volume(composition) < 2
        assert structure_problem(structure) is None


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_structure_k_does_not_depend_on_how_many_are_asked_for(seed: int, n: int) -> None:
    search = RandomSearch()
    few = list(search.generate(Composition("Ti2O4"), n, seed=seed))
    many = list(search.generate(Composition("O4Ti2"), n + 3, seed=seed))
    assert few == many[:n]


def test_symmetry_is_there() -> None:
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    search = RandomSearch(min_operations=4, max_operations=4)
    for structure in search.generate(Composition("Ti4O8"), 8, seed=3):
        assert isinstance(structure, Structure)
        rotations = SpacegroupAnalyzer(structure, symprec=1e-4).get_symmetry_operations()
        assert len(rotations) >= 4


def test_p1_has_the_volume_window() -> None:
    search = RandomSearch(max_operations=1, min_volume=1.5, max_volume=1.6)
    expected = expected_volume(Composition("Na2Cl2"))
    for structure in search.generate(Composition("Na2Cl2"), 10, seed=0):
        assert isinstance(structure, Structure)
        assert 1.5 <= structure.volume / expected < 1.6 * 1.01**20


def test_the_impossible_ends_with_a_reason() -> None:
    """48 operations leave no site of multiplicity 1, 2, ... for eleven different elements."""
    search = RandomSearch(min_operations=48, max_operations=48, max_tries=20)
    attempts = list(search.generate(Composition("LiNaKRbCsBeMgCaSrBaAl"), 2, seed=0))
    assert all(isinstance(attempt, FailedAttempt) and "has sites for" in attempt.reason for attempt in attempts)


def test_no_room_ends_with_a_reason() -> None:
    """One try each: some of the draws put atoms where symmetry holds them too near."""
    attempts = list(RandomSearch(max_tries=1).generate(Composition("Tb8Ge8"), 40, seed=0))
    reasons = {attempt.reason for attempt in attempts if isinstance(attempt, FailedAttempt)}
    assert reasons == {"no room for 16 atoms with 1 to 8 symmetry operations in 1 tries"}


def test_dense_metals_find_room_near_their_volume() -> None:
    """Spheres of the covalent radii would fill more than random spheres can."""
    for structure in RandomSearch().generate(Composition("Tb3AcReGe2"), 10, seed=0):
        assert isinstance(structure, Structure)
        assert structure.volume < 1.7 * expected_volume(structure.composition)


@pytest.mark.parametrize(
    "options",
    [
        {"min_operations": 0},
        {"min_operations": 5, "max_operations": 4},
        {"min_operations": 5, "max_operations": 5},
        {"min_volume": 0.0},
        {"min_volume": 2.0, "max_volume": 1.0},
        {"separation": 0.0},
        {"max_tries": 0},
    ],
)
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"operations|volume|separation|max_tries"):
        RandomSearch(**options)  # type: ignore[arg-type]


def test_volumes_are_of_the_right_size_for_well_known_crystals() -> None:
    """Experimental volumes per atom, cubic angstrom: NaCl 22.4, MgO 9.4, TiO2 10.4, GaAs 22.6, Fe2O3 10.1, Ar 37.5.

    Magnesium in ionic crystals is the worst of them: the table is a mean over all compounds.
    """
    for formula, volume in {"NaCl": 22.4, "MgO": 9.4, "TiO2": 10.4, "GaAs": 22.6, "Fe2O3": 10.1, "Ar": 37.5}.items():
        composition = Composition(formula)
        assert expected_volume(composition) / composition.num_atoms == pytest.approx(volume, rel=0.6)


def test_separations_of_unlike_species_are_their_own() -> None:
    radii = pair_radii(["Na", "Cl"])
    assert radii == pytest.approx(np.array([[3.32, 2.68], [2.68, 2.04]]))
