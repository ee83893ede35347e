"""Diffusion-seeded search: a trained model and random search, each starting from what the other is good at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition, Structure

from unimat_search.airss.generator import dense
from unimat_search.records import FailedAttempt, Record
from unimat_search.seeds import candidate_stream
from unimat_search.shaking import Shaking, shaken
from unimat_search.unimat.model import Streams
from unimat_search.unimat.sample import UniMatGenerator

if TYPE_CHECKING:
    from numpy.random import Generator

FloatArray = NDArray[np.float64]

Made = list[Structure | FailedAttempt]

DUPLICATE = 0.002
"""eV/atom: relaxed structures nearer than this are taken for one."""

SCALE = 0.05
"""eV/atom."""

PRIOR, PRIOR_GAIN, PRIOR_COST = 2.0, 0.3, 40.0
"""What an arm is believed to bring before it is tried: so many candidates, what each brings, and its steps."""

GENERATION_COST = 8.0
"""What a candidate costs before it is relaxed, in optimizer steps."""

PARENTS = 4
"""The lowest so many distinct structures are improved upon, each half as often as the one below."""


class SeededSearch:
    """Diffusion-seeded search: samples, repair, hops and random search, shared out by what each one brings.

    Args:
        arms: Names, separated by blanks: "sample" (of the model), "repair" (a random structure noised and denoised),
            "cell" (the model's cell, random atoms), "airss" (random search), "shake" (a low relaxed structure,
            shaken), "hop" (a low relaxed structure, noised and denoised: basin hopping by the model).
        adapt: Share the candidates out by what each arm brought for its cost so far, see `shares`; else in equal parts.
        rounds: Candidates asked for at once; where the arms adapt, as many as there are arms at least.
        repair: Time on the model's path from which random structures are denoised.
        hop: Times from which relaxed structures are.
        shake: Largest displacement of an atom in a shake, angstrom.
        strain: Largest strain of the cell in a shake.
        model: Options of `UniMatGenerator`, as a table.
        airss: Options of `RandomSearch`, as a table.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        *,
        arms: str = "sample repair hop airss",
        adapt: bool = True,
        rounds: int = 8,
        repair: float = 0.2,
        hop: Sequence[float] = (0.3, 0.5, 0.7),
        shake: float = 0.5,
        strain: float = 0.1,
        model: dict[str, Any] | None = None,
        airss: dict[str, Any] | None = None,
    ) -> None:
        self.arms = tuple(arms.split())
        unknown = [name for name in self.arms if name not in ARMS]
        if unknown or not self.arms:
            raise ValueError(f"arms must be some of {' '.join(ARMS)}, got {arms!r}")
        if not isinstance(adapt, bool):
            raise ValueError(f"adapt must be true or false, got {adapt!r}")
        least = len(self.arms) if adapt else 1
        if not isinstance(rounds, int) or rounds < least:
            raise ValueError(f"rounds must be a whole number of {least} or more, got {rounds!r}")
        self.adapt = adapt
        self.round_size = rounds
        self.repair = _time("repair", repair)
        self.hop = tuple(_time("hop", time) for time in (hop if isinstance(hop, list | tuple) else [hop]))
        if not self.hop:
            raise ValueError("hop must name a time")
        self.shaking = Shaking(1, shake, strain)
        options = dict(model or {})
        if asked := {"symmetric", "space_group"}.intersection(options):
            raise ValueError(f"seeded search draws no space groups; leave {' and '.join(sorted(asked))} out of model")
        self.unimat = UniMatGenerator(**options, symmetric=False)
        if {"repair", "hop"} & set(self.arms) and not self.unimat.can_renew:
            raise ValueError("the arms repair and hop want a slots model; leave them out")
        self.random = dense(**(airss or {}))
        self.seen: Sequence[Record] = ()

    def observe(self, records: Sequence[Record]) -> None:
        """See `LearningGenerator.observe`."""
        self.seen = records

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure | FailedAttempt]:
        """See `StructureGenerator.generate`."""
        streams = [candidate_stream(seed, composition, index) for index in range(n)]
        chosen = [self.usable(arm, composition) for arm in self.choose(n)]
        made: dict[int, Structure | FailedAttempt] = {}
        for name in dict.fromkeys(chosen):
            rows = [row for row in range(n) if chosen[row] == name]
            for row, one in zip(rows, ARMS[name](self, composition, [streams[row] for row in rows]), strict=True):
                if isinstance(one, Structure):
                    one.properties["origin"] = name
                    made[row] = one
                else:
                    made[row] = FailedAttempt(one.reason, name)
        yield from (made[row] for row in range(n))

    def choose(self, n: int) -> list[str]:
        """The arms of n candidates."""
        if not self.adapt or not self.seen:
            return [self.arms[(len(self.seen) + index) % len(self.arms)] for index in range(n)]
        bounds = np.cumsum(shares(self.seen, self.arms))
        return [self.arms[int(np.searchsorted(bounds, (index + 0.5) / n))] for index in range(n)]

    def usable(self, arm: str, composition: Composition) -> str:
        """An arm, or what stands in for it: samples while nothing is relaxed, random search where the model fails."""
        if arm in NEED_PARENTS and not parents(self.seen):
            arm = "sample"
        if arm in NEED_MODEL and self.unimat.unseen(composition):
            arm = "airss"
        return arm

    def sample(self, composition: Composition, streams: Sequence[Generator]) -> Made:
        """Samples of the model."""
        return self.unimat.from_streams(composition, Streams(streams))

    def random_structures(self, composition: Composition, streams: Sequence[Generator]) -> Made:
        """Structures of random search."""
        return self.random.from_streams(composition, streams)

    def repaired(self, composition: Composition, streams: Sequence[Generator]) -> Made:
        """Random structures, noised and denoised."""
        return self._renewed(self.random.from_streams(composition, streams), streams, [self.repair] * len(streams))

    def hopped(self, composition: Composition, streams: Sequence[Generator]) -> Made:  # noqa: ARG002
        """Low relaxed structures, noised and denoised."""
        chosen = draw_parents(self.seen, streams)
        return self._renewed(chosen, streams, [float(rng.choice(self.hop)) for rng in streams])

    def shaken(self, composition: Composition, streams: Sequence[Generator]) -> Made:  # noqa: ARG002
        """Low relaxed structures, shaken."""
        parents = draw_parents(self.seen, streams)
        return [shaken(parent, rng, self.shaking) for parent, rng in zip(parents, streams, strict=True)]

    def in_models_cell(self, composition: Composition, streams: Sequence[Generator]) -> Made:
        """Random atoms in cells of the model."""
        cells = self.sample(composition, streams)

        def fill(rows: Sequence[int], structures: Sequence[Structure]) -> Made:
            lattices = [np.array(one.lattice.matrix) for one in structures]
            return self.random.in_cells(composition, lattices, [streams[row] for row in rows])

        return _where_made(cells, fill)

    def _renewed(
        self, made: Sequence[Structure | FailedAttempt], streams: Sequence[Generator], starts: Sequence[float]
    ) -> Made:
        def renew(rows: Sequence[int], structures: Sequence[Structure]) -> Made:
            return self.unimat.renew(structures, [starts[row] for row in rows], Streams(streams).take(rows))

        return _where_made(made, renew)


def _where_made(
    made: Sequence[Structure | FailedAttempt], change: Callable[[Sequence[int], Sequence[Structure]], Made]
) -> Made:
    """What a change makes of structures and their rows; failures stay."""
    structures = {row: one for row, one in enumerate(made) if isinstance(one, Structure)}
    changed = dict(zip(structures, change(list(structures), list(structures.values())), strict=True))
    return [changed.get(row, one) for row, one in enumerate(made)]


ARMS: dict[str, Callable[[SeededSearch, Composition, Sequence[Generator]], Made]] = {
    "sample": SeededSearch.sample,
    "repair": SeededSearch.repaired,
    "cell": SeededSearch.in_models_cell,
    "airss": SeededSearch.random_structures,
    "shake": SeededSearch.shaken,
    "hop": SeededSearch.hopped,
}
NEED_PARENTS = ("shake", "hop")
NEED_MODEL = ("sample", "repair", "cell", "hop")


def shares(records: Sequence[Record], arms: Sequence[str]) -> FloatArray:
    """Shares of the arms: proportional to what each brought for its cost, a priori all the same.

    A candidate brings exp(-E / 50 meV) if it relaxed to an energy E per atom above the lowest of all that no candidate
    before it had, and nothing else. Its cost is counted in optimizer steps and not in seconds, so that runs repeat.

    Args:
        records: What was seen, in the order of its generation.
        arms: Names.
    """
    energies = np.array(
        [r.enthalpy_per_atom if r.converged and r.enthalpy_per_atom is not None else np.inf for r in records]
    )
    gains, costs = dict.fromkeys(arms, PRIOR * PRIOR_GAIN), dict.fromkeys(arms, PRIOR * PRIOR_COST)
    for index, record in enumerate(records):
        if record.origin not in gains:
            continue
        costs[record.origin] += record.n_steps + GENERATION_COST
        new = np.isfinite(energies[index]) and (np.abs(energies[:index] - energies[index]) > DUPLICATE).all()
        if new:
            gains[record.origin] += float(np.exp((energies.min() - energies[index]) / SCALE))
    rates = np.array([gains[arm] / costs[arm] for arm in arms])
    return np.asarray(rates / rates.sum())


def parents(records: Sequence[Record]) -> list[Structure]:
    """The lowest distinct relaxed structures."""
    relaxed = [r for r in records if r.converged and r.final_structure is not None and r.enthalpy_per_atom is not None]
    chosen: list[Structure] = []
    last = -np.inf
    for record in sorted(relaxed, key=lambda r: r.enthalpy_per_atom or 0.0):
        energy = record.enthalpy_per_atom or 0.0
        if energy - last > DUPLICATE and record.final_structure is not None:
            chosen.append(record.final_structure)
            last = energy
    return chosen[:PARENTS]


def _time(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a time from 0 to less than 1, got {value!r}")
    return float(value)


def draw_parents(records: Sequence[Record], streams: Sequence[Generator]) -> list[Structure]:
    """A low structure for each stream."""
    chosen = parents(records)
    weights = 0.5 ** np.arange(len(chosen))
    weights /= weights.sum()
    return [chosen[int(rng.choice(len(chosen), p=weights))].copy() for rng in streams]
