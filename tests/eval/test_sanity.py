from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from unimat_search.eval.sanity import structure_problem
from unimat_search.records import Outcome

CUBE = Lattice.cubic(4)


@pytest.mark.parametrize(
    ("structure", "outcome"),
    [
        (Structure(CUBE, ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]]), None),
        (Structure(Lattice.cubic(2.5), ["Fe"], [[0.0, 0, 0]]), None),
        (Structure(CUBE, ["Na", "Cl"], [[0.0, 0, 0], [0.1, 0, 0]]), Outcome.COLLAPSED),
        (Structure(CUBE, ["Na", "Cl"], [[0.0, 0, 0], [0.0, 0, 0]]), Outcome.COLLAPSED),
        (Structure(CUBE, ["H", "O"], [[0.0, 0, 0], [0.1, 0, 0]]), None),
        (Structure(CUBE, ["H", "O"], [[0.0, 0, 0], [0.08, 0, 0]]), Outcome.COLLAPSED),
        (Structure(Lattice.cubic(200), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]]), Outcome.EXPLODED),
        (Structure(Lattice.orthorhombic(14, 3, 3), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0, 0]]), None),
        (Structure(Lattice.orthorhombic(13, 6.5, 3), ["Cl"] * 3, [[0.0, 0, 0], [0, 0.5, 0], [0.5] * 3]), None),
        (
            Structure(Lattice.cubic(7.5), ["H"] * 3, [[0.0, 0, 0], [0.1, 0, 0], [0.55, 0.5, 0.5]]),
            Outcome.ISOLATED_ATOMS,
        ),
        (Structure(Lattice.cubic(200), ["Na", "Cl"], [[0.0, 0, 0], [0.01, 0, 0]]), Outcome.EXPLODED),
        (Structure(Lattice.cubic(200), ["Na"], [[0.0, 0, 0]]), Outcome.EXPLODED),
        (Structure(Lattice.cubic(1.2), ["Fe"], [[0.0, 0, 0]]), Outcome.COLLAPSED),
        (Structure(Lattice.orthorhombic(200, 30, 0.01), ["Fe"], [[0.0, 0, 0]]), Outcome.COLLAPSED),
        (Structure(Lattice.orthorhombic(2, 2, 60), ["Fe"] * 2, [[0.0, 0, 0], [0, 0, 0.5]]), Outcome.EXPLODED),
        (Structure(CUBE, ["Na", "Cl"], [[0.0, 0, 0], [np.nan, 0.5, 0.5]]), Outcome.NAN),
    ],
)
def test_verdicts(structure: Structure, outcome: Outcome | None) -> None:
    problem = structure_problem(structure)
    assert (problem.outcome if problem else None) == outcome
    if problem:
        assert len(problem.detail.splitlines()) == 1


def test_a_skewed_cell_of_a_good_crystal_is_sane() -> None:
    """Degenerate angles are judged on the reduced cell: any crystal has skewed cells."""
    skewed = Structure(CUBE, ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    skewed.make_supercell([[1, 0, 0], [6, 1, 0], [0, 0, 1]], to_unit_cell=True)
    assert skewed.lattice.gamma < 15
    assert structure_problem(skewed) is None
