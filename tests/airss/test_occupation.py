from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from unimat_search.airss.occupation import element_options, group_options, occupations, site_room
from unimat_search.airss.symmetry import orders


@given(st.integers(1, 230), st.lists(st.integers(1, 12), min_size=1, max_size=3), st.sampled_from([0, 1, 2, None]))
def test_options_add_up_and_have_room(number: int, counts: list[int], extra: int | None) -> None:
    room = site_room(number)
    for count, options in zip(counts, group_options(number, tuple(counts), extra), strict=False):
        assert len(options) == len(set(options))
        for parts in options:
            assert sum(parts) == count
            assert all(parts.count(part) <= room[part] for part in parts)


def test_eight_atoms_in_rutiles_group() -> None:
    """P4_2/mnm has sites of 16, 8, 8, 8, 4 x 4 (one pair of points ...) by the International Tables."""
    room = site_room(136)
    assert room[16] == float("inf")
    assert room[2] == 2  # 2a and 2b
    assert element_options(8, room, 0) == ((8,),)
    assert (4, 4) in element_options(8, room, 1)


def test_fewest_sites_come_first() -> None:
    options = element_options(6, {4: float("inf"), 2: 1, 1: 2}, None)
    assert options[0] == (4, 2)
    assert (4, 1, 1) in options
    assert all(len(a) <= len(b) for a, b in pairwise(options))


def test_elements_that_compete_get_more_sites() -> None:
    """Eight single atoms of two elements in a group whose points of multiplicity one are too few for the greedy way."""
    numbers, table = occupations([number for number, order in orders().items() if order == 48], [1, 1, 3], 0)
    assert 221 in numbers
    assert len(table.first_option) == 3 * len(numbers) + 1
    assert table.first_part[-1] == len(table.parts)


def test_groups_that_can_not_hold_the_atoms_are_left_out() -> None:
    """Five single atoms: Fm-3m has two sites of multiplicity one in its primitive cell."""
    assert occupations([225], [1, 1, 1, 1, 1], None)[0] == ()
    assert occupations([1, 225], [1, 1], None)[0] == (1, 225)


def test_many_atoms_do_not_hang() -> None:
    assert group_options(217, (56,), None)
    assert group_options(163, (99,), 0) == ()  # its sites hold even numbers
    assert group_options(225, (40, 40, 120), None)
    assert group_options(216, (199,), None)
