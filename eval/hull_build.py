"""Build a hull: known phases relaxed by a potential, the most stable first."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pymatgen.core import Composition, Element

from unimat_search.disk import whole
from unimat_search.eval.backends import Workers
from unimat_search.eval.parallel import DEFAULT_CHUNK, chunked, load_relaxer, relax_chunks
from unimat_search.formats import structure_from_row
from unimat_search.locks import owned
from unimat_search.records import Outcome, Relaxation, RelaxSettings, first_line
from unimat_search.registry import Spec
from unimat_search.symmetry import SYMPREC, space_group_symbol

PHASES = Path("hull", "mp_phases.parquet")
GEOMETRIES = tuple(
    Path(name).with_suffix(".parquet")
    for name in ("mp_20/train", "mp_20/val", "mp_20/test", "mpts_52/val", "mpts_52/test", "mp_2023/le20")
)
"""Within a data folder: the phases near the Materials Project's hull, and files that may hold their structures."""

MAX_SITES = 20
KEEP_EVERY = 200
"""Relaxations between two times that the file is written."""


@dataclass(frozen=True)
class RelaxedPhase:
    """A row of the file.

    Attributes:
        material_id: Of the Materials Project.
        formula: Reduced.
        num_sites: Atoms in the cell that was relaxed.
        space_group: Of the relaxed structure, at `SYMPREC`; empty if it failed.
        energy_per_atom: eV/atom; empty if it failed.
        outcome: How the relaxation ended.
        potential: What relaxed it.
    """

    material_id: str
    formula: str
    num_sites: int
    space_group: str
    energy_per_atom: str
    outcome: str
    potential: str


COLUMNS = [field.name for field in fields(RelaxedPhase)]


def build_hull(
    data_dir: Path,
    out: Path,
    relaxer: Spec,
    *,
    limit: int | None = None,
    workers: Workers,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[RelaxedPhase]:
    """Relax phases near the Materials Project's hull, or those that the file lacks, and write them as they come.

    The most stable first: a part of it is a hull too.

    Args:
        data_dir: Folder of data sets.
        out: The file (`.csv.gz`).
        relaxer: The potential.
        limit: So many, the most stable; others that the file holds already stay.
        workers: Processes of this machine, or another backend.
        on_progress: Called with (phases in the file, phases in all).

    Raises:
        ValueError: If data are missing, or the file is damaged or of another potential.
    """
    if not out.absolute().parent.is_dir():
        raise ValueError(f"the folder of {out} does not exist; create it first")
    with owned(out.parent, name=out.name):
        rows = _rows(data_dir)
        wanted = list(islice(_by_stability(data_dir, rows), limit))
        potential = load_relaxer(relaxer).name
        done = _done(out, potential)
        missing = [name for name in wanted if name not in done]
        on_progress(len(wanted) - len(missing), len(wanted))
        unwritten = 0
        chunks = (
            (names, [structure_from_row(rows[name]) for name in names]) for names in chunked(missing, DEFAULT_CHUNK)
        )
        try:
            for names, results in relax_chunks(relaxer, chunks, RelaxSettings(), workers=workers):
                for name, result in zip(names, results, strict=True):
                    done[name] = _relaxed(name, rows[name], result, potential)
                unwritten += len(names)
                if unwritten >= KEEP_EVERY:
                    write_relaxed(out, done.values())
                    unwritten = 0
                on_progress(sum(name in done for name in wanted), len(wanted))
        finally:
            write_relaxed(out, done.values())
        return list(done.values())


def _done(out: Path, potential: str) -> dict[str, RelaxedPhase]:
    """What a file holds already; what failed for no fault of its own is left out.

    Raises:
        ValueError: If the file is of another potential.
    """
    phases = read_relaxed(out) if out.is_file() else []
    if others := {phase.potential for phase in phases} - {potential}:
        raise ValueError(f"{out} holds phases relaxed by {min(others)}, not {potential}; give another --out")
    return {phase.material_id: phase for phase in phases if phase.outcome != Outcome.RELAXER_FAILED}


def phases_file(data_dir: Path) -> Path:
    """The Materials Project's phases near its hull.

    Raises:
        ValueError: If the folder has none.
    """
    file = data_dir / PHASES
    if not file.is_file():
        raise ValueError(f"there is no {file}; give the folder of the data sets with --data-dir")
    return file


def _rows(data_dir: Path) -> dict[str, dict[str, Any]]:
    """Rows of the phases' structures by material id."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    names = pq.read_table(phases_file(data_dir), columns=["material_id"])["material_id"]
    rows: dict[str, dict[str, Any]] = {}
    for file in filter(Path.is_file, (data_dir / name for name in reversed(GEOMETRIES))):
        table = pq.read_table(file, columns=["material_id", "numbers", "frac_coords", "cell"])
        small = pc.less_equal(pc.list_value_length(table["numbers"]), MAX_SITES)
        for row in table.filter(pc.and_(small, pc.is_in(table["material_id"], names.combine_chunks()))).to_pylist():
            rows[row["material_id"]] = row
    return rows


def _by_stability(data_dir: Path, rows: Collection[str]) -> list[str]:
    """Material ids of the phases that have a structure, the ones to relax first first."""
    import pyarrow.parquet as pq

    table = pq.read_table(data_dir / PHASES, columns=["material_id", "e_above_hull_calc"]).to_pydict()
    above = {name: value for name, value in zip(*table.values(), strict=True) if name in rows and value is not None}
    return sorted(above, key=lambda name: (round(above[name], 2), name))


def _relaxed(name: str, row: Mapping[str, Any], result: Relaxation, potential: str) -> RelaxedPhase:
    composition = Composition(dict(Counter(Element.from_Z(z).symbol for z in row["numbers"])))
    phase = RelaxedPhase(name, composition.reduced_formula, len(row["numbers"]), "", "", str(result.outcome), potential)
    if result.outcome is not Outcome.CONVERGED or result.energy is None or result.structure is None:
        return phase
    energy = result.energy / composition.num_atoms
    return replace(phase, space_group=space_group_symbol(result.structure, SYMPREC), energy_per_atom=f"{energy:.6f}")


def read_relaxed(file: Path) -> list[RelaxedPhase]:
    """Read what `write_relaxed` wrote.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        rows = csv.DictReader(io.StringIO(gzip.decompress(file.read_bytes()).decode("utf-8")))
        if rows.fieldnames != COLUMNS:
            raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
        return [_phase(row) for row in rows]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is no file of relaxed phases ({first_line(error)}); delete it, or give another"
        ) from error


def _phase(row: Mapping[str, Any]) -> RelaxedPhase:
    return RelaxedPhase(**{**row, "num_sites": int(row["num_sites"])})


def write_relaxed(file: Path, phases: Iterable[RelaxedPhase]) -> None:
    """Write a file of phases, by material id, whole or not at all; equal phases make equal files."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(phase) for phase in sorted(phases, key=lambda phase: phase.material_id))
    with whole(file) as partial:
        partial.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
