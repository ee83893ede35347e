"""How often a model's samples are the known structure: the benchmark of composition-conditional generation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from unimat_search.eval.backends import worker_processes
from unimat_search.records import BENCHMARK_MATCH, FailedAttempt, MatchSettings
from unimat_search.unimat.model import CrystalModel, SampleSettings, Streams
from unimat_search.unimat.sample import Crystal, as_structure, sample
from unimat_search.unimat.slot_model import SlotModel
from unimat_search.unimat.structures import StructureSet

if TYPE_CHECKING:
    from unimat_search.unimat.placements import Placement
    from unimat_search.unimat.prior import PlacementPrior

NEAR_HULL_ASKED = torch.tensor([np.nan, 1.0])
"""Properties asked for: any formation energy, near the hull."""

VALID_DISTANCE = 0.5
"""The benchmarks' validity: no two atoms nearer than this, angstrom (Xie et al., arXiv:2110.06197, appendix B)."""


@dataclass(frozen=True)
class MatchRates:
    """What each sample of each known structure came to.

    Attributes:
        rms_dist: Root mean square displacement of a match, normalised by (volume / atoms)^(1/3); NaN where a sample
            does not match. (m, k)
        valid: Whether a sample is a crystal without atoms on top of each other. (m, k)
        sampling_seconds: Wall time of the sampling.
    """

    rms_dist: NDArray[np.float64]
    valid: NDArray[np.bool_]
    sampling_seconds: float = 0.0

    def take(self, rows: NDArray[np.bool_]) -> MatchRates:
        """Those of some of the known structures."""
        return MatchRates(self.rms_dist[rows], self.valid[rows], self.sampling_seconds)

    def first(self, k: int) -> MatchRates:
        """Those of the first k samples: where the order means something, the mean over all is another figure."""
        return MatchRates(self.rms_dist[:, :k], self.valid[:, :k], self.sampling_seconds)

    def rate(self, k: int, *, valid_only: bool = False) -> float:
        """Share of known structures that one of the first k samples matches.

        With one sample each and more of them at hand, the mean over these. `valid_only` leaves out samples that are not
        valid, and structures without any that is, from the count, as some published tables do.
        """
        hits = self._hits(k)  # (m, blocks)
        if not valid_only:
            return float(hits.mean())
        counted = self._blocks(self.valid, k).any(-1)
        return float(hits[counted].mean()) if counted.any() else 0.0

    def rms(self, k: int) -> float:
        """Mean over matched structures of the best of k matches' displacement."""
        best = np.where(np.isnan(self._blocks(self.rms_dist, k)), np.inf, self._blocks(self.rms_dist, k)).min(-1)
        return float(best[np.isfinite(best)].mean()) if np.isfinite(best).any() else float("nan")

    def _hits(self, k: int) -> NDArray[np.bool_]:
        hits: NDArray[np.bool_] = (~np.isnan(self._blocks(self.rms_dist, k))).any(-1)
        return hits

    @staticmethod
    def _blocks(values: NDArray[np.generic], k: int) -> NDArray[np.generic]:
        """Samples in blocks of k, a last incomplete one left out. (m, samples) -> (m, blocks, k)."""
        blocks = values.shape[1] // k
        if not blocks:
            raise ValueError(f"{values.shape[1]} samples are too few for blocks of {k}")
        return values[:, : blocks * k].reshape(len(values), blocks, k)


def match_rates(
    model: CrystalModel,
    known: StructureSet,
    *,
    samples: int,
    settings: SampleSettings,
    seed: int,
    properties: torch.Tensor = NEAR_HULL_ASKED,
    prior: PlacementPrior | None = None,
    workers: int = 1,
) -> MatchRates:
    """Sample each known structure's composition, and hold every sample against it, unrelaxed.

    Args:
        model: In evaluation mode.
        known: m structures.
        samples: k samples of each.
        settings: How to sample.
        seed: Of the samples.
        properties: Asked for. (2,)
        prior: Draws a space group and sites for each sample of a `slots` model, the likeliest first; None for none.
        workers: Processes that match.
    """
    atoms = [torch.from_numpy(one.numbers.astype(np.int64)) for one in known]
    streams = Streams(
        [np.random.default_rng([seed, row, index]) for row in range(len(known)) for index in range(samples)]
    )
    began = time.perf_counter()
    asked = properties.to(model.properties_mean.device)
    if prior is None:
        made = sample(model, [mine for mine in atoms for _ in range(samples)], streams, settings, asked)
    else:
        made = _held(model, prior, atoms, samples, streams, settings, asked, seed)
    seconds = time.perf_counter() - began
    theirs = [made[row * samples : (row + 1) * samples] for row in range(len(known))]
    fit = partial(compare, matcher=BENCHMARK_MATCH)
    results = list((worker_processes(workers).map if workers > 1 else map)(fit, theirs, map(crystal_of, known)))
    return MatchRates(
        rms_dist=np.array([rms for rms, _ in results]).reshape(len(known), samples),
        valid=np.array([valid for _, valid in results], dtype=bool).reshape(len(known), samples),
        sampling_seconds=seconds,
    )


def _held(
    model: CrystalModel,
    prior: PlacementPrior,
    atoms: Sequence[torch.Tensor],
    samples: int,
    streams: Streams,
    settings: SampleSettings,
    properties: torch.Tensor,
    seed: int,
) -> list[Crystal]:
    """Samples on placements that the prior draws; where it draws none, samples that nothing holds."""
    from unimat_search.unimat.symmetric import SymmetricSampler

    assert isinstance(model, SlotModel)
    sampler = SymmetricSampler(model, prior, settings, properties)
    made: list[Crystal] = []
    for row, numbers in enumerate(atoms):
        theirs = streams.take(range(row * samples, (row + 1) * samples))
        held: list[Placement | None] = [*sampler.placements(numbers, samples, seed=seed)]
        made += sampler.sample(numbers.sort().values, held or [None] * samples, theirs)
    return made


def compare(made: Sequence[Crystal], known: Crystal, matcher: MatchSettings) -> tuple[list[float], list[bool]]:
    """Displacement of each sample from a known structure (NaN: no match), and whether it is valid."""
    from pymatgen.core import Structure

    from unimat_search.eval.match import structure_matcher

    numbers, frac_coords, cell = known
    reference = Structure(cell.double().numpy(), numbers.tolist(), frac_coords.double().numpy())
    fit = structure_matcher(matcher)
    rms, valid = [], []
    for one in made:
        structure = as_structure(one)
        if isinstance(structure, FailedAttempt):
            rms.append(np.nan)
            valid.append(False)
            continue
        distances = fit.get_rms_dist(reference, structure)  # type: ignore[no-untyped-call]
        rms.append(np.nan if distances is None else float(distances[0]))
        valid.append(bool(structure.is_valid(VALID_DISTANCE)))
    return rms, valid


def crystal_of(one: StructureSet) -> Crystal:
    """A set of one structure as the models give theirs."""
    return (
        torch.from_numpy(one.numbers.astype(np.int64)),
        torch.from_numpy(one.frac_coords),
        torch.from_numpy(one.cells[0]),
    )
