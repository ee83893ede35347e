from __future__ import annotations

from pathlib import Path

import pytest
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.eval.match import read_known

NACL = frozenset({"Na", "Cl"})


def test_what_is_no_crystal_is_left_out_of_the_known_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    half = [Composition("Na0.5"), Composition("Na0.5"), Composition("Cl")]
    split = Structure(Lattice.cubic(3.4), half, [[0.0, 0, 0], [0.1, 0, 0], [0.5, 0.5, 0.5]])
    together = Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0.0, 0, 0], [0.05, 0, 0]])
    for name, structure in (("whole", whole), ("split", split), ("together", together)):
        structure.to(str(tmp_path / f"{name}.cif"))
    known = read_known(tmp_path, [NACL])
    assert [name for name, _ in known["NaCl"]] == ["whole"]
    assert "split in" in caplog.text
    assert "a site is partly filled" in caplog.text
