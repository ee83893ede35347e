"""What a run trains on and what it is validated on, from the names in its settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unimat_search.unimat.elements import CompositionKey
from unimat_search.unimat.public import PUBLIC
from unimat_search.unimat.sources import MAX_SITES, find_data, read_formulas, read_source
from unimat_search.unimat.structures import StructureSet, concatenate, split_by_composition
from unimat_search.unimat.volume_model import fit_log_volumes, usual_log_volumes


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
