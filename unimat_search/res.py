"""Structures in AIRSS's `.res` format: SHELX with a TITL line of AIRSS's own, one structure after the other.

TITL holds name, pressure (GPa), volume (cubic angstrom), enthalpy (eV), spin, absolute spin, number of atoms, space
group in brackets and `n - copies`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from math import gcd, isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition, Element, Lattice, Structure

from unimat_search.records import EV_PER_CUBIC_ANGSTROM

WAVELENGTH = 1.54180
"""Of copper's K-alpha line, angstrom: SHELX's CELL line begins with it, whatever the structure."""


LONGEST_EDGE, FLATTEST = 1000.0, 0.01
"""Angstrom: of what is read as a cell."""


@dataclass(frozen=True)
class ResEntry:
    """A structure with what a TITL line says of it.

    Attributes:
        name: Without blanks.
        structure: The crystal; a site property `magmom` is each atom's spin.
        pressure: GPa.
        enthalpy: Of the cell, eV; NaN if nothing is known.
        spin: Of the cell.
        absolute_spin: Likewise, without signs.
        space_group: International short symbol.
        copies: How often it was found.
        remarks: Texts of the REM lines.
    """

    name: str
    structure: Structure
    pressure: float = 0.0
    enthalpy: float = float("nan")
    spin: float = 0.0
    absolute_spin: float = 0.0
    space_group: str = "n/a"
    copies: int = 1
    remarks: tuple[str, ...] = field(default=())

    @property
    def formula(self) -> str:
        """Reduced, carbon and hydrogen first, oxygen last, as AIRSS writes it."""
        amounts, _ = _reduced(self.structure.composition)
        return "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in amounts)

    @property
    def formula_units(self) -> int:
        """How many of them the cell holds."""
        return _reduced(self.structure.composition)[1]

    @property
    def enthalpy_per_unit(self) -> float:
        """EV per formula unit."""
        return self.enthalpy / self.formula_units


def under_pressure(entry: ResEntry, pressure: float) -> ResEntry:
    """An entry under so much more pressure (GPa), its structure as it is."""
    enthalpy = entry.enthalpy + pressure * entry.structure.volume / EV_PER_CUBIC_ANGSTROM
    return replace(entry, pressure=entry.pressure + pressure, enthalpy=enthalpy)


def to_res(entry: ResEntry) -> str:
    """An entry as text, as AIRSS's `cryan`, ASE and pymatgen read it.

    Raises:
        ValueError: If the name holds blanks, a site is disordered, or the enthalpy is not known.
    """
    structure, lattice = entry.structure, entry.structure.lattice
    if not entry.name or re.search(r"\s", entry.name):
        raise ValueError(f"the name {entry.name!r} must be a word without blanks")
    if not isfinite(entry.enthalpy):
        raise ValueError(f"{entry.name} has no enthalpy")
    symbols = sorted({site.specie.symbol for site in structure})
    spins = structure.site_properties.get("magmom")
    lines = [
        f"TITL {entry.name} {entry.pressure:.4f} {lattice.volume:.8f} {entry.enthalpy:.8f} {entry.spin:.2f} "
        f"{entry.absolute_spin:.2f} {len(structure)} ({entry.space_group}) n - {entry.copies}",
        *(f"REM {remark}".rstrip() for remark in entry.remarks),
        f"CELL {WAVELENGTH:.5f} " + " ".join(f"{value:.10f}" for value in (*lattice.abc, *lattice.angles)),
        "LATT -1",
        "SFAC " + " ".join(symbols),
    ]
    for index, symbol in enumerate(symbols, start=1):
        for row, site in enumerate(structure):
            if site.specie.symbol == symbol:
                x, y, z = site.frac_coords
                spin = f" {float(spins[row]):.2f}" if spins is not None and spins[row] is not None else ""
                lines.append(f"{symbol:<4}{index:3d} {x:.13f} {y:.13f} {z:.13f} 1.0{spin}")
    return "\n".join([*lines, "END", ""])


def read_res(path: Path) -> Iterator[ResEntry]:
    """The structures of a file, packed ones too.

    Raises:
        ValueError: If an entry is damaged; it names the entry.
    """
    with path.open(encoding="utf-8") as file:
        yield from read_res_lines(file, path.stem)


def read_res_lines(lines: Iterable[str], stem: str) -> Iterator[ResEntry]:
    """The structures of a file's lines; see `read_res`."""
    entry: list[str] = []
    count = 0
    for line in lines:
        entry.append(line.strip())
        if line.strip().upper() == "END":
            count += 1
            yield parse_res(entry, stem if count == 1 else f"{stem}-{count}")
            entry = []
    if any(entry):
        yield parse_res(entry, stem)


def parse_res(lines: Sequence[str], name: str) -> ResEntry:
    """One entry from its lines, AIRSS's TITL line or any other.

    Raises:
        ValueError: If the cell, the elements or an atom can't be read.
    """
    keyed: dict[str, list[str]] = {}
    atoms: list[list[str]] = []
    for line in filter(None, lines):
        key, *words = line.split()
        if key.upper() in ("TITL", "REM", "CELL", "SFAC"):
            keyed.setdefault(key.upper(), []).append(line[len(key) :].strip())
        elif key.upper() == "SYMM" or (key.upper() == "LATT" and words != ["-1"]):
            raise ValueError(f"the .res entry {name} has symmetry ({line.strip()}); expand it to P1 (LATT -1) first")
        elif key.upper() not in ("LATT", "ZERR", "UNIT", "SYMM", "END") and len(words) >= 4:
            atoms.append([key, *words])
    title = _title((keyed.get("TITL") or [""])[0], name)
    try:
        cell = [float(word) for word in keyed["CELL"][0].split()[1:7]]
        symbols = [symbol.capitalize() for symbol in keyed["SFAC"][0].split()]
        species = [dict(enumerate(symbols, start=1))[int(atom[1])] for atom in atoms]
        coords = np.array([[float(word) for word in atom[2:5]] for atom in atoms]).reshape(-1, 3)
        lattice = Lattice.from_parameters(*cell)
        _check_numbers(lattice, coords)
        if unknown := [symbol for symbol in symbols if not Element.is_valid_symbol(symbol)]:
            raise ValueError(f"{unknown[0]} is no element")
        structure = Structure(lattice, species, coords, to_unit_cell=True)
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"the .res entry {title.name} is damaged: {type(error).__name__} {error}") from error
    if not len(structure):
        raise ValueError(f"the .res entry {title.name} holds no atom")
    if all(len(atom) > 6 for atom in atoms):
        structure.add_site_property("magmom", [float(atom[6]) for atom in atoms])
    return ResEntry(
        name=title.name,
        structure=structure,
        pressure=title.numbers.get("pressure", 0.0),
        enthalpy=title.numbers.get("enthalpy", float("nan")),
        spin=title.numbers.get("spin", 0.0),
        absolute_spin=title.numbers.get("absolute_spin", 0.0),
        space_group=title.space_group,
        copies=title.copies,
        remarks=tuple(keyed.get("REM", ())),
    )


def _check_numbers(lattice: Lattice, coords: NDArray[np.float64]) -> None:
    """See that a cell is one: neighbours in a flat one would be looked for without an end."""
    matrix = lattice.matrix
    if not (np.isfinite(matrix).all() and np.isfinite(coords).all()):
        raise ValueError("a number that is not finite")
    volume = abs(np.linalg.det(matrix))
    longest = float(np.linalg.norm(matrix, axis=1).max())
    if not (longest < LONGEST_EDGE and volume / longest**2 > FLATTEST):
        raise ValueError(f"the cell {[round(x, 6) for x in lattice.parameters]} is flat, or beyond all measure")


@dataclass(frozen=True)
class _Title:
    name: str
    numbers: dict[str, float]
    space_group: str
    copies: int


_COLUMNS = ("pressure", "volume", "enthalpy", "spin", "absolute_spin")


def _title(text: str, name: str) -> _Title:
    """AIRSS's TITL line, or ASE's `name key=value ...`; of any other text the first word is the name."""
    words = text.split()
    group = re.search(r"\(([^()]*)\)\s*n\s*-\s*(\d+)\s*$", text)
    symbol, copies = (group[1].strip(), int(group[2][:12])) if group else ("n/a", 1)
    if len(words) >= 4 and all(_is_number(word) for word in words[1:4]):
        numbers = {key: float(word) for key, word in zip(_COLUMNS, words[1:6], strict=False) if _is_number(word)}
        return _Title(words[0], numbers, symbol, copies)
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    names = {"pressure": "pressure", "energy": "enthalpy"}
    numbers = {names[key]: float(value) for key, value in pairs.items() if key in names and _is_number(value)}
    own = pairs.get("name") or (words[0] if words and "=" not in words[0] else name)
    return _Title(own, numbers, pairs.get("spacegroup", symbol), copies)


def _is_number(word: str) -> bool:
    try:
        return isfinite(float(word))
    except ValueError:
        return False


def ranking(entries: Sequence[ResEntry], *, top: int | None = None, long_names: bool = False) -> list[str]:
    """Lines as AIRSS's `cryan -r` prints them, by enthalpy per formula unit.

    Name, pressure (GPa), volume and enthalpy per formula unit (cubic angstrom, eV; the first of each composition as it
    is, the others relative to it), formula units, formula, space group, copies.
    """
    lines: list[str] = []
    lowest: dict[str, float] = {}
    for entry in sorted(entries, key=lambda entry: entry.enthalpy_per_unit)[:top]:
        best = lowest.get(entry.formula)
        shown = entry.enthalpy_per_unit - (best or 0.0)
        lowest.setdefault(entry.formula, entry.enthalpy_per_unit)
        name = f"{entry.name:<40}" if long_names else f"{_short(entry.name):<20}"
        volume = entry.structure.volume / entry.formula_units
        lines.append(
            f"{name}{entry.pressure:9.2f}{volume:10.3f}{shown:12.3f}{entry.formula_units:4d} "
            f"{entry.formula:<12} {entry.space_group:<7}{entry.copies:5d}"
        )
    return lines


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:8]}*{name[-9:]}"


def _reduced(composition: Composition) -> tuple[list[tuple[str, int]], int]:
    """Amounts of the reduced formula in AIRSS's order, and the number of units."""
    counts = {element.symbol: round(n) for element, n in composition.items()}
    units = reduce(gcd, counts.values())
    first = ["C", "H"] if "C" in counts else []
    order = [symbol for symbol in first if symbol in counts]
    order += sorted(symbol for symbol in counts if symbol not in (*order, "O"))
    order += [symbol for symbol in ("O",) if symbol in counts]
    return [(symbol, counts[symbol] // units) for symbol in order], units
