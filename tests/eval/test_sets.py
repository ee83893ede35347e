from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure

from tests.eval.structures import HOPELESS, ROCK_SALT, random_structures
from unimat_search.eval.coverage import CUTOFFS, Cutoffs, Fingerprints, composition_fingerprint, coverage
from unimat_search.eval.proxy import Facts, facts_of, proxy_metrics
from unimat_search.eval.sets import (
    KnownCrystals,
    displacement,
    distribution_distance,
    families,
    is_valid_composition,
    is_valid_structure,
    match_everyone,
    rms_distances,
)
from unimat_search.records import BENCHMARK_MATCH, MatchSettings

IRON = Structure(Lattice.cubic(2.8), ["Fe", "Fe"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
CAESIUM_CHLORIDE = Structure(Lattice.cubic(3.5), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])


def test_validity_is_the_benchmarks() -> None:
    assert is_valid_structure(ROCK_SALT)
    assert not is_valid_structure(HOPELESS["two atoms on one spot"])
    assert not is_valid_structure(HOPELESS["not a number"])
    assert is_valid_structure(HOPELESS["a cell of 200 angstrom"])  # its atoms are far apart: that is all it asks
    for distance, valid in ((0.49, False), (0.51, True)):
        pair = Structure(Lattice.cubic(5), ["Na", "Cl"], [[0.0, 0, 0], [distance / 5, 0, 0]])
        assert is_valid_structure(pair) is valid
    thin = Structure(Lattice.orthorhombic(9, 9, 0.4), ["Na"], [[0.0, 0, 0]])
    assert is_valid_structure(thin)  # own images do not count
    flat = Structure(Lattice.orthorhombic(1, 1, 0.05), ["Na"], [[0.0, 0, 0]])
    assert not is_valid_structure(flat)


@pytest.mark.parametrize(
    ("formula", "valid"),
    [
        ("NaCl", True),
        ("TiO2", True),
        ("NaCl2", False),
        ("Fe", True),
        ("AlFe3", True),
        ("LiFePO4", True),
        ("NaO5", False),
    ],
)
def test_validity_of_compositions(formula: str, valid: bool) -> None:
    assert is_valid_composition(Composition(formula)) is valid


def prints(structure: list[list[float]], composition: list[list[float]]) -> Fingerprints:
    return Fingerprints(np.array(structure, dtype=float), np.array(composition, dtype=float))


def test_validity_of_many_elements_is_told_at_once() -> None:
    assert is_valid_composition(Composition("FeNiCoCrMnTiAlCuZnZr"))
    assert is_valid_composition(Composition("FeNiCoCuZnCdAgSbPb")), "antimony is a metal to SMACT"
    assert not is_valid_composition(Composition("FeNiCoCrMnTiAlCuZnZrOFClBrINSPSe"))


def test_coverage_by_hand() -> None:
    known = prints([[0.0], [1.0], [5.0]], [[0.0], [0.0], [0.0]])
    made = prints([[0.1], [3.0]], [[0.2], [0.0]])
    assert coverage(made, known, 4, Cutoffs(0.2, 0.3)) == pytest.approx((1 / 3, 1 / 4))
    assert coverage(made, known, 4, Cutoffs(2.0, 0.3)) == pytest.approx((1.0, 2 / 4))
    assert coverage(made, known, 4, Cutoffs(2.0, 0.0)) == pytest.approx((1.0, 1 / 4))  # recall: another one is near
    assert coverage(prints([], []), known, 4, Cutoffs(1, 1)) == (0.0, 0.0)


@given(st.integers(0, 1000))
def test_laws_of_coverage(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known, made = (Fingerprints(rng.normal(size=(n, 3)), rng.normal(size=(n, 2))) for n in (20, 30))
    tight, loose = (coverage(made, known, 30, Cutoffs(cut, cut)) for cut in (0.5, 1.0))
    assert loose >= tight
    order = rng.permutation(30)
    shuffled = Fingerprints(made.structure[order], made.composition[order])
    assert coverage(shuffled, known, 30, Cutoffs(0.5, 0.5)) == tight
    assert coverage(known, known, 20, Cutoffs(0.0, 0.0)) == (1.0, 1.0)


def test_composition_fingerprints_are_standardised() -> None:
    salt = composition_fingerprint(Composition("NaCl"))
    assert salt.shape == (132,)
    assert np.isfinite(salt).all()
    assert salt == pytest.approx(composition_fingerprint(Composition("Na4Cl4")))
    assert salt[0] == pytest.approx((11 - 21.194441759304013) / 16.35781741152948)  # atomic number of the lighter
    assert np.linalg.norm(salt - composition_fingerprint(Composition("KCl"))) < np.linalg.norm(
        salt - composition_fingerprint(Composition("Fe3Al"))
    )


def test_families_and_known_crystals() -> None:
    noisy = ROCK_SALT.copy().perturb(0.02)
    structures = [ROCK_SALT, IRON, noisy, CAESIUM_CHLORIDE, IRON.make_supercell(2, in_place=False)]
    assert families(structures) == [[0, 2], [1, 4], [3]]
    assert families([]) == []
    known = KnownCrystals({"NaCl": [ROCK_SALT]})
    assert noisy in known
    assert CAESIUM_CHLORIDE not in known
    assert IRON not in known


def test_matching_everyone() -> None:
    """Two polymorphs, both to be found: a set of copies of one finds half."""
    matcher = BENCHMARK_MATCH
    known = [ROCK_SALT, CAESIUM_CHLORIDE]
    copies = rms_distances([ROCK_SALT, ROCK_SALT], known, MatchSettings(0.2, 0.3, 5))
    assert match_everyone([copies], matcher) == (0.5, 0.25)
    both = rms_distances([CAESIUM_CHLORIDE, ROCK_SALT], known, matcher)
    assert match_everyone([both], matcher)[0] == 1.0
    assert match_everyone([both], matcher)[1] == pytest.approx(0.0, abs=1e-6)
    nothing = np.empty((0, 2))
    assert match_everyone([both, nothing], matcher)[0] == 0.5


def test_distances_between_distributions() -> None:
    assert distribution_distance(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == pytest.approx(2.0)
    assert distribution_distance(np.array([]), np.array([1.0])) is None


def test_displacements() -> None:
    final = ROCK_SALT.copy().translate_sites(range(len(ROCK_SALT)), [0.3, 0.0, 0.9])
    assert displacement(ROCK_SALT, final) == pytest.approx(0.0, abs=1e-9)
    stretched = ROCK_SALT.copy().scale_lattice(2 * ROCK_SALT.volume)
    assert displacement(ROCK_SALT, stretched) == pytest.approx(0.0, abs=1e-9)
    shifted = ROCK_SALT.copy().translate_sites(range(len(ROCK_SALT)), [0.5, 0.5, 0.5]).perturb(0.001)
    assert displacement(ROCK_SALT, shifted) < 0.01
    moved = IRON.copy().translate_sites([1], [0.1, 0, 0])
    assert displacement(IRON, moved) == pytest.approx(0.14)  # 0.28 angstrom apart, each half of it


def test_broken_crystals_count_and_raise_nothing() -> None:
    good = [ROCK_SALT, IRON, *random_structures("TiO2", 3)]
    facts = facts_of([*good, *HOPELESS.values()])
    known = facts_of(good)
    table = proxy_metrics(facts, known, 20, CUTOFFS["mp_20"])
    assert table["n_read"] == len(good) + len(HOPELESS)
    assert table["valid_structure"] <= (len(good) + 3) / 20
    assert table["sane_structure"] == len(good) / 20
    assert table["coverage_recall"] == 1.0
    assert table["coverage_precision"] <= 10 / 20
    nothing = proxy_metrics(facts_of([]), known, 3, CUTOFFS["mp_20"])
    assert nothing["valid"] == nothing["coverage_precision"] == 0.0
    assert nothing["density_distance"] is None


def test_what_no_library_takes_is_not_valid_and_costs_nobody_else() -> None:
    heavy = Structure(Lattice.cubic(4), ["Rf", "O"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    flat = Structure(Lattice.orthorhombic(0.05, 0.05, 44), ["Fe"], [[0.0, 0, 0]])
    facts = facts_of([ROCK_SALT, heavy, flat, IRON])
    assert facts.valid.tolist() == [True, False, False, True]


def test_a_set_against_itself_is_perfect_and_order_does_not_matter(tmp_path: Path) -> None:
    structures = [ROCK_SALT, IRON, CAESIUM_CHLORIDE, *random_structures("Al2O3", 4)]
    facts = facts_of(structures)
    table = proxy_metrics(facts, facts, len(structures), CUTOFFS["mp_20"])
    perfect = ("valid_structure", "sane_structure", "valid", "coverage_recall", "coverage_precision")
    assert [table[name] for name in perfect] == [1.0] * len(perfect)
    assert table["density_distance"] == table["num_elements_distance"] == 0.0
    random.Random(1).shuffle(structures)
    assert proxy_metrics(facts_of(structures, workers=2), facts, len(structures), CUTOFFS["mp_20"]) == table
    facts.save(tmp_path / "a" / "facts.npz")
    assert proxy_metrics(Facts.load(tmp_path / "a" / "facts.npz"), facts, len(structures), CUTOFFS["mp_20"]) == table
