from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from ase.io import read
from click.testing import CliRunner
from pymatgen.core import Composition, Structure

from tests.unimat.crystals import TINY, random_set
from unimat_search.baselines import cdvae
from unimat_search.cli import main
from unimat_search.registry import Spec
from unimat_search.testing import check_generator
from unimat_search.unimat.checkpoint import load
from unimat_search.unimat.sample import UniMatGenerator, shipped_weights
from unimat_search.unimat.sources import write_parquet


def call(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    write_parquet(random_set(5, 60), tmp_path / "data.parquet")
    file = tmp_path / "run.toml"
    table = {
        "model": TINY["slots"],
        "data": {"train": [str(tmp_path / "data.parquet")], "validation": 10},
        "training": {"steps": 4, "sites": 30, "log_every": 1, "validate_every": 2},
    }
    file.write_text(tomli_w.dumps(table))
    return file


def test_train_resume_and_sample(settings: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, said = call("train", settings, "--out", run, "--match", 3)
    assert code == 0, said
    assert "match_rate" in said
    assert "finished" in said
    code, said = call("train", settings, "--out", run)
    assert code == 2
    assert "holds a run; go on with --resume" in said
    code, said = call("train", settings, "--out", tmp_path / "mistyped", "--resume")
    assert code == 2
    assert "holds no run to go on with" in said
    code, said = call("train", settings, "--out", run, "--resume", "--steps", 6)
    assert code == 0, said
    assert "going on at step 4" in said
    model = run / "model.safetensors"
    code, said = call(
        "sample", "--model", model, "--formula", "Na2Cl2", "-n", 3, "--steps", 2, "--out", tmp_path / "a.extxyz"
    )
    assert code == 0, said
    assert [sorted(atoms.symbols) for atoms in read(tmp_path / "a.extxyz", index=":")] == [["Cl", "Cl", "Na", "Na"]] * 3
    code, said = call("sample", "--model", model, "-n", 3, "--steps", 2, "--out", tmp_path / "b.extxyz")
    assert code == 0, said
    assert "samples a second" in said


def test_what_is_wrong_is_one_line(settings: Path, tmp_path: Path) -> None:
    for words, says in (
        (("sample", "--formula", "NaCl", "--out", tmp_path / "a.cif"), "must end in .extxyz"),
        (("sample", "--model", "nowhere", "--out", tmp_path / "a.extxyz"), "there is no checkpoint nowhere"),
        (("train", tmp_path / "nowhere.toml", "--out", tmp_path / "run"), "nowhere.toml"),
        (("train", settings, "--out", tmp_path / "run", "--device", "cuda:9"), "device"),
    ):
        code, said = call(*words)
        assert code == 2, said
        assert says in said.splitlines()[-1]
        assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


# The weights that ship


@pytest.mark.parametrize("file", [shipped_weights(), cdvae.shipped_weights()], ids=lambda file: file.stem)
def test_the_weights_that_ship_are_small_and_say_where_they_come_from(file: Path) -> None:
    assert file.stat().st_size < 30e6
    tensors, header = load(file)
    assert header["config"]["data"]["hold_out"] == "zero_shot/formulas.csv"
    assert header["config"]["data"]["hold_out_sets"] == ["mp_20/test"]
    assert header["structures"] == len(tensors["composition_sizes"]) > 60_000
    for suffix in (".md", ".csv"):
        assert file.with_suffix(suffix).is_file()


@pytest.mark.parametrize("text", ["unimat,steps=5", "cdvae,steps=30"])
def test_the_generator_is_registered_and_keeps_the_contract(text: str) -> None:
    from unimat_search.registry import load as load_plugin

    generator = load_plugin("generators", Spec.parse(text))
    assert isinstance(generator, UniMatGenerator)
    check_generator(generator, "Sr1Ti1O3")


@pytest.mark.parametrize("make", [partial(UniMatGenerator, steps=20), cdvae.cdvae], ids=["unimat", "cdvae"])
def test_the_weights_that_ship_know_rock_salt(make: Callable[[], UniMatGenerator]) -> None:
    """Of ten unrelaxed samples of a textbook crystal several are it; random ones are not."""
    salt = Structure.from_spacegroup("Fm-3m", np.eye(3) * 5.64, ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    made = list(make().generate(Composition("NaCl"), 10, seed=0))
    assert sum(isinstance(one, Structure) and one.matches(salt, ltol=0.3, stol=0.5, angle_tol=10) for one in made) >= 3
