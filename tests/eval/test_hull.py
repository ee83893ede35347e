from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlparse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import SETTINGS, Composition
from pymatgen.entries.computed_entries import ComputedEntry

from unimat_search.cli import main
from unimat_search.eval.hull import Hull, HullError, Phase, elements_of
from unimat_search.eval.hull_build import build_hull, read_relaxed, write_relaxed
from unimat_search.eval.hull_check import check_hull
from unimat_search.eval.hull_sources import load_hull, materials_project
from unimat_search.eval.references import ElementReference, References, load_references
from unimat_search.registry import Spec

AB = (Phase("NaCl", -2.0), Phase("Na3Cl", -0.5), Phase("NaCl3", -1.2), Phase("NaCl", -1.9))
"""By hand: at Na3Cl the hull between Na and NaCl is -1.0, at NaCl3 between NaCl and Cl likewise; NaCl3 is on it."""

NO_REFERENCES = References("nothing")
NACL = frozenset({"Na", "Cl"})


def test_distances_by_hand() -> None:
    hull = Hull("by hand", AB)
    known = hull.at(Composition("Na2Cl2"))
    assert known.energy == pytest.approx(-2.0)
    assert known.e_above_hull(-1.9) == pytest.approx(0.1)
    assert known.known
    assert known.competing == pytest.approx(-0.85)  # halfway between Na3Cl and NaCl3
    assert known.decomposition_energy(-2.0) == pytest.approx(-1.15)
    assert known.products == pytest.approx({"Na3Cl": 0.5, "NaCl3": 0.5})
    above = hull.at(Composition("Na3Cl"))
    assert above.energy == pytest.approx(-1.0)
    assert above.competing == pytest.approx(-1.0)
    assert above.e_above_hull(-0.5) == pytest.approx(0.5)
    unknown = hull.at(Composition("NaCl2"))
    assert not unknown.known
    assert unknown.energy == pytest.approx(-2.0 / 3 - 1.2 * 2 / 3)
    assert unknown.energy == unknown.competing


def test_an_element_is_at_zero_and_does_not_decompose() -> None:
    element = Hull("by hand", AB).at(Composition("Na4"))
    assert (element.energy, element.competing) == (0.0, None)
    assert element.decomposition_energy(0.2) is None
    lower = Hull("by hand", [Phase("Na", -0.1)]).at(Composition("Na"))
    assert lower.e_above_hull(0.0) == pytest.approx(0.1)


def test_a_system_of_which_nothing_is_known_has_its_elements() -> None:
    point = Hull("by hand", AB).at(Composition("LiFeO2"))
    assert (point.energy, point.competing, point.known) == (0.0, 0.0, False)


energies = st.floats(-3, 0.5)
phases = st.lists(
    st.builds(
        lambda counts, energy: Phase(
            Composition(dict(zip(("Li", "O", "Ti"), counts, strict=True))).reduced_formula, energy
        ),
        st.tuples(*[st.integers(0, 4)] * 3).filter(lambda counts: sum(map(bool, counts)) > 1),
        energies,
    ),
    min_size=1,
    max_size=8,
)


@given(phases, st.randoms(use_true_random=False))
def test_laws_of_hulls(found: list[Phase], random: Any) -> None:
    shuffled = random.sample(found, len(found))
    hull, other, fewer = Hull("", found), Hull("", shuffled), Hull("", found[1:])
    for phase in found:
        composition = Composition(phase.reduced_formula)
        point = hull.at(composition)
        assert point.e_above_hull(phase.formation_energy_per_atom) >= -1e-6  # no phase is below its hull
        assert point.competing is not None
        assert point.competing >= point.energy - 1e-6
        assert sum(point.products.values()) == pytest.approx(1.0)
        assert phase.reduced_formula not in point.products
        assert other.at(composition).energy == pytest.approx(point.energy, abs=1e-6)
        assert fewer.at(composition).energy >= point.energy - 1e-6  # a phase more never lifts it


@given(phases)
def test_hulls_are_pymatgens(found: list[Phase]) -> None:
    hull = Hull("", found)
    for phase in found:
        composition = Composition(phase.reduced_formula)
        elements = elements_of(phase.reduced_formula)
        entries = [PDEntry(Composition(symbol), 0.0) for symbol in elements]
        for one in found:
            if elements_of(one.reduced_formula) <= elements:
                cell = Composition(one.reduced_formula)
                entries.append(PDEntry(cell, one.formation_energy_per_atom * cell.num_atoms))
        whole = PhaseDiagram(entries)
        others = PhaseDiagram([one for one in entries if one.composition.reduced_formula != phase.reduced_formula])
        point = hull.at(composition)
        assert point.energy == pytest.approx(whole.get_hull_energy_per_atom(composition), abs=1e-6)
        assert point.competing == pytest.approx(others.get_hull_energy_per_atom(composition), abs=1e-6)


def test_hulls_of_many_elements() -> None:
    symbols = ("Be", "Mg", "Ca", "Sr", "Ba", "Zn", "Cd", "Ni", "Co", "Mn")
    hull = Hull("by hand", [Phase(f"{symbol}O", -1.0 - i / 10) for i, symbol in enumerate(symbols)])
    point = hull.at(Composition(dict.fromkeys(symbols, 1) | {"O": 10}))
    assert point.energy == pytest.approx(-1.45)
    assert point.products == pytest.approx({f"{symbol}O": 0.1 for symbol in symbols})


def test_elements_of_formulas() -> None:
    assert elements_of("CaMg3(CO3)4") == {"Ca", "Mg", "C", "O"}


def test_hulls_of_files(tmp_path: Path) -> None:
    csv = "formula,formation_energy_per_atom\nNa2Cl2,-2.0\nLiF,-3.0\nNaCl3,\n"
    (tmp_path / "h.csv").write_text(csv)
    (tmp_path / "h.csv.gz").write_bytes(gzip.compress(csv.encode()))
    table = {"formula": ["NaCl", "LiF"], "formation_energy_per_atom": [-2.0, None]}
    pq.write_table(pa.table(table), tmp_path / "h.parquet")
    entries = [ComputedEntry("Na2", -2.0), ComputedEntry("Cl2", -4.0), ComputedEntry("Cl2", -3.0)]
    entries.append(ComputedEntry("NaCl", -7.0))  # -1 and -2 for the elements: -2 eV/atom of formation
    (tmp_path / "h.json").write_text(json.dumps({"entries": [entry.as_dict() for entry in entries]}))
    for name in ("h.csv", "h.csv.gz", "h.parquet", "h.json"):
        hull = load_hull(str(tmp_path / name), [NACL], NO_REFERENCES)
        assert hull is not None
        assert hull.at(Composition("NaCl")).energy == pytest.approx(-2.0)
        assert hull.reference == f"{name}, {4 if name == 'h.json' else 1 if name == 'h.parquet' else 2} phases"
        assert all(elements_of(phase.reduced_formula) <= NACL for phase in hull.phases)


def test_energies_count_from_the_potentials_references(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_text("formula,energy_per_atom\nNaCl,-3.5\nNaCl3,\n")
    elements = {"Na": ElementReference(-1.0, "", 1, 1), "Cl": ElementReference(-2.0, "", 1, 1)}
    hull = load_hull(str(tmp_path / "h.csv"), [NACL], References("p", "", elements))
    assert hull is not None
    (phase,) = hull.phases
    assert phase.reduced_formula == "NaCl"
    assert phase.formation_energy_per_atom == pytest.approx(-2.0)
    without = load_hull(str(tmp_path / "h.csv"), [NACL], NO_REFERENCES)
    assert without is not None
    assert list(without.phases) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.csv", None),
        ("h.csv", b"formula,energy\nNaCl,1\n"),
        ("h.csv", b"formula,formation_energy_per_atom\nNaCl,low\n"),
        ("h.csv", b"a,b\n1,2\n"),
        ("h.csv", b"formula,formation_energy_per_atom\nNaCl,nan\n"),
        ("h.csv.gz", b"no gzip"),
        ("h.parquet", b"no parquet"),
        ("h.json", b"{"),
        ("h.json", b'{"entries": [1]}'),
        ("h.json", json.dumps([ComputedEntry("NaCl", -1.0).as_dict()]).encode()),
        ("h.txt", b""),
        ("h.csv", b""),
        ("h.csv", b"formula,formation_energy_per_atom\nNaCl,\n"),
        ("h.json", b"[]"),
    ],
)
def test_a_bad_file_is_one_line_and_nothing_is_written(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(HullError, match=name):
        load_hull(str(tmp_path / name), [NACL], NO_REFERENCES)
    command = ["compare", "--formula", "NaCl", "--relaxer", "emt", "--hull", str(tmp_path / name), "--out"]
    result = CliRunner().invoke(main, [*command, str(tmp_path / "run")])
    assert result.exit_code == 2
    assert name in result.output.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_entries_make_nothing_but_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    elements = [{"composition": {symbol: 1}, "energy": 0.0, "correction": None} for symbol in NACL]
    salt = {"@module": "hostile_module", "@class": "X", "composition": {"Na": 1, "Cl": 1}, "energy": -4.0}
    (tmp_path / "h.json").write_text(json.dumps([*elements, salt]))
    hull = load_hull(str(tmp_path / "h.json"), [NACL], NO_REFERENCES)
    assert hull is not None
    assert hull.at(Composition("NaCl")).energy == pytest.approx(-2.0)


def test_no_hull_where_none_ships_or_none_is_wanted() -> None:
    assert load_hull("", [NACL], NO_REFERENCES) is None
    assert load_hull("none", [NACL], NO_REFERENCES) is None


class MaterialsProject(BaseHTTPRequestHandler):
    """Speaks as the Materials Project's materials/thermo does (pages of JSON rows), of a few phases."""

    phases: ClassVar = {"Na": 0.0, "Cl": 0.0, "NaCl": -2.0, "LiF": -3.0}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        """Answer one page."""
        url = urlparse(self.path)
        query = parse_qs(url.query)
        systems = {frozenset(system.split("-")) for system in query["chemsys"][0].split(",")}
        type(self).asked.append(query["chemsys"][0])
        good = (
            url.path == "/materials/thermo/"
            and query["thermo_types"] == ["GGA_GGA+U"]
            and self.headers["x-api-key"] == "k" * 32
        )
        rows = [
            {"material_id": f"mp-{i}", "formula_pretty": formula, "formation_energy_per_atom": energy}
            for i, (formula, energy) in enumerate(self.phases.items())
            if elements_of(formula) in systems
        ]
        size, page = int(query["_per_page"][0]), int(query["_page"][0])
        body = json.dumps({"data": rows[size * (page - 1) : size * page], "meta": {"total_doc": len(rows)}})
        self.send_response(200 if good else 403)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    MaterialsProject.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), MaterialsProject) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        monkeypatch.setitem(SETTINGS, "PMG_MAPI_ENDPOINT", f"http://127.0.0.1:{http.server_port}/")
        monkeypatch.setenv("UNIMAT_SEARCH_CACHE", str(tmp_path))
        for name in ("MP_API_KEY", "PMG_MAPI_KEY"):
            monkeypatch.delenv(name, raising=False)
        yield
        http.shutdown()


@pytest.mark.usefixtures("server")
def test_the_materials_project_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HullError, match="MP_API_KEY"):
        materials_project([NACL])
    with pytest.raises(HullError, match=r"gave no phases.*403"):
        materials_project([NACL], key="x" * 32)
    with pytest.raises(HullError, match="gave no phases"):
        materials_project([NACL], key="short")
    monkeypatch.setenv("MP_API_KEY", "k" * 32)
    hull = load_hull("mp", [NACL], NO_REFERENCES)
    assert hull is not None
    assert hull.at(Composition("NaCl")).energy == pytest.approx(-2.0)
    assert hull.reference == "Materials Project, 3 phases"
    asked = len(MaterialsProject.asked)
    monkeypatch.delenv("MP_API_KEY")
    again = materials_project([NACL])
    assert list(again.phases) == list(hull.phases)
    assert len(MaterialsProject.asked) == asked


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Four phases of metals that EMT knows, one of them with atoms on top of each other."""
    fcc, cubic = [0.0, 1, 1, 1, 0, 1, 1, 1, 0], [1.0, 0, 0, 0, 1, 0, 0, 0, 1]
    geometries = {
        "material_id": ["mp-1", "mp-2", "mp-3", "mp-4"],
        "numbers": [[29], [79], [29, 79], [29, 29, 29, 79]],
        "frac_coords": [[0.0] * 3, [0.0] * 3, [0.0] * 3 + [0.5] * 3, [0.0] * 6 + [0.5] * 6],
        "cell": [[1.8 * x for x in fcc], [2.05 * x for x in fcc], [3.0 * x for x in cubic], [3.0 * x for x in cubic]],
    }
    phases = {
        "material_id": [f"mp-{i}" for i in range(1, 6)],
        "formula": ["Cu", "Au", "CuAu", "Cu3Au", "CuAu7"],
        "formation_energy_per_atom": [0.0, 0.0, -0.1, -0.05, -0.01],
        "e_above_hull_calc": [0.0, 0.0, 0.0, 0.02, 0.0],
        "mp_2021_id": [True] * 5,
    }
    for name, table in (("mp_20/train", geometries), ("hull/mp_phases", phases)):
        (tmp_path / name).parent.mkdir()
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    return tmp_path


def test_a_hull_is_built_the_most_stable_first_and_goes_on(data_dir: Path) -> None:
    out = data_dir / "emt.csv.gz"
    first = build_hull(data_dir, out, Spec.parse("emt"), limit=2, workers=1)
    assert [phase.material_id for phase in first] == ["mp-1", "mp-2"]
    begun = out.read_bytes()
    seen: list[tuple[int, int]] = []
    phases = build_hull(data_dir, out, Spec.parse("emt"), workers=1, on_progress=lambda *at: seen.append(at))
    assert seen[0] == (2, 4)
    assert seen[-1] == (4, 4)
    assert read_relaxed(out) == sorted(phases, key=lambda phase: phase.material_id)
    assert begun != out.read_bytes()
    by_name = {phase.material_id: phase for phase in phases}
    assert by_name["mp-1"].space_group == "Fm-3m"
    assert float(by_name["mp-1"].energy_per_atom) == pytest.approx(-0.007, abs=0.01)  # EMT's fcc copper is near zero
    assert by_name["mp-3"].outcome == "converged"
    assert (by_name["mp-4"].outcome != "converged") == (by_name["mp-4"].energy_per_atom == "")
    whole = out.read_bytes()
    build_hull(data_dir, out, Spec.parse("emt"), workers=1)
    assert out.read_bytes() == whole
    lost = [replace(phase, outcome="relaxer_failed", energy_per_atom="") for phase in phases]
    write_relaxed(out, lost)
    build_hull(data_dir, out, Spec.parse("emt"), workers=1)
    assert out.read_bytes() == whole, "what failed for no fault of its own is tried again"
    write_relaxed(out, [replace(phase, potential="another") for phase in phases])
    with pytest.raises(ValueError, match="relaxed by another, not ase-emt"):
        build_hull(data_dir, out, Spec.parse("emt"), workers=1)


def test_a_hull_is_held_against_the_true_one(data_dir: Path) -> None:
    from unimat_search.eval.hull_check import true_phases

    out = data_dir / "emt.csv.gz"
    relaxed = build_hull(data_dir, out, Spec.parse("emt"), limit=3, workers=1)
    energies = {phase.formula: float(phase.energy_per_atom) for phase in relaxed}
    references = References("ase-emt", "", {el: ElementReference(energies[el], "", 1, 1) for el in ("Cu", "Au")})
    checked = check_hull(relaxed, references, true_phases(data_dir))
    ours = energies["CuAu"] - (energies["Cu"] + energies["Au"]) / 2
    assert checked["relaxed"].n == 3
    expected = abs(ours - (-0.1 + 0.034))  # the true hull without CuAu has Cu3Au and CuAu7: -0.034 eV/atom at CuAu
    assert checked["relaxed"].decomposition == pytest.approx(expected, abs=1e-6)
    assert checked["missing phases"].above_hull == pytest.approx(0.0)
    assert checked["missing phases"].stable_agree == 1.0
    assert checked["missing phases"].decomposition == pytest.approx(0.034, abs=1e-6)
    assert checked["potential"].decomposition == pytest.approx(abs(ours + 0.1), abs=1e-6)
    with pytest.raises(ValueError, match="shares no phase"):
        check_hull(relaxed, References("ase-emt"), true_phases(data_dir))
    with pytest.raises(ValueError, match=r"relaxed by ase-emt, not by chgnet-0\.3\.0"):
        check_hull(relaxed, load_references("chgnet-0.3.0"), true_phases(data_dir))
    with pytest.raises(HullError, match=r"are of ase-emt, not of chgnet-0\.3\.0"):
        load_hull(str(out), [], load_references("chgnet-0.3.0"))


def test_the_hull_that_ships() -> None:
    """Rock salt is on it, at CHGNet's -2.07 eV/atom; as in the Materials Project, NaCl3 is the next phase."""
    references = load_references("chgnet-0.3.0")
    hull = load_hull("", [NACL], references)
    assert hull is not None
    assert hull.reference.startswith("chgnet-0.3.0, 33963 phases (of 5000 of them, against the Materials Project's")
    salt = hull.at(Composition("NaCl"))
    assert salt.e_above_hull(-2.071) == pytest.approx(0.0, abs=2e-3)
    assert salt.products == pytest.approx({"Na": 1 / 3, "NaCl3": 2 / 3})
    assert hull.at(Composition("Na2Cl")).energy == pytest.approx(-2.071 * 2 / 3, abs=2e-3)
    assert load_hull("", [NACL], NO_REFERENCES) is None


def test_damage_to_a_file_of_phases_is_named(tmp_path: Path) -> None:
    for content in (b"", b"no gzip", gzip.compress(b"material_id,formula\n1,2\n")):
        (tmp_path / "p.csv.gz").write_bytes(content)
        with pytest.raises(ValueError, match=r"p\.csv\.gz"):
            read_relaxed(tmp_path / "p.csv.gz")
