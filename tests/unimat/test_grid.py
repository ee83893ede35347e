from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from pymatgen.core import DummySpecies, Lattice, Species, Structure

from tests.unimat.crystals import random_set, sets
from unimat_search.unimat.cell import cell_to_vector, vector_to_cell
from unimat_search.unimat.grid import EMPTY_BELOW, NULL, Grid, Sites
from unimat_search.unimat.sources import from_structures
from unimat_search.unimat.structures import StructureSet

WHOLE = Grid(4)


def rows(numbers: torch.Tensor, frac_coords: torch.Tensor) -> np.ndarray:
    """Atoms in an order that does not depend on theirs. (n, 4)"""
    table = torch.cat([numbers.unsqueeze(-1).to(frac_coords.dtype), frac_coords], dim=-1).numpy()
    return table[np.lexsort(table.T[::-1])]


@given(sets(most=4))
def test_round_trip(structures: StructureSet) -> None:
    tensor = WHOLE.encode(structures.sites(), len(structures))
    assert tensor.shape == (len(structures), 4, 9, 18, 3)
    back = WHOLE.decode(tensor)
    for index, one in enumerate(structures):
        mine = back.owner == index
        given_ = rows(one.sites().numbers, one.sites().frac_coords)
        assert np.allclose(rows(back.numbers[mine], back.frac_coords[mine]), given_, atol=1e-6)
    cells = torch.from_numpy(structures.cells.astype(float))
    metric = cells @ cells.mT
    again = vector_to_cell(cell_to_vector(cells))
    assert torch.allclose(again @ again.mT, metric, rtol=1e-6)


@given(sets(most=4))
def test_order_means_nothing_but_among_like_atoms(structures: StructureSet) -> None:
    sites = structures.sites()
    order = torch.argsort(sites.owner * 1000 + sites.numbers, stable=True)
    shuffled = Sites(sites.owner[order], sites.numbers[order], sites.frac_coords[order])
    count = len(structures)
    assert torch.equal(WHOLE.encode(sites, count), WHOLE.encode(shuffled, count))


@given(sets(most=3))
def test_occupancy_counts_atoms(structures: StructureSet) -> None:
    occupancy = WHOLE.occupancy(structures.sites(), len(structures))
    assert occupancy.sum((1, 2, 3)).tolist() == structures.num_sites.tolist()
    assert set(occupancy.flatten().tolist()) <= {0.0, 1.0}


def test_empty_slots_hold_the_null_location() -> None:
    structures = random_set(0, 1, elements=(11,), most=1)
    tensor = WHOLE.encode(structures.sites(), 1)
    assert (tensor == NULL).all(-1).sum() == 4 * 9 * 18 - 1
    assert np.allclose(tensor[0, 0, 2, 0], structures.frac_coords[0])


def test_a_slot_is_empty_nearer_to_null_than_to_the_cell() -> None:
    tensor = torch.full((1, 4, 9, 18, 3), NULL)
    tensor[0, 0, 2, 0] = EMPTY_BELOW + 0.01  # Na
    tensor[0, 1, 2, 0] = EMPTY_BELOW - 0.01
    tensor[0, 0, 0, 5] = 0.5  # row 1, group 6: no element
    sites = WHOLE.decode(tensor)
    assert sites.numbers.tolist() == [11]
    assert torch.allclose(sites.frac_coords, torch.tensor(1 + EMPTY_BELOW + 0.01))


def test_small_grids() -> None:
    carbon = Grid(24, rows=(2,), groups=(14,))
    structures = random_set(3, 5, elements=(6,), most=24)
    tensor = carbon.encode(structures.sites(), 5)
    assert tensor.shape == (5, 24, 1, 1, 3)
    assert set(carbon.decode(tensor).numbers.tolist()) == {6}


def test_over_full_and_missing_elements_are_named() -> None:
    crowded = from_structures([("a", Structure(Lattice.cubic(9), ["Na"] * 5, np.random.default_rng(0).random((5, 3))))])
    with pytest.raises(ValueError, match="5 atoms of Na in one cell, the grid holds 4; give it a depth of at least 5"):
        WHOLE.encode(crowded.sites(), 1)
    with pytest.raises(ValueError, match="Na is not in the grid"):
        Grid(5, rows=(2,)).encode(crowded.sites(), 1)


@pytest.mark.parametrize(
    ("depth", "sides"), [(0, {}), (2, {"rows": (0, 1)}), (2, {"groups": (1, 1)}), (2, {"rows": ()})]
)
def test_impossible_grids(depth: int, sides: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Grid(depth, **sides)


@pytest.mark.parametrize("species", ["D", DummySpecies("Xa"), {"Na": 0.5, "K": 0.5}])
def test_what_is_no_element_is_named(species: Any) -> None:
    structure = Structure(Lattice.cubic(4), [species, "O"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(ValueError, match=r"^odd: (D|Xa|a site is partly filled)"):
        from_structures([("odd", structure)])


def test_oxidation_states_are_left_out() -> None:
    structure = Structure(Lattice.cubic(4), [Species("Na", 1), Species("Cl", -1)], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    assert from_structures([("salt", structure)]).numbers.tolist() == [11, 17]
