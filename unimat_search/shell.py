"""What every command shares: options, errors in one line, progress."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from unimat_search.eval.backends import Workers

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

BACKENDS = ("processes", "dask")

DATA_VARIABLE = "UNIMAT_SEARCH_DATA"


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _tell_plugins(context: click.Context, _: click.Parameter, folder: Path | None) -> Path | None:
    """Generators that need data find the folder in the environment while the command runs."""
    if folder:
        context.with_resource(_environment(DATA_VARIABLE, str(folder)))
    return folder


def _options(*options: Decorator) -> Decorator:
    """Several options as one."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


DATA_DIR = click.option(
    "--data-dir",
    envvar=DATA_VARIABLE,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    callback=_tell_plugins,
    help=f"Folder of data sets [env: {DATA_VARIABLE}].",
)
FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(path_type=Path)
SPEC = "NAME[,KEY=VALUE...]"
"""How generators and potentials are given."""


WORKERS = _options(
    click.option("--workers", type=click.IntRange(min=1), help="Processes that relax. [default: one for each core]"),
    click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default="processes",
        show_default=True,
        help="Who works: processes of this machine, or the workers of a Dask cluster.",
    ),
    click.option("--scheduler", metavar="ADDRESS|FILE", help="Of the Dask cluster, e.g. tcp://10.0.0.1:8786."),
)
"""Who does the work; `connected` makes it."""


class BadInput(click.ClickException):
    """One line that names the value and the cure; exit code 2."""

    exit_code = 2


@contextlib.contextmanager
def clear_errors(after_interruption: str = "nothing was written") -> Iterator[None]:
    """Turn what users get wrong into one line and exit code 2, an interruption into 130."""
    from unimat_search.records import UserError, first_line

    try:
        yield
    except (UserError, ValueError, OSError) as error:
        raise BadInput(first_line(error)) from error
    except KeyboardInterrupt:
        click.echo(f"interrupted; {after_interruption}", err=True)
        sys.exit(130)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, quiet where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def connected(backend: str, scheduler: str | None, workers: int | None) -> Iterator[Workers]:
    """Who does the work, for as long as it takes.

    Raises:
        BadInput: If the options contradict each other.
        ClusterError: If no cluster answers.
    """
    from unimat_search.eval.backends import usable_cores

    if backend == "processes":
        if scheduler:
            raise BadInput(f"--scheduler {scheduler} is of --backend dask")
        yield workers or usable_cores()
        return
    from unimat_search.eval.cluster import DaskCluster

    if not scheduler:
        raise BadInput("--backend dask needs --scheduler: the address that dask scheduler prints, or its file")
    if workers:
        raise BadInput("--workers is of --backend processes; a Dask cluster has the workers that were started for it")
    with DaskCluster(scheduler) as cluster:
        yield cluster
