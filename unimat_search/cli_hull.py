"""Commands about convex hulls."""

from __future__ import annotations

from pathlib import Path

import click

from unimat_search.disk import write_whole
from unimat_search.shell import DATA_DIR, FILE, RELAXER, WORKERS, BadInput, clear_errors, connected, progress


@click.group()
def hull() -> None:
    """Convex hulls of known phases, which hull distances are counted from."""


@hull.command()
@DATA_DIR
@click.option("--out", type=FILE, required=True, help="File (.csv.gz); the same command goes on with what is there.")
@click.option("--relaxer", default="chgnet", show_default=True, type=RELAXER, help="Potential.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many, the most stable. [default: all]")
@WORKERS
def build(
    data_dir: Path | None,
    out: Path,
    relaxer: str,
    limit: int | None,
    workers: int | None,
    backend: str,
    scheduler: str | None,
) -> None:
    """Relax the phases near the Materials Project's hull, and keep their energies."""
    with clear_errors("finished phases are kept: the same command goes on"):
        from collections import Counter

        from unimat_search.eval.hull_build import build_hull
        from unimat_search.registry import Spec

        if data_dir is None:
            raise BadInput("the phases are in the data sets; give their folder with --data-dir")
        if not out.name.endswith(".csv.gz"):
            raise BadInput(f"{out} must end in .csv.gz")
        with connected(backend, scheduler, workers) as who, progress("phases") as on_progress:
            phases = build_hull(
                data_dir,
                out,
                Spec.parse(relaxer),
                limit=limit,
                workers=who,
                on_progress=on_progress,
            )
        outcomes = Counter(phase.outcome for phase in phases).most_common()
        click.echo(f"{len(phases)} phases in {out}: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes))


@hull.command()
@click.argument("file", type=FILE)
@DATA_DIR
@click.option("--relaxer", default="chgnet", show_default=True, type=RELAXER, help="Its potential.")
@click.option("--sample", type=click.IntRange(min=1), default=5000, show_default=True, help="So many phases at random.")
@click.option("--out", type=FILE, help="Write the numbers as JSON too.")
def check(file: Path, data_dir: Path | None, relaxer: str, sample: int, out: Path | None) -> None:
    """Hold a hull of relaxed phases against the Materials Project's."""
    with clear_errors():
        import json
        from dataclasses import asdict

        from unimat_search.eval.hull_build import read_relaxed
        from unimat_search.eval.hull_check import check_hull, rows, true_phases
        from unimat_search.eval.parallel import load_relaxer, quiet
        from unimat_search.eval.references import load_references
        from unimat_search.eval.report import plain_text
        from unimat_search.registry import Spec

        if data_dir is None:
            raise BadInput("the Materials Project's energies are in the data sets; give their folder with --data-dir")
        references = load_references(load_relaxer(Spec.parse(relaxer)).name)
        with quiet():
            checked = check_hull(read_relaxed(file), references, true_phases(data_dir), sample=sample)
        if out:
            write_whole(out, json.dumps({name: asdict(one) for name, one in checked.items()}, indent=1) + "\n")
        click.echo(plain_text([("Against the Materials Project's hull", rows(checked))], NOTES))


NOTES = """meV/atom: mean absolute difference of e_above_hull, its mean, and mean absolute difference of
decomposition_energy (compounds; the phase's own composition left out of both hulls). Missing phases: what comes of
phases that the file lacks, the Materials Project's energies taken for all; potential: what comes of its energies, the
same phases in both hulls."""
