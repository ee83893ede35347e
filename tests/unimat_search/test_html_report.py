from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure, SymmOp

from unimat_search.cli import main
from unimat_search.compare import run_comparison
from unimat_search.html_report import write_report
from unimat_search.plan import CompareSettings
from unimat_search.records import MatchSettings
from unimat_search.run_folder import RunError
from unimat_search.scenes import alike, scene
from unimat_search.symmetry import conventional

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small comparison with a known structure."""
    folder = tmp_path_factory.mktemp("report")
    known = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.6), ["Cu"], [[0.0, 0, 0]])
    known.to(str(folder / "fcc.cif"))
    asked = CompareSettings(
        formulas=("Cu:1", "AlCu:1"),
        generators=("airss", "tests.plugins:broken_factory"),
        n=6,
        relaxer="emt",
        reference=str(folder / "fcc.cif"),
    )
    run_comparison(asked, folder / "run", workers=1)
    result = CliRunner().invoke(main, ["report", str(folder / "run")])
    assert result.exit_code == 0, result.output
    return folder / "run" / "report.html"


def content(report: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', report.read_text(), re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_report_holds_tables_figures_and_structures(report: Path) -> None:
    data = content(report)
    assert [figure["id"] for figure in data["figures"]] == [
        *("converged", "best", "found", "energies", "steps", "compositions"),
    ]
    copper = data["structures"][0]["panels"]
    assert [panel["title"] for panel in copper] == ["known", "airss", "tests.plugins:broken_factory"]
    assert "matches fcc" in copper[1]["caption"]
    assert copper[2] == {"title": "tests.plugins:broken_factory", "caption": "nothing converged", "scene": None}
    text = report.read_text()
    for words in ("By composition", "Over all compositions", "fmax = 0.05", "Wilson"):
        assert words in text


def test_nothing_in_the_report_comes_from_elsewhere(report: Path) -> None:
    outside = report.read_text().partition("<script>")[0]
    assert "default-src 'none'" in outside
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", outside)


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no finished run" in result.output
    with pytest.raises(RunError, match="no finished run"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_scene_shows_atoms_on_faces_edges_and_corners() -> None:
    """Rock salt in its cubic cell: 27 sites of the closed cell are atoms, 14 sodium and 13 chlorine."""
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    drawn = scene(salt)
    assert {group["symbol"]: len(group["x"]) for group in drawn["atoms"]} == {"Na": 14, "Cl": 13}
    assert len(drawn["cell"][0]) == 12 * 3
    assert len(drawn["bonds"][0]) == 54 * 3  # of a 3 x 3 x 3 grid


@pytest.mark.parametrize("seed", range(6))
def test_equal_crystals_are_drawn_alike(seed: int) -> None:
    """Zinc blende in a random primitive cell, shifted and turned, is drawn atom by atom as its model is."""
    rng = np.random.default_rng(seed)
    model = Structure.from_spacegroup("F-43m", Lattice.cubic(5.4), ["Zn", "S"], [[0.0, 0, 0], [0.25, 0.25, 0.25]])
    other = model.get_primitive_structure()
    other.make_supercell(np.eye(3, dtype=int) + np.triu(rng.integers(-1, 2, (3, 3)), 1))
    other.translate_sites(range(len(other)), rng.random(3))
    other.apply_operation(SymmOp.from_axis_angle_and_translation(rng.normal(size=3), rng.uniform(0, 180)))
    expected, symbol = conventional(model)
    drawn, same = conventional(other)
    assert len(other) == 2
    assert symbol == same == "F-43m"
    assert places(alike(drawn, expected, MatchSettings())) == places(expected)


def places(structure: Structure) -> dict[str, list[tuple[float, ...]]]:
    """Where a scene has its atoms, by element, to a tenth of an angstrom."""
    return {
        group["symbol"]: sorted(
            tuple(round(x + 0.03, 1) for x in place) for place in zip(group["x"], group["y"], group["z"], strict=True)
        )
        for group in scene(structure)["atoms"]
    }


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_every_site_is_drawn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lattice = Lattice(np.eye(3) * 4 + rng.normal(0, 0.3, (3, 3)))
    structure = Structure(lattice, ["Cu", "Al", "O"], rng.choice([0.0, 0.25, 0.9999, 0.5], (3, 3)) + [[0, 0, 0]] * 3)
    drawn = scene(structure)
    assert {group["symbol"] for group in drawn["atoms"]} == {"Cu", "Al", "O"}
    for group in drawn["atoms"]:
        places = np.array([group["x"], group["y"], group["z"]]).T @ np.linalg.inv(lattice.matrix)
        assert (places > -0.01).all()
        assert (places < 1.01).all()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("wants Chromium")
    with api.sync_playwright() as player:
        opened = player.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_browser_draws_every_figure(report: Path, browser: Any, scheme: str, width: int) -> None:
    """No error, no request, no sideways scrolling; scenes turn together; the composition is chosen by keyboard."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    errors: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_selector("body[data-drawn]", timeout=60_000)
    assert page.evaluate("document.querySelectorAll('.plot .main-svg').length > 0")
    drawn = page.evaluate("[...document.querySelectorAll('.plot')].map(e => e.querySelectorAll('.trace, .hm').length)")
    assert len(drawn) == 6
    assert all(drawn)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ink == "rgb(255, 255, 255)") == (scheme == "light")

    cameras = "shown.map(e => e.layout.scene.camera.eye.x)"
    assert len(page.evaluate(cameras)) == 2
    page.evaluate("Plotly.relayout(shown[0], {'scene.camera': {eye: {x: 0.3, y: 1.7, z: 0.2}}})")
    page.wait_for_function(f"{cameras}.every(x => x === 0.3)")
    box = page.locator(".scene").first.bounding_box()
    page.locator(".scene").first.scroll_into_view_if_needed()
    box = page.locator(".scene").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 80, box["y"] + box["height"] / 2 + 20, steps=5)
    page.mouse.up()
    page.wait_for_function(f"{cameras}.every(x => x !== 0.3)")

    eye = page.evaluate(cameras)[0]
    page.locator(".scene").first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{cameras}.every(x => Math.abs(x - {eye}) > 0.01)")

    page.focus("#composition")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("document.querySelector('#composition').value === '1' && shown.length === 1")
    page.click("#theme")
    page.wait_for_function(f"getComputedStyle(document.body).backgroundColor !== '{ink}'")
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()
