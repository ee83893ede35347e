"""A run's tables, read back from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimat_search import rq3, rq3_tables
from unimat_search.eval import report
from unimat_search.eval.report import Section
from unimat_search.plan import SETTINGS
from unimat_search.run_folder import REFINED, RunError
from unimat_search.summary import MOST_LISTED, SUMMARY


@dataclass(frozen=True)
class StoredTables:
    """What a run or an experiment printed.

    Attributes:
        run: Folder of the run itself.
        summary: What was summed up; the printed tables are made from it.
        tables: Titled tables.
        notes: What the numbers mean.
        compositions: How many an experiment has; None for a comparison.
    """

    run: Path
    summary: Mapping[str, Any]
    tables: Sequence[Section]
    notes: str
    compositions: int | None = None


def read_tables(folder: Path) -> StoredTables:
    """The tables of a comparison, or of an experiment that `reproduce rq3` made.

    Raises:
        RunError: If the folder holds neither, or one that has not ended.
    """
    if (folder / rq3.TABLES).is_file():
        return _experiment(folder)
    if not (folder / SUMMARY).is_file():
        if (folder / SETTINGS).is_file():
            raise RunError(f"{folder} has not ended; go on with: unimat-search compare --resume --out {folder}")
        raise RunError(f"{folder} holds no finished run; give the folder of a comparison or of an experiment")
    summary = _read(folder / SUMMARY)
    refined = [_read(file) for file in sorted((folder / REFINED).glob(f"*/{SUMMARY}"))]
    if refined:
        summary["refined"] = refined
    try:
        return StoredTables(folder, summary, list(report.sections(summary)), report.footnotes(summary))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise RunError(f"{folder / SUMMARY} is damaged; make it anew with --resume") from error


def _experiment(folder: Path) -> StoredTables:
    file = folder / rq3.TABLES
    tables = _read(file)
    if tables.get("version") != rq3.VERSION:
        raise RunError(f"{file} is of another version; run `reproduce` on its folder again")
    try:
        parts, notes = list(rq3_tables.sections(tables)), rq3_tables.footnotes(tables)
        return StoredTables(folder / rq3.RUN, tables, parts, notes, len(tables["targets"]))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise RunError(f"{file} is damaged; run `reproduce` on its folder again") from error


def _read(file: Path) -> dict[str, Any]:
    """A summary; of more than `MOST_LISTED` compositions the first ones."""
    try:
        summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if file.name == SUMMARY:
            summary["compositions"] = summary["compositions"][:MOST_LISTED]
        if not isinstance(summary, dict):
            raise ValueError("no table")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{file} is damaged; make it anew with --resume") from error
    return summary
