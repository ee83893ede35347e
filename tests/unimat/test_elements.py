from __future__ import annotations

import pytest
from pymatgen.core import Element

from unimat_search.unimat.elements import MAX_ATOMIC_NUMBER, SYMBOLS, composition_key, table_position


@pytest.mark.parametrize("number", range(1, MAX_ATOMIC_NUMBER + 1))
def test_the_table_is_pymatgens(number: int) -> None:
    element = Element.from_Z(number)
    assert SYMBOLS[number] == element.symbol
    if element.is_lanthanoid or element.is_actinoid:
        assert table_position(number) == (element.row if element.row > 7 else element.row + 2, 3 + (number - 57) % 32)
    else:
        assert table_position(number) == (element.row, element.group)


def test_every_element_has_a_place_of_its_own() -> None:
    assert len({table_position(number) for number in range(1, MAX_ATOMIC_NUMBER + 1)}) == MAX_ATOMIC_NUMBER


@pytest.mark.parametrize("number", [0, -1, 119])
def test_no_such_element(number: int) -> None:
    with pytest.raises(ValueError, match=str(number)):
        table_position(number)


def test_compositions_are_reduced() -> None:
    assert composition_key([8, 22, 8, 8, 22, 8]) == ((8, 2), (22, 1))
