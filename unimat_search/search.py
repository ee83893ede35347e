"""Random search around a generator: relax, shake and relax again, keep what is new, rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pymatgen.core import Structure

from unimat_search.eval.parallel import DEFAULT_CHUNK, chunked, relax_chunks
from unimat_search.eval.unique import unite
from unimat_search.records import Outcome, Relaxation, RelaxSettings
from unimat_search.registry import Spec
from unimat_search.res import ResEntry, under_pressure
from unimat_search.shaking import Shaking, shaken
from unimat_search.symmetry import space_group_symbol

STILL = Shaking()
"""None."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        entries: Relaxed structures with their enthalpies, in the order of the candidates.
        failures: Reasons of the others, by name.
        interrupted: Whether ctrl-C ended it early.
    """

    entries: tuple[ResEntry, ...]
    failures: dict[str, str]
    interrupted: bool = False


def search(
    candidates: Iterable[tuple[str, Structure]],
    relaxer: Spec,
    settings: RelaxSettings,
    *,
    shaking: Shaking = STILL,
    seed: int = 0,
    workers: int = 1,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Found:
    """Relax candidates, and shake each several times.

    Args:
        candidates: Names and structures.
        relaxer: The potential.
        settings: When a relaxation ends; its pressure enters the enthalpies.
        shaking: How often and how strongly.
        seed: Of the shakes.
        workers: Processes.
        on_progress: Told the number of relaxations that are done.
    """
    every = list(candidates)
    best: dict[str, ResEntry] = {}
    failures: dict[str, str] = {}
    interrupted = False
    try:
        for done, (name, result) in enumerate(_relaxations(every, best, relaxer, settings, shaking, seed, workers), 1):
            entry = _entry(name, result, settings.pressure)
            if entry is None:
                failures.setdefault(name, result.detail or str(result.outcome))
            elif name not in best or entry.enthalpy < best[name].enthalpy:
                best[name] = entry
            on_progress(done)
    except KeyboardInterrupt:
        interrupted = True
    entries = tuple(best[name] for name, _ in every if name in best)
    return Found(entries, {name: text for name, text in failures.items() if name not in best}, interrupted)


def _relaxations(
    candidates: Sequence[tuple[str, Structure]],
    best: Mapping[str, ResEntry],
    relaxer: Spec,
    settings: RelaxSettings,
    shaking: Shaking,
    seed: int,
    workers: int,
) -> Iterator[tuple[str, Relaxation]]:
    """Candidates relaxed, then the best so far of each shaken and relaxed, again and again."""
    waiting = list(candidates)
    for turn in range(shaking.times + 1):
        chunks = ((part, [structure for _, structure in part]) for part in chunked(waiting, DEFAULT_CHUNK))
        for part, results in relax_chunks(relaxer, chunks, settings, workers=workers):
            yield from zip((name for name, _ in part), results, strict=True)
        waiting = [
            (name, shaken(best[name].structure, np.random.default_rng([seed, turn, row]), shaking))
            for row, name in enumerate(name for name, _ in waiting if name in best)
        ]


def _entry(name: str, result: Relaxation, pressure: float) -> ResEntry | None:
    """A relaxed structure with its enthalpy; None if it did not converge."""
    if result.outcome is not Outcome.CONVERGED or result.structure is None or result.energy is None:
        return None
    entry = ResEntry(name, result.structure, enthalpy=result.energy, space_group=space_group_symbol(result.structure))
    return under_pressure(entry, pressure)


def united(entries: Sequence[ResEntry], *, window: float = 0.01) -> list[ResEntry]:
    """One entry for each crystal, the lowest, with the copies of all; the lowest first.

    Args:
        entries: Relaxed structures.
        window: Enthalpies that differ by more are of different crystals, eV/atom.
    """
    per_atom = [entry.enthalpy / len(entry.structure) for entry in entries]
    families = unite([entry.structure for entry in entries], per_atom, window=window)
    return [replace(entries[family[0]], copies=sum(entries[i].copies for i in family)) for family in families]
