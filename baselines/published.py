"""Numbers of papers, with what makes them comparable or not; shown as columns that are marked as theirs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Published:
    """What a paper reports of one data set.

    Attributes:
        name: Of the method.
        citation: Of the paper.
        protocol: How its numbers were made.
        comparable: Which of them can be compared with ours, and which not.
        metrics: By the names of our own.
    """

    name: str
    citation: str
    protocol: str
    comparable: str
    metrics: dict[str, float]


def published(data: str) -> list[Published]:
    """All papers' numbers for a data set ("mp_20"), by the method's name."""
    found = []
    for file in (resources.files(__package__) / "published").iterdir():
        table = json.loads(file.read_text(encoding="utf-8"))
        metrics = table.pop("data").get(data)
        if metrics:
            found.append(Published(**table, metrics=metrics))
    return sorted(found, key=lambda one: one.name)
