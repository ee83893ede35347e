"""Commands that run the paper's experiments, and the report of a run."""

from __future__ import annotations

from pathlib import Path

import click

from unimat_search.shell import DATA_DIR, FOLDER, BadInput, clear_errors, progress


@click.group()
def reproduce() -> None:
    """The paper's experiments."""


@reproduce.command()
@DATA_DIR
@click.option("--out", type=FOLDER, required=True, help="Folder; the same command goes on with what is there.")
@click.option("--compositions", type=click.IntRange(min=1), help="So many of the 466. [default: all]")
@click.option("-n", type=click.IntRange(min=1), default=100, show_default=True, help="Candidates each.")
@click.option("--generator", "generators", multiple=True, metavar="NAME[,KEY=VALUE...]", help="Others than the usual.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every generator.")
@click.option("--relaxer", default="chgnet", show_default=True, metavar="NAME[,KEY=VALUE...]", help="Potential.")
@click.option("--judge", metavar="NAME[,KEY=VALUE...]", help="Relax the lowest structures again with this potential.")
@click.option("--judged", type=click.IntRange(min=1), default=30, show_default=True, help="Compositions judged.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes. [default: one for each core]")
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
) -> None:
    """Zero-shot search against random search: convergence, formation energies, known ground states, cost."""
    with clear_errors("finished candidates are kept: the same command goes on"):
        from unimat_search.eval.parallel import load_relaxer
        from unimat_search.eval.report import markdown, plain_text
        from unimat_search.registry import Spec
        from unimat_search.rq3 import GENERATORS, judged_tables
        from unimat_search.rq3 import reproduce as run_rq3
        from unimat_search.rq3_tables import footnotes, sections

        if data_dir is None:
            raise BadInput("the experiment needs the data sets; give their folder with --data-dir")
        if judge:
            load_relaxer(Spec.parse(judge))
        with progress("candidates") as on_progress:
            tables = run_rq3(
                out,
                data_dir,
                compositions=compositions,
                n=n,
                generators=generators or GENERATORS,
                seed=seed,
                relaxer=relaxer,
                workers=workers,
                on_progress=on_progress,
            )
        if judge:
            tables = judged_tables(out, tables, judge, judged, workers=workers)
        (out / "rq3.md").write_text(markdown(sections(tables), footnotes(tables)) + "\n", encoding="utf-8")
        click.echo(plain_text(sections(tables), footnotes(tables)))


@click.command()
@click.argument("run", type=FOLDER)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write. [default: RUN/report.html]"
)
def report(run: Path, out: Path | None) -> None:
    """Write one HTML file of a comparison or an experiment: tables, figures, structures; readable offline."""
    with clear_errors():
        from unimat_search.html_report import write_report

        out = out or run / "report.html"
        write_report(run, out)
        click.echo(f"report: {out}")
