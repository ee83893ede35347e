"""Where hulls come from: the one that ships, files, the Materials Project."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyarrow import ArrowException
from pymatgen.core import Composition

from unimat_search.disk import cache_folder, write_whole
from unimat_search.eval.hull import Hull, HullError, Phase, elements_of
from unimat_search.eval.references import References, file_stem
from unimat_search.records import first_line

Row = Mapping[str, Any]

NO_HULL, MATERIALS_PROJECT = "none", "mp"
"""Names that are no files."""

KEYS = ("MP_API_KEY", "PMG_MAPI_KEY")
"""Environment variables that may hold the user's key."""

HULLS = resources.files(__package__) / "hulls"
"""What ships: phases relaxed by a potential, and how their hull agrees with the Materials Project's."""

MAX_ASKED = 8
"""Elements of a chemical system: its address names every system within it."""

UNREADABLE = (
    OSError,
    EOFError,
    zlib.error,
    csv.Error,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    LookupError,
    RecursionError,
    SyntaxError,  # pymatgen's, of what stands behind a species
)

FORMATS = "CSV or parquet with the columns formula and formation_energy_per_atom (or energy_per_atom), or JSON entries"


def load_hull(source: str, systems: Collection[frozenset[str]], references: References) -> Hull | None:
    """The hull that candidates are held against.

    Args:
        source: Path of a file; "mp" for the Materials Project; "none"; empty for the one that ships for the potential
            of the references, if one does.
        systems: Sets of elements that are needed.
        references: Of the potential: formation energies of phases that are given by their energy count from them.

    Raises:
        HullError: If the file can't be read, or the Materials Project not be asked.
    """
    if source == NO_HULL:
        return None
    if source == MATERIALS_PROJECT:
        return materials_project(systems)
    file = hull_file(source, references.potential)
    if not source and not file.is_file():
        return None
    try:
        rows = _usable(_read(file), references.potential)
        found = {elements_of(row["formula"]) for row in rows}
        wanted = {own for own in found if any(own <= system for system in systems)}
        phases = [phase for row in rows if elements_of(row["formula"]) in wanted and (phase := _phase(row, references))]
    except KeyError as error:
        raise HullError(f"the hull {file} has no column {error.args[0]}; accepted: {FORMATS}") from error
    except (*UNREADABLE, ArrowException) as error:
        raise HullError(f"the hull {file} can't be used: {first_line(error)}; accepted: {FORMATS}") from error
    if source:
        return Hull(f"{file.name}, {len(rows)} phases", phases)
    return Hull(f"{references.potential}, {len(rows)} phases{_error(references.potential)}", phases)


def hull_file(source: str, potential: str) -> Traversable:
    """The file of a source; of an empty one what ships for the potential, which may not exist."""
    return Path(source) if source else HULLS / f"{file_stem(potential)}.csv.gz"


def hull_digest(source: str, potential: str) -> str:
    """Eight digits that change with the phases of a hull; empty where they are not in a file, or in none yet."""
    file = hull_file(source, potential)
    if source in (NO_HULL, MATERIALS_PROJECT) or not file.is_file():
        return ""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8]


def _error(potential: str) -> str:
    """How far the potential's hull is from the Materials Project's, in words."""
    file = HULLS / f"{file_stem(potential)}.json"
    if not file.is_file():
        return ""
    checked = json.loads(file.read_text(encoding="utf-8"))
    whole, own = checked["relaxed"], checked["potential"]
    return (
        f" (of {whole['n']} of them, against the Materials Project's hull: e_above_hull is off by "
        f"{whole['above_hull']:.3f} eV/atom on average, decomposition_energy, which counts where a composition has no "
        f"phase yet, by {whole['decomposition']:.3f}; which are on the hull, both agree for "
        f"{100 * whole['stable_agree']:.0f} %; the potential's own error, with the same phases in both hulls: "
        f"{own['above_hull']:.3f} and {own['decomposition']:.3f})"
    )


def _read(file: Traversable) -> Sequence[Row]:
    name, data = file.name.lower(), file.read_bytes()
    if name.endswith(".parquet"):
        rows: list[Row] = pq.read_table(io.BytesIO(data)).to_pylist()
        return rows
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode("utf-8")
    if name.endswith((".csv", ".csv.gz")):
        return list(csv.DictReader(io.StringIO(text)))
    if name.endswith((".json", ".json.gz")):
        return list(_entries(json.loads(text)))
    raise ValueError("its format is unknown")


def _usable(rows: Sequence[Row], potential: str) -> list[Row]:
    """The rows with an energy.

    Raises:
        ValueError: If there are none, or energies are another potential's.
    """
    usable = [row for row in rows if _has_energy(row)]
    if not usable:
        raise ValueError("it holds no phase with an energy")
    named = {row.get("potential") for row in usable if _column(row) == "energy_per_atom"}
    if others := named - {None, "", potential}:
        raise ValueError(f"its energies are of {others.pop()}, not of {potential}")
    return usable


def _column(row: Row) -> str:
    return "formation_energy_per_atom" if "formation_energy_per_atom" in row else "energy_per_atom"


def _has_energy(row: Row) -> bool:
    return row[_column(row)] not in (None, "")


def _phase(row: Row, references: References) -> Phase | None:
    """The phase of a row; None if the row has no energy (its relaxation failed), or an element no reference."""
    composition = Composition(row["formula"])
    if not _has_energy(row):
        return None
    column = _column(row)
    energy = float(row[column])
    if not math.isfinite(energy):
        raise ValueError(f"{row['formula']} has the energy {energy}")
    if column == "formation_energy_per_atom":
        return Phase(composition.reduced_formula, energy)
    formation_energy = references.formation_energy_per_atom(composition, energy * composition.num_atoms)
    return None if formation_energy is None else Phase(composition.reduced_formula, formation_energy)


def _entries(data: Any) -> Iterator[Row]:  # noqa: ANN401
    """Entries as pymatgen writes them: composition, energy and correction, nothing else of them is looked at.

    Elements among them are what formation energies count from.
    """
    listed = data["entries"] if isinstance(data, dict) else data
    entries = [
        (Composition(one["composition"]), float(one["energy"]) + float(one.get("correction") or 0)) for one in listed
    ]
    elements: dict[str, float] = {}
    for composition, energy in entries:
        if composition.is_element:
            symbol, per_atom = composition.elements[0].symbol, energy / composition.num_atoms
            elements[symbol] = min(per_atom, elements.get(symbol, per_atom))
    for composition, energy in entries:
        missing = sorted({el.symbol for el in composition.elements} - set(elements))
        if missing:
            raise ValueError(f"it has no entry of the element {missing[0]}")
        elemental = sum(amount * elements[el.symbol] for el, amount in composition.items())
        formation = (energy - elemental) / composition.num_atoms
        yield {"formula": composition.reduced_formula, "formation_energy_per_atom": float(formation)}


def materials_project(systems: Collection[frozenset[str]], *, key: str | None = None) -> Hull:
    """Phases of the Materials Project (its mixed GGA and GGA+U), asked for by chemical system and kept.

    Args:
        systems: Sets of elements.
        key: The user's; by default from one of the environment variables `KEYS`. Not needed for what is kept.

    Raises:
        HullError: If there is no key, or no answer.
    """
    phases: dict[str, Phase] = {}
    for system in sorted(systems, key=sorted):
        file = cache_folder() / "materials_project" / f"{'-'.join(sorted(system))}.csv"
        if not file.is_file():
            _ask(system, key or next((os.environ[name] for name in KEYS if os.environ.get(name)), ""), file)
        for row in _read(file):
            if phase := _phase(row, References("")):
                phases[row["material_id"]] = phase
    return Hull(f"Materials Project, {len(phases)} phases", list(phases.values()))


def _ask(system: frozenset[str], key: str, file: Path) -> None:
    """Write a file of all phases of a chemical system."""
    from pymatgen.ext.matproj import MPRester, MPRestError

    if not key:
        raise HullError(f"the Materials Project needs a key; set {KEYS[0]} (https://materialsproject.org/api)")
    if len(system) > MAX_ASKED:
        raise HullError(
            f"{'-'.join(sorted(system))} has too many elements to ask the Materials Project; give --hull a file"
        )
    subsets = (subset for size in range(len(system)) for subset in combinations(sorted(system), size + 1))
    chemsys = ",".join(map("-".join, subsets))
    fields = "material_id,formula_pretty,formation_energy_per_atom"
    try:
        with MPRester(key) as client:
            found = client.request(
                f"materials/thermo/?_fields={fields}&thermo_types=GGA_GGA%2BU&chemsys={chemsys}", mp_decode=False
            )
        rows = [(row["material_id"], row["formula_pretty"], row["formation_energy_per_atom"]) for row in found]
    except (MPRestError, OSError, ValueError, KeyError, TypeError) as error:
        raise HullError(f"the Materials Project gave no phases of {chemsys}: {first_line(error)}") from error
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("material_id", "formula", "formation_energy_per_atom"), *sorted(rows)])
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text.getvalue(), alone=False)
