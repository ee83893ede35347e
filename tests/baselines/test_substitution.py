from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.baselines.substitution import TemplateSubstitution, _likeness
from unimat_search.cells import hermite_forms, in_cell, supercell
from unimat_search.records import FailedAttempt
from unimat_search.testing import check_generator
from unimat_search.unimat.elements import SYMBOLS
from unimat_search.unimat.sources import from_structures, write_parquet


def crystal(group: str, a: float, *sites: tuple[str, list[float]]) -> Structure:
    symbols, coords = zip(*sites, strict=True)
    return Structure.from_spacegroup(group, Lattice.cubic(a), symbols, list(coords)).get_primitive_structure()


SALTS = {
    "lithium-fluoride": crystal("Fm-3m", 4.0, ("Li", [0, 0, 0]), ("F", [0.5, 0.5, 0.5])),
    "caesium-iodide": crystal("Pm-3m", 4.6, ("Cs", [0, 0, 0]), ("I", [0.5, 0.5, 0.5])),
    "zinc-sulfide": crystal("F-43m", 5.4, ("Zn", [0, 0, 0]), ("S", [0.25, 0.25, 0.25])),
    "sodium-chloride": crystal("Fm-3m", 5.6, ("Na", [0, 0, 0]), ("Cl", [0.5, 0.5, 0.5])),
    "potassium-chloride": crystal("Fm-3m", 6.3, ("K", [0, 0, 0]), ("Cl", [0.5, 0.5, 0.5])),
    "fluorite": crystal("Fm-3m", 5.5, ("Ca", [0, 0, 0]), ("F", [0.25, 0.25, 0.25])),
    "perovskite": crystal("Pm-3m", 3.9, ("Sr", [0, 0, 0]), ("Ti", [0.5, 0.5, 0.5]), ("O", [0.5, 0.5, 0])),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "templates.parquet"
    write_parquet(from_structures(SALTS.items()), file)
    return file


def test_atoms_in_a_wide_cell_are_no_template(tmp_path: Path) -> None:
    """A perovskite at three times its edge is left out; as the only template of its kind it leaves none."""
    wide = {**SALTS, "wide": crystal("Pm-3m", 12.0, ("Sr", [0, 0, 0]), ("Ti", [0.5, 0.5, 0.5]), ("O", [0.5, 0.5, 0]))}
    del wide["perovskite"]
    several = {f"{name}-{k}": one for name, one in wide.items() for k in range(1 if name == "wide" else 20)}
    write_parquet(from_structures(several.items()), tmp_path / "templates.parquet")
    (made,) = TemplateSubstitution(data=str(tmp_path / "templates.parquet")).generate(Composition("BaZrO3"), 1, seed=0)
    assert isinstance(made, FailedAttempt)


@pytest.fixture(scope="module")
def generator(data: Path) -> TemplateSubstitution:
    return TemplateSubstitution(data=str(data))


def structures(generator: TemplateSubstitution, formula: str, n: int) -> list[Structure]:
    made = list(generator.generate(Composition(formula), n, seed=0))
    return [one for one in made if isinstance(one, Structure)]


def test_the_contract(generator: TemplateSubstitution) -> None:
    check_generator(generator, "Na1Cl1")
    check_generator(generator, "Rb2Br2", n=6)


def test_the_likeliest_prototype_comes_first_and_each_once(generator: TemplateSubstitution) -> None:
    made = structures(generator, "NaCl", 3)
    fit = StructureMatcher(0.2, 0.3, 5)
    prototypes = [SALTS["potassium-chloride"], SALTS["caesium-iodide"], SALTS["zinc-sulfide"]]
    assert [sum(fit.fit_anonymous(one, other) for one in made) for other in prototypes] == [1, 1, 1]
    assert fit.fit_anonymous(made[0], prototypes[0])


def test_the_asked_formula_is_no_template(data: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.parquet"
    write_parquet(from_structures([("sodium-chloride", SALTS["sodium-chloride"])]), alone)
    (attempt,) = TemplateSubstitution(data=str(alone)).generate(Composition("Na2Cl2"), 1, seed=0)
    assert isinstance(attempt, FailedAttempt)
    assert "holds no template for Na2 Cl2" in attempt.reason
    left_out = tmp_path / "left_out.csv"
    left_out.write_text("reduced_formula\nKCl\nLiF\nNaCl\n")
    without = TemplateSubstitution(data=str(data), without=str(left_out))
    assert all(one.get_space_group_info(0.1)[0] != "Fm-3m" for one in structures(without, "RbBr", 2))


def test_volumes_are_those_of_the_new_elements(generator: TemplateSubstitution) -> None:
    made = structures(generator, "RbBr", 1)[0]
    assert made.volume == pytest.approx(6.855**3 / 4, rel=0.1)  # rock salt (Wyckoff, Crystal Structures)


def test_a_larger_cell_is_a_supercell(generator: TemplateSubstitution) -> None:
    small, large = structures(generator, "KBr", 1)[0], structures(generator, "K4Br4", 1)[0]
    assert len(large) == 8
    assert StructureMatcher().fit(small, large)
    assert max(large.lattice.abc) / min(large.lattice.abc) < 1.5


def test_templates_come_again_shaken(generator: TemplateSubstitution) -> None:
    made = structures(generator, "NaCl", 12)
    assert len(made) == 12
    assert not any(made[0] == other for other in made[1:])
    assert structures(generator, "NaCl", 5) == made[:5]


def test_every_way_to_put_elements_in(generator: TemplateSubstitution) -> None:
    ranked = generator._ranked(Composition("BaZrO3"))
    assert {tuple(sorted(one.atomic_numbers.items())) for one in ranked} == {
        ((8, 8), (22, 40), (38, 56)),
        ((8, 8), (22, 56), (38, 40)),
    }
    assert ranked[0].atomic_numbers == {38: 56, 22: 40, 8: 8}


def test_what_is_alike() -> None:
    likeness = _likeness()
    assert likeness.shape == (len(SYMBOLS),) * 2
    assert np.isfinite(likeness).all()
    assert np.allclose(likeness, likeness.T)

    def between(a: str, b: str) -> float:
        return float(likeness[SYMBOLS.index(a), SYMBOLS.index(b)])

    assert between("Na", "K") > between("Na", "Fe") > between("Na", "O")
    assert between("La", "Ce") > between("La", "Ti")
    assert between("Ar", "Kr") > between("Ar", "Fe")  # no ions of theirs are known


def test_a_set_that_cannot_be_had_is_one_line() -> None:
    with pytest.raises(ValueError, match="there is no data 'nowhere'"):
        TemplateSubstitution(data="nowhere")


@given(st.integers(1, 12))
def test_sublattices(size: int) -> None:
    """As many as there are (OEIS A001001), each of the index, no two the same."""
    forms = list(hermite_forms(size))
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    assert len(forms) == sum(d * sum(e for e in range(1, d + 1) if d % e == 0) for d in divisors)
    assert all(round(np.linalg.det(form)) == size for form in forms)
    for index, form in enumerate(forms[:40]):  # rows of two of them never span the same lattice
        for other in forms[:index]:
            ratio = form @ np.linalg.inv(other)
            assert not np.allclose(ratio, np.rint(ratio), atol=1e-6)


@given(st.sampled_from(sorted(SALTS)), st.integers(1, 6))
def test_a_supercell_is_the_same_crystal(name: str, size: int) -> None:
    cell = SALTS[name]
    larger = supercell(cell, size)
    assert larger.composition == cell.composition * size
    assert larger.volume == pytest.approx(size * cell.volume)
    assert StructureMatcher(0.01, 0.01, 0.1).fit(cell, larger)


def test_a_crystal_in_another_cell() -> None:
    cubic = SALTS["sodium-chloride"].to_conventional()
    assert in_cell(cubic, 8) == cubic
    for num_sites in (2, 4, 6, 16):
        other = in_cell(cubic, num_sites)
        assert other is not None
        assert len(other) == num_sites
        assert StructureMatcher().fit(other, cubic)
    assert in_cell(cubic, 3) is None
