"""What the README shows works: its Python runs, its commands parse."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from unimat_search.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line.partition("unimat-search")[2] for line in lines if re.search(r"(^|bin/)unimat-search ", line)]


def test_its_python_runs_from_top_to_bottom() -> None:
    namespace: dict[str, Any] = {}
    assert len(blocks("python")) == 3
    for code in blocks("python"):
        exec(code, namespace)  # the README's own code
    assert namespace["settings"].n == 4


def test_its_toml_reads() -> None:
    for text in blocks("toml"):
        assert "unimat_search.generators" in tomllib.loads(text)["project"]["entry-points"]


def test_there_are_commands() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize("line", commands())
def test_its_commands_parse(line: str) -> None:
    command: click.Command = main
    arguments = shlex.split(line)
    context = click.Context(main)
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments.pop(0))
        assert found is not None
        command = found
    arguments = [str(Path()) if argument == "data" else argument for argument in arguments]
    command.make_context(command.name, arguments)
