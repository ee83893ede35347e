from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition, Structure

from tests.airss.seed_writer import to_cell
from unimat_search.airss.seed_search import SeedSearch, draw_numbers, finish
from unimat_search.airss.seedfile import DIRECTIVES, Seed, SeedError, SeedText, SpeciesLine
from unimat_search.airss.settings import BuildSettings
from unimat_search.formula import parse_formula
from unimat_search.records import FailedAttempt
from unimat_search.testing import check_generator

ALUMINIUM = """%BLOCK LATTICE_CART
2 0 0
0 2 0
0 0 2
%ENDBLOCK LATTICE_CART

%BLOCK POSITIONS_FRAC
Al 0.0 0.0 0.0 # Al1 % NUM=8
%ENDBLOCK POSITIONS_FRAC

#MINSEP=1.5
"""
"""Example 1.1 of AIRSS's documentation."""

SILICA = """#VARVOL=35
#SPECIES=Si%NUM=1,O%NUM=2
#NFORM=2-4
#MINSEP=1.0 Si-Si=3.00 Si-O=1.60 O-O=2.58
#COMPACT
"""
"""Example 3.4."""

HYDROGEN = """#VARVOL=2.5
#SPECIES=H
#NATOM=8

#SLACK=0.25
#OVERLAP=0.1
#MINSEP=1 H-H=0.7
#COMPACT

KPOINTS_MP_SPACING 0.07

SYMMETRY_GENERATE
SNAP_TO_SYMMETRY

%BLOCK SPECIES_POT
QC5
%ENDBLOCK SPECIES_POT
"""
"""Example 2.2."""

GENCELL = """%BLOCK LATTICE_CART
2.154433 0 0
0 2.154433 0
0 0 2.154433
%ENDBLOCK LATTICE_CART

#VARVOL=10

%BLOCK POSITIONS_FRAC
Fe 0.0 0.0 0.0 # Fe1 % NUM=1
Bi 0.0 0.0 0.0 # Bi1 % NUM=1
%ENDBLOCK POSITIONS_FRAC

##SPECIES=Fe,Bi
##NATOM=3-9
##FOCUS=2

#SYMMOPS=2-4
##SGRANK=20
#NFORM=1
##ADJGEN=0-1
##SLACK=0.25
##OVERLAP=0.1
#MINSEP=1-3 AUTO
#COMPACT
##SYSTEM={Rhom,Tric,Mono,Cubi,Hexa,Orth,Tetra}

KPOINTS_MP_SPACING 0.07

%BLOCK EXTERNAL_PRESSURE
0 0 0
0 0
0
%ENDBLOCK EXTERNAL_PRESSURE
"""
"""What AIRSS's `gencell 10 1 Fe 1 Bi 1` writes."""

HELD = """%BLOCK LATTICE_CART
4 0 0
0 4 0
0 0 4
#FIX
%ENDBLOCK LATTICE_CART
%BLOCK POSITIONS_FRAC
Na 0.0 0.0 0.0 # a % POSAMP=0 NOMOVE
Cl 0.5 0.5 0.5 # b % XAMP=0.5 YAMP=0.25 NUM=2
%ENDBLOCK POSITIONS_FRAC
#MINSEP=1
"""

EXAMPLES = {"Al8": ALUMINIUM, "SiO2": SILICA, "H8": HYDROGEN, "FeBi": GENCELL, "held": HELD}


def search(text: str, tmp_path: Path, **options: object) -> SeedSearch:
    path = tmp_path / "seed.cell"
    path.write_text(text)
    return SeedSearch(path, **options)  # type: ignore[arg-type]


def made(text: str, tmp_path: Path, n: int = 6, seed: int = 0) -> list[Structure]:
    structures = search(text, tmp_path).structures(range(n), seed=seed)
    assert all(isinstance(structure, Structure) for structure in structures), structures
    return structures  # type: ignore[return-value]


def shortest(structure: Structure, a: str, b: str) -> float:
    return min(
        float(n.nn_distance)
        for site in structure
        if site.specie.symbol == a
        for n in structure.get_neighbors(site, 6.0)
        if n.specie.symbol == b
    )


def seed_of(text: str) -> Seed:
    return SeedText.parse(text).expand(np.random.default_rng(0))


def test_eight_aluminium_atoms(tmp_path: Path) -> None:
    """Only the block's volume counts, once for each atom: 8 x 8 cubic angstrom, within 5 %."""
    for structure in made(ALUMINIUM, tmp_path):
        assert structure.composition == Composition("Al8")
        assert 0.95 * 64 <= structure.volume <= 1.05 * 64
        assert shortest(structure, "Al", "Al") >= 1.5 - 1e-9


def test_silica_has_the_volume_that_the_original_gives_it(tmp_path: Path) -> None:
    """52.5 cubic angstrom for SiO2 (measured with the original), because VARVOL counts one atom of each line."""
    structures = made(SILICA, tmp_path, 40)
    units = [len(structure) // 3 for structure in structures]
    assert set(units) == {2, 3, 4}
    for structure, z in zip(structures, units, strict=True):
        assert 0.95 * 52.5 <= structure.volume / z <= 1.05 * 52.5
        assert shortest(structure, "Si", "O") >= 1.6 - 1e-9
        assert shortest(structure, "O", "O") >= 2.58 - 1e-9
        assert shortest(structure, "Si", "Si") >= 3.0 - 1e-9
    assert "52.50 for each SiO2" in search(SILICA, tmp_path).describe()


def test_symmetric_silica(tmp_path: Path) -> None:
    import spglib

    text = SILICA.replace("#NFORM=2-4", "#NFORM=4\n#SYMMOPS=2-4")
    for structure in made(text, tmp_path):
        numbers = [site.specie.Z for site in structure]
        found = spglib.get_symmetry((structure.lattice.matrix, structure.frac_coords, numbers), symprec=1e-4)
        assert len(found["rotations"]) >= 2


def test_hydrogen_with_slack_and_overlap(tmp_path: Path) -> None:
    for structure in made(HYDROGEN, tmp_path):
        assert structure.composition == Composition("H8")
        assert 0.95 * 20 <= structure.volume <= 1.05 * 20
        assert shortest(structure, "H", "H") > 0.65


def test_what_gencell_writes(tmp_path: Path) -> None:
    """AUTO takes both separations and volume from what is known of Fe and Bi."""
    for structure in made(GENCELL, tmp_path):
        assert structure.composition == Composition("FeBi")
        assert structure.volume > 20
        assert shortest(structure, "Bi", "Fe") > 2.0


@pytest.mark.parametrize("text", EXAMPLES.values(), ids=EXAMPLES)
def test_seeds_are_written_as_they_are_read(text: str) -> None:
    seed = seed_of(text)
    assert seed_of(to_cell(seed)) == seed


@given(
    st.builds(
        Seed,
        species=st.just((SpeciesLine("Si", (1, 2), radius=1.1), SpeciesLine("O", (4, 4), volume=12.5))),
        units=st.none() | st.tuples(st.integers(1, 3), st.integers(3, 9)),
        set_volume=st.none() | st.integers(1, 99).map(float),
        target_volume=st.none() | st.just((4.5, 7.25)),
        separation=st.none() | st.just((1.5, 2.5)),
        pairs=st.just(()) | st.just((("O", "Si", (1.6, 1.6)),)),
        auto=st.booleans(),
        octet=st.booleans(),
        vacancies=st.just((0, "")) | st.just((2, "O")),
        settings=st.builds(
            BuildSettings,
            operations=st.just((1, 1)) | st.just((2, 4)),
            groups=st.just(()) | st.just((14, 62)),
            rank=st.just((1, 230)) | st.just((1, 20)),
            extra_sites=st.integers(0, 2),
            slack=st.just(0.0) | st.just(0.25),
            slack_growth=st.just(0.0) | st.just(0.01),
            overlap=st.none() | st.just(0.1),
            adapt=st.booleans(),
            rash=st.just(0.0) | st.just(1.0) | st.just(0.5),
            push=st.booleans(),
            compact=st.booleans(),
        ),
    )
)  # fmt: skip
def test_any_seed_is_written_as_it_is_read(seed: Seed) -> None:
    assert seed_of(to_cell(seed)) == seed


def test_the_later_line_wins_and_comments_are_dropped() -> None:
    seed = seed_of("#SPECIES=Al\n#VARVOL=10 ## cubic angstrom\n##VARVOL=99\n# a remark\n#COMPACT ## yes\n#VARVOL=20\n")
    assert seed.set_volume == 20.0


def test_lists_are_drawn_for_each_structure(tmp_path: Path) -> None:
    text = "#SPECIES=Al%NUM=1\n#VARVOL=17\n#NFORM={1,4}\n#MINSEP=2\n"
    sizes = {len(structure) for structure in made(text, tmp_path, 30)}
    assert sizes == {1, 4}


def test_numbers_of_atoms_are_drawn(tmp_path: Path) -> None:
    text = "#SPECIES=A%NUM=1-3,B%NUM=2\n#VARVOL=15\n#MINSEP=1\n".replace("A%", "Al%").replace("B%", "Ni%")
    formulas = {structure.composition.formula for structure in made(text, tmp_path, 30)}
    assert formulas == {"Al1 Ni2", "Al2 Ni2", "Al3 Ni2"}
    octets = seed_of("#SPECIES=Si,C\n#NATOM=2-8\n#VARVOL=10\n#OCTET\n#FOCUS=2\n")
    for index in range(20):
        numbers = draw_numbers(octets, np.random.default_rng(index))
        assert all(numbers)
        assert 4 * sum(numbers) % 8 == 0


def test_without_formula_units_atoms_are_the_asymmetric_unit(tmp_path: Path) -> None:
    """One atom on a general position of groups with four operations: four atoms in four times the volume."""
    for structure in made("#SPECIES=Cu\n#VARVOL=12\n#SYMMOPS=4\n#MINSEP=1.5\n", tmp_path):
        assert len(structure) == 4
        assert 0.95 * 48 <= structure.volume <= 1.05 * 48


def test_fixed_cells_keep_their_vectors(tmp_path: Path) -> None:
    text = "%BLOCK LATTICE_ABC\n4 5 6\n90 100 90\n#FIX\n%ENDBLOCK LATTICE_ABC\n#SPECIES=Al%NUM=6\n#MINSEP=2\n"
    for structure in made(text, tmp_path):
        assert structure.lattice.parameters == pytest.approx((4, 5, 6, 90, 100, 90))
    scaled = text.replace("#FIX", "#ABFIX").replace("#MINSEP", "#TARGVOL=40\n#MINSEP")
    for structure in made(scaled, tmp_path):
        a, b, c = structure.lattice.abc
        assert (a, b) == pytest.approx((4, 5))
        assert structure.volume == pytest.approx(240)
        assert c == pytest.approx(240 / (20 * np.sin(np.radians(100))))


def test_atoms_start_around_their_places(tmp_path: Path) -> None:
    text = (
        "%BLOCK LATTICE_CART\n4 0 0\n0 4 0\n0 0 4\n#FIX\n%ENDBLOCK LATTICE_CART\n%BLOCK POSITIONS_FRAC\n"
        "Na 0 0 0 # a % POSAMP=0 NOMOVE\nCl 0.5 0.5 0.5 # b % POSAMP=0.3\n%ENDBLOCK POSITIONS_FRAC\n#MINSEP=1\n"
    )
    moved = []
    for structure in made(text, tmp_path, 20):
        by_symbol = {site.specie.symbol: site.frac_coords for site in structure}
        assert by_symbol["Na"] == pytest.approx(np.zeros(3))
        moved.append(np.linalg.norm(4 * (by_symbol["Cl"] - 0.5)))
    assert 0.1 < max(moved) <= 0.3 + 1e-9


def test_symmetry_can_be_broken(tmp_path: Path) -> None:
    import spglib

    text = "#SPECIES=Al%NUM=8\n#VARVOL=160\n#NFORM=1\n#SYMMNO=225\n#MINSEP=2\n#BREAKAMP=0.2\n#SGRANK=230\n"
    for structure in made(text, tmp_path):
        numbers = [13] * len(structure)
        found = spglib.get_symmetry((structure.lattice.matrix, structure.frac_coords, numbers), symprec=1e-3)
        assert len(found["rotations"]) == 1


def test_vacancies_and_permutations(tmp_path: Path) -> None:
    text = "#SPECIES=Ti%NUM=2,O%NUM=4\n#VARVOL=10\n#MINSEP=1\n#VACANCIES=1@O\n"
    for structure in made(text, tmp_path):
        assert structure.composition == Composition("Ti2O3")
    (before,) = made("#SPECIES=Fe%NUM=3,Co%NUM=3\n#VARVOL=36\n#MINSEP=2\n", tmp_path, 1)
    seed = seed_of("#SPECIES=Fe%NUM=3,Co%NUM=3\n#VARVOL=36\n#PERMUTE\n")
    after = finish(before.copy(), seed, np.random.default_rng(0))
    assert isinstance(after, Structure)
    assert after.composition == before.composition
    assert sorted(map(tuple, after.frac_coords.round(6))) == sorted(map(tuple, before.frac_coords.round(6)))
    too_many = seed_of("#SPECIES=Fe%NUM=3,Co%NUM=3\n#VARVOL=36\n#VACANCIES=4@Fe\n")
    assert isinstance(finish(before.copy(), too_many, np.random.default_rng(0)), FailedAttempt)


def test_structures_do_not_depend_on_those_beside_them(tmp_path: Path) -> None:
    seeds = search(SILICA, tmp_path)
    assert seeds.structures([3, 1], seed=5) == [seeds.structures([k], seed=5)[0] for k in (3, 1)]
    assert seeds.structures([3], seed=5) != seeds.structures([3], seed=6)


def test_a_seed_is_a_generator(tmp_path: Path) -> None:
    check_generator(search(SILICA, tmp_path), "Si2O4", n=4)
    assert search(SILICA, tmp_path).formula == "SiO2"
    assert search(SILICA, tmp_path).formula_units == "2,3,4"
    for structure in search(SILICA, tmp_path).generate(Composition("Si3O6"), 3, seed=0):
        assert isinstance(structure, Structure)
        assert 0.95 * 157.5 <= structure.volume <= 1.05 * 157.5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("#COLOUR=red", "line 3, '#COLOUR=red': #COLOUR is no directive"),
        ("#CLUSTER", "only bulk crystals"),
        ("#COORD=4", "COORD: it is not supported"),
        ("#SYMMOPS=5", "no space group has 5 operations"),
        ("#SYMMOPS=~4", "approximate symmetry"),
        ("#SYMM=P9", "no short symbol"),
        ("#NFORM=2-1", "range '2-1' is empty"),
        ("#NFORM=0", "must be 1 or more"),
        ("#VARVOL=big", "no number"),
        ("#MINSEP=1 Si=2", "no pair of elements"),
        ("#MINSEP=1 Si-O=-2", "negative distances"),
        ("#COMPACT=1", "takes no value"),
        ("# VARVOL=10", "right after the #"),
        ("#SYSTEM=Cubic\n#CELLCON=1 1 1 0 0 0", "exclude each other"),
        ("#SYSTEM=Round", "none of Tric"),
        ("#CELLCON=1 2 3", "six numbers"),
        ("#SPECIES=Xx", "no element"),
        ("#SPECIES=Si%COLOUR=1", "tag COLOUR is not supported"),
        ("#SLACK=2", "line 3, '#SLACK=2': '2' must be 0 to 0.9"),
        ("%BLOCK LATTICE_CART", "no %ENDBLOCK"),
        ("#FORMULA=SiO2", "given once"),
        ("#NFORM={1,0}", "must be 1 or more"),
        ("#MAXTIME=inf", "1000000 at most"),
        ("#MINSEP=1e300", "1000000 at most"),
        ("#POSAMP=1e308", "1000000 at most"),
        ("#VARVOL =30", "write #VARVOL=30"),
        ("#SYMMNO=", "1 to 230"),
        ("#SYMMNO=14.7", "no whole number"),
        ("#MINSEP=", "a distance is wanted"),
        ("#VACANCIES=1@Xx", "one element"),
        ("#PERMFRAC=7", "must be 0 to 1"),
        ("KPOINTS 2 #COLOUR=1", "no directive"),
        ("#SYSTEM=Rhom\n#SYMMOPS=3", "SYMMNO=146"),
    ],
)
def test_errors_name_the_line(line: str, message: str) -> None:
    with pytest.raises(SeedError) as caught:
        SeedText.parse(f"#SPECIES=Si,O\n#VARVOL=20\n{line}\n")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value).replace("\\n", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#SPECIES=Si\n", "gives no volume"),
        ("#VARVOL=10\n", "there are none"),
        ("#SPECIES=Si\n#VARVOL=20\n#FIX\n", "want a lattice block"),
        ("#SPECIES=U,Si\n#VARVOL=20\n#OCTET\n", "no valence electrons of U"),
    ],
)
def test_seeds_that_give_nothing_say_why(text: str, message: str, tmp_path: Path) -> None:
    (result,) = search(text, tmp_path).structures([0], seed=0) if text != "#VARVOL=10\n" else [None]
    if result is None:
        with pytest.raises(SeedError, match=message):
            search(text, tmp_path)
        return
    assert isinstance(result, FailedAttempt)
    assert message in result.reason


def test_given_cells_have_no_symmetry(tmp_path: Path) -> None:
    text = "%BLOCK LATTICE_ABC\n4 4 4\n90 90 90\n#FIX\n%ENDBLOCK LATTICE_ABC\n#SPECIES=Al%NUM=4\n#NFORM=1\n#SYMMOPS=4\n"
    with pytest.raises(SeedError, match="P1"):
        search(text, tmp_path)


def test_every_directive_of_bulk_search_is_known() -> None:
    wanted = (
        "SPECIES NATOM NFORM FORMULA VARVOL TARGVOL VOL PACKING MINSEP RAD SYMM SYMMNO SYMMOPS SGRANK SYMMORPHIC "
        "SYSTEM CELLCON CHIRAL ADJGEN CONS ACONS COMPACT NOCOMPACT NOPUSH PUSHSTEP PUSHMAX SLACK AUTOSLACK OVERLAP "
        "CELLADAPT "
        "MAXTIME SEED OCTET FOCUS PERMUTE PERMFRAC BREAKAMP FIX ABFIX CFIX POSAMP MINAMP XAMP YAMP ZAMP CELLAMP "
        "VACANCIES RASH RASH_POSAMP"
    )  # fmt: skip
    assert set(wanted.split()) == set(DIRECTIVES)


def test_the_documentation_names_every_directive(root: Path) -> None:
    text = (root / "docs" / "airss.md").read_text()
    assert [name for name in DIRECTIVES if name not in text] == []


@pytest.mark.parametrize(
    ("text", "formula", "units"),
    [
        ("#SPECIES=Cu%NUM=8\n#VARVOL=12\n", "Cu", "1"),
        ("#SPECIES=Cu%NUM=2\n#VARVOL=12\n#NFORM=2\n", "Cu", "4"),
        ("#SPECIES=Ti%NUM=2,O%NUM=4\n#VARVOL=20\n#NFORM=1-2\n", "TiO2", "2,4"),
        ("#SPECIES=O%NUM=4\n#VARVOL=12\n", "O", "4"),
        ("#SPECIES=K%NUM=4,O%NUM=4\n#VARVOL=12\n", "KO", "4"),
        ("#SPECIES=Cu\n#VARVOL=12\n#SYMMOPS=4\n", None, ""),
        ("#SPECIES=Ti%NUM=2,O%NUM=4\n#VARVOL=20\n#VACANCIES=1@O\n", None, ""),
    ],
)
def test_what_a_comparison_is_asked_for(text: str, formula: str | None, units: str, tmp_path: Path) -> None:
    seeds = search(text, tmp_path)
    assert (seeds.formula, seeds.formula_units) == (formula, units if units != "1" else "8")
    assert formula is None or parse_formula(formula).fixed_units is None, "every number of units can be asked for"


def test_seeds_whose_composition_varies_refuse_to_be_asked_for_one(tmp_path: Path) -> None:
    for text, reason in (("#SYMMOPS=4", "without NFORM"), ("#VACANCIES=1@Cu", "VACANCIES change")):
        (result,) = search(f"#SPECIES=Cu%NUM=4\n#VARVOL=12\n{text}\n", tmp_path).generate(Composition("Cu4"), 1, seed=0)
        assert isinstance(result, FailedAttempt)
        assert reason in result.reason


def test_fixed_cells_do_not_adapt_and_held_atoms_do_not_move(tmp_path: Path) -> None:
    text = "%BLOCK LATTICE_ABC\n4 5 6\n90 100 90\n#FIX\n%ENDBLOCK LATTICE_ABC\n#SPECIES=Al%NUM=6\n#MINSEP=2\n"
    for structure in made(text + "#SLACK=0.3\n#OVERLAP=0.5\n#CELLADAPT\n", tmp_path):
        assert structure.lattice.parameters == pytest.approx((4, 5, 6, 90, 100, 90))
    assert "118.18 cubic angstrom" in search(text + "#VARVOL=5\n", tmp_path).describe()
    held = (
        "%BLOCK LATTICE_CART\n4 0 0\n0 4 0\n0 0 4\n#FIX\n%ENDBLOCK LATTICE_CART\n%BLOCK POSITIONS_FRAC\n"
        "Na 0 0 0 # a % POSAMP=0 NOMOVE\nCl 0.5 0.5 0.5 # b\n%ENDBLOCK POSITIONS_FRAC\n#MINSEP=1\n#BREAKAMP=0.3\n"
    )
    for structure in made(held, tmp_path):
        sodium = next(site for site in structure if site.specie.symbol == "Na")
        assert sodium.frac_coords == pytest.approx(np.zeros(3))


def test_amplitudes_are_angstrom_in_the_cell_that_is_drawn(tmp_path: Path) -> None:
    text = "%BLOCK POSITIONS_FRAC\nNa 0 0 0 # a % POSAMP=0\nCl 0.5 0.5 0.5 # b % POSAMP=0.5\n%ENDBLOCK POSITIONS_FRAC\n"
    for structure in made(text + "#VARVOL=200\n#MINSEP=0.5\n#NOCOMPACT\n", tmp_path, 10):
        chlorine, sodium = sorted(structure, key=lambda site: site.specie.symbol)
        apart = (chlorine.frac_coords - sodium.frac_coords - 0.5) % 1.0
        apart = np.minimum(apart, 1 - apart)
        signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
        assert np.linalg.norm((signs * apart) @ structure.lattice.matrix, axis=1).min() <= 0.5 + 1e-6


def test_each_alternative_is_checked_before_anything_is_built(tmp_path: Path) -> None:
    text = "#SPECIES=Cu%NUM=4\n#VARVOL=12\n#NFORM=1\n#CHIRAL\n#SYMMOPS={1,48}\n#MINSEP=1\n"
    with pytest.raises(SeedError, match="no space group is left"):
        search(text, tmp_path)
    cell = "%BLOCK LATTICE_ABC\n4 4 4\n90 90 90\n#FIX\n%ENDBLOCK LATTICE_ABC\n"
    placed = cell + "#SPECIES=Al%NUM=4\n#NFORM=1\n#SYMMOPS={1,4}\n"
    with pytest.raises(SeedError, match="P1"):
        search(placed, tmp_path)


def test_directives_may_stand_behind_other_words_and_symbols_may_be_old() -> None:
    seed = seed_of("KPOINTS_MP_SPACING 0.07 #VARVOL=9\n#SPECIES=Al\n#SYMM=Cmca\n")
    assert seed.set_volume == 9
    assert seed.settings.groups == (64,)
    assert [(line.symbol, line.number) for line in seed_of("#FORMULA=Ca(OH)2\n#VARVOL=9\n").species] == [
        ("Ca", (1, 1)),
        ("O", (2, 2)),
        ("H", (2, 2)),
    ]
