from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from tests.eval.structures import random_structures
from unimat_search.eval.crystalnn import LENGTH, _faces, coordination, crystal_fingerprint, site_fingerprints
from unimat_search.eval.motifs import Angles, likeness, steinhardt

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
IRON = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
BLENDE = Structure.from_spacegroup("F-43m", Lattice.cubic(5.41), ["Zn", "S"], [[0.0, 0, 0], [0.25, 0.25, 0.25]])
GOLD = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.08), ["Au"], [[0.0, 0, 0]])
RUTILE = Structure.from_spacegroup(
    "P4_2/mnm", Lattice.tetragonal(4.59, 2.96), ["Ti", "O"], [[0.0, 0, 0], [0.305, 0.305, 0]]
)


BODY_CENTRED = 30
"""This motif depends on the order of the neighbours, which is arbitrary among those of equal weight."""


def theirs(structure: Structure) -> np.ndarray:
    """Matminer's fingerprints of all sites."""
    from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

    fingerprint = CrystalNNFingerprint.from_preset("ops")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array([fingerprint.featurize(structure, site) for site in range(len(structure))])


@pytest.mark.parametrize("structure", [IRON, BLENDE, GOLD.get_primitive_structure(), RUTILE], ids=lambda s: s.formula)
def test_the_numbers_are_matminers(structure: Structure) -> None:
    assert site_fingerprints(structure) == pytest.approx(theirs(structure), abs=1e-5)


@settings(max_examples=12)
@given(st.integers(0, 10_000))
def test_the_numbers_are_matminers_for_any_crystal(seed: int) -> None:
    (structure,) = random_structures(("Na2Cl2", "TiO2", "Al3Fe", "CaC")[seed % 4], 1, seed)
    ours, others = site_fingerprints(structure), theirs(structure)
    assert ours[:, BODY_CENTRED] == pytest.approx(others[:, BODY_CENTRED], abs=0.02)
    assert np.delete(ours, BODY_CENTRED, axis=1) == pytest.approx(np.delete(others, BODY_CENTRED, axis=1), abs=1e-5)


def test_known_surroundings() -> None:
    assert [len(site.weights) for site in coordination(SALT)] == [6] * 8
    sodium = site_fingerprints(SALT)[0]
    assert sodium.shape == (LENGTH,)
    assert np.isclose(sodium, 1.0, atol=1e-6).sum() == 2  # certainly six neighbours, certainly an octahedron
    assert [len(site.weights) for site in coordination(BLENDE)] == [4] * 8


def test_a_fingerprint_is_of_the_crystal_not_of_its_cell() -> None:
    primitive = crystal_fingerprint(RUTILE)
    assert crystal_fingerprint(RUTILE.make_supercell([2, 1, 1], in_place=False)) == pytest.approx(primitive, abs=1e-6)
    moved = RUTILE.copy().translate_sites(range(len(RUTILE)), [0.1, 0.27, 0.4])
    assert crystal_fingerprint(moved) == pytest.approx(primitive, abs=1e-6)


def test_an_open_cell_says_so() -> None:
    with pytest.raises(ValueError, match="open"):
        _faces(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]))


OCTAHEDRON = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
TETRAHEDRON = np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])


def test_perfect_motifs() -> None:
    from pymatgen.analysis.local_env import DEFAULT_OP_PARAMS

    octahedron, tetrahedron = Angles.of(OCTAHEDRON), Angles.of(TETRAHEDRON)
    assert likeness("oct_max", DEFAULT_OP_PARAMS["oct_max"], octahedron) == pytest.approx(1.0)
    assert likeness("tet_max", DEFAULT_OP_PARAMS["tet_max"], tetrahedron) == pytest.approx(1.0, abs=1e-6)
    assert likeness("sq_plan_max", DEFAULT_OP_PARAMS["sq_plan_max"], tetrahedron) < 0.2


def test_bond_orientational_order() -> None:
    """Of the octahedron: q4 = sqrt(7/12) and q6 = sqrt(1/8) (Steinhardt et al. 1983)."""
    octahedron = Angles.of(OCTAHEDRON)
    assert steinhardt(4, octahedron) == pytest.approx((7 / 12) ** 0.5)
    assert steinhardt(6, octahedron) == pytest.approx((1 / 8) ** 0.5)
    assert steinhardt(2, octahedron) == pytest.approx(0.0, abs=1e-7)


@given(st.integers(0, 10_000), st.sampled_from(["tet_max", "see_saw_rect", "tri_bipyr", "tri_pyr"]))
def test_motifs_do_not_depend_on_directions(seed: int, motif: str) -> None:
    from pymatgen.analysis.local_env import DEFAULT_OP_PARAMS
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(4, 3))
    turned = Rotation.random(rng=rng).apply(vectors)[rng.permutation(4)]
    parameters = DEFAULT_OP_PARAMS[motif]
    value = likeness(motif, parameters, Angles.of(vectors))
    assert value <= 1.0 + 1e-9
    assert likeness(motif, parameters, Angles.of(turned)) == pytest.approx(value, abs=1e-7)
