from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from unimat_search.eval.unique import CLOSE, unite
from unimat_search.fingerprint import difference, fingerprint

ROCK_SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0, 0]])
CAESIUM_CHLORIDE = Structure(Lattice.cubic(3.5), ["Cl", "Na"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
BLENDE = Structure.from_spacegroup("F-43m", Lattice.cubic(6.2), ["Na", "Cl"], [[0, 0, 0], [0.25, 0.25, 0.25]])


@given(st.integers(0, 2**31))
def test_a_fingerprint_is_of_the_crystal_not_of_its_cell(seed: int) -> None:
    rng = np.random.default_rng(seed)
    other = ROCK_SALT.copy()
    other.translate_sites(range(len(other)), rng.random(3))
    other = Structure.from_sites([other[i] for i in rng.permutation(len(other))])
    other.make_supercell(rng.permutation(np.diag([1, 1, 2])))
    other.scale_lattice(other.volume * rng.uniform(0.8, 1.2))
    assert difference(fingerprint(other), fingerprint(ROCK_SALT)) < 1e-6
    primitive = ROCK_SALT.get_primitive_structure()
    assert difference(fingerprint(primitive), fingerprint(ROCK_SALT)) < 1e-6


@given(st.integers(0, 2**31))
def test_noise_changes_it_little_and_another_structure_much(seed: int) -> None:
    moves = np.random.default_rng(seed).normal(size=(8, 3))
    moves *= 0.05 / np.linalg.norm(moves, axis=1, keepdims=True)
    noisy = Structure(ROCK_SALT.lattice, ROCK_SALT.species, ROCK_SALT.cart_coords + moves, coords_are_cartesian=True)
    noise = difference(fingerprint(noisy), fingerprint(ROCK_SALT))
    assert noise < 0.5 * CLOSE
    assert difference(fingerprint(CAESIUM_CHLORIDE), fingerprint(ROCK_SALT)) > CLOSE
    assert difference(fingerprint(BLENDE), fingerprint(ROCK_SALT)) > noise


def test_families() -> None:
    primitive = ROCK_SALT.get_primitive_structure()
    structures = [CAESIUM_CHLORIDE, ROCK_SALT, primitive, BLENDE, ROCK_SALT]
    families = unite(structures, [-3.0, -3.4, -3.399, -3.1, -3.2])
    assert families == [[1, 2], [4], [3], [0]]  # 0.2 eV/atom apart is another one


def test_other_elements_are_another_crystal() -> None:
    potassium = ROCK_SALT.copy()
    potassium.replace_species({"Na": "K"})
    assert len(unite([ROCK_SALT, potassium], [-3.0, -3.0])) == 2
    iron = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    assert difference(fingerprint(iron), fingerprint(ROCK_SALT)) == float("inf")
    assert fingerprint(ROCK_SALT).shape == pytest.approx((75,))
