"""From the text after `--formula` to compositions of whole cells.

A formula without a common divisor (`TiO2`) is asked for at every number of formula units that fits; any
other (`Ti4O8`) means that very cell, and so does one with a number of formula units (`TiO2:4`).
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymatgen.core import Composition

ACCEPTED = "write element symbols with whole counts, as in TiO2, Ti4O8, TiO2:4 or Ca(OH)2"

_TOKEN = re.compile(r"[A-Z][a-z]?|\d+|[()]")


class FormulaError(ValueError):
    """A formula that can't be used; the message is one line that says what is accepted."""


@dataclass(frozen=True)
class Formula:
    """A composition to search.

    Attributes:
        text: As the user wrote it.
        amounts: Atoms of each element symbol in one reduced formula unit, e.g. {"Ti": 1, "O": 2}.
        fixed_units: Formula units of the cell that the text fixes; None if it leaves them open.
    """

    text: str
    amounts: dict[str, int]
    fixed_units: int | None

    @cached_property
    def reduced_formula(self) -> str:
        """The reduced formula in the field's usual order, e.g. "TiO2"; elements are "O", not "O2"."""
        if len(self.amounts) == 1:
            return next(iter(self.amounts))
        return self.cell(1).reduced_formula

    @property
    def atoms_per_unit(self) -> int:
        """Atoms in one reduced formula unit."""
        return sum(self.amounts.values())

    def cell(self, formula_units: int) -> Composition:
        """The composition of a cell of so many formula units."""
        from pymatgen.core import Composition

        return Composition({symbol: n * formula_units for symbol, n in self.amounts.items()})

    def formula_units(self, wanted: Sequence[int] | None, max_atoms: int) -> list[int]:
        """The numbers of formula units to search.

        Args:
            wanted: What the user asks for; None for all that fit.
            max_atoms: Atoms in a cell at most.

        Raises:
            FormulaError: If the cells asked for hold more atoms, or contradict a fixed cell.
        """
        if self.fixed_units and wanted and list(wanted) != [self.fixed_units]:
            raise FormulaError(
                f"{self.text!r} fixes the cell at {self.fixed_units} formula units of {self.reduced_formula}; "
                f"drop --formula-units, or write {self.reduced_formula}"
            )
        fitting = max_atoms // self.atoms_per_unit
        units = [self.fixed_units] if self.fixed_units else list(wanted or range(1, max(1, fitting) + 1))
        if max(units) > fitting:
            raise FormulaError(
                f"{self.text!r} with {max(units)} formula units has {max(units) * self.atoms_per_unit} atoms, "
                f"more than the {max_atoms} allowed; raise --max-atoms or ask for a smaller cell"
            )
        return units


def parse_formula(text: str) -> Formula:
    """Read a formula.

    Raises:
        FormulaError: For anything but known elements in positive whole amounts.
    """
    stripped = text.strip()
    symbols, colon, units = (part.strip() for part in stripped.partition(":"))
    if not symbols:
        raise FormulaError(f"the formula is empty; {ACCEPTED}")
    if colon and not re.fullmatch(r"[1-9]\d*", units):
        raise FormulaError(f"{text!r} has no whole number of formula units after the colon; {ACCEPTED}")
    _refuse_lookalikes(symbols)
    amounts = _amounts(symbols)
    divisor = math.gcd(*amounts.values())
    if colon and divisor > 1:
        raise FormulaError(f"{text!r} fixes the cell twice; write the reduced formula before the colon")
    fixed = int(units) if colon else divisor if divisor > 1 else None
    return Formula(stripped, {el: n // divisor for el, n in amounts.items()}, fixed)


def read_formulas(path: Path) -> list[str]:
    """Formulas of a file: one a line (`#` starts a comment), or a CSV with a column `formula`.

    Raises:
        FormulaError: If the file can't be read, lacks the column, or holds no formula.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormulaError(f"{path} can't be read as text: {error}") from error
    if path.suffix.lower() == ".csv":
        formulas = _read_csv(path, lines)
    else:
        formulas = [line.partition("#")[0].strip() for line in lines]
        formulas = [formula for formula in formulas if formula]
    if not formulas:
        raise FormulaError(f"{path} holds no formula; {ACCEPTED}")
    return formulas


def _read_csv(path: Path, lines: Sequence[str]) -> list[str]:
    try:
        header, *rows = list(csv.reader(lines)) or [[]]
    except csv.Error as error:
        raise FormulaError(f"{path} can't be read as CSV: {error}") from error
    columns = [name.strip() for name in header]
    if "formula" not in columns:
        raise FormulaError(f"{path} has no column 'formula'; its columns are {columns}")
    column = columns.index("formula")
    formulas = []
    for number, row in enumerate(rows, start=2):
        if row and (len(row) <= column or not row[column].strip()):
            raise FormulaError(f"{path}, line {number}: the formula is empty; {ACCEPTED}")
        formulas += [row[column].strip()] if row else []
    return formulas


def parse_units(text: str) -> list[int]:
    """Read `--formula-units`: "2", "1-4" or "1,2,4".

    Raises:
        FormulaError: For anything else.
    """
    units: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high <= 1000:
            raise FormulaError(f"{text!r} is no number of formula units; write 2, 1-4 or 1,2,4")
        units.update(range(low, high + 1))
    return sorted(units)


def share_out(n: int, formula_units: Sequence[int]) -> list[tuple[int, int]]:
    """Share `n` candidates evenly over the numbers of formula units; small cells get the rest.

    Returns:
        (formula units, candidates) where there is at least one candidate.
    """
    each, rest = divmod(n, len(formula_units))
    shares = [(units, each + (i < rest)) for i, units in enumerate(sorted(formula_units))]
    return [(units, share) for units, share in shares if share]


def _refuse_lookalikes(text: str) -> None:
    """Name the common mistakes, each in its own words."""
    if re.search(r"\d*\.\d", text):
        raise FormulaError(f"{text!r} has a fractional amount; {ACCEPTED}")
    if re.search(r"-\s*\d", text):
        raise FormulaError(f"{text!r} has a negative amount; {ACCEPTED}")
    if re.search(r"(?<!\d)0", text):
        raise FormulaError(f"{text!r} has a zero amount; {ACCEPTED}")
    if re.search(r"(?<![A-Z])[DT](?![a-z])", text):
        raise FormulaError(f"{text!r} names an isotope; write H for deuterium and tritium")
    if re.search(r"X(?!e)", text):
        raise FormulaError(f"{text!r} names a dummy species; {ACCEPTED}")


def _amounts(text: str) -> dict[str, int]:
    """Atoms of each element, parentheses multiplied out."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        raise FormulaError(f"{text!r} is no formula; {ACCEPTED}")
    stack: list[dict[str, int]] = [{}]
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if token == "(":
            stack.append({})
            continue
        if token.isdigit() or (token == ")" and (len(stack) == 1 or not stack[-1])):
            raise FormulaError(f"{text!r} is no formula; {ACCEPTED}")
        group = stack.pop() if token == ")" else {_element(token, text): 1}
        count = 1
        if position < len(tokens) and tokens[position].isdigit():
            count = int(tokens[position])
            position += 1
        for symbol, n in group.items():
            stack[-1][symbol] = stack[-1].get(symbol, 0) + n * count
    if len(stack) > 1:
        raise FormulaError(f"{text!r} has an unclosed parenthesis; {ACCEPTED}")
    return stack[0]


def _element(symbol: str, text: str) -> str:
    from ase.data import atomic_numbers

    if symbol not in atomic_numbers or symbol == "X":
        raise FormulaError(f"{text!r} names {symbol!r}, which is no element; {ACCEPTED}")
    return symbol
