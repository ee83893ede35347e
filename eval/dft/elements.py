"""Where the elemental references of DFT start: the crystal that an element has, not all that it might have."""

from __future__ import annotations

from pymatgen.core import Lattice, Structure

from unimat_search.eval.dft.point import FIXED_CELL
from unimat_search.eval.references import MOLECULES, PROTOTYPES, prototype_structures

ORIGIN = "crystals of the elements at ambient conditions (ASE's table; Donohue), and diatomic molecules in boxes"

KNOWN: dict[str, tuple[str, str, tuple[float, ...], tuple[tuple[float, float, float], ...]]] = {
    "B": (
        "alpha-B12",
        "R-3m",
        (4.908, 4.908, 12.567, 90, 90, 120),
        ((0.1190, -0.1190, 0.8913), (0.1966, -0.1966, 0.0243)),
    ),
    "C": ("graphite", "P6_3/mmc", (2.461, 2.461, 6.709, 90, 90, 120), ((0, 0, 0.25), (1 / 3, 2 / 3, 0.25))),
    "P": ("black", "Cmce", (3.314, 10.478, 4.376, 90, 90, 90), ((0, 0.1017, 0.0806),)),
    "S": ("rhombohedral S6", "R-3", (10.818, 10.818, 4.280, 90, 90, 120), ((0.1454, 0.1882, 0.1055),)),
    "Ga": ("alpha", "Cmce", (4.520, 7.663, 4.526, 90, 90, 90), ((0, 0.1539, 0.0810),)),
    "Se": ("trigonal", "P3_121", (4.366, 4.366, 4.954, 90, 90, 120), ((0.2254, 0, 1 / 3),)),
    "Te": ("trigonal", "P3_121", (4.457, 4.457, 5.929, 90, 90, 120), ((0.2633, 0, 1 / 3),)),
}
"""Name, space group, cell (angstrom, degrees) and sites of crystals that ASE's table leaves out or has not in
their stable form (C): Donohue, The Structures of the Elements (1974); sulphur's own cell has 128 atoms: S6 here."""

TRIPLET = {"O": 1.0}
"""Moments of the atoms of molecules that have any, Bohr magnetons."""

BOX, MARGIN = 6.0, 5.5
"""Width of a molecule's box, and what its length adds to the bond, angstrom."""


def reference_structures(symbol: str) -> tuple[list[tuple[str, Structure]], str]:
    """Named structures to find an element's energy with, and where they come from.

    Its molecule if it is diatomic; else its crystal at ambient conditions where that is at hand; else simple crystals,
    of which the lowest counts.
    """
    if symbol in MOLECULES:
        return [("molecule", _molecule(symbol))], ORIGIN
    crystal = _known(symbol) if symbol in KNOWN else _tabled(symbol)
    if crystal is not None:
        return [crystal], ORIGIN
    return prototype_structures(symbol), PROTOTYPES


def _molecule(symbol: str) -> Structure:
    bond = MOLECULES[symbol]
    box = Lattice.orthorhombic(BOX, BOX, bond + MARGIN)
    molecule = Structure(box, [symbol] * 2, [[0.0, 0.0, 0.0], [0.0, 0.0, bond]], coords_are_cartesian=True)
    molecule.properties[FIXED_CELL] = True
    if symbol in TRIPLET:
        molecule.add_site_property("magmom", [TRIPLET[symbol]] * 2)
    return molecule


def _known(symbol: str) -> tuple[str, Structure]:
    name, group, (a, b, c, alpha, beta, gamma), sites = KNOWN[symbol]
    lattice = Lattice.from_parameters(a, b, c, alpha, beta, gamma)
    crystal = Structure.from_spacegroup(group, lattice, [symbol] * len(sites), [list(site) for site in sites])
    return name, crystal.get_primitive_structure()


def _tabled(symbol: str) -> tuple[str, Structure] | None:
    """ASE's crystal; its table has no atoms' places for the orthorhombic ones."""
    from ase.build import bulk
    from ase.data import atomic_numbers, reference_states

    state = reference_states[atomic_numbers[symbol]]
    if state is None or state["symmetry"] == "orthorhombic":
        return None
    try:
        atoms = bulk(symbol)
    except (ValueError, RuntimeError, KeyError, TypeError, NotImplementedError):
        return None
    return state["symmetry"], Structure(atoms.cell.array, [symbol] * len(atoms), atoms.get_scaled_positions())
