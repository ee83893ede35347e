"""The command that holds any set of structures against a data set."""

from __future__ import annotations

import json
from pathlib import Path

import click

from unimat_search.shell import DATA_DIR, PROCESSES, RELAXER, BadInput, clear_errors


@click.command()
@click.argument("samples", type=click.Path(path_type=Path))
@click.option("--data", default="mp-20", show_default=True, metavar="NAME", help="mp-20, perov-5, carbon-24, mpts-52.")
@DATA_DIR
@click.option("--relaxer", type=RELAXER, help="Relax the valid samples: energies, stability, S.U.N.")
@click.option("--hull", default="", metavar="FILE|mp|none", help="Phases to count from. [default: the potential's]")
@PROCESSES
@click.option("--format", "fmt", type=click.Choice(("table", "markdown", "json")), default="table", show_default=True)
def evaluate(
    samples: Path, data: str, data_dir: Path | None, relaxer: str | None, hull: str, workers: int | None, fmt: str
) -> None:
    """Validity, coverage, distributions, uniqueness and novelty of the structures in SAMPLES.

    SAMPLES is a file, folder or archive of structures, of any tool; what can't be read counts as broken.
    """
    with clear_errors():
        from unimat_search.baselines.published import published
        from unimat_search.eval.parallel import load_relaxer
        from unimat_search.eval.report import markdown, plain_text
        from unimat_search.evaluate import compared, footnotes, read_benchmark, read_samples, sections
        from unimat_search.evaluate import evaluate as evaluate_samples
        from unimat_search.registry import Spec

        if hull and not relaxer:
            raise BadInput(f"--hull {hull} needs relaxed energies; give --relaxer too")
        spec = Spec.parse(relaxer) if relaxer else None
        if spec:
            load_relaxer(spec)
        made = read_samples(samples)
        benchmark = read_benchmark(data, data_dir)
        table = evaluate_samples(made, benchmark, relaxer=spec, hull=hull, workers=workers)
        if fmt == "json":
            click.echo(json.dumps(table, indent=1))
            return
        columns = {"samples": table}
        papers = compared(published(benchmark.name), columns)
        write = markdown if fmt == "markdown" else plain_text
        click.echo(write(sections(columns, papers), footnotes(columns, papers)))
