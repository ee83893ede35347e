from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import csv
from pymatgen.core import Lattice, Structure

from unimat_search import formats, parquet
from unimat_search.files import read_file, read_structures
from unimat_search.records import FailedAttempt

SALT = Structure(Lattice.from_parameters(4, 4, 4, 60, 60, 60), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
IRON = Structure(Lattice.cubic(2.8), ["Fe", "Fe"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])


def found(path: Path) -> list[tuple[str, Structure]]:
    return list(read_structures(path))


def same(structures: list[tuple[str, Structure]], expected: list[Structure]) -> bool:
    return len(structures) == len(expected) and all(
        s.matches(other) for (_, s), other in zip(structures, expected, strict=True)
    )


def test_an_archive_of_samples_is_read_in_memory(tmp_path: Path) -> None:
    texts = {"a/gen_1.cif": SALT.to(fmt="cif"), "../../gen_0.cif": IRON.to(fmt="cif"), "a/notes.txt": "x", "a/": ""}
    with zipfile.ZipFile(tmp_path / "generated_crystals_cif.zip", "w") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    with tarfile.open(tmp_path / "made.tar.gz", "w:gz") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    before = set(tmp_path.parent.rglob("*"))
    for name in ("generated_crystals_cif.zip", "made.tar.gz"):
        assert [one for one, _ in found(tmp_path / name)] == ["gen_0", "gen_1"]
        assert same(found(tmp_path / name), [IRON, SALT])
    assert set(tmp_path.parent.rglob("*")) == before


def test_members_of_equal_names_are_all_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        archive.writestr("gen.cif", SALT.to(fmt="cif"))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("gen.cif", IRON.to(fmt="cif"))
    assert same(found(tmp_path / "made.zip"), [SALT, IRON])


def test_links_and_damage_in_archives_are_counted(tmp_path: Path) -> None:
    text = SALT.to(fmt="cif").encode()
    with tarfile.open(tmp_path / "made.tar", "w") as archive:
        member = tarfile.TarInfo("a.cif")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
        for name, target in (("b.cif", "a.cif"), ("c.cif", "nothing.cif")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, target
            archive.addfile(link)
    read = dict(read_file(tmp_path / "made.tar"))
    assert [type(one) for one in read.values()] == [Structure, Structure, FailedAttempt]
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        archive.writestr("a.cif", text)
        archive.writestr("b.cif", text)
    damaged = (tmp_path / "made.zip").read_bytes().replace(b"_cell_length_a", b"_cell_length_b", 1)
    (tmp_path / "made.zip").write_bytes(damaged)
    assert [type(one) for _, one in read_file(tmp_path / "made.zip")] == [FailedAttempt, Structure]


def test_no_block_of_a_cif_is_lost(tmp_path: Path) -> None:
    salt = SALT.to(fmt="cif")
    broken = salt.replace("_cell_length_a", "_no_length")
    about = "data_global\n_journal_name_full 'x'\n"
    (tmp_path / "many.cif").write_text("\n".join([about, salt, salt, broken, IRON.to(fmt="cif")]))
    read = list(read_file(tmp_path / "many.cif"))
    assert [name for name, _ in read] == [f"many-{index}" for index in range(4)]
    assert [isinstance(one, Structure) for _, one in read] == [True, True, False, True]


def test_a_frame_without_a_cell_is_one_that_failed(tmp_path: Path) -> None:
    lattice = 'Lattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 pbc="T T T"'
    (tmp_path / "made.extxyz").write_text(f"1\n{lattice}\nFe 0 0 0\n1\n\nFe 0 0 0\n")
    assert [isinstance(one, Structure) for _, one in read_file(tmp_path / "made.extxyz")] == [True, False]


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_UNPACKED", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.cif", "0" * 2000)
    with pytest.raises(ValueError, match=r"bomb\.zip can't be read: unpacked it is larger"):
        found(tmp_path / "bomb.zip")


def test_sizes_are_not_taken_on_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poscar = IRON.to(fmt="poscar").replace("\n2\n", "\n2000000000\n")
    (tmp_path / "POSCAR").write_text(poscar)
    ((_, item),) = read_file(tmp_path / "POSCAR")
    assert isinstance(item, FailedAttempt)
    assert "more atoms than it has lines" in item.reason
    torch.save(arrays(atom_types=torch.zeros(1).expand(10_000_000)), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="larger than the file"):
        found(tmp_path / "a.pt")
    table = pa.table({"numbers": [[26] * 1000] * 100, "frac_coords": [[0.0] * 3000] * 100, "cell": [[0.0] * 9] * 100})
    pq.write_table(table, tmp_path / "a.parquet")
    monkeypatch.setattr(parquet, "MAX_BYTES", 2**20)
    with pytest.raises(ValueError, match="more than 1 MiB of values"):
        found(tmp_path / "a.parquet")


def test_structures_in_a_table(tmp_path: Path) -> None:
    """CrystalFormer's files hold dictionaries as Python prints them, the benchmarks' CIFs."""
    rows = [str(SALT.as_dict()), json.dumps(IRON.as_dict()), SALT.to(fmt="cif"), "data_", "{'a': 1}", None]
    csv.write_csv(pa.table({"index": list(range(6)), "cif": rows}), tmp_path / "output_225_struct.csv")
    read = list(read_file(tmp_path / "output_225_struct.csv"))
    assert [isinstance(one, Structure) for _, one in read] == [True, True, True, False, False, False]
    assert read[0][0] == "output_225_struct.csv-0"
    assert same([(n, s) for n, s in read if isinstance(s, Structure)], [SALT, IRON, SALT])
    with pytest.raises(ValueError, match=r"struct\.csv can't be read: output_225_struct\.csv-3 "):
        found(tmp_path / "output_225_struct.csv")
    csv.write_csv(pa.table({"formula": ["NaCl"]}), tmp_path / "no.csv")
    with pytest.raises(ValueError, match="no column cif or structure"):
        found(tmp_path / "no.csv")


def test_dictionaries(tmp_path: Path) -> None:
    for content, names in (
        (SALT.as_dict(), ["s"]),
        ([SALT.as_dict()], ["s-0"]),
        ({"salt": SALT.as_dict()}, ["salt"]),
        ([SALT.copy().add_oxidation_state_by_guess().as_dict()], ["s-0"]),
    ):
        (tmp_path / "s.json").write_text(json.dumps(content))
        assert [name for name, _ in found(tmp_path / "s.json")] == names
        assert found(tmp_path / "s.json")[0][1].matches(SALT)


def test_a_dictionary_makes_nothing_but_a_structure(tmp_path: Path) -> None:
    hostile = SALT.as_dict()
    call = {"@module": "os", "@class": "system", "@version": None}
    hostile["properties"] = hostile["sites"][0]["properties"] = {"x": call}
    hostile["lattice"] |= call
    (tmp_path / "s.json").write_text(json.dumps([hostile, {"lattice": call, "sites": call}]))
    read = list(read_file(tmp_path / "s.json"))
    assert isinstance(read[0][1], Structure)
    assert not read[0][1].properties
    assert isinstance(read[1][1], FailedAttempt)


def arrays(**more: Any) -> dict[str, Any]:
    """Two runs of two samples, as DiffCSP's evaluation writes them."""
    one = {
        "num_atoms": torch.tensor([2, 2]),
        "atom_types": torch.tensor([11, 17, 26, 26]),
        "frac_coords": torch.tensor(np.concatenate([SALT.frac_coords, IRON.frac_coords])),
        "lengths": torch.tensor([SALT.lattice.abc, IRON.lattice.abc]),
        "angles": torch.tensor([SALT.lattice.angles, IRON.lattice.angles]),
    }
    return {key: torch.stack([value, value]) for key, value in one.items()} | more


def test_tensors_of_samples(tmp_path: Path) -> None:
    torch.save(arrays(eval_setting=Namespace(label="x"), time=1.5), tmp_path / "eval_diff.pt")
    read = found(tmp_path / "eval_diff.pt")
    assert [name for name, _ in read] == [f"eval_diff.pt-{run}-{i}" for run in (0, 1) for i in (0, 1)]
    assert same(read, [SALT, IRON, SALT, IRON])
    lattices = torch.tensor(np.stack([SALT.lattice.matrix, IRON.lattice.matrix]))
    torch.save(arrays(lattices=torch.stack([lattices, lattices])), tmp_path / "eval_diff.pt")
    assert same(found(tmp_path / "eval_diff.pt"), [SALT, IRON, SALT, IRON])
    broken = arrays()
    broken["frac_coords"] = broken["frac_coords"][:, :3]
    torch.save(broken, tmp_path / "eval_diff.pt")
    with pytest.raises(ValueError, match=r"eval_diff\.pt can't be read"):
        found(tmp_path / "eval_diff.pt")


class Hostile:
    """Runs a command where it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_executes_nothing(tmp_path: Path, legacy: bool) -> None:
    mark = tmp_path / "executed"
    torch.save(arrays(x=Hostile(mark)), tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Hostile(mark)))
    for name in ("a.pt", "plain.pt"):
        with pytest.raises(ValueError, match=rf"{name} can't be read: it is no file of tensors"):
            found(tmp_path / name)
    assert not mark.exists()


class Program(torch.nn.Module):
    """Writes a file where it is loaded as TorchScript is."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self.mark = str(mark)

    def forward(self) -> int:
        return 0

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.mark, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.mark = state[0]
        self.training = state[1]
        print(torch.from_file(self.mark, True, 4, dtype=torch.uint8).fill_(65))


def test_a_program_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Program(mark)).save(str(tmp_path / "a.pt"))  # type: ignore[no-untyped-call]
        with pytest.raises(ValueError, match=r"a\.pt can't be read: it is no file of tensors"):
            found(tmp_path / "a.pt")
        assert not mark.exists()
        torch.jit.load(str(tmp_path / "a.pt"))  # type: ignore[no-untyped-call]
    assert mark.exists(), "the program is none"


@pytest.mark.parametrize("state", [{"tampered": True}, (None, {"tampered": True})])
@pytest.mark.parametrize("target", ["torch._utils _rebuild_tensor_v2", "torch FloatStorage"])
def test_a_pickle_changes_nothing(tmp_path: Path, target: str, state: object) -> None:
    """A state for torch's own function, and for its storage's class."""
    built = pickle.dumps(state, protocol=2)[2:-1]
    text = pickle.PROTO + b"\x02" + b"c" + target.replace(" ", "\n").encode() + b"\n" + built + pickle.BUILD + b"."
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", text)
        archive.writestr("a/version", "3")
        archive.writestr("a/byteorder", "little")
    with pytest.raises(ValueError, match=r"a\.pt can't be read"):
        found(tmp_path / "a.pt")
    assert not hasattr(torch._utils._rebuild_tensor_v2, "tampered")
    assert not hasattr(torch.FloatStorage, "tampered")


def test_a_broken_file_among_many_is_one_that_failed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        archive.writestr("1.cif", "broken")
        archive.writestr("2.cif", SALT.to(fmt="cif"))
    read = list(read_file(tmp_path / "made.zip"))
    assert [type(one) for _, one in read] == [FailedAttempt, Structure]
    for name in ("a.zip", "a.tar.gz", "a.json", "a.pt", "a.csv"):
        (tmp_path / name).write_bytes(b"junk")
        with pytest.raises(ValueError, match=f"{name} can't be read"):
            found(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("notes.txt", "")
    with pytest.raises(ValueError, match="holds no structure file"):
        found(tmp_path / "empty.zip")
