"""What the harness itself costs: candidates that take no time to make or to relax, from a thousand to a million.

    python benchmarks/many_candidates.py --candidates 1000 --candidates 10000 --candidates 100000

Prints, for each number, seconds, rows a second, the client's own seconds and its peak memory, and the size of the
store. Each number runs in a process of its own.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import combinations, islice
from pathlib import Path

import click
import numpy as np
from pymatgen.core import Composition, Element, Lattice, Structure

from unimat_search.compare import run_comparison
from unimat_search.plan import CompareSettings
from unimat_search.records import Outcome, Relaxation, RelaxSettings
from unimat_search.run_folder import RESULTS

PER_COLUMN = 20
"""Candidates of each of two generators for each composition."""

ELEMENTS = [Element.from_Z(z).symbol for z in range(3, 84) if not Element.from_Z(z).is_noble_gas]


class Instant:
    """Atoms on a simple cubic lattice, a little off.

    Args:
        off: By how much at most, fractional.
    """

    def __init__(self, off: float = 0.01) -> None:
        self.off = off

    def generate(  # noqa: D102 - see StructureGenerator
        self, composition: Composition, n: int, *, seed: int
    ) -> Iterator[Structure]:
        rng = np.random.default_rng(seed)
        species = [element for element, amount in composition.items() for _ in range(int(amount))]
        edge = math.ceil(len(species) ** (1 / 3))
        sites = np.array([divmod(k, edge) for k in range(len(species))])
        coords = np.stack([sites[:, 1], sites[:, 0] % edge, sites[:, 0] // edge], 1) / edge
        for _ in range(n):
            yield Structure(Lattice.cubic(2.7 * edge), species, coords + self.off * rng.random((len(species), 3)))


class Still:
    """Takes every structure for relaxed."""

    name = "still"

    def relax(  # noqa: D102 - see Relaxer
        self,
        structures: Iterable[Structure],
        settings: RelaxSettings,  # noqa: ARG002
    ) -> Iterator[Relaxation]:
        for index, structure in enumerate(structures):
            energy = -3.0 * len(structure) - float(structure.frac_coords.sum())
            yield Relaxation(index, structure, energy, 1, 0.0, Outcome.CONVERGED)


def formulas() -> Iterator[str]:
    """Binary compositions, all different."""
    amounts = [(a, b) for a in range(1, 7) for b in range(1, 7) if math.gcd(a, b) == 1]
    for a, b in amounts:
        for one, other in combinations(ELEMENTS, 2):
            yield f"{one}{a}{other}{b}"


def measure(candidates: int, workers: int, chunk: int, folder: str) -> None:
    """One run, in this process."""
    count = max(1, candidates // (2 * PER_COLUMN))
    here = Path(__file__).stem
    settings = CompareSettings(
        formulas=tuple(islice(formulas(), count)),
        generators=(f"{here}:Instant", f"{here}:Instant,off=0.02"),
        n=PER_COLUMN,
        formula_units="1",
        relaxer=f"{here}:Still",
        chunk=chunk,
    )
    out = Path(folder) / str(candidates)
    start = time.perf_counter()
    summary = run_comparison(settings, out, workers=workers)
    seconds = time.perf_counter() - start
    rows = sum(column["n_generated"] for column in summary["overall"].values())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak, own = usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime
    size = (out / RESULTS).stat().st_size / 2**20
    print(f"{rows:>10,} {seconds:>9.1f} {rows / seconds:>9.0f} {own:>9.1f} {peak:>10.0f} {size:>10.0f}", flush=True)


@click.command()
@click.option("--candidates", "counts", type=int, multiple=True, default=(1000, 10000, 100000))
@click.option("--workers", type=int, default=2)
@click.option("--chunk", type=int, default=100)
@click.option("--folder", type=click.Path(file_okay=False), help="Where runs are kept. [default: nowhere]")
def main(counts: tuple[int, ...], workers: int, chunk: int, folder: str | None) -> None:
    """Measure each number of candidates."""
    sys.path.insert(0, str(Path(__file__).parent))
    work = folder or tempfile.mkdtemp()
    print(f"{'rows':>10} {'seconds':>9} {'rows/s':>9} {'client s':>9} {'peak MiB':>10} {'store MiB':>10}")
    context = multiprocessing.get_context("spawn")
    for count in counts:
        process = context.Process(target=measure, args=(count, workers, chunk, work))
        process.start()
        process.join()
    if not folder:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
