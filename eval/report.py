"""A summary as text: tables for people, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from unimat_search.eval.hull import BOUNDS
from unimat_search.eval.metrics import HULL_COUNTS
from unimat_search.eval.published import published_error
from unimat_search.symmetry import SYMPREC

Row = dict[str, Any]
Section = tuple[str, list[Row]]
"""A title and rows of equal keys."""

LEFT = ("composition", "generator", "space group", "name", "what", "from", "lacks")
"""Columns of text."""

NARROW, GAP = 12, 3
"""Characters: that text is wrapped to at the narrowest, between two columns."""

LEAST_NEEDED = (
    *("s/gen", "s/relax", "E_f median", "space group", "rms_dist", "median"),
    *("steps", "tied", "valid", "first", "pairs"),
)
"""Columns that a narrow terminal goes without, the first ones first."""

MAX_BY_UNITS = 4
"""Up to so many compositions the printed report lists every number of formula units; the CSV always does."""


def to_csv(summary: Mapping[str, Any]) -> str:
    """One row for each composition, generator and number of formula units ("all" for their sum).

    The last rows, with the formula "all", are those over all compositions; then the same of what was refined.
    """
    return _csv([row for part in (summary, *summary.get("refined", ())) for row in _csv_rows(part)])


def _csv_rows(summary: Mapping[str, Any]) -> Iterator[Row]:
    for entry in summary["compositions"]:
        yield from composition_rows(entry, summary)
    yield from overall_rows(summary["overall"], summary)


def composition_rows(entry: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[Row]:
    """Rows of one composition; of the summary its head counts."""
    for generator, values in entry["generators"].items():
        for units, part in [("all", values), *values["by_formula_units"].items()]:
            flat = {k: v for k, v in _flat(part).items() if k != "by_formula_units"}
            yield _names(summary, entry["formula"], generator, units) | flat


def overall_rows(overall: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[Row]:
    """The rows over all compositions."""
    for generator, values in overall.items():
        yield _names(summary, "all", generator, "all") | _flat(values)


def _names(summary: Mapping[str, Any], formula: str, generator: str, units: str) -> Row:
    return {"potential": summary["potential"], "formula": formula, "generator": generator, "formula_units": units}


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The report as Markdown tables."""
    return markdown(sections(summary), footnotes(summary))


def markdown(tables: Iterable[Section], notes: str) -> str:
    """Titled tables and notes as Markdown."""
    parts = []
    for title, rows in tables:
        columns = list(rows[0])
        lines = [_pipe(columns), _pipe(["---"] * len(columns)), *(_pipe(row.values()) for row in rows)]
        parts.append(f"### {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join([*parts, notes])


def to_table(summary: Mapping[str, Any], *, ascii_only: bool = False, width: int | None = None) -> str:
    """The report for a terminal.

    Args:
        summary: What `unimat_search.summary.summarise` returns.
        ascii_only: For an output that takes no other characters.
        width: See `plain_text`.
    """
    return plain_text(sections(summary), footnotes(summary), ascii_only=ascii_only, width=width)


def plain_text(tables: Iterable[Section], notes: str, *, ascii_only: bool = False, width: int | None = None) -> str:
    """Titled tables and notes for a terminal.

    Args:
        tables: The tables.
        notes: What stands below.
        ascii_only: For an output that takes no other characters.
        width: Characters of a line, if tables are to fit into it as far as the least needed columns can be left out;
            None: as wide as they are.
    """
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    dropped: dict[str, None] = {}
    for title, rows in tables:
        needed = _fitting(rows, width)
        dropped |= dict.fromkeys(column for column in rows[0] if column not in needed)
        table = Table(title=title, title_justify="left", box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD)
        for column in needed:
            name = column.replace(" ", "\n") if width else column
            if column in LEFT:
                table.add_column(name, min_width=needed[column] - GAP, overflow="fold")
            else:
                table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*(str(row[column]) for column in needed))
        console.width = max(width, 2 + sum(needed.values())) if width else 10_000
        console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    left_out = [f"Left out for want of width: {', '.join(dropped)}; --format csv has all."] if dropped else []
    return "\n".join([*(line.rstrip() for line in text.splitlines()), *left_out, notes])


def _fitting(rows: Sequence[Row], width: int | None) -> dict[str, int]:
    """The columns that fit with the characters that each needs at least, the least needed ones left out."""
    needed = {}
    for column in rows[0]:
        title = max(map(len, column.split(" "))) if width else len(column)
        longest = max(title, *(len(str(row[column])) for row in rows))
        needed[column] = GAP + (min(max(NARROW, title), longest) if column in LEFT else longest)
    for column in LEAST_NEEDED:
        if width is None or 2 + sum(needed.values()) <= width:
            break
        needed.pop(column, None)
    return needed


def sections(summary: Mapping[str, Any]) -> Iterator[Section]:
    """The tables of the report."""
    yield (
        "By composition",
        [
            {"composition": entry["formula"], "generator": generator} | _row(values, summary)
            for entry in summary["compositions"]
            for generator, values in entry["generators"].items()
        ],
    )
    if len(summary["compositions"]) <= MAX_BY_UNITS and "structures" not in summary:
        yield (
            "By formula units in the cell (Z)",
            [
                {"composition": entry["formula"], "Z": units, "generator": generator} | _units_row(values)
                for entry in summary["compositions"]
                for units in next(iter(entry["generators"].values()))["by_formula_units"]
                for generator in entry["generators"]
                for values in [entry["generators"][generator]["by_formula_units"][units]]
            ],
        )
    if summary["n_compositions"] > 1:
        yield (
            "Over all compositions",
            [{"generator": name} | _overall_row(values, summary) for name, values in summary["overall"].items()],
        )
        if summary.get("hull_reference"):
            yield hull_section(summary["overall"])
    for refined in summary.get("refined", ()):
        if refined["structures"]:
            title = f"The {refined['top']} lowest of each generator, relaxed again by {refined['potential']}"
            yield title, [_structure_row(one) for one in refined["structures"]]
        yield from ((f"{name}, by {refined['potential']}", rows) for name, rows in sections(refined))


def footnotes(summary: Mapping[str, Any]) -> str:
    """What the numbers mean: units, intervals, reference, settings."""
    relax = summary["relax"]
    lines = [
        f"Relaxed by {summary['potential']}: fmax {relax['fmax']} eV/angstrom on atoms{_constraints(relax)}, at most "
        f"{relax['max_steps']} steps. Brackets: 95 % intervals, Wilson's; for the structures of five compositions or "
        "more by bootstrap over these, of two to four none.",
        published_error(summary["potential"]),
        *_pressure(relax["pressure"]),
        "valid: physically sane before any relaxation; converged counts what is so after it. Space group: of the "
        f"lowest structure, within {SYMPREC} angstrom.",
        "E_f: formation energy, eV/atom; elements: " + (summary["elemental_references"] or "none") + ".",
        "E_f median, steps: median of what converged; s/gen: seconds a structure, mean; s/relax: of those that were "
        "relaxed. Neither counts training, nor how structures that come from files were made.",
        f"delta E_f: lowest energy against {summary['reference_generator']}'s, eV/atom; "
        "reduced: share of the pairs (compositions where both converged) where it is negative; "
        "tied: within 5 meV/atom.",
    ]
    if summary.get("hull_reference"):
        lines.append(
            f"above hull: e_above_hull of the lowest structure, eV/atom, against {summary['hull_reference']}; counted "
            "are compositions."
        )
    if summary["matcher"]:
        tolerances = ", ".join(f"{name} {value}" for name, value in summary["matcher"].items())
        lines.append(
            f"Found: matches a known structure by pymatgen's StructureMatcher ({tolerances}); of the candidates of a "
            "composition, first: the number of the first one; over all, the share of compositions where one does. "
            "rms_dist: of the best match; over all, the mean of the compositions that have one."
        )
    lines += [
        f"{entry['formula']}: no elemental reference for {', '.join(entry['missing_references'])}, E_f is empty."
        for entry in summary["compositions"]
        if entry["missing_references"]
    ]
    lines += [
        f"{entry['formula']}, {generator}, failed: "
        + "; ".join(_failure(count, kind, values.get("reasons", {})) for kind, count in values["failures"].items())
        for entry in summary["compositions"]
        for generator, values in entry["generators"].items()
        if values["failures"] and len(summary["compositions"]) <= MAX_BY_UNITS
    ]
    lines += _left_out(summary)
    lines += [footnotes(refined) for refined in summary.get("refined", ())]
    return "\n".join(lines)


def _constraints(relax: Mapping[str, Any]) -> str:
    """What moves besides atoms, and what is kept."""
    return (", in fixed cells" if relax["fixed_cell"] else " and cell") + (
        ", space groups kept" if relax["fix_symmetry"] else ""
    )


def _pressure(pressure: float) -> list[str]:
    if not pressure:
        return []
    return [
        f"At {pressure} GPa: the lowest structures and delta E_f go by enthalpy, E + pV; E_f is without pV, and hulls, "
        "which are of no pressure, are left out."
    ]


def _failure(count: int, kind: str, reasons: Mapping[str, str]) -> str:
    """How often something failed, and why the first one did."""
    return f"{count} {kind} ({reasons[kind]})" if kind in reasons else f"{count} {kind}"


def _left_out(summary: Mapping[str, Any]) -> list[str]:
    listed, count = len(summary["compositions"]), summary.get("n_compositions", 0)
    return [f"Listed: the first {listed} of {count} compositions; summary.csv has all."] if count > listed else []


def _row(values: Mapping[str, Any], summary: Mapping[str, Any]) -> Row:
    row = {
        "n": values["n_generated"],
        "valid": values["n_valid"],
        "converged": values["n_converged"],
        "rate": with_interval(values["convergence_rate"], values["convergence_rate_interval"]),
        "E_f lowest": number(values["formation_energy_per_atom"]),
        "E_f median": number(values["median_formation_energy_per_atom"]),
        "delta E_f": number(values["delta_e_f"]),
        **({"above hull": number(values["e_above_hull"])} if summary.get("hull_reference") else {}),
        "space group": values.get("space_group") or "-",
        "steps": number(values["median_n_steps"], 0),
        **_seconds(values),
    }
    if summary["matcher"] and "found" in values:
        row |= {
            "found": f"{values['n_matched']} of {values['n_generated']}",
            "first": values["first_match"] or "-",
            "rms_dist": number(values["rms_dist"]),
        }
    elif summary["matcher"]:
        row |= {"found": "unknown", "first": "-", "rms_dist": "-"}
    return row


def _structure_row(one: Mapping[str, Any]) -> Row:
    """A structure that was relaxed again."""
    cell = one["cell"]
    return {
        "composition": one["formula"],
        "generator": one["generator"],
        "candidate": "/".join(one["key"].rsplit("/", 3)[1:]),
        "space group": one["space_group"] or "-",
        "a b c": " ".join(f"{edge:.3f}" for edge in cell[:3]) if cell else "-",
        "angles": " ".join(f"{angle:.1f}" for angle in cell[3:]) if cell else "-",
        "E_f": number(one["formation_energy_per_atom"]),
        "minutes": number(one["minutes"], 1),
        "outcome": one["detail"] or one["outcome"],
    }


def _units_row(values: Mapping[str, Any]) -> Row:
    return {
        "n": values["n_generated"],
        "converged": values["n_converged"],
        "E_f lowest": number(values["formation_energy_per_atom"]),
        "steps": number(values["median_n_steps"], 0),
    }


def _overall_row(values: Mapping[str, Any], summary: Mapping[str, Any]) -> Row:
    row = {
        "n": values["n_generated"],
        "structures converged": with_interval(values["convergence_rate"], values["convergence_rate_interval"]),
        "compositions converged": with_interval(
            values["composition_convergence_rate"], values["composition_convergence_rate_interval"]
        ),
        "pairs": values["n_pairs"],
        "delta E_f mean": number(values["delta_e_f"]),
        "median": number(values["median_delta_e_f"]),
        "reduced": with_interval(values["reduction_rate"], values["reduction_rate_interval"]),
        "tied": with_interval(values["tie_rate"], None),
        "steps": number(values["median_n_steps"], 0),
        **_seconds(values),
    }
    if summary["matcher"]:
        row |= {
            "found": with_interval(values.get("match_rate"), values.get("match_rate_interval")),
            "rms_dist": number(values.get("rms_dist")),
        }
    return row


def hull_section(generators: Mapping[str, Mapping[str, Any]]) -> Section:
    """Where the lowest structures of generators lie."""
    rows: list[Row] = [{"generator": name} | hull_counts(values) for name, values in generators.items()]
    return "Lowest structures above the hull", rows


def hull_counts(values: Mapping[str, Any]) -> Row:
    """How many structures lie below each bound above the hull, of those that have a distance."""
    return {
        f"above hull < {bound:g}": f"{values[name]} of {values['n_hull_distances']}"
        for name, bound in zip(HULL_COUNTS, BOUNDS, strict=True)
    }


def _seconds(values: Mapping[str, Any]) -> Row:
    return {
        "s/gen": number(values["generate_seconds_per_structure"]),
        "s/relax": number(values["relax_seconds_per_structure"], 2),
    }


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table, or a dash."""
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # no -0.000


def with_interval(value: float | None, interval: Sequence[float] | None, digits: int = 2) -> str:
    """A number and its interval for a table, or a dash."""
    if value is None:
        return "-"
    low_high = f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else ""
    return f"{value:.{digits}f}{low_high}"


def _flat(values: Mapping[str, Any]) -> Row:
    """Intervals as two columns, failures as text."""
    row: Row = {}
    for key, value in values.items():
        if key.endswith("_interval"):
            row[f"{key}_low"], row[f"{key}_high"] = value or (None, None)
        elif key == "failures":
            row[key] = " ".join(f"{reason}:{count}" for reason, count in value.items())
        elif key == "reasons":
            row[key] = "; ".join(f"{kind}: {reason}" for kind, reason in value.items())
        else:
            row[key] = value
    return row


def _csv(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _pipe(cells: Any) -> str:  # noqa: ANN401 - any iterable of anything printable
    return "| " + " | ".join(map(str, cells)) + " |"
