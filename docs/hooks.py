"""Puts parts of the README into the pages that ask for them, so that each is written once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
HOME = "https://github.com/unimat-search/unimat-search/blob/main/"


def on_page_markdown(markdown: str, **_: Any) -> str:  # noqa: ANN401 - what mkdocs passes
    """Replace `<!-- README: Title -->` by that section and `<!-- Commands -->` by what `--help` says."""
    markdown = re.sub(r"<!-- README: (.+?) -->", lambda found: section(found[1]), markdown)
    markdown = re.sub(r"\]\((?:\.\./)?(training[^)]*)\)", rf"]({HOME}docs/\1)", markdown)
    return markdown.replace("<!-- Commands -->", commands()) if "<!-- Commands -->" in markdown else markdown


def commands() -> str:
    """A section for each command."""
    from click import Context, Group

    from unimat_search.cli import main

    def sections(context: Context) -> Iterator[str]:
        for name, command in sorted(context.command.commands.items()) if isinstance(context.command, Group) else ():
            own = Context(command, info_name=name, parent=context, max_content_width=110, terminal_width=110)
            if not isinstance(command, Group):
                yield f"## {own.command_path}\n\n```text\n{command.get_help(own)}\n```\n"
            yield from sections(own)

    return "\n".join(sections(Context(main, info_name="unimat-search")))


def section(title: str) -> str:
    """The text below a heading of the README; "Quick start" is what stands before the first."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    head, *parts = re.split(r"(?m)^(?=##+ )", readme)
    texts = {part.partition("\n")[0].lstrip("# "): part.partition("\n")[2] for part in parts}
    texts["Quick start"] = head.partition("\n")[2]
    return _linked(texts[title].strip())


def _linked(text: str) -> str:
    text = text.replace("](docs/", "](").replace("](#unimat-and-your-own-data)", "](models.md)")
    return text.replace("](#dft)", "](dft.md)")
