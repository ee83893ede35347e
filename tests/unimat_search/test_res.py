from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from unimat_search.files import read_structures
from unimat_search.res import ResEntry, parse_res, ranking, read_res, to_res
from unimat_search.symmetry import space_group_symbol

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0, 0]])
ENTRY = ResEntry("salt-1", SALT, 5.0, -27.25, 0.5, 1.5, "Fm-3m", 3, ("made by hand",))

ALUMINIUM = """TITL Al-91855-9500-1 -0.00 60.49 -53.272 0 0 8 (P63/mmc) n - 1
REM
REM in /somewhere (a remark of AIRSS)
CELL 1.54180    2.85634    4.94733    4.80000   90.00000   90.00000   90.00000
LATT -1
SFAC Al
Al     1  0.0000000000000  0.0000000000000  0.0000000000000 1.0
Al     1  0.5000000000000  0.5000000000000  0.0000000000000 1.0
END
"""
"""An entry as AIRSS writes it: widths and words of its own converter, numbers made up."""


@st.composite
def entries(draw: st.DrawFn) -> ResEntry:
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    symbols = draw(st.lists(st.sampled_from(["H", "C", "O", "Fe", "U"]), min_size=1, max_size=6))
    lattice = Lattice.from_parameters(*rng.uniform(3, 9, 3), *rng.uniform(70, 110, 3))
    structure = Structure(lattice, symbols, rng.random((len(symbols), 3)))
    if draw(st.booleans()):
        structure.add_site_property("magmom", rng.uniform(-5, 5, len(symbols)).round(2).tolist())
    pressure, enthalpy = round(float(rng.uniform(-10, 500)), 4), round(float(rng.uniform(-1e3, 10)), 8)
    name = draw(st.sampled_from(["a-b.c", "Cu(x)-0", "a=b-0", "pressure=3", "1.5"]))
    return ResEntry(name, structure, pressure, enthalpy, 0.25, 1.75, "P1", draw(st.integers(1, 99)), ("x y",))


@given(entries())
def test_what_is_written_is_read_back(entry: ResEntry) -> None:
    back = parse_res(to_res(entry).splitlines(), "?")
    for name in ("name", "pressure", "enthalpy", "spin", "absolute_spin", "space_group", "copies", "remarks"):
        assert getattr(back, name) == getattr(entry, name)
    order = np.argsort([site.specie.symbol for site in entry.structure], kind="stable")
    assert [site.specie for site in back.structure] == [entry.structure[i].specie for i in order]
    assert back.structure.lattice.parameters == pytest.approx(entry.structure.lattice.parameters, abs=1e-8)
    apart = back.structure.frac_coords - entry.structure.frac_coords[order]
    assert np.abs(apart - np.rint(apart)).max() < 1e-10
    spins = entry.structure.site_properties.get("magmom")
    assert back.structure.site_properties.get("magmom") == (spins and [spins[i] for i in order])


def test_ase_and_pymatgen_read_what_is_written(tmp_path: Path) -> None:
    from ase.io import read
    from pymatgen.io.res import AirssProvider

    path = tmp_path / "salt.res"
    path.write_text(to_res(ENTRY))
    provider = AirssProvider.from_file(str(path), "strict")
    assert (provider.energy, provider.pressure, provider.appearances) == (-27.25, 5.0, 3)
    assert provider.spacegroup_label == "Fm-3m"
    assert provider.integrated_spin_density == 0.5
    assert provider.structure.matches(SALT)
    atoms = read(path)
    assert atoms.get_potential_energy() == -27.25
    assert atoms.get_volume() == pytest.approx(SALT.volume, rel=1e-8)


def test_what_ase_and_pymatgen_write_is_read(tmp_path: Path) -> None:
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write
    from pymatgen.entries.computed_entries import ComputedStructureEntry
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.res import ResIO

    atoms = AseAtomsAdaptor.get_atoms(SALT)
    atoms.calc = SinglePointCalculator(atoms, energy=-27.25)
    write(tmp_path / "ase.res", atoms)
    ResIO.entry_to_file(ComputedStructureEntry(SALT, -27.25), str(tmp_path / "pymatgen.res"))
    for name in ("ase", "pymatgen"):
        (entry,) = read_res(tmp_path / f"{name}.res")
        assert entry.enthalpy == pytest.approx(-27.25)
        assert entry.structure.matches(SALT)


def test_packed_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "packed.res").write_text(ALUMINIUM + to_res(ENTRY))
    first, second = read_res(tmp_path / "packed.res")
    assert (first.name, first.enthalpy, first.space_group, first.copies) == ("Al-91855-9500-1", -53.272, "P63/mmc", 1)
    assert len(first.structure) == 2
    assert second == ENTRY
    assert [name for name, _ in read_structures(tmp_path)] == ["Al-91855-9500-1", "salt-1"]


def test_titles_of_other_programs() -> None:
    shelx = "TITL sucrose in P2(1)\n" + ALUMINIUM.split("\n", 1)[1]
    entry = parse_res(shelx.splitlines(), "file")
    assert entry.name == "sucrose"
    assert np.isnan(entry.enthalpy)
    untitled = parse_res(ALUMINIUM.split("\n", 1)[1].splitlines(), "file")
    assert untitled.name == "file"


@pytest.mark.parametrize(
    ("line", "instead"),
    [("CELL 1.54180", "CELL"), ("SFAC Al", "SFAC"), ("0.5000000000000  0.5000000000000", "half half")],
)
def test_damaged_entries_are_named(line: str, instead: str) -> None:
    with pytest.raises(ValueError, match="entry Al-91855-9500-1 is damaged"):
        parse_res(ALUMINIUM.replace(line, instead).splitlines(), "file")


def test_what_can_not_be_written() -> None:
    with pytest.raises(ValueError, match="without blanks"):
        to_res(ResEntry("two words", SALT, enthalpy=0.0))
    with pytest.raises(ValueError, match="no enthalpy"):
        to_res(ResEntry("name", SALT))


def test_the_ranking_has_airss_columns() -> None:
    """Widths a20, f9.2, f10.3, f12.3, i4, blank, a12, blank, a7, i5, as AIRSS 0.9.1's cryan prints them."""
    higher = ResEntry("a-name-of-more-than-twenty-letters", SALT, 0.0, -27.0, space_group="P1")
    lines = ranking([higher, ENTRY])
    assert lines[0] == f"{'salt-1':<20}     5.00    44.852      -6.812   4 ClNa         Fm-3m      3"
    assert lines[1][:20] == "a-name-o*y-letters  "
    assert lines[1][20:] == "     0.00    44.852       0.062   4 ClNa         P1         1"
    assert len(ranking([higher, ENTRY], top=1)) == 1


def test_formulas_are_ordered_as_airss_does() -> None:
    methanol = Structure(Lattice.cubic(9), ["O", "H", "H", "H", "H", "C"], np.random.default_rng(0).random((6, 3)))
    assert ResEntry("x", methanol).formula == "CH4O"
    assert ENTRY.formula == "ClNa"
    assert ENTRY.formula_units == 4
    assert space_group_symbol(SALT) == "Fm-3m"


@pytest.mark.parametrize("line", ["LATT 4", "SYMM -X, Y, Z"])
def test_symmetry_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="expand it to P1"):
        parse_res(ALUMINIUM.replace("LATT -1", line).splitlines(), "file")


def test_shelx_writes_elements_in_capitals() -> None:
    entry = parse_res(to_res(ENTRY).replace("SFAC Cl Na", "SFAC CL NA").splitlines(), "?")
    assert entry.structure.composition == ENTRY.structure.composition
