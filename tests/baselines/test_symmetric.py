from __future__ import annotations

import pytest
from pymatgen.core import Composition, Structure

from unimat_search.baselines.symmetric import PyxtalRandom
from unimat_search.records import FailedAttempt
from unimat_search.testing import check_generator


@pytest.mark.parametrize("formula", ["Na1Cl1", "Ti4O8", "Al5", "Sr2Ti2O6"])
def test_the_contract(formula: str) -> None:
    check_generator(PyxtalRandom(), formula, n=3)


def test_centred_groups_come_as_primitive_cells() -> None:
    """Rock salt or caesium chloride among twenty: one formula unit in a centred group."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    structures = [s for s in PyxtalRandom().generate(Composition("NaCl"), 20, seed=0) if isinstance(s, Structure)]
    symbols = {SpacegroupAnalyzer(s, symprec=1e-3).get_space_group_symbol()[0] for s in structures}
    assert symbols & {"F", "I", "R"}


def test_what_cannot_be_made_is_a_failed_attempt() -> None:
    attempts = list(PyxtalRandom(max_tries=1).generate(Composition("Na3Cl5"), 10, seed=0))
    reasons = [attempt.reason for attempt in attempts if isinstance(attempt, FailedAttempt)]
    assert reasons
    assert "Na3 Cl5" in reasons[0]


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        PyxtalRandom(factor=-1)
