"""The compositions of the zero-shot experiment: those that a data folder lists, or as many drawn by the same rule.

The rule: compositions of MP-20's test split that its training and validation splits have not, whose lowest entry
there is on the hull (so that the known structure is the ground state), of 3 to 20 sites and 2 to 5 elements, without
noble gases and what DFT data sets lack. The paper (arXiv:2311.09235) tried 466.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Composition

from unimat_search.formula import parse_formula
from unimat_search.run_folder import RunError
from unimat_search.unimat.elements import SYMBOLS
from unimat_search.unimat.sources import find_data

LISTED, LEVELS = Path("zero_shot", "rq3.csv"), Path("zero_shot", "formulas.csv")
"""Within a data folder: the compositions, and what is new about every composition of the test split."""

COLUMNS = ("material_id", "numbers", "cif", "e_above_hull")

TEST = "mp_20/test"
SEEN = ("mp_20/train", "mp_20/val")

COUNT = 466
LEFT_OUT = frozenset(["He", "Ne", "Ar", "Kr", "Xe", "Rn", "Tc", "Pm", "Po", "At", "Ac", "Pa", "Np", "Pu", "Am", "Cm"])
ON_HULL = 1e-6
"""eV/atom."""


@dataclass(frozen=True)
class Target:
    """A composition to search.

    Attributes:
        reduced_formula: As the list writes it.
        material_id: Of its known ground state.
        num_sites: In the primitive cell of that.
        num_elements: Different ones.
        level: "new_formula" or "new_chemical_system": what training saw nothing of.
        new_prototype: Whether training saw no compound of the same anonymous formula.
    """

    reduced_formula: str
    material_id: str
    num_sites: int
    num_elements: int
    level: str
    new_prototype: bool

    @property
    def formula(self) -> str:
        """The cell that is searched: that of the known structure."""
        unit = parse_formula(self.reduced_formula)
        symbols = "".join(f"{symbol}{n}" for symbol, n in unit.amounts.items())
        return f"{symbols}:{self.num_sites // unit.atoms_per_unit}"

    @property
    def groups(self) -> dict[str, str]:
        """What the tables are split by."""
        sizes = ("3-5", "6-10", "11-20")
        return {
            "elements": str(self.num_elements) if self.num_elements < 4 else "4 or more",
            "atoms": sizes[int(self.num_sites > 5) + int(self.num_sites > 10)],
            "level": self.level.replace("_", " "),
            "prototype": "new anonymous formula" if self.new_prototype else "known anonymous formula",
        }


def read_targets(data_dir: Path | None, count: int | None = None) -> list[Target]:
    """The compositions in an order drawn with a fixed seed, or the first `count` of them.

    So what is finished of a run is a random sample of it.

    Args:
        data_dir: Folder of data sets; what it lacks is downloaded.
        count: How many.

    Raises:
        RunError: If there are fewer.
        ValueError: If the data can't be had.
    """
    if data_dir is not None and (data_dir / LISTED).is_file():
        targets = _listed(data_dir)
    else:
        targets = sorted(_drawn(candidates(data_dir), COUNT), key=lambda target: target.reduced_formula)
    if count is not None and count > len(targets):
        raise RunError(f"there are {len(targets)} compositions, not {count}")
    return _drawn(targets, count)


def _drawn(targets: Sequence[Target], count: int | None) -> list[Target]:
    order = np.random.default_rng(0).permutation(len(targets))
    return [targets[index] for index in order[:count]]


def _listed(data_dir: Path) -> list[Target]:
    with (data_dir / LISTED).open(encoding="utf-8") as lines:
        chosen = {row["reduced_formula"]: row for row in csv.DictReader(lines)}
    with (data_dir / LEVELS).open(encoding="utf-8") as lines:
        new = {row["reduced_formula"]: row["new_anonymous_formula"] == "True" for row in csv.DictReader(lines)}
    return [
        Target(name, row["material_id"], int(row["num_sites"]), int(row["nelements"]), row["level"], new[name])
        for name, row in sorted(chosen.items())
    ]


@dataclass(frozen=True)
class _Entry:
    """A crystal of a data set, without its geometry."""

    material_id: str
    composition: Composition
    e_above_hull: float

    @property
    def formula(self) -> str:
        return str(self.composition.reduced_formula)


def candidates(data_dir: Path | None) -> list[Target]:
    """All compositions that the rule lets through.

    Raises:
        ValueError: If the data can't be had, or there is none.
    """
    seen = [entry.composition for split in SEEN for entry in _entries(find_data(split, data_dir))]
    formulas = {composition.reduced_formula for composition in seen}
    systems = {composition.chemical_system for composition in seen}
    prototypes = {composition.anonymized_formula for composition in seen}
    targets = []
    for formula, entry in _lowest(_entries(find_data(TEST, data_dir))).items():
        composition = entry.composition
        if formula in formulas or not _is_asked(entry):
            continue
        level = "new_formula" if composition.chemical_system in systems else "new_chemical_system"
        new = composition.anonymized_formula not in prototypes
        sites = round(composition.num_atoms)
        targets.append(Target(formula, entry.material_id, sites, len(composition), level, new))
    if not targets:
        raise ValueError(f"{TEST} has no new composition on the hull; its column e_above_hull says which are")
    return targets


def _is_asked(entry: _Entry) -> bool:
    sites, symbols = entry.composition.num_atoms, {element.symbol for element in entry.composition}
    return 3 <= sites <= 20 and 2 <= len(symbols) <= 5 and not symbols & LEFT_OUT and abs(entry.e_above_hull) <= ON_HULL


def _lowest(entries: Iterator[_Entry]) -> Mapping[str, _Entry]:
    """The entry nearest to the hull of each reduced formula, by formula, of those whose distance is known."""
    lowest: dict[str, _Entry] = {}
    for entry in entries:
        if math.isnan(entry.e_above_hull):
            continue
        if entry.formula not in lowest or entry.e_above_hull < lowest[entry.formula].e_above_hull:
            lowest[entry.formula] = entry
    return dict(sorted(lowest.items()))


def _entries(file: Path) -> Iterator[_Entry]:
    """Those of a parquet file, or of one of the benchmarks' CSV files.

    Raises:
        ValueError: If material ids or structures are missing.
    """
    try:
        for row in _rows(file):
            above = row.get("e_above_hull")
            yield _Entry(row["material_id"], _composition(row), math.nan if above is None else float(above))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is no split of MP-20: {error}") from error


def _rows(file: Path) -> list[dict[str, Any]]:
    """What is asked of a file's rows, as far as it has it."""
    import pyarrow.parquet as pq
    from pyarrow import csv as arrow_csv

    if file.suffix == ".parquet":
        table = pq.read_table(file, columns=[name for name in COLUMNS if name in pq.read_schema(file).names])
    else:
        table = arrow_csv.read_csv(file, parse_options=arrow_csv.ParseOptions(newlines_in_values=True))
        table = table.select([name for name in COLUMNS if name in table.column_names])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _composition(row: Mapping[str, Any]) -> Composition:
    """Of the cell: by its atomic numbers, or as its CIF says."""
    if "numbers" in row:
        return Composition(Counter(SYMBOLS[number] for number in row["numbers"]))
    found = re.search(r"_chemical_formula_sum\s+'?([^'\n]+)", row["cif"])
    if found is None:
        raise KeyError("_chemical_formula_sum")
    return Composition(found[1])
