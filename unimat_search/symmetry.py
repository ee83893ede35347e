"""Space groups of structures, and the cells that show them."""

from __future__ import annotations

import warnings

from pymatgen.core import Lattice, Structure

Setting = tuple[Structure, str]
"""A structure in its conventional cell, and its space group's symbol."""

SYMPREC = 0.1
"""angstrom; relaxed structures are symmetric up to what forces below fmax leave."""


def space_group_symbol(structure: Structure, symprec: float = 0.01) -> str:
    """International short symbol; "P1" if none can be found. `symprec` in angstrom."""
    import spglib

    numbers = [site.specie.Z for site in structure]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = spglib.get_symmetry_dataset(
            (structure.lattice.matrix, structure.frac_coords, numbers), symprec=symprec
        )
    return str(dataset.international) if dataset else "P1"


def conventional(structure: Structure) -> Setting:
    """The conventional cell of the space group at `SYMPREC`, so that equal crystals look alike."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            symmetry = SpacegroupAnalyzer(structure, symprec=SYMPREC)
            return upright(symmetry.get_conventional_standard_structure()), symmetry.get_space_group_symbol()
        except (ValueError, TypeError, SymmetryUndeterminedError):
            return upright(structure), "P1"


def upright(structure: Structure) -> Structure:
    """Equal cells, equal axes: the third one along z."""
    return Structure(Lattice.from_parameters(*structure.lattice.parameters), structure.species, structure.frac_coords)
