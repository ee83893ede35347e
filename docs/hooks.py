"""Puts parts of the README into the pages that ask for them, so that each is written once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
HOME = "https://github.com/unimat-search/unimat-search/blob/main/"


def on_page_markdown(markdown: str, **_: Any) -> str:  # noqa: ANN401 - what mkdocs passes
    """Replace `<!-- README: Title -->` by that section, its links made those of the site."""
    return re.sub(r"<!-- README: (.+?) -->", lambda found: section(found[1]), markdown)


def section(title: str) -> str:
    """The text below a heading of the README; "Quick start" is what stands before the first."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    head, *parts = re.split(r"(?m)^(?=##+ )", readme)
    texts = {part.partition("\n")[0].lstrip("# "): part.partition("\n")[2] for part in parts}
    texts["Quick start"] = head.partition("\n")[2]
    return _linked(texts[title].strip())


def _linked(text: str) -> str:
    text = re.sub(r"\]\(docs/(training)\)", rf"]({HOME}docs/\1)", text)
    text = text.replace("](docs/", "](").replace("](#unimat-and-your-own-data)", "](models.md)")
    return text.replace("](#dft)", "](dft.md)")
