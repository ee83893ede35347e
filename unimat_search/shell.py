"""What every command shares: options, errors in one line, progress."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from click.shell_completion import CompletionItem

from unimat_search.records import did_you_mean

if TYPE_CHECKING:
    from unimat_search.eval.backends import Workers
    from unimat_search.registry import Kind

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

BACKENDS = ("processes", "dask")

DATA_VARIABLE = "UNIMAT_SEARCH_DATA"

SILENCE = 60.0, 3600.0
"""Seconds before the first line of progress where there is no terminal, and between lines at most."""


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


def all_of(*options: Decorator) -> Decorator:
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
CELL_FORM = "A,B,C,ALPHA,BETA,GAMMA"
SPEC = "NAME[,KEY=VALUE...]"
"""How generators and potentials are given."""


PROCESSES = click.option("--workers", type=click.IntRange(min=1), help="Processes. [default: one for each core]")

WORKERS = all_of(
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


class _PlugIn(click.types.StringParamType):
    """A specification of a plug-in; the shell completes its name."""

    name = SPEC

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        """How it is written."""
        return SPEC

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Names that begin so, without importing what they name."""
        from unimat_search.registry import names

        return [CompletionItem(name) for name in names(self.kind) if name.startswith(incomplete)]


GENERATOR, RELAXER = _PlugIn("generators"), _PlugIn("relaxers")


def _read_config(context: click.Context, _: click.Parameter, file: Path | None) -> None:
    """The values of a TOML file become the defaults of the command's options."""
    if file is None:
        return
    options = {_long_name(one): one for one in context.command.params if isinstance(one, click.Option)}
    del options["config"]
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{file} can't be read: {error}") from error
    values = {}
    for name, value in table.items():
        option = options.get(name.replace("_", "-"))
        if option is None:
            meant = did_you_mean(name, options)
            raise BadInput(f"{file}: unknown option {name!r}{meant}; there are {', '.join(options)}")
        values[option.name] = _config_value(option, value, f"{file}: {name}")
    context.default_map = {**(context.default_map or {}), **values}


def _long_name(option: click.Option) -> str:
    """An option as it is written in a file: without its dashes."""
    return max(option.opts, key=len).lstrip("-")


def _config_value(option: click.Option, value: object, where: str) -> object:
    if isinstance(value, list) != option.multiple:
        if not option.multiple:
            raise BadInput(f"{where} takes one value, got {value!r}")
        value = [value]
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, list | dict) or isinstance(one, bool) != option.is_flag:
            kind = "true or false" if option.is_flag else "a number or text"
            raise BadInput(f"{where} must be {kind}, got {one!r}")
        if isinstance(one, float) and isinstance(option.type, click.types.IntParamType):
            raise BadInput(f"{where} must be a whole number, got {one!r}")
    return value


CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="TOML file of options by their long names, as in: formula = ['NaCl', 'TiO2']. The command line counts more.",
)


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever stderr is at the time."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None: ...


LOGGER = logging.getLogger("unimat_search")


def log_to_stderr() -> None:
    """Warnings go to stderr, a line each; more with `add_verbosity`'s option."""
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    LOGGER.handlers = [handler]
    LOGGER.setLevel(logging.WARNING)


def _set_verbosity(_: click.Context, __: click.Parameter, count: int) -> None:
    if count:
        LOGGER.setLevel(logging.INFO if count == 1 else logging.DEBUG)


def add_verbosity(command: click.Command) -> None:
    """Give a command, and all below it, the option `-v`."""
    if isinstance(command, click.Group):
        for one in command.commands.values():
            add_verbosity(one)
        return
    option = click.Option(
        ["-v", "--verbose"],
        count=True,
        expose_value=False,
        callback=_set_verbosity,
        help="Say on stderr what is done; -vv says more.",
    )
    command.params.append(option)


class BadInput(click.ClickException):
    """One line that names the value and the cure; exit code 2."""

    exit_code = 2


@contextlib.contextmanager
def clear_errors(after_interruption: str | Callable[[], str] = "nothing was written") -> Iterator[None]:
    """Turn what users get wrong into one line and exit code 2, an interruption into 130."""
    from unimat_search.records import UserError, first_line

    try:
        yield
    except (UserError, ValueError, OSError, ArithmeticError) as error:
        raise BadInput(first_line(error)) from error
    except RecursionError as error:
        raise BadInput("a file is nested too deeply to be read") from error
    except MemoryError as error:
        raise BadInput(f"there is not enough memory for this ({first_line(error)})") from error
    except BrokenExecutor as error:
        raise BadInput(f"a worker process died, maybe for want of memory ({first_line(error)})") from error
    except RuntimeError as error:
        if not any(said in str(error) for said in ("out of memory", "allocate memory")):  # as PyTorch says it
            raise
        raise BadInput(f"there is not enough memory for this ({first_line(error)})") from error
    except KeyboardInterrupt:
        text = after_interruption if isinstance(after_interruption, str) else after_interruption()
        click.echo(f"interrupted; {text}", err=True)
        sys.exit(130)


def terminal_width() -> int | None:
    """Characters of a line of stdout; None where that is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; where that is no terminal, a line now and then."""
    if not sys.stderr.isatty():
        yield _now_and_then(what)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _now_and_then(what: str) -> Callable[[int, int], None]:
    """Lines of progress, each after twice the time of the one before."""
    silence, longest = SILENCE
    due = time.monotonic() + silence

    def on_progress(done: int, total: int) -> None:
        nonlocal silence, due
        if time.monotonic() >= due:
            silence = min(2 * silence, longest)
            due = time.monotonic() + silence
            click.echo(f"{what}: {done} of {total}", err=True)

    return on_progress


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


def numbers_in(text: str, form: str, example: str) -> tuple[float, ...]:
    """The numbers of an option's text, separated by commas.

    Args:
        text: What the user gave.
        form: Their names, as the help shows them.
        example: Such a text.

    Raises:
        BadInput: If they are not numbers, or not so many.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != len(form.split(",")):
        raise BadInput(f"{text!r} is not {form}, as in {example}")
    return numbers


def cell_numbers(text: str) -> tuple[float, ...]:
    """Lengths and angles of a cell; raises BadInput as `numbers_in` does."""
    return numbers_in(text, CELL_FORM, "5.5,5.5,7.8,90,90,90")
