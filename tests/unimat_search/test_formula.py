from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition

from unimat_search.formula import FormulaError, parse_formula, parse_units, read_formulas, share_out


@pytest.mark.parametrize(
    ("text", "reduced", "amounts", "fixed"),
    [
        ("TiO2", "TiO2", {"Ti": 1, "O": 2}, None),
        ("Ti4O8", "TiO2", {"Ti": 1, "O": 2}, 4),
        ("Si", "Si", {"Si": 1}, None),
        ("Si8", "Si", {"Si": 1}, 8),
        ("O2", "O", {"O": 1}, 2),
        ("Ca(OH)2", "Ca(HO)2", {"Ca": 1, "O": 2, "H": 2}, None),
        ("Mg((OH)2)3", "Mg(HO)6", {"Mg": 1, "O": 6, "H": 6}, None),
        ("ClNa", "NaCl", {"Cl": 1, "Na": 1}, None),
        (" LiFePO4 ", "LiFePO4", {"Li": 1, "Fe": 1, "P": 1, "O": 4}, None),
        ("XeF2", "XeF2", {"Xe": 1, "F": 2}, None),
        ("CoCO3", "CoCO3", {"Co": 1, "C": 1, "O": 3}, None),
        ("TiO2:4", "TiO2", {"Ti": 1, "O": 2}, 4),
        ("NaCl : 1", "NaCl", {"Na": 1, "Cl": 1}, 1),
    ],
)
def test_formulas(text: str, reduced: str, amounts: dict[str, int], fixed: int | None) -> None:
    formula = parse_formula(text)
    assert formula.amounts == amounts
    assert formula.fixed_units == fixed
    assert formula.reduced_formula == reduced


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("Xx2", "dummy"),
        ("Qq2", "no element"),
        ("X2O", "dummy"),
        ("Na0.5Cl", "fractional"),
        ("Na.5Cl", "fractional"),
        ("Na0Cl", "zero"),
        ("Na-1Cl", "negative"),
        ("D2O", "isotope"),
        ("LiT", "isotope"),
        ("nacl", "no formula"),
        ("Na+Cl", "no formula"),
        ("2NaCl", "no formula"),
        ("Ca(OH", "parenthesis"),
        ("CaOH)2", "no formula"),
        ("Ca()2", "no formula"),
        ("Na Cl", "no formula"),
        ("Na\nCl", "no formula"),
        ("NaCl²", "no formula"),
        (":2", "empty"),
        ("NaCl:", "after the colon"),
        ("NaCl:0", "after the colon"),
        ("NaCl:2:2", "after the colon"),
        ("Na2Cl2:2", "twice"),
    ],
)
def test_bad_formulas_say_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(FormulaError, match=says) as caught:
        parse_formula(text)
    assert len(str(caught.value).splitlines()) == 1


ELEMENTS = st.sampled_from(["H", "Na", "Cl", "Ti", "O", "Dy", "Ta", "Xe", "Co", "U"])


@given(st.dictionaries(ELEMENTS, st.integers(1, 12), min_size=1, max_size=5))
def test_reading_a_formula_gives_its_cell_back(amounts: dict[str, int]) -> None:
    formula = parse_formula("".join(f"{el}{n}" for el, n in amounts.items()))
    divisor = math.gcd(*amounts.values())
    assert formula.cell(divisor) == Composition(amounts)
    assert formula.fixed_units == (divisor if divisor > 1 else None)


@given(st.text(max_size=12))
def test_any_text_is_a_formula_or_a_formula_error(text: str) -> None:
    try:
        formula = parse_formula(text)
    except FormulaError:
        return
    assert all(n > 0 for n in formula.amounts.values())


def test_units_default_to_all_that_fit() -> None:
    assert parse_formula("TiO2").formula_units(None, 20) == [1, 2, 3, 4, 5, 6]
    assert parse_formula("Ti4O8").formula_units(None, 20) == [4]
    assert parse_formula("TiO2").formula_units([2, 4], 20) == [2, 4]


@pytest.mark.parametrize(
    ("text", "units", "max_atoms", "says"),
    [
        ("TiO2", [7], 20, "21 atoms"),
        ("Ti8O16", None, 20, "24 atoms"),
        ("LiFePO4", None, 6, "7 atoms"),
        ("Ti4O8", [1, 2], 20, "fixes the cell"),
    ],
)
def test_cells_that_do_not_fit(text: str, units: list[int] | None, max_atoms: int, says: str) -> None:
    with pytest.raises(FormulaError, match=says):
        parse_formula(text).formula_units(units, max_atoms)


@pytest.mark.parametrize(("text", "units"), [("2", [2]), ("1-4", [1, 2, 3, 4]), ("1, 2,4", [1, 2, 4])])
def test_ranges_of_units(text: str, units: list[int]) -> None:
    assert parse_units(text) == units


@pytest.mark.parametrize("text", ["0", "4-1", "a", "-1", "1-", "", "1.5", "1-999999999"])
def test_bad_ranges_of_units(text: str) -> None:
    with pytest.raises(FormulaError, match="formula units"):
        parse_units(text)


@given(st.integers(1, 200), st.lists(st.integers(1, 20), min_size=1, max_size=8, unique=True))
def test_candidates_are_shared_out_evenly(n: int, units: list[int]) -> None:
    shares = share_out(n, units)
    counts = [share for _, share in shares]
    assert sum(counts) == n
    assert max(counts) - min(counts) <= 1
    assert [z for z, _ in shares] == sorted(units)[: len(shares)]


def test_formula_files(tmp_path: Path) -> None:
    lines = tmp_path / "formulas.txt"
    lines.write_text("# ours, mine\nNaCl\n\nTiO2  # rutile\n")
    table = tmp_path / "formulas.csv"
    table.write_text("\ufeffname, formula\nsalt,NaCl\n\noxide, TiO2\n")
    assert read_formulas(lines) == read_formulas(table) == ["NaCl", "TiO2"]


def test_bad_formula_files(tmp_path: Path) -> None:
    table = tmp_path / "formulas.csv"
    table.write_text("name,composition\nsalt,NaCl\n")
    with pytest.raises(FormulaError, match="no column 'formula'"):
        read_formulas(table)
    table.write_text("formula\nNaCl\n,\n")
    with pytest.raises(FormulaError, match="line 3: the formula is empty"):
        read_formulas(table)
    table.write_text("formula\n" + "x" * 200_000)
    with pytest.raises(FormulaError, match="can't be read as CSV"):
        read_formulas(table)
    table.write_text("")
    with pytest.raises(FormulaError, match="no column 'formula'"):
        read_formulas(table)
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n")
    with pytest.raises(FormulaError, match="holds no formula"):
        read_formulas(empty)
    with pytest.raises(FormulaError, match="can't be read"):
        read_formulas(tmp_path / "missing.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormulaError, match="can't be read"):
        read_formulas(tmp_path / "binary.txt")
