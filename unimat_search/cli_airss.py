"""The commands of random structure search."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unimat_search.shell import FILE, PROCESSES, RELAXER, BadInput, all_of, clear_errors, progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pymatgen.core import Structure

    from unimat_search.records import FailedAttempt

    Make = Callable[[Sequence[int]], list[Structure | FailedAttempt]]

BUILD = all_of(
    click.argument("seed_file", required=False, type=FILE),
    click.option("--formula", help="Composition of the cell, as Ti2O4, in place of a seed file."),
    click.option("--operations", help="Symmetry operations: a number or a range. [default: 2-4]"),
    click.option("--volume", help="Relative to the expected one: a number or a range. [default: 0.95-1.05]"),
    click.option("--separation", help="Relative to the expected ones: a number or a range. [default: 0.9]"),
    click.option(
        "--option", "options", multiple=True, metavar="KEY=VALUE", help="Other options of the generator. Repeatable."
    ),
    click.option("--like", help="Structures that volume and separations are taken from: a file or a folder."),
    click.option("-n", "n", type=click.IntRange(min=1), default=10, show_default=True, help="How many."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    PROCESSES,
)
"""Of commands that build structures."""


@click.group()
def airss() -> None:
    """Random structure search in the manner of AIRSS."""


@airss.command()
@BUILD
@click.option("--out", type=FILE, required=True, help="FILE.extxyz, or a folder for .cell files.")
def generate(out: Path, n: int, seed: int, workers: int | None, **options: Any) -> None:  # noqa: ANN401
    """Build random structures, from an AIRSS seed file or from options."""
    with clear_errors():
        import time

        from unimat_search.records import FailedAttempt

        if out.exists():
            raise BadInput(f"{out} exists; give another --out")
        if out.suffix not in ("", ".extxyz"):
            raise BadInput(f"{out} must end in .extxyz, or be a folder")
        name, make = _source(options, seed)
        began = time.perf_counter()
        made = _made(make, n, workers)
        seconds = time.perf_counter() - began
        structures = [(f"{name}-{k}", one) for k, one in enumerate(made) if not isinstance(one, FailedAttempt)]
        reasons = [one.reason for one in made if isinstance(one, FailedAttempt)]
        if not structures:
            raise BadInput(f"no structure could be built: {reasons[0]}")
        _say_failures(reasons)
        _write(structures, out)
        click.echo(f"{len(structures)} structures in {out}; {len(made) / seconds:.0f} a second")


@airss.command()
@BUILD
@click.option("--relaxer", default="chgnet", show_default=True, type=RELAXER, help="Potential.")
@click.option("--pressure", type=float, default=0.0, show_default=True, help="GPa; it enters the enthalpy.")
@click.option("--fmax", type=float, default=0.05, show_default=True, help="Force threshold, eV/angstrom.")
@click.option("--max-steps", type=int, default=500, show_default=True, help="Optimizer steps at most.")
@click.option("--shakes", type=int, default=0, show_default=True, help="Shake and relax each structure so often.")
@click.option("--amplitude", type=float, default=0.5, show_default=True, help="Of the shakes, angstrom.")
@click.option("--strain", type=float, default=0.05, show_default=True, help="Of the cell in shakes.")
@click.option("--unite", "window", type=float, default=0.01, show_default=True, help="eV/atom; see rank. 0: do not.")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="Lines of the ranking.")
@click.option("--out", type=FILE, required=True, help="Packed .res file to write.")
def search(out: Path, n: int, seed: int, workers: int | None, **options: Any) -> None:  # noqa: ANN401
    """Build random structures, relax them, shake them, and rank them; ctrl-C ends the search, not the ranking."""
    with clear_errors(lambda: f"what was found is in {out}" if out.exists() else "nothing was written"):
        from unimat_search.disk import write_whole
        from unimat_search.eval.backends import usable_cores
        from unimat_search.records import FailedAttempt, RelaxSettings
        from unimat_search.registry import Spec
        from unimat_search.res import ranking, to_res
        from unimat_search.search import search as run_search
        from unimat_search.search import united
        from unimat_search.shaking import Shaking

        if out.exists() or out.suffix != ".res":
            raise BadInput(f"{out} must be a new file that ends in .res")
        out.parent.mkdir(parents=True, exist_ok=True)
        settings = RelaxSettings(fmax=options["fmax"], max_steps=options["max_steps"], pressure=options["pressure"])
        shaking = Shaking(options["shakes"], options["amplitude"], options["strain"])
        name, make = _source(options, seed)
        made = _made(make, n, workers)
        _say_failures([one.reason for one in made if isinstance(one, FailedAttempt)])
        candidates = [(f"{name}-{seed}-{k}", one) for k, one in enumerate(made) if not isinstance(one, FailedAttempt)]
        total = len(candidates) * (1 + shaking.times)
        with progress("relaxations") as on_progress:
            found = run_search(
                candidates,
                Spec.parse(options["relaxer"]),
                settings,
                shaking=shaking,
                seed=seed,
                workers=workers or usable_cores(),
                on_progress=lambda done: on_progress(done, total),
            )
        _say_failures(list(found.failures.values()))
        if found.interrupted and not found.entries:
            raise KeyboardInterrupt
        write_whole(out, "".join(to_res(entry) for entry in found.entries))
        entries = united(found.entries, window=options["window"]) if options["window"] > 0 else found.entries
        click.echo("\n".join(ranking(entries, top=options["top"])))
        click.echo(f"{len(found.entries)} relaxed structures in {out}", err=True)
        if found.interrupted:
            raise KeyboardInterrupt


@airss.command()
@click.argument("paths", nargs=-1, required=True, type=FILE)
@click.option("--unite", "window", type=float, default=0.0, help="Unite equal crystals within so many eV/atom.")
@click.option("--top", type=click.IntRange(min=1), help="Only so many lines. [default: all]")
@click.option("--formula", help="Only this composition.")
@click.option("--long-names", is_flag=True, help="Names of up to 40 letters.")
@click.option("--pressure", type=float, default=0.0, help="Added to the pressure of the enthalpies, GPa.")
def rank(
    paths: tuple[Path, ...], window: float, top: int | None, formula: str | None, long_names: bool, pressure: float
) -> None:
    """Rank .res files by enthalpy: name, pressure, volume and enthalpy per unit, units, formula, group, copies."""
    with clear_errors():
        from unimat_search.formula import parse_formula
        from unimat_search.res import ranking, read_res, under_pressure
        from unimat_search.search import united

        files = [file for path in paths for file in (sorted(path.glob("*.res")) if path.is_dir() else [path])]
        missing = [str(file) for file in files if not file.is_file()]
        if missing or not files:
            raise BadInput(f"{missing[0] if missing else paths[0]} is no .res file, and no folder with one")
        entries = [under_pressure(entry, pressure) for file in files for entry in read_res(file)]
        unknown = [entry.name for entry in entries if entry.enthalpy != entry.enthalpy]
        if unknown:
            raise BadInput(f"{unknown[0]} states no enthalpy; only relaxed structures can be ranked")
        if formula:
            wanted = parse_formula(formula).cell(1)
            entries = [e for e in entries if e.structure.composition.reduced_composition == wanted.reduced_composition]
        if window > 0:
            entries = united(entries, window=window)
        click.echo("\n".join(ranking(entries, top=top, long_names=long_names)))


def _source(options: dict[str, Any], seed: int) -> tuple[str, Make]:
    """A name for the structures, and what makes those of given numbers."""
    from unimat_search.airss import RandomSearch
    from unimat_search.airss.seed_search import SeedSearch
    from unimat_search.formula import parse_formula
    from unimat_search.registry import Spec

    seed_file, formula = options["seed_file"], options["formula"]
    given = {name: options[name] for name in ("operations", "volume", "separation") if options[name] is not None}
    extra = Spec.parse(",".join(["airss", *options["options"]])).options
    if bool(seed_file) == bool(formula):
        raise BadInput("give a seed file, or --formula")
    twice = [name for name in extra if name in given or name == "like"]
    if twice:
        raise BadInput(f"{twice[0]} is given twice; leave out --option {twice[0]}=...")
    if seed_file:
        by_count = bool(extra.pop("by_count", False))
        if given or extra:
            raise BadInput(f"a seed file says {', '.join([*given, *extra])} itself; leave the option out")
        source = SeedSearch(seed_file, like=options["like"] or "", by_count=by_count)
        click.echo(source.describe(), err=True)
        return re.sub(r"\s+", "_", Path(seed_file).stem), lambda numbers: source.structures(numbers, seed=seed)
    asked = parse_formula(formula)
    cell = asked.cell(asked.fixed_units or 1)
    generator = RandomSearch(**given, **extra, like=options["like"] or "")
    name = "".join(f"{element.symbol}{int(amount)}" for element, amount in cell.items())
    return name, lambda numbers: generator.structures(cell, numbers, seed=seed)


def _made(make: Make, n: int, workers: int | None) -> list[Structure | FailedAttempt]:
    """Structures 0 to n - 1, shared out over processes where there are many."""
    from unimat_search.eval.backends import usable_cores, worker_processes
    from unimat_search.eval.parallel import chunked

    processes = min(workers or usable_cores(), max(1, n // 200))
    if processes == 1:
        return make(range(n))
    parts = chunked(range(n), max(50, n // (8 * processes)))
    return [one for part in worker_processes(processes).map(make, parts) for one in part]


def _say_failures(reasons: list[str]) -> None:
    """Each reason once, with how often it was met."""
    for reason in sorted(set(reasons)):
        click.echo(f"{reasons.count(reason)} x {reason}", err=True)


def _write(structures: list[tuple[str, Structure]], out: Path) -> None:
    from unimat_search.airss.seedfile import structure_to_cell
    from unimat_search.files import write_extxyz

    if out.suffix == ".extxyz":
        out.parent.mkdir(parents=True, exist_ok=True)
        write_extxyz(out, structures)
        return
    out.mkdir(parents=True)
    for name, structure in structures:
        (out / f"{name}.cell").write_text(structure_to_cell(structure), encoding="utf-8", newline="\n")
