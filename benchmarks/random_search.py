"""How many random structures a second: this package beside PyXtal and the original's figures, on one core.

    python benchmarks/random_search.py [--seconds 5] [--pyxtal-seconds 20] [--workers 2]

The cases, their volumes and separations are those of AIRSS's documentation and its users. The original's figures are
those of `buildcell` 0.9.1 (July 2018) compiled with -O3 and looped in one process, on a core of 2.3 GHz with
AVX-512: it can't be shipped or fetched here, so they stand as numbers. PyXtal runs beside us, with the same volume (its
lattice is given) and the same separations. Every structure is checked over 5 x 5 x 5 cells.
"""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from itertools import product

import click
import numpy as np
from numpy.typing import NDArray

from unimat_search.airss.candidates import Wish, build_arrays, build_structures, make_plan
from unimat_search.airss.settings import BuildSettings
from unimat_search.airss.symmetry import orders
from unimat_search.eval.backends import worker_processes
from unimat_search.records import FailedAttempt

FloatArray = NDArray[np.float64]

BATCH = 64
IMAGES = np.array(list(product(range(-2, 3), repeat=3)))

SILICA = {("Si", "Si"): 3.0, ("Si", "O"): 1.6, ("O", "O"): 2.58}
SALT = {("Na", "Na"): 3.0, ("Na", "Cl"): 2.3, ("Cl", "Cl"): 3.0}
TITANATE = {
    **{("Sr", "Sr"): 3.5, ("Sr", "Ti"): 3.0, ("Sr", "O"): 2.4},
    **{("Ti", "Ti"): 2.8, ("Ti", "O"): 1.8, ("O", "O"): 2.5},
}


@dataclass(frozen=True)
class Case:
    """What is asked for.

    Attributes:
        name: As in the text.
        what: In words.
        counts: Atoms of each element.
        volume: Of the cell, cubic angstrom, within 5 %.
        least: Least distance of each pair, angstrom; one number for all.
        original: Structures a second by the original, in a loop.
        settings: How they are built.
    """

    name: str
    what: str
    counts: dict[str, int]
    volume: float
    least: dict[tuple[str, str], float] | float
    original: float
    settings: BuildSettings = field(default_factory=BuildSettings)

    @property
    def separations(self) -> FloatArray:
        """(e, e)."""
        if isinstance(self.least, float):
            return np.full((len(self.counts),) * 2, self.least)
        symbols = list(self.counts)
        return np.array([[self.least.get((a, b)) or self.least[(b, a)] for b in symbols] for a in symbols])


FEW = BuildSettings(operations=(2, 4))
ALL = BuildSettings(operations=(1, 48))
SOFT = BuildSettings(operations=(2, 4), slack=0.25, overlap=0.1)


def silica(units: int) -> dict[str, int]:
    """Atoms of so many units."""
    return {"Si": units, "O": 2 * units}


def titanate(units: int) -> dict[str, int]:
    """Atoms of so many units."""
    return {"Sr": units, "Ti": units, "O": 3 * units}


CASES = (
    Case("A", "SiO2 x 2, P1", silica(2), 70.0, SILICA, 671),
    Case("B", "Al8 in 64 cubic angstrom, P1", {"Al": 8}, 64.0, 1.5, 804),
    Case("C", "NaCl x 4, P1", {"Na": 4, "Cl": 4}, 180.0, SALT, 1103),
    Case("E", "SiO2 x 8, P1", silica(8), 280.0, SILICA, 219),
    Case("E2", "SiO2 x 12, P1", silica(12), 420.0, SILICA, 142),
    Case("F", "SrTiO3 x 4, P1", titanate(4), 240.0, TITANATE, 23),
    Case("F2", "SrTiO3 x 8, P1", titanate(8), 480.0, TITANATE, 8.0),
    Case("H", "SiO2 x 4, P1, 1.5 for all", silica(4), 140.0, 1.5, 1003),
    Case("D", "SiO2 x 4, 2-4 operations", silica(4), 140.0, SILICA, 7.6, FEW),
    Case("D2", "SiO2 x 4, 1-48 operations", silica(4), 140.0, SILICA, 0.8, ALL),
    Case("E3", "SiO2 x 8, 2-4 operations", silica(8), 280.0, SILICA, 13.6, FEW),
    Case("F3", "SrTiO3 x 4, 2-4 operations", titanate(4), 240.0, TITANATE, 1.85, FEW),
    Case("G", "as F3, slack 0.25, overlap 0.1", titanate(4), 240.0, TITANATE, 20, SOFT),
)


def wishes(case: Case, start: int, count: int) -> list[Wish]:
    """With streams of their own."""
    window = (0.95 * case.volume, 1.05 * case.volume)
    return [Wish(np.random.default_rng([start, k]), window, case.separations) for k in range(count)]


def worst_ratio(lattice: FloatArray, coords: FloatArray, least: FloatArray) -> float:
    """The smallest distance by its least one, over 5 x 5 x 5 cells."""
    vectors = (coords[:, None, None] - coords[None, :, None] + IMAGES) @ lattice
    distances = np.linalg.norm(vectors, axis=-1)
    distances[distances < 1e-9] = np.inf
    return float((distances.min(-1) / least).min())


@dataclass(frozen=True)
class Rate:
    """What was seen.

    Attributes:
        arrays: Structures a CPU second, as arrays.
        objects: The same as pymatgen structures.
        failures: Of how many.
        made: Structures.
        worst: The smallest distance by its least one.
        groups: Space groups seen.
        possible: Space groups that can hold the atoms.
    """

    arrays: float
    objects: float
    failures: int
    made: int
    worst: float
    groups: int
    possible: int


def measure(case: Case, seconds: float) -> Rate:
    """Our rate on one core."""
    plan = make_plan(tuple(case.counts.values()), case.settings)
    assert plan is not None
    build_arrays(plan, wishes(case, 10**6, 1))
    spent, made, failures, worst, seen, start = 0.0, 0, 0, np.inf, set(), 0
    while spent < seconds:
        began = time.process_time()
        built = build_arrays(plan, wishes(case, start, BATCH))
        spent += time.process_time() - began
        start += 1
        good = built.groups >= 0
        made, failures = made + int(good.sum()), failures + int((~good).sum())
        seen |= set(built.groups[good].tolist())
        for lattice, coords, species in zip(built.lattices[good], built.coords[good], built.species[good], strict=True):
            worst = min(worst, worst_ratio(lattice, coords, case.separations[np.ix_(species, species)]))
            volume = float(np.linalg.det(lattice))
            assert 0.9499 * case.volume <= volume <= 1.0501 * case.volume
    began, objects = time.process_time(), 0
    while time.process_time() - began < seconds / 3:
        objects += len(
            build_structures(list(case.counts), list(case.counts.values()), wishes(case, start, BATCH), case.settings)
        )
        start += 1
    as_objects = objects / (time.process_time() - began)
    return Rate(made / spent, as_objects, failures, made, worst, len(seen), len(plan.groups.numbers))


def pyxtal_structures(case: Case, seconds: float) -> tuple[int, float]:
    """Structures that PyXtal makes in so many CPU seconds, and how many these were."""
    from pyxtal import pyxtal
    from pyxtal.lattice import Lattice
    from pyxtal.tolerance import Tol_matrix

    first, last = case.settings.operations
    numbers = [number for number, order in orders().items() if first <= order <= last]
    pairs = [(a, b, float(d)) for (a, b), d in _pairs(case)]
    tolerance = Tol_matrix(*pairs, prototype="atomic", factor=1.0)
    rng = np.random.default_rng(0)
    began, made = time.process_time(), 0
    signal.signal(signal.SIGVTALRM, _out_of_time)
    for number in _endless(numbers, rng):
        left = began + seconds - time.process_time()
        if left <= 0:
            break
        signal.setitimer(signal.ITIMER_VIRTUAL, left, 0.2)  # one attempt may take minutes, and catch what interrupts it
        crystal = pyxtal()
        volume = case.volume * rng.uniform(0.95, 1.05)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                lattice = Lattice(_lattice_type(number), _conventional(number) * volume)
                crystal.from_random(
                    3,
                    number,
                    list(case.counts),
                    list(case.counts.values()),
                    lattice=lattice,
                    tm=tolerance,
                    conventional=False,
                    max_count=1,
                    random_state=int(rng.integers(2**31)),
                )
                made += bool(crystal.valid)
            except _OutOfTime:
                break
            except Exception:  # PyXtal raises its own kinds, and others
                continue
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return made, time.process_time() - began


class _OutOfTime(BaseException):
    """Ends an attempt of PyXtal, which catches every `Exception`."""


def _out_of_time(*_: object) -> None:
    raise _OutOfTime


def _pairs(case: Case) -> list[tuple[tuple[str, str], float]]:
    symbols = list(case.counts)
    return [((a, b), case.separations[i, j]) for i, a in enumerate(symbols) for j, b in enumerate(symbols) if i <= j]


def _endless(numbers: Sequence[int], rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield int(rng.choice(numbers))


def _lattice_type(number: int) -> str:
    bounds = {2: "triclinic", 15: "monoclinic", 74: "orthorhombic", 142: "tetragonal", 194: "hexagonal", 230: "cubic"}
    return next(name for last, name in bounds.items() if number <= last)


def _conventional(number: int) -> int:
    """Primitive cells in the conventional one."""
    from unimat_search.airss.symmetry import space_group

    return round(1 / np.linalg.det(space_group(number).centring))


def in_parallel(case: Case, workers: int, seconds: float) -> float:
    """Structures a wall second by so many processes that always have work."""
    pool = worker_processes(workers)
    list(pool.map(_chunk, [(case, 10**6 + k) for k in range(4 * workers)]))  # they start and load
    tasks = iter(range(10**6))
    waiting: set[Future[int]] = set()
    start, made = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        waiting |= {pool.submit(_chunk, (case, next(tasks))) for _ in range(3 * workers - len(waiting))}
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        made += sum(future.result() for future in done)
    rate = made / (time.perf_counter() - start)
    wait(waiting)
    return rate


def _chunk(task: tuple[Case, int]) -> int:
    case, start = task
    results = build_structures(list(case.counts), list(case.counts.values()), wishes(case, start, BATCH), case.settings)
    return sum(not isinstance(one, FailedAttempt) for one in results)


@click.command()
@click.option("--seconds", type=float, default=5.0, show_default=True, help="CPU time for each case.")
@click.option("--pyxtal-seconds", type=float, default=20.0, show_default=True, help="The same for PyXtal; 0: leave it.")
@click.option("--workers", type=int, default=2, show_default=True, help="Processes for the last line.")
@click.option("--case", "names", multiple=True, help="Only this one. Repeatable.")
def main(seconds: float, pyxtal_seconds: float, workers: int, names: tuple[str, ...]) -> None:
    """Print the table."""
    click.echo(
        "| case | what | volume | original | arrays /s | ratio | pymatgen /s | failures | shortest / least | groups "
        "| PyXtal | ratio |\n|" + " --- |" * 12
    )
    for case in CASES:
        if names and case.name not in names:
            continue
        rate = measure(case, seconds)
        theirs = ""
        ratio = ""
        if pyxtal_seconds and case.name != "G":
            made, spent = pyxtal_structures(case, pyxtal_seconds)
            theirs = f"{made} in {spent:.0f} s"
            ratio = f"{rate.objects * spent / made:.0f}" if made else f"> {rate.objects * spent:.0f}"
        tried = rate.made + rate.failures
        click.echo(
            f"| {case.name} | {case.what} | {case.volume:.0f} | {case.original} | {rate.arrays:.0f} "
            f"| {rate.arrays / case.original:.1f} | {rate.objects:.0f} | {rate.failures} of {tried} "
            f"| {rate.worst:.4f} | {rate.groups} of {rate.possible} | {theirs} | {ratio} |"
        )
    if workers > 1:
        case = CASES[5]
        ratios = [in_parallel(case, workers, seconds) / in_parallel(case, 1, seconds) for _ in range(5)]
        click.echo(
            f"\n{case.what}: {np.median(ratios):.2f} times as many with {workers} processes as with one "
            f"(median of 5: {', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))})"
        )


if __name__ == "__main__":
    main()
