from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.baselines.samples import StructureFiles
from unimat_search.baselines.uniform import UniformRandom
from unimat_search.records import FailedAttempt
from unimat_search.testing import check_generator

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
IRON = Structure(Lattice.cubic(2.8), ["Fe", "Fe"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])


def test_samples_of_another_tool(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "generated_crystals_cif.zip", "w") as archive:
        archive.writestr("gen_0.cif", SALT.to(fmt="cif"))
        archive.writestr("gen_1.cif", "broken")
        archive.writestr("gen_2.cif", IRON.to(fmt="cif"))
        archive.writestr("gen_3.cif", SALT.get_primitive_structure().to(fmt="cif"))
    generator = StructureFiles(str(tmp_path / "generated_crystals_cif.zip"))
    made = list(generator.generate(Composition("Na2Cl2"), 3, seed=0))
    assert [type(one) for one in made] == [Structure, Structure, FailedAttempt]
    for one in made[:2]:
        assert isinstance(one, Structure)
        assert one.composition == Composition("Na2Cl2")
        assert one.matches(SALT)
    assert isinstance(made[2], FailedAttempt)
    assert "2 structures of NaCl" in made[2].reason
    assert list(generator.generate(Composition("Na2Cl2"), 1, seed=5)) == made[:1]
    (wrong,) = generator.generate(Composition("Fe3"), 1, seed=0)
    assert isinstance(wrong, Structure)  # three primitive cells of one atom
    with pytest.raises(ValueError, match="does not exist"):
        StructureFiles(str(tmp_path / "missing.cif"))


def test_free_samples_are_the_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        archive.writestr("0.cif", SALT.to(fmt="cif"))
        archive.writestr("1.cif", "broken")
        archive.writestr("2.cif", IRON.to(fmt="cif"))
    generator = StructureFiles(str(tmp_path / "made.zip"))
    made = generator.generate_freely(3, seed=1)
    formulas = sorted(one.composition.reduced_formula for one in made if isinstance(one, Structure))
    assert formulas == ["Fe", "NaCl"]
    assert sum(isinstance(one, FailedAttempt) for one in made) == 1
    assert len(generator.generate_freely(2, seed=1)) == 2
    lacking = generator.generate_freely(4, seed=1)[-1]
    assert isinstance(lacking, FailedAttempt)
    assert "holds 3 structures, 4 were asked for" in lacking.reason


def test_what_fits_no_cell_says_so(tmp_path: Path) -> None:
    flat = SALT.get_primitive_structure()
    oxide = Structure(
        Lattice.cubic(5), ["Ti", "Ti", "O", "O"], [[0.0, 0, 0], [0.5, 0, 0.1], [0, 0.4, 0.5], [0.3, 0.3, 0.3]]
    )
    oxide.to(str(tmp_path / "oxide.cif"))
    flat.to(str(tmp_path / "salt.cif"))
    (attempt,) = StructureFiles(str(tmp_path)).generate(Composition("Ti3O3"), 1, seed=0)
    assert isinstance(attempt, FailedAttempt)
    assert "4 atoms can't become" in attempt.reason


def test_uniform_is_uniform() -> None:
    check_generator(UniformRandom(), "Na2Cl2")
    made = list(UniformRandom().generate(Composition("Ti2O4"), 400, seed=1))
    coords = np.concatenate([one.frac_coords for one in made])
    assert np.abs(np.histogram(coords, 10, (0, 1))[0] / coords.size - 0.1).max() < 0.015
    volumes = [one.volume for one in made]
    assert max(volumes) / min(volumes) == pytest.approx(3, rel=0.1)
    assert all(60 <= angle <= 120 for one in made for angle in one.lattice.angles)
    with pytest.raises(ValueError, match="low and high"):
        UniformRandom(low=2.0, high=1.0)
