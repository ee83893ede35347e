"""Structures ready to draw: each generator's lowest one beside the known one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from unimat_search.eval.match import Known, read_known
from unimat_search.eval.metrics import by_column, lowest
from unimat_search.formula import parse_formula
from unimat_search.plan import CompareSettings
from unimat_search.records import MatchSettings, Record
from unimat_search.store import Store
from unimat_search.symmetry import Setting, conventional, upright


def structure_panels(
    records: Sequence[Record],
    settings: CompareSettings,
    known: Mapping[str, Sequence[tuple[str, Structure]]],
    store: Store,
) -> list[dict[str, Any]]:
    """For each composition, the known structure and each generator's lowest one, ready to draw."""
    columns = by_column(records)
    panels = []
    for text in settings.formulas:
        formula = parse_formula(text).reduced_formula
        best = {name: lowest(columns.get((formula, name), [])) for name in settings.labels}
        matched = {one.match for one in best.values() if one and one.match}
        own = known[formula]
        asked = [one for one in own if one[0] in matched] or own[:1]
        models = {name: conventional(structure) for name, structure in asked}
        shown: list[dict[str, Any]] = [
            {"title": "known", "caption": f"{name}, {symbol}", "scene": scene(one)}
            for name, (one, symbol) in models.items()
        ]
        shown += [_panel(generator, one, models, settings.matcher, store) for generator, one in best.items()]
        panels.append({"formula": text, "panels": shown})
    return panels


def known_structures(settings: CompareSettings) -> dict[str, list[tuple[str, Structure]]]:
    """Named known structures of each reduced formula; none if their file is gone."""
    formulas = [parse_formula(text) for text in settings.formulas]
    found: Known = {}
    if settings.reference and Path(settings.reference).exists():
        found = read_known(Path(settings.reference), {frozenset(formula.amounts) for formula in formulas})
    return {one.reduced_formula: list(found.get(one.cell(1).reduced_formula, ())) for one in formulas}


def _panel(
    generator: str, best: Record | None, models: Mapping[str, Setting], matcher: MatchSettings, store: Store
) -> dict[str, Any]:
    structure = store.record(best.key).final_structure if best else None
    if best is None or structure is None:
        return {"title": generator, "caption": "nothing converged", "scene": None}
    drawn, symbol = conventional(structure)
    energy = best.formation_energy_per_atom
    words = [
        f"E_f {energy:.3f} eV/atom" if energy is not None else f"{best.energy_per_atom:.3f} eV/atom",
        symbol,
        f"matches {best.match}" if best.match else "",
        best.origin,
    ]
    model, same = models.get(best.match, (drawn, ""))
    if symbol == same:  # a mirror image has the other one's handed group
        drawn = alike(drawn, model, matcher)
    return {"title": generator, "caption": ", ".join(word for word in words if word), "scene": scene(drawn)}


def alike(structure: Structure, model: Structure, matcher: MatchSettings) -> Structure:
    """A structure in the setting of another one that it matches, if both cells hold as many atoms; else as it is."""
    if len(structure) != len(model):
        return structure
    fit = StructureMatcher(matcher.ltol, matcher.stol, matcher.angle_tol, primitive_cell=False)
    found: Structure | None = fit.get_s2_like_s1(model, structure)  # type: ignore[no-untyped-call]
    if found is None:
        return structure
    return upright(found)


def scene(structure: Structure) -> dict[str, Any]:
    """A structure's cell, with the images of atoms on its faces, as lines and markers."""
    from ase.data import atomic_numbers, covalent_radii
    from ase.data.colors import jmol_colors

    matrix = structure.lattice.matrix
    places, symbols = _with_images(structure)
    coords = places @ matrix
    radii = np.array([covalent_radii[atomic_numbers[symbol]] for symbol in symbols])
    atoms = []
    for symbol in dict.fromkeys(symbols):
        mine = np.array([other == symbol for other in symbols])
        red, green, blue = (int(255 * part) for part in jmol_colors[atomic_numbers[symbol]])
        x, y, z = coords[mine].T.round(3).tolist()
        size = round(9 * covalent_radii[atomic_numbers[symbol]] ** 0.5 + 4, 1)
        atoms.append({"symbol": symbol, "color": f"rgb({red},{green},{blue})", "size": size, "x": x, "y": y, "z": z})
    return {"atoms": atoms, "cell": _cell_edges(matrix), "bonds": _bonds(coords, radii)}


def _with_images(structure: Structure) -> tuple[NDArray[np.float64], list[str]]:
    """Fractional coordinates of all atoms in the closed cell, and their symbols."""
    places: list[NDArray[np.float64]] = []
    symbols: list[str] = []
    for site in structure:
        own = site.frac_coords % 1.0
        own[own > 1 - 1e-3] -= 1.0
        for shift in product(*((0.0, 1.0) if abs(x) < 1e-3 else (0.0,) for x in own)):
            places.append(own + shift)
            symbols.append(site.specie.symbol)
    return np.array(places), symbols


def _cell_edges(matrix: NDArray[np.float64]) -> list[list[float | None]]:
    corners = np.array(list(product((0, 1), repeat=3)))
    pairs = [(i, j) for i in range(8) for j in range(i) if np.abs(corners[i] - corners[j]).sum() == 1]
    return _segments(corners @ matrix, pairs)


def _bonds(coords: NDArray[np.float64], radii: NDArray[np.float64]) -> list[list[float | None]]:
    """Between atoms nearer than 1.15 times the sum of their covalent radii."""
    distances = np.linalg.norm(coords[:, None] - coords, axis=-1)
    near = distances < 1.15 * (radii[:, None] + radii)
    return _segments(coords, [(int(i), int(j)) for i, j in zip(*np.nonzero(np.tril(near, -1)), strict=True)])


def _segments(points: NDArray[np.float64], pairs: Sequence[tuple[int, int]]) -> list[list[float | None]]:
    """x, y and z of lines with gaps between them."""
    lines: list[list[float | None]] = [[], [], []]
    for i, j in pairs:
        for axis in range(3):
            lines[axis] += [round(float(points[i, axis]), 3), round(float(points[j, axis]), 3), None]
    return lines
