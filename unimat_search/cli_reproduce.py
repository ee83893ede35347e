"""Commands that run the paper's experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unimat_search.disk import write_whole
from unimat_search.shell import (
    CONFIG,
    DATA_DIR,
    FOLDER,
    GENERATOR,
    PROCESSES,
    RELAXER,
    WORKERS,
    all_of,
    clear_errors,
    connected,
    progress,
)

OTHERS = click.option("--generator", "generators", multiple=True, type=GENERATOR, help="Others than the usual.")
SEED = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every generator.")
POTENTIAL = click.option("--relaxer", default="chgnet", show_default=True, type=RELAXER, help="Potential.")


@click.group()
def reproduce() -> None:
    """The paper's experiments."""


@reproduce.command()
@DATA_DIR
@click.option("--out", type=FOLDER, required=True, help="Folder; the same command goes on with what is there.")
@click.option("--compositions", type=click.IntRange(min=1), help="So many of the 466. [default: all]")
@click.option("-n", type=click.IntRange(min=1), default=100, show_default=True, help="Candidates each.")
@OTHERS
@SEED
@POTENTIAL
@click.option("--judge", type=RELAXER, help="Relax the lowest structures again with this potential.")
@click.option("--judged", type=click.IntRange(min=1), default=30, show_default=True, help="Compositions judged.")
@WORKERS
@CONFIG
def rq3(
    data_dir: Path | None,
    out: Path,
    compositions: int | None,
    n: int,
    generators: tuple[str, ...],
    seed: int,
    relaxer: str,
    judge: str | None,
    judged: int,
    workers: int | None,
    backend: str,
    scheduler: str | None,
) -> None:
    """Zero-shot search against random search: convergence, formation energies, known ground states, cost."""
    with clear_errors("finished candidates are kept: the same command goes on"):
        from unimat_search.eval.parallel import load_relaxer
        from unimat_search.eval.report import markdown, plain_text
        from unimat_search.registry import Spec
        from unimat_search.rq3 import GENERATORS, judged_tables
        from unimat_search.rq3 import reproduce as run_rq3
        from unimat_search.rq3_tables import footnotes, sections

        if judge:
            load_relaxer(Spec.parse(judge))
        with connected(backend, scheduler, workers) as who:
            with progress("candidates") as on_progress:
                tables = run_rq3(
                    out,
                    data_dir,
                    compositions=compositions,
                    n=n,
                    generators=generators or GENERATORS,
                    seed=seed,
                    relaxer=relaxer,
                    workers=who,
                    on_progress=on_progress,
                )
            if judge:
                tables = judged_tables(out, tables, judge, judged, workers=who)
        write_whole(out / "rq3.md", markdown(sections(tables), footnotes(tables)) + "\n")
        click.echo(plain_text(sections(tables), footnotes(tables)))


SAMPLES = all_of(
    DATA_DIR,
    click.option("--out", type=FOLDER, required=True, help="Folder; the same command goes on; rq1, rq4 share it."),
    click.option("--data", default="mp-20", show_default=True, help="mp-20, perov-5, carbon-24, mpts-52."),
    click.option("-n", type=click.IntRange(min=1), default=1000, show_default=True, help="Samples each."),
    OTHERS,
    SEED,
    PROCESSES,
    CONFIG,
)
"""Of commands that sample without a composition."""


@reproduce.command()
@SAMPLES
def rq1(**options: Any) -> None:  # noqa: ANN401
    """Samples without a composition given: validity, coverage, distributions, beside the paper's."""
    _free_samples(**options, relaxer=None, hull="")


@reproduce.command()
@DATA_DIR
@click.option("--out", type=FOLDER, required=True, help="Folder; the same command goes on with what is there.")
@click.option("--steps", type=click.IntRange(min=1), help="Of each training run. [default: 600]")
@click.option("-n", "count", type=click.IntRange(min=1), default=300, show_default=True, help="Known structures.")
@click.option("--device", default="cpu", show_default=True, help="Where to train.")
def rq2(data_dir: Path | None, out: Path, steps: int | None, count: int, device: str) -> None:
    """Train models of several widths, data sizes and cell sizes; quality and cost of each."""
    with clear_errors("what was trained is kept: the same command goes on"):
        from dataclasses import replace

        from unimat_search.eval.report import markdown, plain_text
        from unimat_search.scaling import BASE, NOTES, sections
        from unimat_search.scaling import reproduce as run

        base = replace(BASE, training=replace(BASE.training, steps=steps or BASE.training.steps))
        rows = run(out, data_dir, base=base, count=count, device=device, say=lambda line: click.echo(line, err=True))
        write_whole(out / "rq2.md", markdown(sections(rows), NOTES) + "\n")
        click.echo(plain_text(sections(rows), NOTES))


@reproduce.command()
@SAMPLES
@POTENTIAL
@click.option("--hull", default="", metavar="FILE|mp|none", help="Phases to count from. [default: the potential's]")
def rq4(**options: Any) -> None:  # noqa: ANN401
    """The same samples relaxed: energies, stability, and what proxy metrics foretell of them."""
    _free_samples(**options)


def _free_samples(
    *,
    data_dir: Path | None,
    out: Path,
    data: str,
    n: int,
    generators: tuple[str, ...],
    seed: int,
    relaxer: str | None,
    hull: str,
    workers: int | None,
) -> None:
    with clear_errors("finished generators are kept: the same command goes on"):
        from unimat_search.baselines.published import published
        from unimat_search.eval.report import markdown, plain_text
        from unimat_search.evaluate import compared, footnotes, read_benchmark, sections
        from unimat_search.free_samples import GENERATORS, energy_sections
        from unimat_search.free_samples import reproduce as run
        from unimat_search.registry import Spec

        spec = Spec.parse(relaxer) if relaxer else None
        benchmark = read_benchmark(data, data_dir)
        with progress("generators") as on_progress:
            found = run(
                out,
                benchmark,
                generators=generators or GENERATORS,
                n=n,
                seed=seed,
                relaxer=spec,
                hull=hull,
                workers=workers,
                on_progress=on_progress,
            )
        tables = found["generators"]
        papers = compared(published(benchmark.name), tables)
        parts = sections(tables, papers) + (energy_sections(tables) if spec else [])
        notes = footnotes(tables, papers)
        name = "rq4" if spec else "rq1"
        write_whole(out / f"{name}.md", markdown(parts, notes) + "\n")
        click.echo(plain_text(parts, notes))
