"""What a DFT calculation is asked for, by stated rules; the same for every code."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

STATIC = (64 / 100) ** (1 / 3)
"""Spacing of the final static run's k-points by the relaxation's: densities as in the Materials Project's sets."""

MAGNETIC = frozenset({"V", "Cr", "Mn", "Fe", "Co", "Ni"})
MAGNETIC |= {"Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Pa", "U", "Np", "Pu", "Am", "Cm"}
"""Elements of partly filled 3d, 4f and 5f shells, whose crystals are looked at with spin."""


@dataclass(frozen=True, slots=True)
class DftSettings:
    """PBE in plane waves. What is not said here follows from the structure, by the functions of this module.

    Attributes:
        cutoff: Of the plane waves, eV.
        kspacing: Largest distance of k-points in metals, 1/angstrom (2 pi included).
        kspacing_insulator: The same where the band gap is wide, see `spacing_for`.
        smearing: Width of the Fermi-Dirac occupations, eV; energies are extrapolated to none.
        spin: "auto": spin-polarised if there is an element of `MAGNETIC` or a moment is given, all moments parallel at
            first; "none": never.
        pulay: Correct the stress for the plane waves that a growing cell gains, see `unimat_search.eval.dft.point`.
        symprec: Distance within which symmetry is found, angstrom, and then imposed, and the cell made primitive; 0 for
            neither.
        scf_steps: Iterations to self-consistency at most.

    Raises:
        ValueError: If a value is out of range.
    """

    cutoff: float = 600.0
    kspacing: float = 0.22
    kspacing_insulator: float = 0.44
    smearing: float = 0.05
    spin: str = "auto"
    pulay: bool = True
    symprec: float = 0.1
    scf_steps: int = 300

    def __post_init__(self) -> None:
        for name in ("cutoff", "kspacing", "kspacing_insulator", "smearing"):
            value = getattr(self, name)
            if isinstance(value, bool) or not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if self.kspacing > self.kspacing_insulator:
            raise ValueError(f"kspacing {self.kspacing} must not exceed kspacing_insulator {self.kspacing_insulator}")
        if self.spin not in ("auto", "none"):
            raise ValueError(f"spin must be auto or none, got {self.spin!r}")
        if not isinstance(self.pulay, bool):
            raise ValueError(f"pulay must be true or false, got {self.pulay!r}")
        if not (isinstance(self.symprec, int | float) and 0 <= self.symprec < 1):
            raise ValueError(f"symprec must be from 0 to 1 angstrom, got {self.symprec!r}")
        if not (isinstance(self.scf_steps, int) and self.scf_steps > 0):
            raise ValueError(f"scf_steps must be a whole number from 1 on, got {self.scf_steps!r}")

    @property
    def label(self) -> str:
        """Names these settings in a potential's name: energies under one name can be compared."""
        label = f"pbe-{self.cutoff:g}eV"
        if self == DftSettings(cutoff=self.cutoff):
            return label
        values = {k: v if isinstance(v, bool | str) else float(v) for k, v in asdict(self).items()}
        text = json.dumps(values, sort_keys=True)
        return f"{label}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def spacing_for(gap: float, settings: DftSettings) -> float:
    """Distance of k-points for a band gap (eV), 1/angstrom.

    A sphere of radius r_min holds no image of the origin, r_min = 25.22 - 2.87 gap: Wisesa, McGill and Mueller, Phys.
    Rev. B 93, 155109; as in the Materials Project's r2SCAN sets.
    """
    radius = max(1.5, 25.22 - 2.87 * gap)
    spacing = 2 * math.pi * 1.0265 / (radius - 1.0183)
    return settings.kspacing if gap < 1e-4 else min(max(spacing, settings.kspacing), settings.kspacing_insulator)


def kpoint_grid(lattice: NDArray[np.float64], spacing: float) -> tuple[int, int, int]:
    """Gamma-centred divisions along the reciprocal vectors, so that none is longer than `spacing` (1/angstrom).

    Args:
        lattice: Row vectors, angstrom, shape (3, 3).
        spacing: 2 pi included.
    """
    reciprocal = 2 * np.pi * np.linalg.norm(np.linalg.inv(lattice), axis=0)
    a, b, c = (max(1, math.ceil(length / spacing - 1e-6)) for length in reciprocal.tolist())
    return a, b, c


def initial_moments(
    symbols: Sequence[str], given: Sequence[float | None] | None, settings: DftSettings
) -> tuple[float, ...] | None:
    """Magnetic moments to start from, Bohr magnetons, or None for no spin.

    Magnetic elements start ferromagnetic, with the moments of their free atoms (ASE's table).

    Args:
        symbols: Of the sites.
        given: What the structure says of its sites, if anything.
        settings: Whether spin is looked at.
    """
    if settings.spin == "none":
        return None
    if given is not None and any(given):
        return tuple(float(moment or 0.0) for moment in given)
    if not is_magnetic(symbols):
        return None
    from ase.data import atomic_numbers, ground_state_magnetic_moments

    return tuple(
        float(ground_state_magnetic_moments[atomic_numbers[symbol]]) if symbol in MAGNETIC else 0.0
        for symbol in symbols
    )


def is_magnetic(symbols: Collection[str]) -> bool:
    """Whether there is an element whose crystals are looked at with spin."""
    return not MAGNETIC.isdisjoint(symbols)
