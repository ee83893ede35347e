"""Commands on runs that are there: their tables again, a report, their structures for other tools."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from unimat_search.shell import FILE, FOLDER, BadInput, clear_errors, terminal_width

FORMATS = ("table", "json", "csv", "markdown")
TARGETS = ("extxyz", "cif", "parquet", "ase-db", "res", "vasp", "espresso")
TEXTS = ("rq1.md", "rq2.md", "rq4.md")
"""Tables that experiments keep as text."""

FORMAT = click.option(
    "--format", "fmt", type=click.Choice(FORMATS), default="table", show_default=True, help="Of the report on stdout."
)


def render(summary: dict[str, Any], fmt: str) -> str:
    """The report in one of `FORMATS`."""
    from unimat_search.eval import report

    match fmt:
        case "json":
            return json.dumps(summary, indent=1)
        case "csv":
            return report.to_csv(summary).rstrip("\n")
        case "markdown":
            return report.to_markdown(summary)
        case _:
            encoding = getattr(sys.stdout, "encoding", None) or "ascii"
            return report.to_table(summary, ascii_only=not encoding.lower().startswith("utf"), width=terminal_width())


@click.command()
@click.argument("run", type=FOLDER)
@FORMAT
def show(run: Path, fmt: str) -> None:
    """Print the tables of a comparison or an experiment again."""
    with clear_errors():
        from unimat_search.eval import report
        from unimat_search.stored import read_tables

        texts = [run / name for name in TEXTS if (run / name).is_file()]
        if texts:
            if fmt not in ("table", "markdown"):
                raise BadInput(f"{run} keeps its tables as text; --format {fmt} is of comparisons")
            click.echo("\n".join(text.read_text(encoding="utf-8").rstrip() for text in texts))
            return
        stored = read_tables(run)
        if stored.compositions is None:
            click.echo(render(dict(stored.summary), fmt))
        elif fmt == "csv":
            raise BadInput(f"{run} is an experiment of several tables; --format csv is of comparisons")
        elif fmt == "json":
            click.echo(json.dumps(stored.summary, indent=1))
        else:
            text = report.markdown if fmt == "markdown" else report.plain_text
            click.echo(text(stored.tables, stored.notes))


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


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--to", "target", type=click.Choice(TARGETS), required=True, help="Format.")
@click.option("--out", type=FILE, help="File or folder to write. [default: RUN/export.FORMAT]")
@click.option("--converged", is_flag=True, help="Only what converged.")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    help="Only so many of each generator and composition: the lowest, all different.",
)
def export(run: Path, target: str, out: Path | None, converged: bool, top: int | None) -> None:
    """Write a run's structures for other tools, or as inputs of VASP and Quantum ESPRESSO."""
    with clear_errors():
        from unimat_search.eval.export import export_records
        from unimat_search.refine import choose
        from unimat_search.run_folder import RESULTS, RunError, read_settings
        from unimat_search.store import Store

        if not (run / RESULTS).is_file():
            raise RunError(f"{run} holds no results; give the folder of a run")
        suffixes = {"ase-db": ".db"} | {folder: f"-{folder}" for folder in ("cif", "res", "vasp", "espresso")}
        suffix = suffixes.get(target, f".{target}")
        settings = read_settings(run)
        out = out or run / f"export{suffix}"
        with Store(run / RESULTS, read_only=True) as store:
            if top:
                rows = [store.record(key) for key in choose(store, settings, top)]
            else:
                rows = [r for r in store.records(structures=True) if r.converged or not converged]
        count = export_records(rows, target, out, relax=settings.relax)
        click.echo(f"{count} structures in {out}")
