from __future__ import annotations

import numpy as np
import pytest
import spglib
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.space_group_sites import find_site_points
from unimat_search.airss.symmetry import orders, sites, space_group

NUMBERS = st.integers(1, 230)


def test_there_are_1731_wyckoff_positions() -> None:
    """The number in the International Tables, volume A."""
    assert sum(len(sites(number)) for number in range(1, 231)) == 1731


def test_sites_are_those_of_pyxtal_in_every_space_group() -> None:
    """Multiplicity and freedom of every Wyckoff position, against PyXtal's tables."""
    symmetry = pytest.importorskip("pyxtal.symmetry")
    for number in range(1, 231):
        centring = round(1 / np.linalg.det(space_group(number).centring))
        positions = symmetry.Group(number).Wyckoff_positions
        expected = sorted((w.multiplicity // centring, w.get_dof()) for w in positions)
        ours = sorted((site.multiplicity, round(np.trace(site.projector))) for site in sites(number))
        assert ours == expected, number


@pytest.mark.parametrize("number", [2, 16, 62, 148, 225])
def test_the_shipped_sites_are_what_the_search_finds(number: int) -> None:
    found = [
        len(np.unique(np.round(space_group(number).images(p) % 1, 6) % 1, axis=0)) for p in find_site_points(number)
    ]
    assert sorted(found) == sorted(site.multiplicity for site in sites(number))


def test_orders_are_those_of_the_32_point_groups() -> None:
    assert set(orders().values()) == {1, 2, 3, 4, 6, 8, 12, 16, 24, 48}
    assert orders()[1] == 1
    assert orders()[225] == 48


@given(NUMBERS)
def test_operations_form_a_group(number: int) -> None:
    group = space_group(number)
    keys = {w.tobytes(): t for w, t in zip(group.rotations, group.translations, strict=True)}
    rng = np.random.default_rng(number)
    for _ in range(10):
        i, j = rng.integers(0, group.order, 2)
        product = np.ascontiguousarray(group.rotations[i] @ group.rotations[j])
        shift = group.rotations[i] @ group.translations[j] + group.translations[i] - keys[product.tobytes()]
        assert np.allclose(shift, np.rint(shift), atol=1e-9)


@given(NUMBERS, st.integers(0, 2**31))
def test_points_of_a_site_have_its_multiplicity(number: int, seed: int) -> None:
    group, rng = space_group(number), np.random.default_rng(seed)
    for site in sites(number):
        images = group.images(site.origin + site.projector @ rng.random(3))
        apart = images[:, None] - images
        same = np.abs(apart - np.rint(apart)).max(axis=2) < 1e-7
        assert (same.sum(axis=1) == group.order // site.multiplicity).all()
        assert np.linalg.matrix_rank(same.astype(float)) == site.multiplicity
        assert same[np.ix_(site.operations, site.operations)].sum() == site.multiplicity


@pytest.mark.parametrize("number", [1, 14, 62, 139, 166, 194, 225, 227])
def test_a_general_orbit_has_the_space_group(number: int) -> None:
    group, rng = space_group(number), np.random.default_rng(number)
    rough = np.diag([7.0, 8.0, 9.0]) + rng.normal(size=(3, 3))
    lattice = np.linalg.cholesky(group.symmetrised(rough @ rough.T))
    points = np.vstack([group.images(rng.random(3)) for _ in range(2)])
    numbers = np.repeat([3, 8], group.order)
    dataset = spglib.get_symmetry_dataset((lattice, points, numbers), symprec=1e-4)
    assert dataset.number == number
