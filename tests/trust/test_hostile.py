"""Single inputs that once crashed, hung, took all memory, or wrote where they should not."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from tests.trust.targets import TARGETS
from unimat_search.cli import main, run_name
from unimat_search.disk import write_whole
from unimat_search.eval.export import file_name
from unimat_search.files import read_crystals
from unimat_search.records import FailedAttempt
from unimat_search.registry import Spec, parse_all
from unimat_search.unimat.checkpoint import build, load_model
from unimat_search.unimat.sources import read_parquet


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result: Result, *says: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    message = result.stderr.strip().splitlines()[-1]
    assert all(one in message for one in says), message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.extxyz", "99999999999999999999\nx\n"),
        ("a.extxyz", "1\nProperties=species:S:1:pos:R:999999999\nAl 0 0 0\n"),
        ("a.vasp", "x\n1\n3 0 0\n0 3 0\n0 0 3\nAl\n+300000000\nDirect\n0 0 0\n"),
        ("a.vasp", "x\n1\n3 0 0\n0 3 0\n0 0 3\nAl\n1_000_000_000\nDirect\n0 0 0\n"),
        ("a.vasp", "x\n1\n3 0 0\n0 3 0\n0 0 3\x0c\nAl\n300000000\nDirect\n0 0 0\n"),
        ("a.res", "TITL a\nCELL 1 1e6 1e-3 1e-3 90 90 90\nSFAC Al\nAl 1 0 0 0 1\nEND\n"),
        ("a.res", "TITL a\nCELL 1 4 4 4 1 1 179\nSFAC Al\nAl 1 0 0 0 1\nEND\n"),
        ("a.res", "TITL a\nCELL 1 4 4 4 90 90 90\nSFAC Zz\nZz 1 0 0 0 1\nEND\n"),
    ],
)
def test_files_that_promise_too_much_hold_nothing(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with contextlib.suppress(ValueError):
        assert all(isinstance(one, FailedAttempt) for _, one in read_crystals(tmp_path / name))
    result = call("data", "check", tmp_path / name)
    assert isinstance(result.exception, SystemExit | None)
    assert "Traceback" not in result.output


def test_archives_are_read_in_memory_and_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unimat_search import formats

    monkeypatch.setattr(formats, "MAX_FILE", 2**20)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.cif")
        member.pax_headers = {"comment": "x" * 2**21}
        archive.addfile(member, io.BytesIO(b""))
    bomb = tmp_path / "a.tar.gz"
    bomb.write_bytes(gzip.compress(buffer.getvalue()))
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        list(read_crystals(bomb))
    outside = tmp_path / "deep" / "deeper"
    outside.mkdir(parents=True)
    for name in ("zip", "tar.gz"):
        archive_file = outside / f"b.{name}"
        archive_file.write_bytes(TARGETS[name].seeds[0])
        monkeypatch.chdir(outside)
        assert len(list(read_crystals(archive_file))) == 2
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {"a.tar.gz", "b.zip", "b.tar.gz"}


@pytest.mark.parametrize(
    "seed",
    ["#SYMMNO=1-99999999999", "#NFORM=1-99999999999", "#NATOM=1-1e300", "#NFORM=1-9999\n#SPECIES=Al%NUM=9999"],
)
def test_seed_files_that_ask_for_all_memory(seed: str, tmp_path: Path) -> None:
    (tmp_path / "a.cell").write_text(f"#SPECIES=Al%NUM=2\n#TARGVOL=15\n{seed}\n")
    refused(call("airss", "generate", tmp_path / "a.cell", "-n", "1", "--out", tmp_path / "out.extxyz"))


def test_a_seed_file_anywhere(tmp_path: Path) -> None:
    r"""Backslashes are no escapes, quotation marks end nothing (C:\Users on Windows)."""
    folder = tmp_path / 'C:\\Users\\q"q'
    folder.mkdir()
    (folder / "a.cell").write_text("#SPECIES=Al%NUM=2\n#TARGVOL=15\n#MINSEP=2\n")
    options = ("--generator", "uniform", "-n", "1", "--relaxer", "emt", "--max-steps", "0", "--workers", "1")
    result = call("compare", "--seed-file", folder / "a.cell", *options, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output


def test_parquet_without_a_number(tmp_path: Path) -> None:
    cell = [3.0, 0, 0, 0, 3, 0, 0, 0, 3]
    table = pa.table({"numbers": [[None, 13]], "frac_coords": [[0.0] * 6], "cell": [cell]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a row has no numbers"):
        read_parquet(tmp_path / "a.parquet")


def model_file(path: Path, network: dict[str, int] | None = None, **tensors: torch.Tensor) -> Path:
    settings = {"network": {"width": 8, "heads": 1, "layers": 1, "frequencies": 1, "distances": 2}}
    own = {name: tensor.contiguous() for name, tensor in build("slots", settings).state_dict().items()}
    settings["network"] |= network or {}
    header = {"config": {"denoiser": "slots", "model": settings}, "step": 1}
    save_file(own | tensors, path, {"json": json.dumps(header)})
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"distances": 300_000}},
        {"network": {"layers": 10**30}},
        {"network": {"layers": 4000}},
        {"network": {"width": 4096}},
        {"composition_sizes": torch.tensor([0, 0])},
        {"composition_sizes": torch.tensor([200])},
        {"composition_sizes": torch.tensor([1.0])},
        {"composition_sizes": torch.tensor([[1]])},
        {"composition_sizes": torch.tensor([1]), "composition_numbers": torch.tensor([250])},
        {"cell_mean": torch.full((6,), np.nan)},
    ],
)
def test_model_files_that_were_tampered_with(change: dict[str, Any], tmp_path: Path) -> None:
    good = model_file(tmp_path / "good.safetensors")
    assert load_model(good)[1]["step"] == 1
    bad = model_file(tmp_path / "bad.safetensors", **change)
    refused(call("sample", "--model", bad, "--formula", "NaCl", "--out", tmp_path / "s.extxyz"), "not a model")


def test_what_is_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 200_000)
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    options = ("compare", "--formula", "Al", "--generator", "uniform", "--relaxer", "emt", "--out", tmp_path / "run")
    refused(call(*options, "--hull", tmp_path / "deep.json"))
    refused(call("train", tmp_path / "deep.toml", "--out", tmp_path / "t"))
    refused(call(*options, "--config", tmp_path / "deep.toml"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hull.csv", "formula,energy_per_atom\nAl1e400Cu,-1\n"),
        ("hull.csv", f"formula,energy_per_atom\n{'x' * 140_000},-1\n"),
        ("hull.json", '[{"composition": {"Al+,spin=": 1}, "energy": -1}]'),
    ],
)
def test_hulls_that_break_parsers(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    options = ("--generator", "uniform", "--relaxer", "emt", "--out", tmp_path / "run")
    refused(call("compare", "--formula", "AlCu", *options, "--hull", tmp_path / name), name)


def test_labels_are_names_of_rows_and_files() -> None:
    for label in ('"x\\ny"', '"\\u001b[31m"'):
        with pytest.raises(ValueError, match="text of one line"):
            Spec.parse(f"uniform,label={label}")
    with pytest.raises(ValueError, match="files can't tell 'a b' and 'A_B' apart"):
        parse_all(['uniform,label="a b"', "airss,label=A_B"])
    assert len(file_name("漢" * 119).encode()) < 130
    assert "/" not in file_name("../../x")
    assert run_name(("CoN",)) == "CoN_"


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        write_whole(tmp_path / "run.toml", "label = '\udcff'")
    assert not list(tmp_path.iterdir())


def test_a_report_escapes_what_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="extra [report]")
    label = "<script>alert(1)</script>"
    options = ("-n", "1", "--relaxer", "emt", "--max-steps", "0", "--workers", "1", "--out", tmp_path / "run")
    made = call("compare", "--formula", "Al", "--generator", f'uniform,label="{label}"', *options)
    assert made.exit_code == 0, made.output
    assert call("report", tmp_path / "run").exit_code == 0
    text = (tmp_path / "run" / "report.html").read_text()
    assert label not in text
    assert "&lt;script&gt;alert(1)" in text
    assert {file.parent for file in (tmp_path / "run").rglob("*.cif")} <= {tmp_path / "run" / "best"}
