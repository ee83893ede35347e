"""The command: parse, call, print. Everything heavy is imported when a command runs."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from unimat_search.cli_airss import airss
from unimat_search.cli_evaluate import evaluate
from unimat_search.cli_hull import hull
from unimat_search.cli_model import data, sample, train
from unimat_search.cli_plugins import completion, generators, relaxers
from unimat_search.cli_reproduce import reproduce
from unimat_search.cli_runs import FORMAT, export, render, report, show
from unimat_search.records import plain
from unimat_search.shell import (
    CELL_FORM,
    CONFIG,
    DATA_DIR,
    FILE,
    FOLDER,
    GENERATOR,
    RELAXER,
    WORKERS,
    BadInput,
    add_verbosity,
    cell_numbers,
    clear_errors,
    connected,
    log_to_stderr,
    numbers_in,
    progress,
)

MATCHER_FORM = "LTOL,STOL,ANGLE_TOL"

if TYPE_CHECKING:
    from unimat_search.eval.backends import Workers
    from unimat_search.plan import CompareSettings
    from unimat_search.records import RelaxSettings
    from unimat_search.refine import RefineSettings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="unimat-search")
def main() -> None:
    """Crystal structures for a composition: any generators, one harness, one fair comparison."""
    log_to_stderr()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # PyTorch's threads would spin while they wait for each other
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console may lack characters; no run ends for that
            stream.reconfigure(errors="replace")


@main.command()
@click.argument("named", nargs=-1, metavar="[FORMULA]...")
@click.option("--formula", "formulas", multiple=True, help="Composition: TiO2, or Ti4O8 to fix the cell. Repeatable.")
@click.option(
    "--formulas", "formula_file", type=FILE, help="File of formulas: one a line, or CSV with a column 'formula'."
)
@click.option(
    "--generator",
    "generators",
    multiple=True,
    type=GENERATOR,
    help="Generator, or package.module:Class. Repeatable; the first is the reference. [default: airss, pyxtal]",
)
@click.option("--seed-file", type=FILE, help="AIRSS .cell file: its composition, and random search as it says.")
@click.option("-n", "n", type=int, help="Candidates of each generator for each composition. [default: 20]")
@click.option("--formula-units", help="Formula units in the cell: 2, 1-4 or 1,2,4. [default: all that fit]")
@click.option("--max-atoms", type=int, help="Atoms in a cell at most. [default: 20]")
@click.option("--cell", metavar=CELL_FORM, help="Draw in this cell: angstrom, degrees. [default: any]")
@click.option("--seed", type=int, help="Seed of every generator. [default: 0]")
@click.option(
    "--relaxer",
    type=RELAXER,
    help="Relaxer, or module:factory of an ASE calculator. [default: chgnet]",
)
@click.option("--fmax", type=float, help="Force threshold on atoms and cell, eV/angstrom. [default: 0.05]")
@click.option("--max-steps", type=int, help="Optimizer steps at most. [default: 500]")
@click.option("--time-limit", type=float, help="Seconds for one structure at most. [default: 600]")
@click.option("--pressure", type=float, help="Hydrostatic, GPa. [default: 0]")
@click.option("--fixed-cell/--free-cell", default=None, help="Move the atoms alone, or the cell too. [default: free]")
@click.option("--fix-symmetry/--free-symmetry", default=None, help="Keep each candidate's space group. [default: free]")
@click.option(
    "--generator-time-limit", type=float, help="Seconds that a generator may be silent at most. [default: 3600]"
)
@click.option("--chunk", type=int, help="Candidates that a worker gets at once; on a GPU, hundreds. [default: 8]")
@click.option("--reference", type=FILE, help="Known structures: CIF, extxyz, POSCAR, parquet, or a folder.")
@click.option(
    "--matcher",
    metavar=MATCHER_FORM,
    help="Tolerances for a known structure to count as found. [default: 0.2,0.3,5]",
)
@click.option(
    "--hull", metavar="FILE|mp|none", help="Phases that hull distances count from. [default: the potential's]"
)
@click.option("--out", type=FOLDER, help="Folder of the run. [default: runs/FORMULAS]")
@click.option(
    "--resume", is_flag=True, help="Go on with the run in the folder; its settings are kept, generators may join."
)
@click.option("--overwrite", is_flag=True, help="Replace the run in the folder.")
@click.option(
    "--refine",
    type=RELAXER,
    help="Relax the lowest again by this relaxer, e.g. gpaw; with --resume also of a run that is there.",
)
@click.option("--top", type=click.IntRange(min=1), help="So many of each generator and composition. [default: 3]")
@click.option("--refine-fmax", type=float, help="Their force threshold, eV/angstrom. [default: 0.02]")
@click.option("--refine-time-limit", type=float, help="Seconds for one of them at most. [default: 14400]")
@WORKERS
@FORMAT
@CONFIG
def compare(
    named: tuple[str, ...],
    fmt: str,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    seed_file: Path | None,
    refine: str | None,
    top: int | None,
    refine_fmax: float | None,
    refine_time_limit: float | None,
    workers: int | None,
    backend: str,
    scheduler: str | None,
    **options: Any,  # noqa: ANN401
) -> None:
    """Generate, relax, score and compare candidates for one composition or many."""
    with clear_errors(lambda: f"finished candidates are kept: go on with unimat-search compare --resume --out {out}"):
        from unimat_search.compare import run_comparison
        from unimat_search.formula import read_formulas
        from unimat_search.run_folder import read_settings

        if resume and overwrite:
            raise BadInput("--resume and --overwrite exclude each other")
        options["formulas"] = (*named, *_given("formulas", options)) if named else options["formulas"]
        if options["formula_file"]:
            options["formulas"] += tuple(read_formulas(options["formula_file"]))
        if seed_file:
            _add_seed_file(options, seed_file)
        if not (options["formulas"] or (resume and out)):
            also = ", or --out FOLDER of the run" if resume else ""
            raise BadInput(f"no formula is given; name one, as in compare NaCl, or give --formulas FILE{also}")
        out = out or Path("runs") / run_name(options["formulas"])
        settings = _settings(options, read_settings(out) if resume else None)
        limits = {"fmax": refine_fmax, "time_limit": refine_time_limit}
        again = _refinements(out, refine, top, limits, settings.relax, resume=resume)
        with connected(backend, scheduler, workers) as who:
            with progress("candidates") as on_progress:
                summary = run_comparison(
                    settings, out, resume=resume, overwrite=overwrite, workers=who, on_progress=on_progress
                )
            if again:
                summary["refined"] = [_refined(out, one, who) for one in again]
        click.echo(render(summary, fmt))
        click.echo(f"run folder: {out}", err=True)


@main.group()
def references() -> None:
    """Elemental reference energies, which formation energies are counted from."""


@references.command("build")
@click.option("--relaxer", default="chgnet", show_default=True, type=RELAXER, help="Potential.")
@click.option("--element", "elements", multiple=True, help="Only this element. Repeatable. [default: all]")
@DATA_DIR
@click.option("--out", type=FILE, help="File to write. [default: the user's cache]")
@WORKERS
def build_references(
    relaxer: str,
    elements: tuple[str, ...],
    data_dir: Path | None,
    out: Path | None,
    workers: int | None,
    backend: str,
    scheduler: str | None,
) -> None:
    """Relax elemental crystals and keep the lowest energy of each element.

    With a data folder the candidates are the unary structures of its mp_2023/le20.parquet, else simple
    crystals; diatomic molecules join them. DFT takes the crystals of the elements at ambient conditions.
    """
    with clear_errors():
        from unimat_search.eval import references as refs
        from unimat_search.eval.parallel import load_relaxer
        from unimat_search.registry import Spec

        spec = Spec.parse(relaxer)
        built_by = load_relaxer(spec)
        candidates, origin = refs.reference_candidates(data_dir, elements, built_by)
        total = sum(map(len, candidates.values()))
        with connected(backend, scheduler, workers) as who, progress("structures") as on_progress:
            built = refs.build_references(
                spec,
                built_by,
                candidates,
                origin,
                workers=who,
                on_progress=lambda done: on_progress(done, total),
                keep=(lambda _: None) if out else refs.keep_references,
            )
        file = out or refs.cache_file(built.potential)
        refs.save_references(built if out else refs.load_references(built.potential).merged(built), file)
        click.echo(f"{len(built.elements)} of {len(candidates)} elements in {file}")


@main.command()
@DATA_DIR
def doctor(data_dir: Path | None) -> None:
    """Say what is installed, what works, and how to get what is missing."""
    from unimat_search.doctor import examine

    with clear_errors():
        findings = examine(data_dir)
    for finding in findings:
        click.echo(f"{finding.state:8} {finding.subject:28} {finding.text}")
    sys.exit(any(finding.state == "broken" for finding in findings))


def _given(name: str, options: dict[str, Any]) -> tuple[str, ...]:
    """What the command line says of an option; nothing of what a file of options says."""
    source = click.get_current_context().get_parameter_source(name)
    return options[name] if source is ParameterSource.COMMANDLINE else ()


def _refinements(
    out: Path,
    refine: str | None,
    top: int | None,
    limits: dict[str, float | None],
    relax: RelaxSettings,
    *,
    resume: bool,
) -> list[RefineSettings]:
    """What is refined: what is asked for, or what a run that is gone on with was refined by."""
    from unimat_search.eval.parallel import load_relaxer
    from unimat_search.refine import RefineSettings, refined_settings
    from unimat_search.registry import Spec

    stored = refined_settings(out) if resume else []
    given = {name: value for name, value in limits.items() if value is not None}
    if refine is None:
        if top is not None or given:
            raise BadInput(
                "--top, --refine-fmax and --refine-time-limit are of --refine; name the relaxer: --refine gpaw"
            )
        return stored
    load_relaxer(Spec.parse(refine))
    default = RefineSettings(refine)
    default = replace(default, relax=replace(relax, fmax=default.relax.fmax, time_limit=default.relax.time_limit))
    before = next((settings for settings in stored if settings.relaxer == refine), default)
    fmax, time_limit = (given.get(name, getattr(before.relax, name)) for name in limits)
    relax = replace(before.relax, fmax=fmax, time_limit=time_limit)
    return [replace(before, top=top or before.top, relax=relax)]


def _refined(out: Path, settings: RefineSettings, workers: Workers) -> dict[str, Any]:
    from unimat_search.refine import refine_run

    with progress(f"refined by {settings.relaxer}") as on_progress:
        return refine_run(out, settings, workers=workers, on_progress=on_progress)


def run_name(formulas: tuple[str, ...]) -> str:
    """The name of a run's folder: its formulas, or the first and how many more."""
    name = plain("-".join(formulas) if len(formulas) <= 5 else f"{formulas[0]}-and-{len(formulas) - 1}-more")
    return f"{name}_" if name.upper() in ("AUX", "CON", "NUL", "PRN") else name  # CoN: not for Windows


def _add_seed_file(options: dict[str, Any], path: Path) -> None:
    """A seed file's composition, and a generator that builds as it says, before the others."""
    from unimat_search.airss.seed_search import SeedSearch

    seed = SeedSearch(path)
    click.echo(f"{path.name}: {seed.describe()}", err=True)
    if not options["formulas"]:
        if seed.formula is None:
            raise BadInput(f"the composition of {path} varies (or has no NFORM); give --formula too")
        options["formulas"] = (seed.formula,)
        options["formula_units"] = options["formula_units"] or seed.formula_units
    named = json.dumps(path.resolve().as_posix(), ensure_ascii=False)  # JSON's text is TOML's too
    label = json.dumps(path.name, ensure_ascii=False)
    options["generators"] = (f"airss:seed,seed_file={named},label={label}", *options["generators"])


def _settings(options: dict[str, Any], stored: CompareSettings | None) -> CompareSettings:
    """The command's options over the stored or the default settings."""
    from unimat_search.eval.hull_sources import MATERIALS_PROJECT, NO_HULL
    from unimat_search.plan import CompareSettings
    from unimat_search.records import MatchSettings, RelaxSettings

    base = stored or CompareSettings(formulas=options["formulas"])
    relax = {f.name: options[f.name] for f in fields(RelaxSettings) if options[f.name] is not None}
    given = {
        name: options[name]
        for name in (
            "formulas",
            "generators",
            "n",
            "formula_units",
            "max_atoms",
            "seed",
            "relaxer",
            "chunk",
            "generator_time_limit",
        )
        if options[name] not in (None, ())
    }
    if options["cell"] is not None:
        given["cell"] = cell_numbers(options["cell"])
    if options["reference"] is not None:
        given["reference"] = str(options["reference"].resolve())
    if options["hull"] is not None:
        named = options["hull"] in (MATERIALS_PROJECT, NO_HULL)
        given["hull"] = options["hull"] if named else str(Path(options["hull"]).resolve())
    if options["matcher"] is not None:
        given["matcher"] = MatchSettings(*numbers_in(options["matcher"], MATCHER_FORM, "0.2,0.3,5"))
    if stored and "generators" in given:
        given["generators"] = stored.joined_by(given["generators"]).generators
    return replace(base, **given, relax=replace(base.relax, **relax))


for command in (train, sample, data, airss, evaluate, hull, reproduce, report, show, export, generators, relaxers):
    main.add_command(command)
main.add_command(completion)
add_verbosity(main)
