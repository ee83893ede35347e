"""The smallest cell of a crystal, symmetric to the last digit, and the way back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import spglib
from ase.data import chemical_symbols
from numpy.typing import NDArray
from pymatgen.core import Structure

from unimat_search.eval.dft.point import FIXED_CELL


@dataclass(frozen=True)
class Primitive:
    """A primitive cell and how the whole crystal's cell is made of it.

    Attributes:
        structure: The primitive cell, idealised.
        supercell: The whole cell's vectors in those of the primitive one, integers, rows, shape (3, 3).
    """

    structure: Structure
    supercell: NDArray[np.int_]

    @property
    def copies(self) -> int:
        """Primitive cells in the whole one."""
        return round(abs(float(np.linalg.det(self.supercell))))

    @classmethod
    def of(cls, structure: Structure, symprec: float) -> Primitive:
        """Find it with spglib; a crystal whose symmetry is not found, or a molecule in a box, stays as it is.

        Args:
            structure: The whole cell. One with moments on its sites stays as it is too.
            symprec: angstrom; 0 leaves the crystal as it is.
        """
        whole = cls(structure, np.eye(3, dtype=np.int_))
        if not symprec or structure.properties.get(FIXED_CELL, False) or "magmom" in structure.site_properties:
            return whole
        cell = (structure.lattice.matrix, structure.frac_coords, [site.specie.Z for site in structure])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = spglib.get_symmetry_dataset(cell, symprec=symprec)
            found = spglib.standardize_cell(cell, to_primitive=True, symprec=symprec)
        if dataset is None or found is None:
            return whole
        lattice, coords, numbers = found
        centring = lattice @ np.linalg.inv(dataset.std_lattice)
        exact = dataset.transformation_matrix.T @ np.linalg.inv(centring)
        supercell = np.round(exact).astype(np.int_)
        primitive = cls(Structure(lattice, [chemical_symbols[z] for z in numbers], coords), supercell)
        sound = np.abs(exact - supercell).max() < 1e-3 and primitive.copies * len(numbers) == len(structure)
        return primitive if sound else whole

    def whole(self, primitive: Structure) -> Structure:
        """The whole cell, of another geometry of the primitive one."""
        return primitive.make_supercell(self.supercell, in_place=False)
