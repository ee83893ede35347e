from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice

from unimat_search.eval.dft.point import band_gap
from unimat_search.eval.dft.settings import DftSettings, initial_moments, kpoint_grid, spacing_for

DEFAULT = DftSettings()
EDGES = st.floats(2.0, 20.0)
ANGLES = st.floats(60.0, 120.0)


@given(EDGES, EDGES, EDGES, ANGLES, st.floats(0.1, 1.0))
def test_k_points_are_as_near_as_asked_and_no_nearer_than_needed(
    a: float, b: float, c: float, beta: float, spacing: float
) -> None:
    lattice = Lattice.from_parameters(a, b, c, 90, beta, 90)
    grid = kpoint_grid(lattice.matrix, spacing)
    for n, length in zip(grid, lattice.reciprocal_lattice.abc, strict=True):
        assert length / n <= spacing * (1 + 1e-5)
        assert n == 1 or length / (n - 1) > spacing * (1 - 1e-5)


def test_a_wider_gap_allows_wider_spacing() -> None:
    """As pymatgen's MPScanRelaxSet: 0.22 for metals, 0.44 at most; at a gap of 1 eV 2 pi 1.0265 / 21.3317."""
    spacings = [spacing_for(gap, DEFAULT) for gap in (0.0, 0.5, 1.0, 3.0, 9.0)]
    assert spacings == sorted(spacings)
    assert spacings[0] == 0.22
    assert spacings[2] == pytest.approx(0.30236, abs=1e-5)
    assert spacings[-1] == 0.44


def test_magnetic_elements_start_ferromagnetic() -> None:
    assert initial_moments(["Na", "Cl"], None, DEFAULT) is None
    assert initial_moments(["Fe", "O"], None, DEFAULT) == (4.0, 0.0)
    assert initial_moments(["Fe", "O"], None, DftSettings(spin="none")) is None
    assert initial_moments(["O", "O"], [1.0, None], DEFAULT) == (1.0, 0.0)


def test_a_name_changes_with_whatever_changes_energies() -> None:
    changed = [
        DftSettings(cutoff=700), DftSettings(kspacing=0.2), DftSettings(smearing=0.1), DftSettings(spin="none"),
        DftSettings(pulay=False),
    ]  # fmt: skip
    assert len({DEFAULT.label, *(settings.label for settings in changed)}) == len(changed) + 1
    assert DEFAULT.label == "pbe-600eV"
    assert DftSettings(cutoff=600, smearing=0.1).label == DftSettings(smearing=0.1).label


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoff": 0}, "cutoff must be a positive number, got 0"),
        ({"cutoff": "high"}, "cutoff must be a positive number, got 'high'"),
        ({"kspacing": 0.5}, "kspacing 0.5 must not exceed kspacing_insulator 0.44"),
        ({"spin": "up"}, "spin must be auto or none, got 'up'"),
        ({"symprec": -1}, "symprec must be from 0 to 1"),
        ({"scf_steps": 0}, "scf_steps must be a whole number from 1 on, got 0"),
        ({"pulay": 1}, "pulay must be true or false, got 1"),
    ],
)
def test_bad_settings_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DftSettings(**options)  # type: ignore[arg-type]


def test_a_band_that_is_filled_here_and_there_is_a_metals() -> None:
    insulator = np.array([[[0.0, 1.0, 4.0], [0.5, 2.0, 5.0]]])
    assert band_gap(insulator, 3.0) == pytest.approx(2.0)
    assert band_gap(insulator, 1.5) == 0.0
    assert band_gap(insulator, 9.0) == 0.0
    both_spins = np.concatenate([insulator, insulator + 0.5])
    assert band_gap(both_spins, 3.0) == pytest.approx(1.5)
