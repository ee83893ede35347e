"""One self-contained HTML file of a run: tables, figures and structures, readable offline."""

from __future__ import annotations

import html
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimat_search.disk import write_whole
from unimat_search.eval import report
from unimat_search.eval.intervals import curve
from unimat_search.eval.trials import Trials, collect_all
from unimat_search.formula import parse_formula
from unimat_search.plan import SETTINGS, CompareSettings
from unimat_search.records import Record
from unimat_search.run_folder import RESULTS, RunError, read_settings
from unimat_search.scenes import known_structures, structure_panels
from unimat_search.store import Store
from unimat_search.stored import read_tables

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
"""Told apart with every kind of colour vision (Okabe and Ito, Color Universal Design, 2008), then two more."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

Figure = dict[str, Any]


def write_report(folder: Path, out: Path) -> None:
    """Write the report of a comparison, or of an experiment that `reproduce` made.

    Raises:
        RunError: If the folder holds neither, or plotly is missing.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise RunError('the report needs plotly; install it with pip install "unimat-search[report]"') from error
    stored = read_tables(folder)
    settings = read_settings(stored.run)
    with Store(stored.run / RESULTS, read_only=True) as store:
        records = list(store.records())
        known = known_structures(settings)
        panels = structure_panels(records, settings, known, store)
    title = f"Comparison: {', '.join(settings.formulas[:4])}{' ...' if len(settings.formulas) > 4 else ''}"
    if stored.compositions is not None:
        title = f"Zero-shot search on {stored.compositions} compositions"
    drawn = figures(records, settings, {formula for formula, own in known.items() if own})
    text = page(
        title=title,
        tables=stored.tables,
        notes=stored.notes,
        drawn=drawn,
        panels=panels,
        run_file=(stored.run / SETTINGS).read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )
    write_whole(out, text)


def page(
    *,
    title: str,
    tables: Sequence[report.Section],
    notes: str,
    drawn: Sequence[Figure],
    panels: Sequence[Mapping[str, Any]],
    run_file: str,
    plotly: str,
) -> str:
    """The whole file."""
    source = files("unimat_search").joinpath("page")
    blocks = {
        "Tables": "".join(_table(name, rows) for name, rows in tables) + _paragraphs(notes.splitlines()),
        "Figures": f'<div class="figures">{"".join(map(_figure, drawn))}</div>',
        "Structures": _structures(panels),
        "Settings": f'<pre tabindex="0">{html.escape(run_file)}</pre>',
    }
    body = "".join(f'<section id="{name.lower()}"><h2>{name}</h2>{text}</section>' for name, text in blocks.items())
    data = json.dumps({"figures": drawn, "structures": panels}, allow_nan=False).replace("<", "\\u003c")
    return Template(source.joinpath("report.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        css=source.joinpath("report.css").read_text(encoding="utf-8"),
        contents="".join(f'<li><a href="#{name.lower()}">{name}</a></li>' for name in blocks),
        body=body,
        data=data,
        plotly=plotly,
        script=source.joinpath("report.js").read_text(encoding="utf-8"),
    )


def _table(title: str, rows: Sequence[report.Row]) -> str:
    columns = [[str(column), *(str(row[column]) for row in rows)] for column in rows[0]]
    sides = [" class=words" if any(value[:1].isalpha() for value in column[1:]) else "" for column in columns]
    head, *lines = (list(zip(sides, map(html.escape, line), strict=True)) for line in zip(*columns, strict=True))
    name = html.escape(title)
    heads = "".join(f'<th scope="col"{side}>{value}</th>' for side, value in head)
    return (
        f'<h3>{name}</h3><div class="scroll{" tall" if len(rows) > 20 else ""}" tabindex="0" role="region" '
        f'aria-label="{name}"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(map(_line, lines))}</tbody></table>'
        "</div>"
    )


def _line(cells: Sequence[tuple[str, str]]) -> str:
    (_, first), *others = cells
    rest = "".join(f"<td{side}>{value}</td>" for side, value in others)
    return f'<tr><th scope="row">{first}</th>{rest}</tr>'


def _paragraphs(lines: Iterable[str]) -> str:
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _figure(figure: Figure) -> str:
    caption = html.escape(figure["caption"])
    return (
        f'<figure class="{"wide" if figure.get("wide") else ""}"><h3>{html.escape(figure["title"])}</h3>'
        f'<div class="plot" id="{figure["id"]}" role="img" aria-label="{caption}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _structures(panels: Sequence[Mapping[str, Any]]) -> str:
    options = "".join(f'<option value="{i}">{html.escape(panel["formula"])}</option>' for i, panel in enumerate(panels))
    return (
        "<p>The lowest structure of each generator beside the known one, in conventional cells (space groups at 0.1 "
        "angstrom), and in the known one's setting where it is the same. Drag to turn, or use the arrow keys on one; "
        "all turn together.</p>"
        f'<p><label>Composition <select id="composition">{options}</select></label></p>'
        '<div class="structures" id="scenes"></div>'
    )


def figures(records: Sequence[Record], settings: CompareSettings, known: Collection[str]) -> list[Figure]:
    """Curves after k tries, distributions of energies and steps, convergence by composition.

    Args:
        records: Without structures.
        settings: The run's.
        known: Reduced formulas of the known structures.
    """
    formulas = [parse_formula(text).reduced_formula for text in settings.formulas]
    trials = collect_all(records, settings.labels, formulas, settings.n)
    floor = np.min([one.lowest for one in trials.values()], axis=0)
    drawn = [
        _curves(
            "converged",
            "Compositions with a converged structure",
            "Share of compositions where at least one of the first k candidates converged, with 95 % bands.",
            {name: curve(np.logical_or.accumulate(one.converged, axis=-1)) for name, one in trials.items()},
            "share of compositions",
        ),
        _curves(
            "best",
            "Best of k",
            "Median over compositions of the lowest energy after k candidates, above the lowest of all generators.",
            {name: curve(_above(one.best_after(), floor), np.median) for name, one in trials.items()},
            "eV/atom above the lowest",
        ),
        _distribution(
            "energies",
            "Energies of the candidates",
            "Share of all candidates that relaxed to within an energy of the lowest of their composition.",
            {name: _finite(_above(one.energies, floor)) for name, one in trials.items()},
            {name: one.energies.size for name, one in trials.items()},
            {"title": {"text": "eV/atom above the lowest"}, "range": [0, 0.6]},
        ),
        _distribution(
            "steps",
            "Steps",
            "Share of the converged candidates that needed at most so many optimizer steps.",
            {name: one.n_steps[one.converged] for name, one in trials.items()},
            {name: int(one.converged.sum()) for name, one in trials.items()},
            {"title": {"text": "optimizer steps"}},
        ),
        _heatmap(trials, formulas),
    ]
    rows = np.array([row for row, formula in enumerate(formulas) if formula in known], dtype=np.int64)
    if len(rows):
        found = _curves(
            "found",
            "Known structure found",
            f"Share of the {len(rows)} compositions with a known structure where it is among the first k relaxed "
            "candidates, with 95 % bands.",
            {name: curve(one.take(rows).found_after()) for name, one in trials.items()},
            "share of compositions",
        )
        drawn.insert(2, found)
    return drawn


def _above(energies: NDArray[np.float64], floor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Energies above the floor of their composition; infinite where nothing converged. (c, n), (c,)."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(energies - floor[:, None], nan=np.inf, posinf=np.inf)


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values[np.isfinite(values)])


def _style(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "dash": DASHES[index % len(DASHES)], "width": 2}


def _curves(name: str, title: str, caption: str, lines: Mapping[str, Mapping[str, Any]], label: str) -> Figure:
    data: list[Figure] = []
    for index, (generator, line) in enumerate(lines.items()):
        tries = list(range(1, len(line["middle"]) + 1))
        style = _style(index)
        band = {"x": tries, "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "mode": "lines"}
        data += [
            band | {"y": line["low"]},
            band | {"y": line["high"], "fill": "tonexty", "fillcolor": _translucent(style["color"])},
            {"x": tries, "y": line["middle"], "mode": "lines", "name": generator, "line": style},
        ]
    yaxis = {"title": {"text": label}} | (
        {"range": [0, 1.03]} if label.startswith("share") else {"rangemode": "tozero"}
    )
    return _framed(name, title, caption, data, {"title": {"text": "candidates k"}}, yaxis)


def _distribution(
    name: str,
    title: str,
    caption: str,
    values: Mapping[str, NDArray[np.float64]],
    totals: Mapping[str, int],
    axis: Mapping[str, Any],
) -> Figure:
    """Cumulative shares, at 201 points at most."""
    data: list[Figure] = []
    for index, (generator, own) in enumerate(values.items()):
        ordered = np.sort(own)
        ranks = np.unique(np.linspace(0, len(ordered) - 1, 201).astype(int)) if len(ordered) else np.zeros(0, dtype=int)
        data.append(
            {
                "x": ordered[ranks].round(5).tolist(),
                "y": ((ranks + 1) / max(1, totals[generator])).round(5).tolist(),
                "mode": "lines",
                "name": generator,
                "line": _style(index) | {"shape": "hv"},
            }
        )
    return _framed(name, title, caption, data, dict(axis), {"title": {"text": "share"}, "range": [0, 1.03]})


def _heatmap(trials: Mapping[str, Trials], formulas: Sequence[str]) -> Figure:
    data = {
        "type": "heatmap",
        "z": [one.converged.mean(-1).round(4).tolist() for one in trials.values()],
        "x": list(formulas),
        "y": list(trials),
        "zmin": 0,
        "zmax": 1,
        "colorscale": "Viridis",
        "hovertemplate": "%{x}, %{y}: %{z:.2f}<extra></extra>",
    }
    caption = "Share of each composition's candidates that converged."
    axis = {"tickangle": -60, "type": "category"}
    return _framed("compositions", "Convergence by composition", caption, [data], axis, {"autorange": "reversed"}) | {
        "wide": True
    }


def _framed(name: str, title: str, caption: str, data: Sequence[Figure], xaxis: Figure, yaxis: Figure) -> Figure:
    layout = {
        "xaxis": xaxis,
        "yaxis": yaxis,
        "margin": {"l": 60, "r": 10, "t": 10, "b": 50},
        "legend": {"orientation": "h", "y": -0.25, "traceorder": "normal"},
    }
    return {"id": name, "title": title, "caption": caption, "data": list(data), "layout": layout}


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"
