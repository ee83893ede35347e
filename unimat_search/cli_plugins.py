"""Commands that say what there is: generators, relaxers, completion for shells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

from unimat_search.shell import DATA_DIR, clear_errors, terminal_width

if TYPE_CHECKING:
    from unimat_search.registry import Kind

SHELLS = ("bash", "zsh", "fish")

COLONS = "COMP_WORDBREAKS=${COMP_WORDBREAKS//:}  # names such as airss:standard are one word\n"


@click.command()
@DATA_DIR
def generators(data_dir: object) -> None:  # noqa: ARG001 - its callback tells generators where data are
    """List the generators: what each is, where it is from, what it lacks."""
    _list("generators")


@click.command()
def relaxers() -> None:
    """List the relaxers: what each is, where it is from, what it lacks."""
    _list("relaxers")


def _list(kind: Kind) -> None:
    with clear_errors():
        from unimat_search.catalogue import catalogue
        from unimat_search.eval.report import plain_text

        rows = [
            {"name": entry.name, "what": entry.what or "-", "from": entry.origin, "lacks": entry.lacks or "-"}
            for entry in catalogue(kind)
        ]
        notes = f"Or package.module:{_FACTORY[kind]}, installed or not."
        click.echo(plain_text([(kind.capitalize(), rows)], notes, width=terminal_width()))


_FACTORY = {"generators": "Class", "relaxers": "factory of an ASE calculator or a torch-sim model"}


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a script that completes commands, options and names in a shell.

    \b
    bash: unimat-search completion bash > ~/.local/share/bash-completion/completions/unimat-search
    zsh:  unimat-search completion zsh > FOLDER/_unimat-search, in a folder of your $fpath
    fish: unimat-search completion fish > ~/.config/fish/completions/unimat-search.fish
    """  # noqa: D301 - click takes it for a mark
    context = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    source = kind(context.command, {}, "unimat-search", "_UNIMAT_SEARCH_COMPLETE").source()
    click.echo(f"{COLONS}{source}" if shell == "bash" else source)
