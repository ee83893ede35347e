"""Generators and relaxers that behave and misbehave, loaded as tests.plugins:NAME."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from ase.calculators.emt import EMT
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.eval.adapters import emt_relaxer
from unimat_search.eval.metrics import lowest
from unimat_search.eval.relax import BatchedRelaxer
from unimat_search.records import FailedAttempt, Outcome, Record, Relaxation, RelaxSettings


class Uniform:
    """Uniform random positions in a cube: the ten lines."""

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
        rng = np.random.default_rng([seed, int(composition.num_atoms)])
        species = [el for el, amount in composition.items() for _ in range(int(amount))]
        for _ in range(n):
            lattice = Lattice.cubic((20 * len(species)) ** (1 / 3))
            yield Structure(lattice, species, rng.random((len(species), 3)))


class Raises(Uniform):
    """Gives one structure, prints, and raises."""

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
        print("noise on stdout")
        yield from super().generate(composition, 1, seed=seed)
        raise RuntimeError("out of ideas\nsecond line")


class WrongComposition(Uniform):
    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
        yield from super().generate(composition * 2, n, seed=seed)


class FewerThanAsked(Uniform):
    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
        yield from super().generate(composition, n - 1, seed=seed)


class Junk:
    """Everything that is no structure of this composition."""

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[object]:
        good = next(Uniform().generate(composition, 1, seed=seed))
        yield None
        yield {"not": "a structure"}
        broken = good.copy()
        broken.translate_sites([0], [np.nan, 0, 0], to_unit_cell=False)
        yield broken
        disordered = good.copy()
        disordered[0] = {"Al": 0.5, "Cu": 0.5}
        yield disordered
        dummy = good.copy()
        dummy.append("X", [0.3, 0.3, 0.3])
        yield dummy
        yield Structure(np.diag([1.0, 1.0, 0.0]), good.species, good.frac_coords)
        yield FailedAttempt(ValueError("no\nluck\udcff"), origin="\ud800")  # type: ignore[arg-type]
        yield good.copy().add_oxidation_state_by_guess()


class SameEverySeed(Uniform):
    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
        yield from super().generate(composition, n, seed=0)


class Deadly(Uniform):
    """Kills its process."""

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
        os._exit(9)


class Learner(Uniform):
    """Scales the lowest structure that it saw by what the seed says; random ones before it saw any."""

    round_size = 3

    def observe(self, records: Sequence[Record]) -> None:
        self.seen = records

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
        assert all(record.outcome is not None for record in self.seen)
        assert n == min(self.round_size, 7 - len(self.seen))
        best = lowest(self.seen)
        for k, fresh in enumerate(super().generate(composition, n, seed=seed)):
            structure = best.final_structure if best and best.final_structure else fresh
            strain = np.random.default_rng([seed, k]).uniform(-0.05, 0.05)
            yield structure.copy().apply_strain(strain, inplace=False)


class Hangs(Uniform):
    """Gives one structure, then nothing any more: asleep, or in a loop."""

    def __init__(self, how: str = "asleep") -> None:
        self.how = how

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
        yield from super().generate(composition, 1, seed=seed)
        if self.how == "deaf":  # as code that is not Python's
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        while True:
            if self.how != "busy":
                time.sleep(3600)


class Chatty(Uniform):
    """Prints a megabyte to stderr and stdout, and raises."""

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
        for stream, number in ((sys.stderr, 2), (sys.stdout, 1)):
            print("x" * 1_000_000, file=stream)
            os.write(number, b"y" * 1_000_000)
        raise RuntimeError(f"no idea for {composition.formula}")


class Endless(Uniform):
    """Does not stop at what is asked for."""

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
        for more in count():
            yield from super().generate(composition, 1, seed=seed + more)


class Sharing(Uniform):
    """Says anything of the cells of its structures, and has none."""

    def __init__(self, shares: list[tuple[int, int]] | None = None) -> None:
        self._shares = shares

    def shares(self, composition: Composition, formula_units: Sequence[int], n: int) -> list[tuple[int, int]]:
        if self._shares is None:
            raise RuntimeError("no idea")
        return self._shares

    def generate_own(self, composition: Composition, n: int, formula_units: Sequence[int]) -> Iterator[Structure]:
        return iter(())


class Cancelled(Uniform):
    """Raises what is no Exception."""

    def __init__(self, how: str) -> None:
        self.how = how

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
        yield from super().generate(composition, 1, seed=seed)
        raise {"cancelled": asyncio.CancelledError, "interrupt": KeyboardInterrupt, "exit": SystemExit}[self.how]()


class Absurd:
    """Structures beyond all measure, then a good one."""

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[object]:
        good = next(Uniform().generate(composition, 1, seed=seed))
        yield Structure(np.diag([1e200, 1e-200, 8.0]), good.species, good.frac_coords)
        yield Structure(np.diag([1e200, 1e-200, 1.0]), good.species, good.frac_coords)
        yield Structure(Lattice.cubic(100), ["Al"] * 1_000_000, np.zeros((1_000_000, 3)))
        nameless = good.copy()
        nameless.properties = None  # type: ignore[assignment]
        yield nameless
        yield FailedAttempt("no idea", origin=lambda: 1)  # type: ignore[arg-type]
        yield good


class Jumping(BatchedRelaxer):
    """EMT in a process whose wall clock jumps a year with each look at it."""


def jumping() -> Jumping:
    now = itertools.cycle([2e9, 1e9, 0.0, 1.5e9])
    time.time = lambda: next(now)
    return Jumping(emt_relaxer().potential)


class NotAGenerator:
    pass


def broken_factory() -> Uniform:
    raise OSError("weights not found")


def emt_calculator() -> EMT:
    """A plain ASE calculator."""
    return EMT()


class Suicidal(BatchedRelaxer):
    """EMT that kills its process when it meets a cell of more than 5 atoms."""

    def relax(self, structures: Iterable[Structure], settings: RelaxSettings) -> Iterator[Relaxation]:
        structures = list(structures)
        if any(len(structure) > 5 for structure in structures):
            os._exit(9)
        return super().relax(structures, settings)


def suicidal() -> Suicidal:
    return Suicidal(emt_relaxer().potential)


class Once(BatchedRelaxer):
    """EMT that kills its process the first time, and works after that."""

    flag: Path

    def relax(self, structures: Iterable[Structure], settings: RelaxSettings) -> Iterator[Relaxation]:
        if not self.flag.exists():
            self.flag.touch()
            os._exit(9)
        return super().relax(structures, settings)


def once(flag: str) -> Once:
    relaxer = Once(emt_relaxer().potential)
    relaxer.flag = Path(flag)
    return relaxer


class Lying(BatchedRelaxer):
    """Says that it converged to something absurd."""

    kind: str

    def relax(self, structures: Iterable[Structure], settings: RelaxSettings) -> Iterator[Relaxation]:
        for index, structure in enumerate(structures):
            final: Structure | None = structure
            energy, detail, seconds = -1.0, "", 0.0
            outcome = Outcome.CONVERGED
            match self.kind:
                case "wrong composition":
                    final = Structure(Lattice.cubic(3), ["Cu"], [[0.0, 0, 0]])
                case "tiny cell":
                    final = Structure(Lattice.cubic(0.1), structure.species, structure.frac_coords)
                case "no structure":
                    final = None
                case "infinite energy":
                    energy = np.inf
                case "text outcome":
                    outcome = "converged"  # type: ignore[assignment]
                case "no numbers":
                    final, energy, outcome = _no_numbers(structure), np.nan, Outcome.NOT_CONVERGED
                case "no cell":
                    final = _no_numbers(structure)
                case "no kind of structure":
                    final, outcome = "a structure", Outcome.NOT_CONVERGED  # type: ignore[assignment]
                case "half a character":
                    outcome, detail, seconds = Outcome.NOT_CONVERGED, "file \udcff", np.nan
            steps, force = np.int64(3), np.float32(0.01)
            yield Relaxation(index, final, np.float32(energy), steps, force, outcome, detail, seconds)  # type: ignore[arg-type]


def _no_numbers(structure: Structure) -> Structure:
    return Structure(np.nan * structure.lattice.matrix, structure.species, structure.frac_coords)


def lying(kind: str) -> Lying:
    relaxer = Lying(emt_relaxer().potential)
    relaxer.kind = kind
    return relaxer


class Noisy(Uniform):
    """Prints when it is made."""

    def __init__(self) -> None:
        print("LOADING WEIGHTS")


class Lossy(BatchedRelaxer):
    """Gives a result for every second structure, then raises."""

    def relax(self, structures: Iterable[Structure], settings: RelaxSettings) -> Iterator[Relaxation]:
        for result in super().relax(structures, settings):
            if result.index % 2 == 0:
                yield result
        raise RuntimeError("lost the rest")


def lossy() -> Lossy:
    return Lossy(emt_relaxer().potential)


class Slow(BatchedRelaxer):
    """EMT that takes its time."""

    seconds: float

    def relax(self, structures: Iterable[Structure], settings: RelaxSettings) -> Iterator[Relaxation]:
        for result in super().relax(structures, settings):
            time.sleep(self.seconds)
            yield result


def slow(seconds: float = 0.5) -> Slow:
    relaxer = Slow(emt_relaxer().potential)
    relaxer.seconds = seconds
    return relaxer
