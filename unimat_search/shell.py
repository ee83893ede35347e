"""What every command shares: options, errors in one line, progress."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

DATA_DIR = click.option(
    "--data-dir",
    envvar="UNIMAT_SEARCH_DATA",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of data sets [env: UNIMAT_SEARCH_DATA].",
)
FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(path_type=Path)


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
