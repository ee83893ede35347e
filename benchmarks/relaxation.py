"""Relaxation engines side by side: chgnet's own optimizer against ours, on the same structures in one run.

python benchmarks/relaxation.py            # the table, on a set drawn with --seed
python benchmarks/relaxation.py --profile  # where our time goes
python benchmarks/relaxation.py --ternary  # 100 random candidates of a 10-atom ternary, wall seconds
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import click
import numpy as np
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.airss import RandomSearch
from unimat_search.eval.parallel import quiet
from unimat_search.records import FailedAttempt, RelaxSettings

FMAX, MAX_STEPS = 0.05, 500
TERNARY = "Sr2Ti2O6"
RANDOM = ("Na4Cl4", "Ti4O8", "Sr2Ti2O6", "Fe4O6", "Mg2Si2O6", "Al4Ni4", "Li2Fe2P2O8", "C8", "K2La2Se4", "Ga3As3", "Cu6",
          "CaF2", "Zr2O4", "Y2Ba4Cu6O13", "BN")  # fmt: skip
ENGINES = {
    "StructOptimizer, FIRE": {},
    "PyTorch alone, FIRE": {"compiled": False, "optimizer": "fire"},
    "PyTorch alone, BFGS": {"compiled": False, "optimizer": "bfgs"},
    "compiled, FIRE": {"compiled": True, "optimizer": "fire"},
    "compiled, BFGS": {"compiled": True, "optimizer": "bfgs"},
}


COLUMNS = ("engine", "CPU s", "wall s", "structures/min/core", "ratio", "steps", "ms/step", "converged", "peak GB",
           "> 1 meV/atom higher", "lower", "largest rise")  # fmt: skip


class Share(NamedTuple):
    """What one process made of some structures: (energy per atom, steps, converged) of each, and what it cost."""

    results: list[tuple[float, int, bool]]
    cpu_seconds: float
    peak_gigabytes: float


def known() -> list[Structure]:
    """Crystals of common types, near their lattice constants."""

    def cubic(group: str, a: float, *sites: tuple[str, tuple[float, float, float]]) -> Structure:
        species, coords = [s for s, _ in sites], [list(c) for _, c in sites]
        return Structure.from_spacegroup(group, Lattice.cubic(a), species, coords).get_primitive_structure()

    zero, half, quarter = (0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    hexagonal = Lattice.hexagonal
    wurtzite = [(1 / 3, 2 / 3, 0.0), (1 / 3, 2 / 3, 0.375)]
    return [
        cubic("Fm-3m", 5.69, ("Na", zero), ("Cl", half)),
        cubic("Fm-3m", 4.24, ("Mg", zero), ("O", half)),
        cubic("F-43m", 5.75, ("Ga", zero), ("As", quarter)),
        cubic("F-43m", 4.39, ("Si", zero), ("C", quarter)),
        cubic("Fm-3m", 5.50, ("Ca", zero), ("F", quarter)),
        cubic("Fd-3m", 5.46, ("Si", zero)),
        cubic("Pm-3m", 4.15, ("Cs", zero), ("Cl", half)),
        cubic("Pm-3m", 3.94, ("Sr", zero), ("Ti", half), ("O", (0.5, 0.5, 0.0))),
        cubic("Im-3m", 2.85, ("Fe", zero)) * (1, 1, 2),
        cubic("Fm-3m", 4.04, ("Al", zero)) * (2, 1, 1),
        cubic("Fd-3m", 8.18, ("Mg", zero), ("Al", (0.625, 0.625, 0.625)), ("O", (0.3876, 0.3876, 0.3876))),
        cubic("Pa-3", 5.44, ("Fe", zero), ("S", (0.385, 0.385, 0.385))),
        Structure.from_spacegroup(
            "P4_2/mnm", Lattice.tetragonal(4.65, 2.97), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
        ),
        Structure.from_spacegroup("P6_3mc", hexagonal(3.29, 5.31), ["Zn", "O"], [list(c) for c in wurtzite]),
        Structure.from_spacegroup("P6_3/mmc", hexagonal(3.19, 5.19), ["Mg"], [[1 / 3, 2 / 3, 0.25]]),
        Structure.from_spacegroup(
            "R-3c", hexagonal(4.81, 13.12), ["Al", "O"], [[0, 0, 0.352], [0.306, 0, 0.25]]
        ).get_primitive_structure(),
    ]


def perturbed(structure: Structure, rng: np.random.Generator) -> Structure:
    """Cell strained by up to 5 %, atoms displaced by 0.15 angstrom."""
    strain = rng.uniform(-0.05, 0.05, (3, 3))
    lattice = structure.lattice.matrix @ (np.eye(3) + (strain + strain.T) / 2)
    moves = rng.normal(size=(len(structure), 3))
    moves *= 0.15 / np.linalg.norm(moves, axis=1, keepdims=True)
    return Structure(lattice, structure.species, structure.frac_coords + moves @ np.linalg.inv(lattice))


def perturbed_crystals(n: int, seed: int) -> list[Structure]:
    """Known crystals in turn, perturbed."""
    rng, crystals = np.random.default_rng(seed), known()
    return [perturbed(crystals[i % len(crystals)], rng) for i in range(n)]


def drawn(n: int, seed: int) -> list[Structure]:
    """Half known crystals, perturbed; half of random search."""
    near = perturbed_crystals(n // 2, seed)
    rng = np.random.default_rng(seed)
    each = -(-(n - n // 2) // len(RANDOM))
    random = [s for formula in RANDOM for s in candidates(formula, each, seed)]
    return near + [random[i] for i in rng.permutation(len(random))[: n - n // 2]]


def candidates(formula: str, n: int, seed: int) -> list[Structure]:
    """What random search makes of a formula."""
    attempts = RandomSearch().generate(Composition(formula), n, seed=seed)
    return [attempt for attempt in attempts if not isinstance(attempt, FailedAttempt)]


def relax_share(engine: str, structures: Sequence[Structure]) -> Share:
    """Relax in this process, one thread."""
    import torch

    torch.set_num_threads(1)
    with quiet():
        relax = _struct_optimizer() if engine == "StructOptimizer, FIRE" else _ours(**ENGINES[engine])
        start = time.process_time()
        results = relax(structures)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return Share(results, time.process_time() - start, peak)


def _struct_optimizer() -> Callable[[Sequence[Structure]], list[tuple[float, int, bool]]]:
    from chgnet.model import StructOptimizer

    optimizer = StructOptimizer(use_device="cpu")

    def relax(structures: Sequence[Structure]) -> list[tuple[float, int, bool]]:
        rows = []
        for structure in structures:
            result = optimizer.relax(structure, fmax=FMAX, steps=MAX_STEPS, verbose=False)
            trajectory = result["trajectory"]
            steps = len(trajectory) - 1
            rows.append((trajectory.energies[-1] / len(structure), steps, steps < MAX_STEPS))
        return rows

    return relax


def _ours(**options: Any) -> Callable[[Sequence[Structure]], list[tuple[float, int, bool]]]:  # noqa: ANN401
    from unimat_search.eval.chgnet import chgnet_relaxer

    relaxer = chgnet_relaxer(device="cpu", **options)

    def relax(structures: Sequence[Structure]) -> list[tuple[float, int, bool]]:
        rows = {r.index: r for r in relaxer.relax(structures, RelaxSettings(FMAX, MAX_STEPS))}
        return [
            ((r.energy or np.nan) / len(s), r.n_steps, r.outcome == "converged")
            for s, r in zip(structures, (rows[i] for i in range(len(structures))), strict=True)
        ]

    return relax


def measure(
    engine: str, structures: list[Structure], workers: int
) -> tuple[list[tuple[float, int, bool]], float, float, float]:
    """Results in order, CPU seconds, wall seconds, peak GB of a process."""
    shares = [list(range(i, len(structures), 2 * workers)) for i in range(2 * workers)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        # Imports and the first use of the libraries are not what is measured.
        list(pool.map(relax_share, [engine] * workers, [structures[:1]] * workers))
        start = time.perf_counter()
        done = list(pool.map(relax_share, [engine] * len(shares), [[structures[i] for i in share] for share in shares]))
        wall = time.perf_counter() - start
    rows = {
        i: row for share, result in zip(shares, done, strict=True) for i, row in zip(share, result.results, strict=True)
    }
    cpu = sum(share.cpu_seconds for share in done)
    return [rows[i] for i in range(len(structures))], cpu, wall, max(share.peak_gigabytes for share in done)


def table(structures: list[Structure], workers: int, engines: Sequence[str]) -> None:
    """Print one line for each engine, ratios against the first."""
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    reference: list[tuple[float, int, bool]] = []
    first_cpu = 0.0
    for engine in engines:
        rows, cpu, wall, peak = measure(engine, structures, workers)
        if not reference:
            reference, first_cpu = rows, cpu
        steps = sum(row[1] for row in rows)
        rise = 1e3 * (np.array([row[0] for row in rows]) - np.array([row[0] for row in reference]))
        print(
            f"| {engine} | {cpu:.1f} | {wall:.1f} | {60 * len(rows) / cpu:.0f} | {first_cpu / cpu:.1f} | {steps} "
            f"| {1e3 * cpu / steps:.1f} | {sum(row[2] for row in rows)}/{len(rows)} | {peak:.2f} "
            f"| {(rise > 1).sum()} | {(rise < -1).sum()} | {rise.max():.1f} |",
            flush=True,
        )
        for i in np.nonzero(rise > 10)[0]:
            kind = "perturbed" if i < len(structures) // 2 else "random"
            print(
                f"    {kind} {structures[i].composition.reduced_formula} ({len(structures[i])} atoms): "
                f"{rise[i]:+.1f} meV/atom, {rows[i][1]} steps against {reference[i][1]}",
                flush=True,
            )


def profile(structures: list[Structure]) -> None:
    """Print the shares of our parts, compiled BFGS, one process."""
    import torch

    from unimat_search.eval.chgnet import chgnet_relaxer, potential

    torch.set_num_threads(1)
    seconds: dict[str, float] = defaultdict(float)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[name] += time.perf_counter() - start

        return wrapper

    with quiet():
        relaxer = chgnet_relaxer(device="cpu")
    of: Any = relaxer.potential
    potential.build_graph = timed("graph", potential.build_graph)
    of.network.kernel.forward = timed("kernels, forward", of.network.kernel.forward)
    of.network.kernel.backward = timed("kernels, backward", of.network.kernel.backward)
    of.evaluate = timed("evaluation", of.evaluate)
    start = time.perf_counter()
    with quiet():
        steps = sum(r.n_steps for r in relaxer.relax(structures, RelaxSettings(FMAX, MAX_STEPS)))
    total = time.perf_counter() - start
    kernels = seconds["kernels, forward"] + seconds["kernels, backward"]
    seconds["matrix products and the rest of the network"] = seconds["evaluation"] - kernels - seconds["graph"]
    seconds["optimizer, checks, bookkeeping"] = total - seconds.pop("evaluation")
    print(f"{steps} steps in {total:.1f} s")
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"| {name} | {100 * value / total:.0f} % |")


def ternary(workers: int, seed: int) -> None:
    """Print how long 100 candidates take as the main job relaxes them."""
    from unimat_search.eval.parallel import chunked, relax_chunks
    from unimat_search.registry import Spec

    structures = candidates(TERNARY, 100, seed)
    spec = Spec.parse("chgnet")
    list(
        relax_chunks(spec, [(i, [structures[0]]) for i in range(workers)], RelaxSettings(max_steps=0), workers=workers)
    )
    start = time.perf_counter()
    chunks = enumerate(chunked(structures, 8))
    results = [r for _, rs in relax_chunks(spec, chunks, RelaxSettings(FMAX, MAX_STEPS), workers=workers) for r in rs]
    wall = time.perf_counter() - start
    converged = sum(r.outcome == "converged" for r in results)
    print(f"{len(structures)} candidates of {TERNARY}: {wall:.1f} s wall, {workers} workers, {converged} converged")


@click.command()
@click.option("-n", default=64, show_default=True, help="Structures.")
@click.option("--seed", default=1, show_default=True)
@click.option("--workers", default=1, show_default=True, help="Processes of one thread each.")
@click.option("--engine", "engines", multiple=True, type=click.Choice(list(ENGINES)), help="Only these.")
@click.option("--profile", "only_profile", is_flag=True, help="Print where our time goes.")
@click.option("--ternary", "only_ternary", is_flag=True, help="Print the wall time of 100 candidates.")
def main(n: int, seed: int, workers: int, engines: Sequence[str], only_profile: bool, only_ternary: bool) -> None:
    """Measure."""
    if only_ternary:
        ternary(workers, seed)
        return
    with quiet():
        structures = drawn(n, seed)
    sizes = [len(structure) for structure in structures]
    print(f"{n} structures, seed {seed}, {min(sizes)} to {max(sizes)} atoms, {np.mean(sizes):.1f} on average; "
          f"fmax {FMAX}, at most {MAX_STEPS} steps, Frechet cell, {workers} process(es) of one thread\n")  # fmt: skip
    if only_profile:
        profile(structures)
    else:
        table(structures, workers, engines or list(ENGINES))


if __name__ == "__main__":
    main()
