from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from unimat_search.eval.dft.elements import KNOWN, reference_structures
from unimat_search.eval.dft.primitive import Primitive

CRYSTALS = {
    "rock salt": Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "rutile": Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.6, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    ),
    "corundum": Structure.from_spacegroup(
        "R-3c", Lattice.hexagonal(4.76, 12.99), ["Al", "O"], [[0, 0, 0.352], [0.306, 0, 0.25]]
    ),
}
PRIMITIVE_SITES = {"rock salt": 2, "rutile": 6, "corundum": 10}


@given(
    st.sampled_from(sorted(CRYSTALS)),
    st.lists(st.integers(1, 2), min_size=3, max_size=3),
    st.integers(-1, 1),
    st.integers(0, 2**31),
)
def test_any_cell_of_a_crystal_comes_back_from_its_primitive_one(
    name: str, copies: list[int], shear: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cell = np.diag(copies)
    cell[0, 1] = shear
    whole = CRYSTALS[name].make_supercell(cell, in_place=False)
    whole.perturb(0.005)
    whole = whole.get_sorted_structure(key=lambda _: rng.random())
    primitive = Primitive.of(whole, 0.05)
    assert len(primitive.structure) == PRIMITIVE_SITES[name]
    back = primitive.whole(primitive.structure)
    assert back.composition == whole.composition
    assert primitive.copies * len(primitive.structure) == len(whole)
    assert back.volume == pytest.approx(whole.volume, rel=0.02)
    assert np.allclose(sorted(back.lattice.abc), sorted(whole.lattice.abc), atol=0.1)
    assert StructureMatcher(primitive_cell=True).fit(back, whole)


def test_what_has_no_symmetry_stays_as_it_is() -> None:
    rng = np.random.default_rng(0)
    structure = Structure(Lattice.from_parameters(4, 5, 6, 80, 95, 105), ["Na"] * 4, rng.random((4, 3)))
    assert len(Primitive.of(structure, 0.01).structure) == 4
    assert Primitive.of(CRYSTALS["rock salt"], 0).structure is CRYSTALS["rock salt"]


@pytest.mark.parametrize("symbol", sorted(KNOWN))
def test_crystals_of_the_elements_are_sound(symbol: str) -> None:
    """Nearest neighbours within 15 % of twice the covalent radius."""
    from ase.data import atomic_numbers, covalent_radii

    ((_, crystal),), origin = reference_structures(symbol)
    nearest = min(neighbour.nn_distance for site in crystal for neighbour in crystal.get_neighbors(site, 4.0))
    assert nearest == pytest.approx(2 * covalent_radii[atomic_numbers[symbol]], rel=0.15)
    assert "Donohue" in origin


def test_oxygen_is_a_triplet_in_a_box() -> None:
    ((name, molecule),), _ = reference_structures("O")
    assert name == "molecule"
    assert molecule.site_properties["magmom"] == [1.0, 1.0]
    assert molecule.volume / 2 < 150


def test_where_no_crystal_is_at_hand_simple_ones_are_tried() -> None:
    named, origin = reference_structures("Mn")
    assert len(named) == 5
    assert origin.startswith("simple crystals")
