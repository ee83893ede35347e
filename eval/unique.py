"""Which structures are the same crystal: a fast fingerprint first, pymatgen's StructureMatcher on what is left."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
from pymatgen.core import Structure

from unimat_search.eval.match import structure_matcher
from unimat_search.fingerprint import FloatArray, difference, fingerprint
from unimat_search.records import MatchSettings

CLOSE = 0.35
"""Fingerprints of equal crystals differ by less, relative to their length; 0.05 angstrom of noise makes about 0.15."""

SAME = MatchSettings()
"""Tolerances of pymatgen's own default."""


def unite(
    structures: Sequence[Structure],
    energies: Sequence[float],
    *,
    window: float = 0.01,
) -> list[list[int]]:
    """Sort structures into families of equal crystals.

    Args:
        structures: Of any compositions.
        energies: EV per atom (or enthalpies).
        window: Structures whose energies differ by more are different, eV/atom.

    Returns:
        Families, the one with the lowest energy first: positions in the input, the lowest energy first.
    """
    fit = structure_matcher(SAME)
    formulas = [structure.composition.reduced_formula for structure in structures]
    families: list[list[int]] = []
    prints: list[FloatArray] = []
    for index in np.argsort(energies, kind="stable").tolist():
        own = fingerprint(structures[index])

        def is_near(family: list[int], energy: float = energies[index]) -> bool:
            return energy - energies[family[0]] <= window

        near = list(takewhile(is_near, reversed(families)))  # families are in the order of their energies
        alike = (
            family
            for family, other in zip(near, reversed(prints), strict=False)
            if formulas[family[0]] == formulas[index]
            and difference(own, other) <= CLOSE
            and fit.fit(structures[family[0]], structures[index])
        )
        home = next(alike, None)
        if home is None:
            families.append([index])
            prints.append(own)
        else:
            home.append(index)
    return families
