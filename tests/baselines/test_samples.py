from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.baselines.samples import StructureFiles
from unimat_search.baselines.uniform import UniformRandom
from unimat_search.compare import run_comparison
from unimat_search.eval.report import to_table
from unimat_search.plan import CompareSettings
from unimat_search.records import FailedAttempt, Outcome, Record, RelaxSettings
from unimat_search.run_folder import RESULTS
from unimat_search.store import Store
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


def polymorphs(folder: Path) -> Path:
    """Five crystals of NaCl in cells of 1, 2, 4, 4 and 12 formula units, and one file that is none."""
    folder.mkdir()
    small = Structure(Lattice.cubic(3.5), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    SALT.to(str(folder / "c.cif"))
    small.to(str(folder / "a.cif"))
    Structure(
        Lattice.hexagonal(4, 6.5), ["Na", "Na", "Cl", "Cl"],
        [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.38], [2 / 3, 1 / 3, 0.88]],
    ).to(str(folder / "b.cif"))  # fmt: skip
    shaken = SALT.copy()
    shaken.perturb(0.1, seed=1)
    shaken.to(str(folder / "d.cif"))
    small.make_supercell([3, 2, 2], in_place=False).to(str(folder / "e.cif"))
    (folder / "f.cif").write_text("broken")
    return folder


def test_where_several_cells_are_searched_each_structure_is_given_once(tmp_path: Path) -> None:
    folder = polymorphs(tmp_path / "known")
    settings = few_steps(f"files,path={folder},label=files", "tests.plugins:Uniform", n=7)
    summary = run_comparison(settings, tmp_path / "run", workers=1)["compositions"][0]["generators"]
    rows = [record for record in stored(tmp_path / "run") if record.generator == "files"]
    given = [record for record in rows if record.initial_structure is not None]
    assert [record.formula_units for record in given] == [1, 1, 2, 4, 4], "the supercell of 12 in its primitive cell"
    matcher = StructureMatcher()
    originals = [Structure.from_file(folder / f"{name}.cif") for name in "aebcd"]
    pairs = zip((record.initial_structure for record in given), originals, strict=True)
    assert all(one is not None and matcher.fit(one, other) for one, other in pairs)
    (reason,) = {record.detail for record in rows if record not in given}
    assert reason.startswith(f"{folder} holds 5 structures of NaCl; 1 can't be read, f.cif: Invalid CIF")
    assert summary["files"]["n_generated"] == summary["tests.plugins:Uniform"]["n_generated"] == 7
    by_units = {units: part["n_generated"] for units, part in summary["files"]["by_formula_units"].items()}
    assert {units: n for units, n in by_units.items() if n} == {"1": 4, "2": 1, "4": 2}


def few_steps(*generators: str, n: int, formula: str = "NaCl") -> CompareSettings:
    return CompareSettings((formula,), generators, n=n, max_atoms=16, relaxer="emt", relax=RelaxSettings(max_steps=0))


def stored(run: Path) -> list[Record]:
    with Store(run / RESULTS) as store:
        rows = list(store.records(structures=True))
    return [replace(row, generate_seconds=0.0, relax_seconds=0.0) for row in rows]


@pytest.mark.parametrize("formula", ["NaCl", "Na3Cl3"])
def test_going_on_changes_nothing(formula: str, tmp_path: Path) -> None:
    """Also where some structures are lacking, or the first one fits no cell; and files that came later wait."""
    folder = polymorphs(tmp_path / "known")
    settings = few_steps(f"files,path={folder}", n=7, formula=formula)
    run_comparison(settings, tmp_path / "run", workers=1)
    before = stored(tmp_path / "run")
    assert {record.outcome for record in before} >= {Outcome.GENERATOR_FAILED, Outcome.RELAXER_FAILED}
    (folder / "0.cif").write_text((folder / "d.cif").read_text())
    settings = settings.joined_by(["tests.plugins:Uniform"])
    summary = run_comparison(settings, tmp_path / "run", resume=True, workers=1)
    assert [record for record in stored(tmp_path / "run") if record.generator.startswith("files")] == before
    assert {column["n_generated"] for column in summary["overall"].values()} == {7}


def test_files_that_were_missing_are_given_in_their_own_cells(tmp_path: Path) -> None:
    name = f"files,path={tmp_path / 'known'}"
    settings = few_steps("tests.plugins:Uniform", name, n=5)
    broken = run_comparison(settings, tmp_path / "run", workers=1)["overall"][name]
    assert broken["failures"] == {"generator_failed": 5}
    polymorphs(tmp_path / "known")
    mended = run_comparison(settings, tmp_path / "run", resume=True, workers=1)["overall"][name]
    assert mended["n_generated"] == 5
    assert "generator_failed" not in mended["failures"]


def test_tables_of_generators_in_different_cells(tmp_path: Path) -> None:
    folder = polymorphs(tmp_path / "known")
    for name in "abef":
        (folder / f"{name}.cif").unlink()
    summary = run_comparison(few_steps(f"files,path={folder}", "uniform", n=2), tmp_path / "run", workers=1)
    columns = summary["compositions"][0]["generators"].values()
    assert [list(column["by_formula_units"]) for column in columns] == [["1", "2", "4"]] * 2
    assert "files" in to_table(summary)


@pytest.mark.parametrize("shares", [[(1, 3)], [(9, 5)], [(1, 6), (2, -1)], None, [("x", 5)]])
def test_shares_that_add_up_to_nothing_are_failed_rows(shares: Any, tmp_path: Path) -> None:
    plug_in = f"tests.plugins:Sharing,shares={json.dumps(shares)}" if shares else "tests.plugins:Sharing"
    summary = run_comparison(few_steps(plug_in, "uniform", n=5), tmp_path / "run", workers=1)
    assert summary["overall"][plug_in]["failures"] == {"generator_failed": 5}


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
