from __future__ import annotations

import numpy as np
import pytest
from ase.data import chemical_symbols
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.airss.knowledge import (
    expect_from_radii,
    expect_from_structures,
    expect_from_table,
    likely_kinds,
    pair_minima,
)


@pytest.mark.parametrize(
    ("formula", "kinds"),
    [
        ("NaCl", "Cl- Na+"),
        ("SrTiO3", "O- Sr+ Ti+"),
        ("LiFePO4", "Fe+ Li+ O- P+"),
        ("GaP", "Ga+ P-"),
        ("La2O2S", "La+ O- S-"),
        ("SrSO4", "O- S+ Sr+"),
        ("Fe3O4", "Fe+ O-"),  # no whole number balances it
        ("NiAl", "Al0 Ni0"),
        ("LiH", "H- Li+"),
        ("H2O", "H+ O-"),
        ("C", "C="),
    ],
)
def test_likely_charges(formula: str, kinds: str) -> None:
    found = likely_kinds(Composition(formula))
    assert " ".join(found[symbol] for symbol in sorted(found)) == kinds


def test_volumes_of_well_known_crystals() -> None:
    """Experimental volumes per atom, cubic angstrom (as in any handbook, from the cell parameters)."""
    known = {
        "NaCl": 22.4,
        "TiO2": 10.4,
        "GaAs": 22.6,
        "Fe2O3": 10.1,
        "SrTiO3": 11.9,
        "Al": 16.6,
        "Si": 20.0,
        "NiAl": 12.0,
    }
    for formula, volume in known.items():
        composition = Composition(formula)
        assert expect_from_table(composition).volume / composition.num_atoms == pytest.approx(volume, rel=0.15)


def test_the_same_element_keeps_other_distances_by_its_charge() -> None:
    """Bonded to oxygen phosphorus atoms stay apart; in phosphides they may bond (white phosphorus: 2.2 angstrom)."""
    phosphate = expect_from_table(Composition("Li3PO4")).separations[2, 2]
    phosphide = expect_from_table(Composition("ZnP2")).separations[0, 0]
    assert phosphate > 2.3
    assert phosphide < phosphate


def test_unlike_atoms_have_their_own_distances() -> None:
    separations = expect_from_table(Composition("NaCl")).separations
    assert separations[0, 1] < min(separations[0, 0], separations[1, 1])
    assert separations == pytest.approx(separations.T)
    assert separations[0, 1] == pytest.approx(2.82, abs=0.15)  # rock salt


def test_any_element_has_a_volume_and_distances() -> None:
    for symbol in chemical_symbols[1:97]:
        for formula in (symbol, f"{symbol}2O3" if symbol != "O" else "O2"):
            expected = expect_from_table(Composition(formula))
            assert 3 < expected.volume / Composition(formula).num_atoms < 140
            assert (expected.separations >= 0.7).all()
            assert (expected.separations < 7).all()


def test_shortest_distances_look_at_images() -> None:
    iron = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    assert pair_minima(iron) == {("Fe", "Fe"): pytest.approx(2.87 * np.sqrt(3) / 2)}
    single = Structure(Lattice.from_parameters(3, 4, 5, 90, 90, 90), ["Po"], [[0.1, 0.2, 0.3]])
    assert pair_minima(single) == {("Po", "Po"): pytest.approx(3.0)}


def test_what_examples_do_not_tell_comes_from_the_table() -> None:
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0, 0]])
    expected = expect_from_structures(Composition("NaKCl2"), [salt])
    assert expected.separations[0, 2] == pytest.approx(2.82)  # Cl-Na
    ratio = salt.volume / expect_from_table(salt.composition).volume
    table = expect_from_table(Composition("NaKCl2"))
    assert expected.separations[0, 1] == pytest.approx(table.separations[0, 1] * ratio ** (1 / 3))
    assert expected.volume == pytest.approx(ratio * table.volume)
    with pytest.raises(ValueError, match="no structure is given"):
        expect_from_structures(Composition("NaCl"), [])


def test_radii() -> None:
    """Covalent radii of Na and Cl: 1.66 and 1.02 angstrom (Cordero et al. 2008)."""
    expected = expect_from_radii(Composition("NaCl"))
    assert expected.separations == pytest.approx(np.array([[2.04, 2.68], [2.68, 3.32]]))
    assert expected.volume == pytest.approx(2.04**3 + 3.32**3)
