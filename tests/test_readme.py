"""What the README shows works: its Python runs, its commands parse, and those of the other pages."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from unimat_search.baselines import cdvae
from unimat_search.cli import main
from unimat_search.unimat.checkpoint import build, load
from unimat_search.unimat.sample import shipped_weights
from unimat_search.unimat.tables import from_table
from unimat_search.unimat.train import TrainConfig, read_config

README = (Path(__file__).parent.parent / "README.md").read_text()


PAGES = (README, *(file.read_text() for file in sorted((Path(__file__).parent.parent / "docs").rglob("*.md"))))


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks("sh", page) for line in block.splitlines()]
    return [line.partition("unimat-search")[2] for line in lines if re.search(r"(^|bin/)unimat-search ", line)]


def test_its_python_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    assert len(blocks("python")) == 3
    for code in blocks("python"):
        exec(code, namespace)  # the README's own code
    assert namespace["settings"].n == 4


def test_its_toml_reads() -> None:
    plug_in, run = (tomllib.loads(text) for text in sorted(blocks("toml"), key=lambda text: "[project" not in text))
    assert "unimat_search.generators" in plug_in["project"]["entry-points"]
    config = from_table(TrainConfig, run)
    build(config.denoiser, config.model)


@pytest.mark.parametrize(
    "name", ["cdvae", "slots", "slots-symmetric", "unet-perov", "unet-perov-free", "unet-carbon-free"]
)
def test_the_settings_in_the_docs_are_settings(name: str) -> None:
    config = read_config(Path(__file__).parent.parent / "docs" / "training" / f"{name}.toml")
    build(config.denoiser, config.model)


@pytest.mark.parametrize(
    ("name", "weights"), [("slots-symmetric", shipped_weights()), ("cdvae", cdvae.shipped_weights())]
)
def test_the_shipped_models_settings_are_those_in_the_docs(name: str, weights: Path) -> None:
    config = read_config(Path(__file__).parent.parent / "docs" / "training" / f"{name}.toml")
    _, header = load(weights)
    assert from_table(TrainConfig, header["config"]) == config


def test_there_are_commands() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize("line", commands())
def test_its_commands_parse(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "compare.toml").touch()
    command: click.Command = main
    arguments = shlex.split(line)
    context = click.Context(main)
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments.pop(0))
        assert found is not None
        command = found
    arguments = [str(Path()) if argument == "data" else argument for argument in arguments]
    command.make_context(command.name, arguments)
