from __future__ import annotations

import json
from pathlib import Path

import pytest
from pymatgen.core import Composition, Lattice

from unimat_search.eval.adapters import emt_relaxer
from unimat_search.eval.references import (
    MOLECULES,
    ElementReference,
    References,
    cache_file,
    load_references,
    potential_ships,
    prototype_structures,
    reference_candidates,
    references_for,
    save_references,
)
from unimat_search.registry import Spec

MP_RAW = {"Na": -1.3225, "Cl": -1.8485, "Ti": -7.8955, "O": -4.9467, "Sr": -1.6895, "Cu": -4.0992, "C": -9.2287}
"""Elemental energies of the Materials Project, PBE, eV/atom (Matbench Discovery's reference entries)."""


def test_the_shipped_references_are_near_the_materials_project() -> None:
    references = load_references("chgnet-0.3.0")
    assert len(references.elements) == 89
    for symbol, energy in MP_RAW.items():
        assert references.elements[symbol].energy_per_atom == pytest.approx(energy, abs=0.1)


def test_formation_energies_count_from_the_elements() -> None:
    elements = {"Na": ElementReference(-1.0, "bcc", 1, 1), "Cl": ElementReference(-2.0, "molecule", 1, 1)}
    references = References("p", "", elements)
    assert references.formation_energy_per_atom(Composition("Na2Cl2"), -14.0) == pytest.approx(-2.0)
    assert references.formation_energy_per_atom(Composition("NaF"), -14.0) is None
    assert references.missing(Composition("NaFPo")) == ["F", "Po"]


def test_a_file_comes_back(tmp_path: Path) -> None:
    references = References("p", "somewhere", {"Na": ElementReference(-1.25, "mp-1", 3, 2)})
    save_references(references, tmp_path / "a" / "p.json")
    assert References.from_json((tmp_path / "a" / "p.json").read_text()) == references
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["p.json"]


def test_another_potential_gets_its_own_on_demand_and_keeps_them() -> None:
    spec = Spec.parse("emt")
    assert not potential_ships("ase-emt")
    first = references_for(spec, emt_relaxer(), {"Pt"}, workers=1)
    assert first.elements["Pt"].source in ("fcc", "hcp")
    both = references_for(spec, emt_relaxer(), {"Pt", "Pd"}, workers=1)
    assert both.elements["Pt"] == first.elements["Pt"]
    assert "Pd" in json.loads(cache_file("ase-emt").read_text())["elements"]
    unknown = references_for(spec, emt_relaxer(), {"U"}, workers=1)
    assert "U" not in unknown.elements


def test_unary_structures_come_from_a_data_folder(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "mp_2023").mkdir()
    rows = [
        {
            "material_id": "mp-1",
            "numbers": [11],
            "frac_coords": [0.0] * 3,
            "cell": Lattice.cubic(4).matrix.ravel().tolist(),
        },
        {
            "material_id": "mp-2",
            "numbers": [11, 17],
            "frac_coords": [0.0] * 3 + [0.5] * 3,
            "cell": [4.0, 0, 0, 0, 4, 0, 0, 0, 4],
        },
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mp_2023" / "le20.parquet")
    candidates, origin = reference_candidates(tmp_path, ["Na", "Cl"], emt_relaxer())
    assert [name for name, _ in candidates["Na"]] == ["mp-1"]
    assert [name for name, _ in candidates["Cl"]] == ["molecule"]
    assert "Materials Project" in origin


def test_simple_crystals_have_touching_atoms() -> None:
    for symbol in ("Al", "O"):
        structures = dict(prototype_structures(symbol))
        assert set(structures) - {"molecule"} == {"fcc", "bcc", "hcp", "sc", "diamond"}
        assert ("molecule" in structures) == (symbol in MOLECULES)
        bonds = {name: s.get_neighbor_list(4.0)[3].min() for name, s in structures.items() if name != "molecule"}
        assert max(bonds.values()) == pytest.approx(min(bonds.values()), rel=1e-6)


def test_the_users_own_stand_over_the_shipped(cache: Path) -> None:
    assert cache in cache_file("chgnet-0.3.0").parents
    own = References("chgnet-0.3.0", "mine", {"Na": ElementReference(-9.0, "mine", 1, 1)})
    try:
        save_references(own, cache_file("chgnet-0.3.0"))
        both = load_references("chgnet-0.3.0")
        assert len(both.elements) == 89
        assert both.elements["Na"].energy_per_atom == -9.0
        assert "mine" in both.origin
        cache_file("chgnet-0.3.0").write_text('{"potential": "chg')
        with pytest.raises(ValueError, match="is damaged; delete it"):
            load_references("chgnet-0.3.0")
        cache_file("chgnet-0.3.0").write_text(References("another").to_json())
        assert len(load_references("chgnet-0.3.0").elements) == 89
    finally:
        cache_file("chgnet-0.3.0").unlink()
