"""One import name from wheel, sdist and tree; plug-ins of other packages found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOMS = ("airss", "baselines", "eval")
INNER = "unimat_search/unimat"


def sh(*command: str | Path, cwd: Path, **environment: str) -> str:
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build(source: Path, out: Path, kind: str, **environment: str) -> Path:
    sh(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", out, source, cwd=out, **environment)
    (built,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


def modules(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def is_compiled(name: str) -> bool:
    return name.startswith("unimat_search/eval/chgnet/_gated.")


def tree(root: Path) -> set[str]:
    """What the wheel has to hold: code and data of all rooms, under the one name."""
    kept = {".py", ".json", ".typed", ".gz", ".safetensors", ".csv", ".md"}
    folders = (root / "unimat_search", root / INNER)
    own = [p for folder in folders for p in folder.iterdir() if p.is_file() and p.suffix in kept]
    own += [*(root / INNER / "weights").iterdir(), *(root / "unimat_search" / "page").iterdir()]
    rooms = [p for room in ROOMS for p in (root / room).rglob("*") if p.is_file() and p.suffix in kept]
    return {p.relative_to(root).as_posix() for p in own} | {
        f"unimat_search/{p.relative_to(root).as_posix()}" for p in rooms
    }


@pytest.fixture(scope="module")
def source(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree: building leaves no trace in the original."""
    copy = tmp_path_factory.mktemp("source") / "tree"
    copy.mkdir()
    tracked = sh("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=root).splitlines()
    present = [name for name in tracked if (root / name).exists() or (root / name).is_symlink()]
    sh("cp", "--parents", "-P", *present, copy, cwd=root)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, tmp_path_factory.mktemp("wheel"), "wheel")


def test_the_wheel_holds_the_tree(wheel: Path, source: Path) -> None:
    assert {name for name in modules(wheel) if not is_compiled(name)} == tree(source)


def test_without_a_compiler_there_are_no_kernels_and_all_the_rest(source: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    shutil.copytree(source, clean, symlinks=True, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    assert modules(build(clean, tmp_path, "wheel", CC="no-such-compiler")) == tree(source)


def test_the_sdist_makes_the_same_wheel(wheel: Path, source: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(build(source, tmp_path, "sdist"), tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    (tmp_path / "wheel").mkdir()
    assert modules(build(unpacked, tmp_path / "wheel", "wheel")) == modules(wheel)


def test_the_installed_wheel_has_one_import_name(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    sh(sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--target", site, wheel, cwd=tmp_path)
    assert {p.name.partition("-")[0] for p in site.iterdir()} == {"unimat_search", "bin"}
    code = (
        "import unimat_search, unimat_search.airss, unimat_search.eval.references as r; "
        "assert len(r.load_references('chgnet-0.3.0').elements) == 89; "
        "assert len(unimat_search.airss.symmetry.sites(225)) > 5; print(unimat_search.__file__)"
    )
    assert str(site) in sh(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(site))


def test_the_links_point_to_the_rooms(root: Path) -> None:
    for room in ROOMS:
        link = root / "unimat_search" / room
        if link.is_symlink():  # a checkout without links holds a text file
            assert link.readlink() == Path("..") / room


def test_every_package_is_listed(root: Path) -> None:
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = (
        {"unimat_search"}
        | {INNER.replace("/", ".")}
        | {
            f"unimat_search.{init.parent.relative_to(root).as_posix().replace('/', '.')}"
            for room in ROOMS
            for init in (root / room).rglob("__init__.py")
        }
    )
    assert set(listed) == found


def test_a_plug_in_of_another_package_is_found_and_compared(tmp_path: Path) -> None:
    package = tmp_path / "cubes"
    package.mkdir()
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "cubes"\nversion = "1.0"\n'
        '[project.entry-points."unimat_search.generators"]\ncubes = "cubes:Cubes"\n'
        '[tool.setuptools]\npy-modules = ["cubes"]\n'
    )
    (package / "cubes.py").write_text(
        "import numpy as np\n"
        "from pymatgen.core import Lattice, Structure\n\n\n"
        "class Cubes:\n"
        "    def generate(self, composition, n, *, seed):\n"
        "        rng = np.random.default_rng(seed)\n"
        "        species = [el for el, amount in composition.items() for _ in range(int(amount))]\n"
        "        for _ in range(n):\n"
        "            yield Structure(Lattice.cubic(2.8 * len(species)), species, rng.random((len(species), 3)))\n"
    )
    site = tmp_path / "site"
    sh(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        site,
        package,
        cwd=tmp_path,
    )
    command = (
        "compare --formula AlCu --formula-units 1 --generator airss --generator cubes -n 2 --relaxer emt --format json"
    )
    out = sh(sys.executable, "-m", "unimat_search", *command.split(), cwd=tmp_path, PYTHONPATH=str(site))
    assert json.loads(out)["overall"]["cubes"]["n_generated"] == 2
    assert "generator cubes" in sh(sys.executable, "-m", "unimat_search", "doctor", cwd=tmp_path, PYTHONPATH=str(site))
