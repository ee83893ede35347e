from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from pymatgen.core import Composition, Structure

from tests.data_folder import alloy
from tests.unimat.crystals import TINY, random_set, tiny_model
from unimat_search.cli import main
from unimat_search.evaluate import TABLE_VERSION, read_benchmark, read_samples
from unimat_search.free_samples import _content, _stem, pairs, predictions, sample_freely, write_samples
from unimat_search.generation import load_generators
from unimat_search.protocol import StructureGenerator
from unimat_search.records import FailedAttempt
from unimat_search.unimat.checkpoint import save_model
from unimat_search.unimat.sources import from_structures, write_parquet

TRAIN = {"cu-ni": alloy("Cu", "Ni", 2.9), "pt-au": alloy("Pt", "Au", 3.2), "al-ni": alloy("Al", "Ni", 2.9)}
TEST = {"cu-au": alloy("Cu", "Au", 3.1), "ni-al": alloy("Ni", "Al", 2.9)}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "data" / "mp_20").mkdir(parents=True)
    for split, structures in (("train", TRAIN), ("test", TEST)):
        write_parquet(from_structures(structures.items()), tmp_path / "data" / "mp_20" / f"{split}.parquet")
    return tmp_path / "data"


def load(spec: str) -> StructureGenerator:
    generator = load_generators([spec])[spec]
    assert not isinstance(generator, str)
    return generator


def test_generators_are_asked_for_the_same_compositions(data_dir: Path) -> None:
    benchmark = read_benchmark("mp-20", data_dir)
    made, other = (sample_freely(load(name), 6, benchmark, seed=3) for name in ("uniform", "airss"))
    formulas = [one.composition for one in made if isinstance(one, Structure)]
    assert len(formulas) == 6
    assert formulas == [one.composition for one in other if isinstance(one, Structure)]
    assert {one.reduced_formula for one in formulas} <= {one.composition.reduced_formula for one in TRAIN.values()}
    assert not any(a == b for a, b in zip(made, other, strict=True))
    assert made == sample_freely(load("uniform"), 6, benchmark, seed=3)


def test_a_model_makes_compositions_itself(data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    model = tiny_model("cdvae", random_set(5, 20))
    save_model(file, model, {"config": {"denoiser": "cdvae", "model": TINY["cdvae"]}}, dtype=torch.float32)
    made = sample_freely(load(f"unimat,model={file},steps=4"), 3, read_benchmark("mp-20", data_dir), seed=0)
    elements = {el.symbol for one in made if isinstance(one, Structure) for el in one.composition.elements}
    assert len(made) == 3
    assert elements <= {"Li", "O", "Na", "Cl", "Ca"}


def test_failed_samples_stay_in_the_denominator(tmp_path: Path) -> None:
    write_samples([TEST["cu-au"], FailedAttempt("no luck"), TEST["ni-al"]], tmp_path / "s.parquet")
    samples = read_samples(tmp_path / "s.parquet")
    assert samples.n_generated == 3
    assert list(samples.attempts) == ["s-0", "s-1", "s-2"]
    assert samples.structures[0].matches(TEST["cu-au"])
    assert samples.reasons == {"no luck": 1}


def test_what_a_generator_gives_is_checked(data_dir: Path) -> None:
    benchmark = read_benchmark("mp-20", data_dir)

    class Ends:
        def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
            raise AssertionError

        def generate_freely(self, n: int, *, seed: int) -> Iterator[Structure]:
            yield TEST["cu-au"]
            sys.exit(3)

    class Wrong:
        def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
            yield TEST["cu-au"]

    first, *others = sample_freely(Ends(), 3, benchmark, seed=0)
    assert first == TEST["cu-au"]
    assert len(others) == 2
    for one in others:
        assert isinstance(one, FailedAttempt)
        assert one.reason.startswith("the generator raised SystemExit: 3 (test_free_samples.py, line ")
    (wrong,) = sample_freely(Wrong(), 1, benchmark, seed=0)
    assert isinstance(wrong, FailedAttempt)
    assert "the generator gave Cu" in wrong.reason


def test_names_of_samples_differ_as_the_files_named_do(tmp_path: Path) -> None:
    one, other = tmp_path / "a b.cif", tmp_path / "a_b.cif"
    for file in (one, other):
        file.write_text("1")
    texts = [f"files,path={file}" for file in (one, other)]
    stems = [_stem(text, _content(text)) for text in texts]
    one.write_text("2")
    stems.append(_stem(texts[0], _content(texts[0])))
    assert len(set(stems)) == 3


def test_proxies_foretell_in_ranks() -> None:
    tables = {
        str(k): {"valid_structure": k / 10, "unique": 0.5, "stable_unique_new": 0.1 * k**2, "convergence_rate": -k}
        for k in range(5)
    }
    found = predictions(tables)
    perfect = {"value": pytest.approx(1.0), "p": pytest.approx(2 / math.factorial(5)), "n": 5}
    assert found["valid_structure"]["stable_unique_new"] == perfect
    assert found["valid_structure"]["convergence_rate"] == perfect | {"value": pytest.approx(-1.0)}
    assert found["unique"]["stable_unique_new"] is None
    assert predictions(dict(list(tables.items())[:3])) == {}


def test_pairs_are_of_compositions_that_both_made() -> None:
    tables = {"a": {"lowest": {"NaCl": -1.0, "LiF": -2.0}}, "b": {"lowest": {"NaCl": -1.5, "KBr": 0.0}}}
    assert list(pairs(tables)) == ["b against a"]
    assert pairs(tables)["b against a"]["n_pairs"] == 1
    assert pairs(tables)["b against a"]["delta_e_f"] == pytest.approx(-0.5)


def test_the_commands_go_on_with_what_is_there(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--data-dir", str(data_dir), "--out", str(out), "-n", "4", "--workers", "1"]
    options += ["--generator", "uniform", "--generator", "substitution"]
    before = os.environ.get("UNIMAT_SEARCH_DATA")
    result = CliRunner().invoke(main, ["reproduce", "rq1", *options])
    assert result.exit_code == 0, result.output
    assert os.environ.get("UNIMAT_SEARCH_DATA") == before
    assert "UniMat (paper)" in result.output
    assert "Given compositions and numbers of atoms of training crystals: uniform, substitution;" in result.output
    kept = {file.name: file.read_bytes() for file in out.iterdir()}
    assert {"rq1.md", "settings.json"} <= set(kept)
    assert len(list(out.glob("uniform-*.parquet"))) == len(list(out.glob("substitution-*.parquet"))) == 1
    (table,) = out.glob(f"substitution-*-{TABLE_VERSION}.json")
    assert json.loads(table.read_text())["n_generated"] == 4
    (data_dir / "phases.csv").write_text("formula,formation_energy_per_atom\nNiAl,-0.5\n")
    relaxed = ["--relaxer", "emt", "--hull", str(data_dir / "phases.csv")]
    result = CliRunner().invoke(main, ["reproduce", "rq4", *options, *relaxed])
    assert result.exit_code == 0, result.output
    assert "substitution against uniform" in result.output
    assert "phases.csv, 1 phases" in result.output
    assert {name: (out / name).read_bytes() for name in kept} == kept
    (data_dir / "phases.csv").write_text("formula,formation_energy_per_atom\nNiAl,-0.5\nCuNi,-0.1\n")
    result = CliRunner().invoke(main, ["reproduce", "rq4", *options, *relaxed])
    assert "phases.csv, 2 phases" in result.output, "another hull in the same file is another"
    other = CliRunner().invoke(main, ["reproduce", "rq1", *options, "--seed", "1"])
    assert other.exit_code == 2
    assert "seed = 0, not 1" in other.output
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    options[3] = str(tmp_path / "full")
    assert "is not the folder of such a run" in CliRunner().invoke(main, ["reproduce", "rq1", *options]).output


def test_a_generator_that_raises_costs_its_own_sample(data_dir: Path) -> None:
    class Moody:
        def generate(self, composition: object, n: int, *, seed: int) -> object:
            if seed % 2:
                raise RuntimeError("not today")
            yield from (one for one in TRAIN.values() if one.composition == composition)

    made = sample_freely(Moody(), 4, read_benchmark("mp-20", data_dir), seed=0)  # type: ignore[arg-type]
    assert [isinstance(one, FailedAttempt) for one in made] == [False, True, False, True]
