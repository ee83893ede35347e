"""The documentation's site builds, and what its pages show runs."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner
from pymatgen.core import Lattice, Structure

from tests.data_folder import write_data
from tests.test_readme import README, blocks
from unimat_search.cli import main
from unimat_search.registry import find

DOCS = Path(__file__).parent.parent / "docs"
SMALL = {
    "airss generate": "-n 5", "airss search": "-n 4 --shakes 1", "compare": "-n 2 --max-steps 30",
    "data check": "", "hull build": "--relaxer emt", "hull check": "--relaxer emt",
    "references build": "--relaxer emt", "reproduce rq1": "-n 2", "reproduce rq2": "--steps 1 -n 2",
    "reproduce rq3": "--compositions 2 -n 2 --relaxer emt", "reproduce rq4": "-n 2 --relaxer emt",
    "sample": "-n 2", "train": "--steps 3",
}  # fmt: skip
"""What makes commands quick."""

SET_UP = ("python3 -m venv ", "apt-get install ", "printf ", "GPAW_CONFIG=")
"""Lines that install things, which CI does itself."""

METALS, NONMETALS = ["Na", "K", "Li", "Rb", "Cs", "Mg", "Ca", "Sr", "Ti", "Al"], ["F", "Cl", "Br", "I", "O", "S"]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    hooks = ModuleType("hooks")
    hooks.__file__ = str(DOCS / "hooks.py")
    exec((DOCS / "hooks.py").read_text(), hooks.__dict__)  # our own
    return hooks


def page(hooks: ModuleType, name: str) -> str:
    return str(hooks.on_page_markdown((DOCS / f"{name}.md").read_text()))


def test_the_site_builds_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="extra [docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-f", str(DOCS.parent / "mkdocs.yml")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        [*command, "-d", str(tmp_path / "site")], capture_output=True, text=True, check=False, env=environment
    )
    assert built.returncode == 0, built.stderr
    pages = {file: file.read_text() for file in (tmp_path / "site").rglob("*.html")}
    assert len(pages) > 20
    for file, text in pages.items():
        assert "<!-- README" not in text, file
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', text), file
    assert "convergence_rate" in pages[tmp_path / "site" / "compare" / "index.html"]
    assert "Yields" in pages[tmp_path / "site" / "api" / "index.html"]


def test_every_page_is_reachable() -> None:
    named = set(re.findall(r": (\S+\.md)$", (DOCS.parent / "mkdocs.yml").read_text(), re.MULTILINE))
    assert named == {str(file.relative_to(DOCS).as_posix()) for file in DOCS.rglob("*.md")}


def test_the_layout_page_names_every_module(root: Path) -> None:
    text = (root / "CONTRIBUTING.md").read_text()
    layout = text[text.index("## Layout") : text.index("Where something new goes")]
    named = set(re.findall(r"`(\w+)`", layout))
    modules = {file.stem for file in (root / "unimat_search").glob("*.py") if not file.stem.startswith("cli_")}
    assert modules - {"__init__"} <= named
    assert {name for name in named if name.islower()} - {"unimat_search"} <= modules
    for folder in re.findall(r"^\| `([\w./]+/)`", layout, re.MULTILINE):
        assert (root / folder).is_dir(), folder


def test_the_site_names_every_command_and_option(hooks: ModuleType) -> None:
    text = page(hooks, "commands")
    assert "## unimat-search reproduce rq3" in text
    assert "--generator-time-limit" in text
    options = (DOCS / "options.md").read_text()
    for name in ("airss", "unimat", "unimat+airss", "cdvae", "substitution", "pyxtal", "uniform", "files"):
        factory = find("generators", name)
        described = factory.__qualname__.split(".")[0]
        assert described in options, name


def test_python_of_the_page_on_generators(hooks: ModuleType) -> None:
    namespace: dict[str, Any] = {}
    found = blocks("python", page(hooks, "generators"))
    assert len(found) == 4
    for code in found:
        exec(code, namespace)  # the page's own code
    assert namespace["Shaken"]


def test_the_file_of_options_reads(hooks: ModuleType, tmp_path: Path) -> None:
    (text,) = blocks("toml", page(hooks, "compare"))
    (tmp_path / "compare.toml").write_text(text)
    command = main.commands["compare"]
    context = command.make_context("compare", ["--config", str(tmp_path / "compare.toml")])
    assert (context.params["n"], context.params["max_atoms"]) == (50, 12)
    assert context.params["generators"] == ("airss", "unimat")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"),
    [("README", 17), ("compare", 5), ("models", 4), ("airss", 5), ("potentials", 3), ("reproduce", 6), ("dft", 6)],
)
def test_commands_run(name: str, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other in one folder, smaller than they stand there."""
    for package, extra in {"plotly": "report", "matminer": "evaluate", "distributed": "cluster"}.items():
        pytest.importorskip(package, reason=f"extra [{extra}]")
    text = README if name == "README" else (DOCS / f"{name}.md").read_text()
    monkeypatch.chdir(tmp_path)
    _provide(text)
    lines = [line for block in blocks("sh", text) for line in block.splitlines()]
    lines = [line for line in lines if not line.startswith(SET_UP)]
    assert len(lines) >= least
    with ExitStack() as background:
        for line in lines:
            if line.startswith("dask "):
                background.enter_context(_in_background(line))
            else:
                program, *words = shlex.split(line)
                assert program == "unimat-search"
                _run(words)


def _run(words: list[str]) -> None:
    """Run a command, smaller, and with a potential for DFT, which is tried where its program is."""
    group = isinstance(main.commands[words[0]], click.Group)
    more = shlex.split(SMALL.get(" ".join(words[: 1 + group]), ""))
    if "--refine" in words:
        more += ["--refine", "chgnet", "--refine-fmax", "0.5"]
    result = CliRunner().invoke(main, [*words, *more])
    assert result.exit_code == 0, f"{shlex.join([*words, *more])}\n{result.output}"


@contextmanager
def _in_background(line: str) -> Iterator[None]:
    """A line of a shell that leaves processes behind."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = subprocess.Popen(
        f"{line} wait", shell=True, env=os.environ | {"PATH": path}, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()


def _provide(text: str) -> None:
    """The files that a page takes for granted."""
    write_data(Path("data"))
    Path("compositions.csv").write_text("formula\nAlCu\nNaCl\n")
    Path("SiO2.cell").write_text("#SPECIES=Si%NUM=1,O%NUM=2\n#NFORM=2\n#MINSEP=1.3\n#TARGVOL=30\n")
    for folder in ("known", "my_structures"):
        Path(folder).mkdir()
        for index in range(60):
            edge = 4 + index / 100
            elements = [METALS[index % 10], NONMETALS[index // 10]]
            salt = Structure(Lattice.cubic(edge), elements, [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
            salt.to(filename=f"{folder}/{index}.cif")
    with zipfile.ZipFile("generated_crystals_cif.zip", "w") as archive:
        archive.write("known/0.cif")
    for table in blocks("toml", text):
        Path("my_run.toml" if "[training]" in table else "compare.toml").write_text(table)
