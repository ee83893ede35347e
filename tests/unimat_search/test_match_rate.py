from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from tests.unimat.crystals import random_set, tiny_model
from unimat_search.match_rate import MatchRates, compare, match_rates
from unimat_search.records import BENCHMARK_MATCH
from unimat_search.unimat.checkpoint import load_model, prior_of
from unimat_search.unimat.model import SampleSettings
from unimat_search.unimat.prior import load_prior
from unimat_search.unimat.sample import Crystal, shipped_weights
from unimat_search.unimat.sources import from_structures

NAN = np.nan
RATES = MatchRates(
    rms_dist=np.array([[0.1, NAN, 0.3, NAN], [NAN, NAN, NAN, NAN], [NAN, 0.2, NAN, NAN]]),
    valid=np.array([[True, True, True, True], [False, False, False, False], [True, True, False, False]]),
)


def test_rates_by_hand() -> None:
    assert RATES.rate(1) == pytest.approx(3 / 12)
    assert RATES.rate(2) == pytest.approx(3 / 6)
    assert RATES.rate(4) == pytest.approx(2 / 3)
    assert RATES.rate(1, valid_only=True) == pytest.approx(3 / 6)
    assert RATES.rate(2, valid_only=True) == pytest.approx(3 / 3)
    assert RATES.rms(4) == pytest.approx((0.1 + 0.2) / 2)
    assert RATES.rms(1) == pytest.approx((0.1 + 0.3 + 0.2) / 3)
    assert RATES.take(np.array([False, True, False])).rate(4) == 0.0
    assert np.isnan(RATES.take(np.array([False, True, False])).rms(4))
    with pytest.raises(ValueError, match="4 samples are too few for blocks of 5"):
        RATES.rate(5)


def sampled(structure: Structure) -> Crystal:
    return (
        torch.tensor(structure.atomic_numbers),
        torch.tensor(structure.frac_coords),
        torch.tensor(structure.lattice.matrix.copy()),
    )


def test_a_shifted_crystal_matches_and_another_does_not() -> None:
    salt = Structure(Lattice.from_parameters(4, 4, 4, 60, 60, 60), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    shifted = salt.copy()
    shifted.translate_sites([0, 1], [0.2, 0.3, 0.4])
    on_top = Structure(salt.lattice, ["Na", "Cl"], [[0.0, 0, 0], [0.02, 0, 0]])
    long = Structure(Lattice.orthorhombic(2, 2, 20), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    flat = (*sampled(salt)[:2], torch.zeros(3, 3, dtype=torch.float64))
    made = [sampled(shifted), sampled(on_top), sampled(long), flat]
    rms, valid = compare(made, sampled(salt), BENCHMARK_MATCH)
    assert rms[0] == pytest.approx(0, abs=1e-6)
    assert 0.4 < rms[1] < 0.5  # the benchmarks' tolerance is wide: such a sample matches, but is not valid
    assert np.isnan(rms[2:]).all()
    assert valid == [True, False, True, False]


def test_an_untrained_model_is_scored_and_finds_what_it_must() -> None:
    """One atom in a cell: any sample with a cell near the known one's shape is it."""
    known = random_set(1, 6, elements=(11,), most=1)
    model = tiny_model("slots", known)
    rates = match_rates(model, known, samples=4, settings=SampleSettings(steps=2), seed=0)
    again = match_rates(model, known, samples=4, settings=SampleSettings(steps=2), seed=0, workers=2)
    assert rates.rms_dist.shape == rates.valid.shape == (6, 4)
    assert np.array_equal(rates.rms_dist, again.rms_dist, equal_nan=True)
    assert rates.sampling_seconds > 0


def test_of_ordered_samples_the_first_is_one_sample() -> None:
    rates = MatchRates(np.array([[0.1, np.nan], [np.nan, 0.2], [np.nan, np.nan]]), np.ones((3, 2), dtype=bool))
    assert rates.rate(1) == pytest.approx(1 / 3)
    assert rates.first(1).rate(1) == pytest.approx(1 / 3)
    assert rates.first(1).rms(1) == pytest.approx(0.1)
    assert rates.rate(2) == pytest.approx(2 / 3)


def test_placements_that_a_prior_draws_hold_the_samples() -> None:
    """The weights that ship, in few steps: perovskite's placement is the likeliest, so its samples are cubic."""
    prior = load_prior(prior_of(shipped_weights()))[0]
    model, _ = load_model(shipped_weights())
    oxygen: list[list[float]] = [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    perovskite = Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O", "O", "O"], [[0.0] * 3, [0.5] * 3, *oxygen])
    known = from_structures([("SrTiO3", perovskite)])
    rates = match_rates(model, known, samples=2, settings=SampleSettings(steps=6), seed=0, prior=prior)
    assert rates.first(1).rate(1) == 1.0
