"""A run in numbers: composition by composition, as far as memory goes for any number of them."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from unimat_search.disk import whole
from unimat_search.eval.export import write_best
from unimat_search.eval.hull import Hull, HullPoint
from unimat_search.eval.match import Known, read_known
from unimat_search.eval.metrics import (
    Overall,
    delta_e_f,
    hull_distances,
    lowest,
    summarise_matches,
    summarise_records,
)
from unimat_search.eval.references import References
from unimat_search.eval.report import composition_rows, overall_rows
from unimat_search.plan import CompareSettings, Plan, Search, plan
from unimat_search.records import Record
from unimat_search.store import Store
from unimat_search.symmetry import SYMPREC, space_group_symbol

log = logging.getLogger(__name__)

SUMMARY, TABLE, BEST = "summary.json", "summary.csv", "best"

MOST_LISTED = 1000
"""Compositions that are returned and printed one by one, and whose lowest structures are written, at most."""

Columns = Mapping[str, Sequence[Record]]
"""The rows of one composition, without structures, by generator."""


def planned_columns(settings: CompareSettings, store: Store) -> Callable[[Search], Columns]:
    """What a store holds of the candidates that settings ask for."""

    def columns(search: Search) -> Columns:
        return {label: store.composition_records(label, search.cells, settings.seed) for label in settings.labels}

    return columns


def is_known(search: Search, known: Known | None) -> bool:
    """Whether there is a known structure of a composition."""
    return known is not None and search.formula.cell(1).reduced_formula in known


def read_known_of(settings: CompareSettings, searches: Plan) -> Known | None:
    """The known structures of a run's compositions; None if it has no reference."""
    if not settings.reference:
        return None
    known = read_known(Path(settings.reference), {frozenset(s.formula.amounts) for s in searches})
    for search in searches:
        if not is_known(search, known):
            log.warning("%s holds no structure of %s", settings.reference, search.formula.reduced_formula)
    return known


def summarise(
    settings: CompareSettings,
    columns: Callable[[Search], Columns],
    references: References,
    known: Known | None,
    hull: Hull | None,
    store: Store,
    folder: Path,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Sum up a run under the vocabulary's names; energies in eV/atom, times in seconds.

    All of it goes into `summary.json` and `summary.csv`.

    Args:
        settings: The run's settings.
        columns: The rows of a composition.
        references: What formation energies were counted from, and of which potential.
        known: The known structures.
        hull: What hull distances are counted from.
        store: Where the lowest structures lie.
        folder: Where files are written: the summary, and the lowest structures in `best`.
        more: What else to say.

    Returns:
        What `summary.json` holds; of more than `MOST_LISTED` compositions the first ones.
    """
    head = {
        "generators": list(settings.labels),
        "reference_generator": settings.labels[0],
        "potential": references.potential,
        "elemental_references": references.origin,
        "hull_reference": hull.reference if hull else None,
        "seed": settings.seed,
        "relax": asdict(settings.relax),
        "matcher": asdict(settings.matcher) if known is not None else None,
        "n_compositions": len(settings.formulas),
        **(more or {}),
    }
    overall = {label: Overall() for label in settings.labels}
    listed: list[dict[str, Any]] = []
    shutil.rmtree(folder / BEST, ignore_errors=True)
    with _Files(folder, head) as files:
        for search in plan(settings):
            own = columns(search)
            entry = _entry(settings, search, own, references, known, hull)
            if len(listed) < MOST_LISTED:
                listed.append(entry)
                _describe_best(entry, store, folder / BEST)
            for label, values in entry["generators"].items():
                overall[label].add(values, own[label])
            files.add(entry)
        ends = {label: tally.summary() for label, tally in overall.items()}
        files.end(ends)
    return {**head, "compositions": listed, "overall": ends}


def _entry(
    settings: CompareSettings,
    search: Search,
    own: Columns,
    references: References,
    known: Known | None,
    hull: Hull | None,
) -> dict[str, Any]:
    """One composition in numbers."""
    first = settings.labels[0]
    units = {units for units, _ in search.shares} | {record.formula_units for rows in own.values() for record in rows}
    point = hull.at(search.formula.cell(1)) if hull else None
    return {
        "formula": search.formula.text,
        "reduced_formula": search.formula.reduced_formula,
        "missing_references": references.missing(search.formula.cell(1)),
        "generators": {
            label: _column(
                rows, own[first] if label != first else [], sorted(units), point, known=is_known(search, known)
            )
            for label, rows in own.items()
        },
    }


def _column(
    records: Sequence[Record],
    reference: Sequence[Record],
    formula_units: Sequence[int],
    point: HullPoint | None,
    *,
    known: bool,
) -> dict[str, Any]:
    best = lowest(records)
    return {
        **summarise_records(records),
        "energy_per_atom": best.energy_per_atom if best else None,
        "delta_e_f": delta_e_f(records, reference),
        **hull_distances(best, point),
        "best": best.key if best else None,
        "space_group": None,
        **(summarise_matches(records) if known else {}),
        "by_formula_units": {
            str(units): summarise_records([r for r in records if r.formula_units == units]) for units in formula_units
        },
    }


def _describe_best(entry: Mapping[str, Any], store: Store, folder: Path) -> None:
    """The lowest structure of each generator at one composition: its space group, a CIF and an extxyz file."""
    for values in entry["generators"].values():
        if values["best"]:
            best = store.record(values["best"])
            assert best.final_structure is not None
            values["space_group"] = space_group_symbol(best.final_structure, SYMPREC)
            write_best(best, folder)


class _Files:
    """`summary.json` and `summary.csv`, written as compositions come; they appear when they are whole."""

    def __init__(self, folder: Path, head: Mapping[str, Any]) -> None:
        self._head = head
        self._stack = ExitStack()
        self._json, self._csv = (self._open(folder / name) for name in (SUMMARY, TABLE))
        self._json.write(json.dumps(head, indent=1)[:-2] + ',\n "compositions": [')
        self._table: csv.DictWriter[str] | None = None
        self._separator = "\n"

    def add(self, entry: Mapping[str, Any]) -> None:
        """Another composition."""
        self._json.write(self._separator + json.dumps(entry))
        self._separator = ",\n"
        self._write_rows(composition_rows(entry, self._head))

    def end(self, overall: Mapping[str, Any]) -> None:
        """The last lines."""
        self._json.write(f'\n ],\n "overall": {json.dumps(overall, indent=1)}\n}}\n')
        self._write_rows(overall_rows(overall, self._head))

    def _write_rows(self, rows: Iterator[dict[str, Any]]) -> None:
        for row in rows:
            if self._table is None:
                self._table = csv.DictWriter(self._csv, self._columns(row), lineterminator="\n")
                self._table.writeheader()
            self._table.writerow(row)

    def _columns(self, first: Mapping[str, Any]) -> list[str]:
        """Those of a composition, and those of the last rows that it lacks, those of known structures included."""
        (last,) = overall_rows({"": Overall(known=self._head["matcher"] is not None).summary()}, self._head)
        matches = summarise_matches([]) if self._head["matcher"] else {}
        return list(dict.fromkeys([*first, *matches, *last]))

    def _open(self, path: Path) -> IO[str]:
        partial = self._stack.enter_context(whole(path))
        return self._stack.enter_context(partial.open("w", encoding="utf-8", newline=""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
