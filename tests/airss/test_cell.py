from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimat_search.airss.cell import determinant, lattice_of, random_metric, reduce_cell, shortest_edge
from unimat_search.airss.compiled import random_state, uniform
from unimat_search.airss.symmetry import group_table, space_group

SEEDS = st.integers(0, 2**31)


def draw(number: int, seed: int, constraints: tuple[float, ...] = (0.0,) * 6, volume: float = 77.0) -> np.ndarray:
    table, metric, lattice = group_table((number,)), np.empty((3, 3)), np.empty((3, 3))
    state = random_state(np.random.default_rng(seed))
    assert random_metric(
        state, table.rotations, table.centring[0], table.uncentring[0], np.array(constraints), 0.4, 0.5, metric
    )
    lattice_of(metric, volume, lattice)
    return lattice


def test_random_numbers_are_those_of_xoshiro256_plus_plus() -> None:
    """The first outputs of the authors' C code (prng.di.unimi.it/xoshiro256plusplus.c) from the state 1, 2, 3, 4."""
    state = np.array([1, 2, 3, 4], dtype=np.uint64)
    outputs = [41943041, 58720359, 3588806011781223]
    assert [uniform(state) for _ in outputs] == [(output >> 11) * 2.0**-53 for output in outputs]


def test_random_numbers_are_uniform() -> None:
    state = random_state(np.random.default_rng(0))
    counts = np.histogram([uniform(state) for _ in range(100_000)], bins=20, range=(0, 1))[0]
    assert counts.sum() == 100_000
    assert ((counts - 5000) ** 2 / 5000).sum() < 45  # chi-squared of 19 degrees of freedom exceeds 43.8 once in 1,000


@given(st.integers(1, 230), SEEDS)
def test_random_cells_have_the_groups_metric_and_volume(number: int, seed: int) -> None:
    lattice = draw(number, seed)
    assert determinant(lattice) == pytest.approx(77.0)
    metric = lattice @ lattice.T
    for rotation in space_group(number).rotations:
        assert np.allclose(rotation.T @ metric @ rotation, metric, atol=1e-8)


@given(SEEDS)
def test_triclinic_cells_keep_their_bounds(seed: int) -> None:
    """Longest by shortest edge at most 4, the shape's volume at least one half."""
    lattice = draw(1, seed)
    edges = np.linalg.norm(lattice, axis=1)
    assert edges.max() / edges.min() <= 4 + 1e-9
    assert determinant(lattice) >= 0.5 * edges.prod() * (1 - 1e-9)


@given(SEEDS)
def test_constraints_hold(seed: int) -> None:
    lattice = draw(1, seed, (-1.0, -1.0, 0.0, 90.0, 90.0, 120.0))
    a, b, _ = np.linalg.norm(lattice, axis=1)
    assert a == pytest.approx(b)
    assert lattice[0] @ lattice[1] == pytest.approx(-a * b / 2)
    assert [lattice[0] @ lattice[2], lattice[1] @ lattice[2]] == pytest.approx([0, 0], abs=1e-9)


@given(SEEDS)
def test_reduction_keeps_the_lattice_and_shortens_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lattice = rng.normal(size=(3, 3)) + np.diag([3.0, 3.0, 3.0])
    skewed = np.array([[1.0, 0, 0], [rng.integers(-9, 9), 1, 0], [*rng.integers(-9, 9, 2), 1]]) @ lattice
    reduced = skewed.copy()
    reduce_cell(reduced)
    change = reduced @ np.linalg.inv(lattice)
    assert np.allclose(change, np.rint(change), atol=1e-9)
    assert abs(determinant(reduced)) == pytest.approx(abs(determinant(lattice)))
    corners = np.array([[i, j, k] for i in range(-3, 4) for j in range(-3, 4) for k in range(-3, 4) if i or j or k])
    assert shortest_edge(reduced) == pytest.approx(np.linalg.norm(corners @ reduced, axis=1).min())
