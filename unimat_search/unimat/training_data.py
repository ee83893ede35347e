"""What a run trains on and what it is validated on, from the names in its settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from unimat_search.disk import cache_folder, whole
from unimat_search.unimat.elements import CompositionKey
from unimat_search.unimat.orbits import SYMPREC, Symmetry, find_operations, find_orbits, metric_projector
from unimat_search.unimat.public import PUBLIC
from unimat_search.unimat.sources import MAX_SITES, find_data, read_formulas, read_source
from unimat_search.unimat.structures import StructureSet, concatenate, split_by_composition
from unimat_search.unimat.volume_model import fit_log_volumes, usual_log_volumes

if TYPE_CHECKING:
    from unimat_search.unimat.placements import Placement


@dataclass(frozen=True)
class DataConfig:
    """What is trained on.

    Attributes:
        train: Names of public sets, files or folders; of structures with one id the first counts.
        hold_out: CSV file whose reduced formulas (column reduced_formula) must not be trained on, or name of a public
            set ("mp_20/test") whose compositions must not; "" for none.
        hold_out_sets: Sets whose structures must not be trained on, by id.
        validation: About so many structures, a fifth of all at most, are set aside for the validation loss;
            compositions stay together.
        max_sites: Larger cells are left out.
        share: Of the compositions that are left, drawn at random, so much is trained on.
        largest_volume: Structures of more than this many times the volume that their composition usually has are left
            out (molecules and atoms in empty cells).
    """

    train: tuple[str, ...] = ()
    hold_out: str = ""
    hold_out_sets: tuple[str, ...] = ()
    validation: int = 1000
    max_sites: int = MAX_SITES
    share: float = 1.0
    largest_volume: float = math.inf

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"data.share must be above 0 and at most 1, got {self.share}")
        if not self.largest_volume > 0:
            raise ValueError(f"data.largest_volume must be positive, got {self.largest_volume}")


def training_sets(config: DataConfig, data_dir: Path | None, *, seed: int) -> tuple[StructureSet, StructureSet]:
    """Structures to train on and to validate on; no reduced composition is in both, none that is held out in either.

    Raises:
        ValueError: If a set can't be read, or nothing is left.
    """
    if not config.train:
        raise ValueError("data.train names no set; give at least one")
    readings = [read_source(source, data_dir) for source in config.hold_out_sets]
    held_ids = {name for reading in readings for name in reading.structures.ids}
    held_ids |= {row.name for reading in readings for row in reading.bad}
    held: frozenset[CompositionKey] = frozenset()
    if config.hold_out:
        held = _formulas(config.hold_out, data_dir)
    sources = [read_source(source, data_dir, max_sites=config.max_sites) for source in config.train]
    structures = concatenate([source.structures for source in sources])
    structures = structures.take([row for row, name in enumerate(structures.ids) if name not in held_ids])
    structures = compact(structures.where(lambda key: key not in held), config.largest_volume)
    aside = min(config.validation, len(structures) // 5)
    train, validation = split_by_composition(structures, aside, seed=seed)
    if config.share < 1:
        train, _ = split_by_composition(train, round((1 - config.share) * len(train)), seed=seed + 1)
    if not len(train):
        raise ValueError(
            f"no structure is left to train on: {len(structures)} are not held out, and data.validation = "
            f"{config.validation} sets {len(validation)} aside; whole compositions are, so give a smaller number, or 0"
        )
    return train, validation


T = TypeVar("T")

SYMMETRY_FORMAT = 1
"""Of what the cache keeps: another number makes it look for space groups again."""

PART = 1000
"""Structures that a process looks at together."""


def with_symmetry(structures: StructureSet, *, say: Callable[[str], None] = print) -> StructureSet:
    """The structures with their space groups, looked for once on a machine: the user's cache keeps what was found."""
    if structures.symmetry or not len(structures):
        return structures
    path = cache_folder() / "symmetry" / f"{structures.sha256[:32]}-{SYMPREC}-{SYMMETRY_FORMAT}.npz"
    with suppress(OSError, ValueError, KeyError, TypeError, BadZipFile), np.load(path) as arrays:
        return replace(structures, symmetry=Symmetry(**arrays))
    if missing := lacking_packages():
        say(f"space groups are left out: {missing} is not installed")
        return structures
    say(f"looking for the space groups of {len(structures)} structures")
    found = find_symmetry(structures)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path, alone=False) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **vars(found))
    return replace(structures, symmetry=found)


def lacking_packages() -> str:
    """Names of the packages that space groups need and that are not installed: a machine to train on may lack them."""
    return ", ".join(name for name in ("spglib", "pymatgen", "numba") if find_spec(name) is None)


def find_symmetry(structures: StructureSet) -> Symmetry:
    """The space group of each structure, and what it leaves free (spglib, `orbits.SYMPREC`)."""
    found = _by_parts(_find_symmetry, structures)
    return Symmetry(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def _by_parts(function: Callable[[StructureSet], T], structures: StructureSet) -> list[T]:
    """Results for parts of many structures, on all cores; of few, in this process."""
    from joblib import cpu_count
    from joblib.externals.loky import ProcessPoolExecutor

    parts = np.array_split(np.arange(len(structures)), max(1, len(structures) // PART))
    if len(parts) == 1:
        return [function(structures)]
    with ProcessPoolExecutor(cpu_count()) as processes:
        return list(processes.map(function, (structures.take(part) for part in parts)))


def _find_symmetry(structures: StructureSet) -> tuple[NDArray[Any], ...]:
    """The arrays of `Symmetry`."""
    groups = np.zeros(len(structures), dtype=np.uint8)
    metrics = np.tile(np.eye(6, dtype=np.float32), (len(structures), 1, 1))
    owner = np.zeros(len(structures.numbers), dtype=np.int32)
    moves = np.tile(np.eye(3, dtype=np.int8), (len(structures.numbers), 1, 1))
    for row in range(len(structures)):
        mine = slice(structures.offsets[row], structures.offsets[row + 1])
        owner[mine] = np.arange(mine.stop - mine.start)
        operations = find_operations(
            structures.cells[row].astype(float), structures.frac_coords[mine].astype(float), structures.numbers[mine]
        )
        if operations is not None:
            groups[row] = operations.number
            metrics[row] = metric_projector(operations.rotations)
            owner[mine], moves[mine] = find_orbits(operations)
    return groups, metrics, owner, moves


MOST_PLACED = 40
"""Atoms of a cell up to which its placement is learnt."""


def find_placements(structures: StructureSet) -> list[Placement]:
    """The placement of each structure that has one, in settings that stand for all equal ones."""
    from unimat_search.unimat.placements import Settings

    found = _by_parts(_find_placements, structures.take(np.flatnonzero(structures.num_sites <= MOST_PLACED)))
    settings = Settings()
    return [settings.standard(one) for part in found for one in part]


def _find_placements(structures: StructureSet) -> list[Placement]:
    from unimat_search.unimat.placements import find_placement

    found = []
    for row in range(len(structures)):
        mine = slice(structures.offsets[row], structures.offsets[row + 1])
        found.append(
            find_placement(
                structures.cells[row].astype(float),
                structures.frac_coords[mine].astype(float),
                structures.numbers[mine],
            )
        )
    return [one for one in found if one is not None]


def _formulas(source: str, data_dir: Path | None) -> frozenset[CompositionKey]:
    """Reduced compositions of a file of formulas, or of a set."""
    if source not in PUBLIC:
        return read_formulas(find_data(source, data_dir))
    reading = read_source(source, data_dir)
    if reading.bad:
        raise ValueError(f"{source} holds what can't be read, {reading.bad[0].name}: its composition can't be held out")
    return frozenset(reading.structures.keys)


def compact(structures: StructureSet, largest: float) -> StructureSet:
    """The structures of at most `largest` times the volume that their composition usually has."""
    if not len(structures) or math.isinf(largest):
        return structures
    usual = usual_log_volumes(structures, fit_log_volumes(structures))
    return structures.take(np.flatnonzero(np.log(structures.volumes_per_atom) - usual < math.log(largest)))
