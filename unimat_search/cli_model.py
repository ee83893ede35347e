"""Commands of the UniMat models: check data, train, sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unimat_search.shell import CELL_FORM, DATA_DIR, FILE, FOLDER, BadInput, cell_numbers, clear_errors

if TYPE_CHECKING:
    from pymatgen.core import Composition, Structure

    from unimat_search.records import FailedAttempt
    from unimat_search.unimat.sample import UniMatGenerator
    from unimat_search.unimat.structures import StructureSet
    from unimat_search.unimat.train import Score


@click.group()
def data() -> None:
    """Data sets that models are trained on."""


@data.command()
@click.argument("source")
@DATA_DIR
@click.option(
    "--max-sites", type=click.IntRange(min=1), default=200, show_default=True, help="Larger cells are left out."
)
@click.option("--out", type=FILE, help="Write the good structures here, Niggli-reduced (parquet).")
def check(source: str, data_dir: Path | None, max_sites: int, out: Path | None) -> None:
    """Say what a data set holds, and list what in it can't be used and why.

    SOURCE is a folder or a file (CIF, extxyz, POSCAR, parquet, CSV with a column "cif"), or a public set by name, as
    mp_20/train.
    """
    with clear_errors():
        from unimat_search.unimat.sources import describe, read_source, write_parquet

        reading = read_source(source, data_dir, max_sites=max_sites)
        for line in describe(reading):
            click.echo(line)
        if out:
            write_parquet(reading.structures, out)
            click.echo(f"{len(reading.structures)} structures in {out}")


@click.command()
@click.argument("config", type=FILE)
@click.option("--out", type=FOLDER, required=True, help="Folder of the run.")
@DATA_DIR
@click.option("--resume", is_flag=True, help="Go on with the run in the folder.")
@click.option("--init", type=FILE, help="Begin with the weights of this model: a file, or the folder of a run.")
@click.option("--steps", type=click.IntRange(min=1), help="Other than in the settings: train longer, or end sooner.")
@click.option("--max-minutes", type=float, default=float("inf"), help="Stop then; go on with --resume.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--match", type=click.IntRange(min=0), default=0, help="Match rate of so many structures at each validation."
)
@click.option("--tensorboard", is_flag=True, help="Write the log for TensorBoard too.")
def train(
    config: Path,
    out: Path,
    data_dir: Path | None,
    resume: bool,
    init: Path | None,
    steps: int | None,
    max_minutes: float,
    device: str,
    match: int,
    tensorboard: bool,
) -> None:
    """Train a model as the settings in CONFIG (TOML) say.

    On several GPUs of one machine: torchrun --nproc-per-node 4 -m unimat_search train CONFIG --out RUN --device cuda.
    """
    with clear_errors("go on with --resume"):
        from unimat_search.unimat.train import CHECKPOINT, read_config, train_run

        if (out / CHECKPOINT).exists() != resume:
            wrong = "holds no run to go on with" if resume else "holds a run; go on with --resume"
            raise BadInput(f"{out} {wrong}, or choose another folder")
        if init and resume:
            raise BadInput("--init begins a new run; leave it out with --resume")
        finished = train_run(
            read_config(config, steps=steps),
            out,
            data_dir=data_dir,
            init=init,
            max_minutes=max_minutes,
            device=device,
            score=quick_match_rate(match) if match else None,
            watch=_tensorboard(out) if tensorboard else None,
            say=click.echo,
        )
        click.echo(f"{'finished' if finished else 'stopped; go on with --resume'}: {out}", err=True)


@click.command()
@click.option("--model", help="A model that train wrote. [default: the weights that ship]")
@click.option("--formula", help="Composition of the cell, as Na4Cl4. [default: compositions of the training data]")
@click.option("-n", "n", type=click.IntRange(min=1), default=10, show_default=True, help="How many.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--space-group", help="Hold samples to this space group: a number or a symbol. [default: none]")
@click.option("--cell", metavar=CELL_FORM, help="Draw in this cell: angstrom, degrees. [default: any]")
@click.option("--steps", type=click.IntRange(min=1), help="Denoising steps. [default: the model's own]")
@click.option("--device", default="cpu", show_default=True)
@click.option("--out", type=FILE, required=True, help="File to write (extxyz).")
def sample(
    model: str | None,
    formula: str | None,
    n: int,
    seed: int,
    space_group: str | None,
    cell: str | None,
    steps: int | None,
    device: str,
    out: Path,
) -> None:
    """Sample structures from a model, unrelaxed."""
    with clear_errors():
        import time

        from ase.io import write
        from pymatgen.io.ase import AseAtomsAdaptor

        from unimat_search.formula import parse_formula
        from unimat_search.records import FailedAttempt
        from unimat_search.unimat.sample import UniMatGenerator

        if out.suffix != ".extxyz":
            raise BadInput(f"{out} must end in .extxyz")
        if not formula and (cell or space_group):
            raise BadInput("--cell and --space-group need a composition; give --formula too")
        group = int(space_group) if space_group and space_group.isdecimal() else space_group
        generator = UniMatGenerator(model=model, steps=steps, device=device, space_group=group)
        began = time.perf_counter()
        if formula:
            asked = parse_formula(formula)
            composition = asked.cell(asked.fixed_units or 1)
            given = _in_cell(generator, composition, n, cell, seed) if cell else None
            made = list(given or generator.generate(composition, n, seed=seed))
        else:
            made = generator.generate_freely(n, seed=seed)
        seconds = time.perf_counter() - began
        failed = [one for one in made if isinstance(one, FailedAttempt)]
        structures = [one for one in made if not isinstance(one, FailedAttempt)]
        if not structures:
            raise BadInput(f"no structure was made: {failed[0].reason}")
        write(out, [AseAtomsAdaptor.get_atoms(structure, msonable=False) for structure in structures], format="extxyz")
        for reason, count in Counter(one.reason for one in failed).items():
            click.echo(f"{count} x not a crystal: {reason}", err=True)
        click.echo(f"{len(structures)} structures in {out}; {len(made) / seconds:.1f} samples a second")


def _in_cell(
    generator: UniMatGenerator, composition: Composition, n: int, cell: str, seed: int
) -> Iterator[Structure | FailedAttempt]:
    from pymatgen.core import Lattice

    from unimat_search.plan import check_cell, check_room

    numbers = cell_numbers(cell)
    check_cell(numbers)
    check_room(numbers, round(composition.num_atoms))
    return generator.generate_in_cell(composition, n, Lattice.from_parameters(*numbers), seed=seed)


def quick_match_rate(count: int) -> Score:
    """Share of so many validation structures that one sample each finds again, unrelaxed."""
    from unimat_search.match_rate import match_rates
    from unimat_search.unimat.model import CrystalModel, SampleSettings

    def score(model: CrystalModel, structures: StructureSet) -> dict[str, float]:
        some = structures.take(range(min(count, len(structures))))
        return {"match_rate": match_rates(model, some, samples=1, settings=SampleSettings(), seed=0).rate(1)}

    return score


def _tensorboard(out: Path) -> Callable[[dict[str, float]], None]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise BadInput("TensorBoard is missing; pip install tensorboard") from error
    writer = SummaryWriter(str(out))

    def watch(row: dict[str, float]) -> None:
        for name, value in row.items():
            writer.add_scalar(name, value, int(row["step"]))

    return watch
