from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from unimat_search.unimat.cell import cell_to_vector, vector_to_cell

NUMBERS = st.lists(st.floats(-1.5, 1.5), min_size=6, max_size=6)


@given(NUMBERS)
def test_any_six_numbers_are_a_cell_and_come_back(numbers: list[float]) -> None:
    vector = torch.tensor(numbers, dtype=torch.float64)
    cell = vector_to_cell(vector)
    assert torch.linalg.det(cell) > 0
    assert torch.allclose(cell_to_vector(cell), vector, atol=1e-9)


@given(NUMBERS, NUMBERS)
def test_rotations_and_reflections_change_nothing(numbers: list[float], turn: list[float]) -> None:
    cell = vector_to_cell(torch.tensor(numbers, dtype=torch.float64))
    generator = torch.tensor(turn[:3] + [0.0] * 6, dtype=torch.float64).view(3, 3).triu(1)
    rotation = torch.linalg.matrix_exp(generator - generator.T)
    for turned in (cell @ rotation, -cell @ rotation):
        assert torch.allclose(cell_to_vector(turned), cell_to_vector(cell), atol=1e-9)


def test_the_first_number_is_the_volume_and_scale_touches_no_other() -> None:
    cell = torch.tensor([[3.0, 0, 0], [1.0, 4, 0], [0.5, -1, 5]], dtype=torch.float64)
    vector, larger = cell_to_vector(cell), cell_to_vector(2 * cell)
    assert torch.allclose(vector[0], torch.tensor(60.0, dtype=torch.float64).log() / 3)
    assert torch.allclose(larger[1:], vector[1:])
    assert torch.allclose(larger[0] - vector[0], torch.tensor(2.0, dtype=torch.float64).log())


def test_a_cube_has_no_shape() -> None:
    assert torch.allclose(cell_to_vector(4.2 * torch.eye(3))[1:], torch.zeros(5), atol=1e-6)
