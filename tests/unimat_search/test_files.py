from __future__ import annotations

from pathlib import Path

import pytest
from ase import Atoms
from ase.io import write
from pymatgen.core import Lattice, Structure

from unimat_search.eval.export import res_entry
from unimat_search.eval.match import best_match, read_known
from unimat_search.files import read_crystals, read_structures
from unimat_search.records import MatchSettings, Outcome, Record
from unimat_search.res import to_res

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
IRON = Structure(Lattice.cubic(2.8), ["Fe", "Fe"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])


def test_a_folder_of_many_formats(tmp_path: Path) -> None:
    SALT.to(str(tmp_path / "salt.cif"))
    SALT.to(str(tmp_path / "POSCAR_salt"), fmt="poscar")
    atoms = Atoms("Fe2", scaled_positions=IRON.frac_coords, cell=IRON.lattice.matrix, pbc=True)
    write(tmp_path / "iron.extxyz", [atoms, atoms])
    (tmp_path / "notes.txt").write_text("ignored")
    found = dict(read_structures(tmp_path))
    assert sorted(found) == ["POSCAR_salt", "iron-0", "iron-1", "salt"]
    assert found["salt"].matches(SALT)
    assert found["iron-1"].matches(IRON)
    only = dict(read_structures(tmp_path, element_sets={frozenset({"Na", "Cl"})}))
    assert sorted(only) == ["POSCAR_salt", "salt"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.cif", "not a cif", "a.cif can't be read"),
        ("a.cif", "", "a.cif can't be read"),
        ("a.parquet", "junk", "a.parquet can't be read"),
        ("a.vasp", "junk", "a.vasp can't be read"),
        ("a.extxyz", "2\n\nFe 0 0 0\n", "a.extxyz can't be read"),
        ("a.extxyz", "1\n\nFe 0 0 0\n", "three-dimensional cell"),
        ("a.docx", "junk", "of no known format"),
    ],
)
def test_broken_files_are_named(name: str, content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=says) as caught:
        list(read_structures(tmp_path / name))
    assert len(str(caught.value).splitlines()) == 1


def test_a_broken_frame_leaves_the_others(tmp_path: Path) -> None:
    atoms = Atoms("Fe2", scaled_positions=IRON.frac_coords, cell=IRON.lattice.matrix, pbc=True)
    write(tmp_path / "made.extxyz", [atoms, atoms, atoms])
    text = (tmp_path / "made.extxyz").read_text()
    middle = text.replace("Fe ", "Qq ", 4).replace("Qq ", "Fe ", 2)
    (tmp_path / "made.extxyz").write_text(middle[: middle.rindex("Fe")])
    read = dict(read_crystals(tmp_path / "made.extxyz"))
    assert [isinstance(one, Structure) for one in read.values()] == [True, False, False]


def test_every_block_of_a_cif_is_read(tmp_path: Path) -> None:
    texts = [SALT.to(fmt="cif"), IRON.to(fmt="cif")]
    (tmp_path / "two.cif").write_text("\n".join(texts))
    assert [s.composition.reduced_formula for _, s in read_structures(tmp_path / "two.cif")] == ["NaCl", "Fe"]


def test_an_impossible_known_structure_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flat = Atoms("Fe2", positions=[[0, 0, 0], [0, 0, 0]], cell=[3, 3, 3], pbc=True)
    write(tmp_path / "flat.extxyz", flat)
    assert read_known(tmp_path, {frozenset({"Fe"})}) == {}
    assert "flat-0" in caplog.text


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no structure file"):
        list(read_structures(tmp_path))
    with pytest.raises(ValueError, match="does not exist"):
        list(read_structures(tmp_path / "missing.cif"))


def test_a_structure_matches_its_supercell_and_not_another(tmp_path: Path) -> None:
    SALT.to(str(tmp_path / "salt.cif"))
    Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.4), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]]).to(
        str(tmp_path / "cscl.cif")
    )
    known = read_known(tmp_path, {frozenset({"Na", "Cl"})})
    assert sorted(name for name, _ in known["NaCl"]) == ["cscl", "salt"]
    match = best_match(SALT.copy().make_supercell([2, 1, 1], in_place=False), known, MatchSettings())
    assert match is not None
    assert match.name == "salt"
    assert match.rms_dist < 0.01
    strict = MatchSettings(ltol=0.05, stol=0.05, angle_tol=1)
    shaken = SALT.copy().perturb(1.2, seed=0)
    assert best_match(shaken, known, strict) is None
    assert best_match(IRON, known, MatchSettings()) is None


def test_res_files_are_read_by_others(tmp_path: Path) -> None:
    from ase.io import read
    from pymatgen.io.res import AirssProvider

    record = Record("airss/Cl4Na4/0/3", "airss", "NaCl", 4, "Cl4 Na4", 0, 3, SALT, True,
                    outcome=Outcome.CONVERGED, final_structure=SALT, energy=-27.25)  # fmt: skip
    path = tmp_path / "salt.res"
    path.write_text(to_res(res_entry(record)))
    provider = AirssProvider.from_file(str(path), "strict")
    assert provider.energy == pytest.approx(-27.25)
    assert provider.pressure == 0
    assert provider.volume == pytest.approx(SALT.volume, rel=1e-6)
    assert provider.spacegroup_label == "Fm-3m"
    assert provider.appearances == 1
    assert provider.structure.matches(SALT)
    assert read(path).get_volume() == pytest.approx(SALT.volume, rel=1e-6)


def test_frames_with_a_name_keep_it(tmp_path: Path) -> None:
    atoms = Atoms("Fe2", scaled_positions=IRON.frac_coords, cell=IRON.lattice.matrix, pbc=True)
    named, listed = atoms.copy(), atoms.copy()
    named.info["name"] = "ferrite"
    listed.info["material_id"] = "mp-13"
    write(tmp_path / "iron.extxyz", [atoms, named, listed])
    assert [name for name, _ in read_structures(tmp_path / "iron.extxyz")] == ["iron-0", "ferrite", "mp-13"]
