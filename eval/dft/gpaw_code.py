"""GPAW (Mortensen et al., J. Chem. Phys. 160, 092503) in plane waves, with the PAW data of its own package."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from unimat_search.eval.adapters import MissingPackageError
from unimat_search.eval.dft.point import Point, Setup, band_gap
from unimat_search.eval.dft.relaxer import DftRelaxer
from unimat_search.eval.dft.settings import DftSettings
from unimat_search.eval.potential import ScfError


class Gpaw:
    """The program.

    Raises:
        MissingPackageError: If it is not installed.
    """

    def __init__(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import gpaw
        except ImportError as error:
            raise MissingPackageError(
                "GPAW is missing: install libxc and a BLAS, then pip install 'unimat-search[dft]' (docs/dft.md)"
            ) from error
        self.name = f"gpaw-{gpaw.__version__}"

    def missing(self, symbols: Collection[str]) -> list[str]:
        """See `unimat_search.eval.dft.point.DftCode.missing`."""
        return sorted({symbol for symbol in symbols if not _has_dataset(symbol)})

    def engine(self, setup: Setup) -> GpawEngine:
        """See `unimat_search.eval.dft.point.DftCode.engine`."""
        return GpawEngine(setup)


def _has_dataset(symbol: str) -> bool:
    from gpaw.setup_data import search_for_file

    try:
        path, _ = search_for_file(f"{symbol}.PBE")
    except (RuntimeError, FileNotFoundError):
        return False
    return path is not None


class GpawEngine:
    """GPAW at work on one crystal; wave functions of one geometry are where the next one starts."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._calculator: Any = None

    def evaluate(self, atoms: Atoms, *, gradients: bool = True) -> Point:
        """See `unimat_search.eval.dft.point.Engine.evaluate`."""
        from gpaw import KohnShamConvergenceError

        atoms = atoms.copy()
        if self._setup.moments is not None:
            atoms.set_initial_magnetic_moments(self._setup.moments)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._converge(atoms)
                if not gradients:
                    return Point(float(self._calculator.get_potential_energy(atoms)))
                return Point(
                    float(self._calculator.get_potential_energy(atoms)),
                    np.asarray(self._calculator.get_forces(atoms)),
                    voigt_6_to_full_3x3_stress(self._calculator.get_stress(atoms)),
                )
        except KohnShamConvergenceError as error:
            self._calculator = None
            raise ScfError(f"not self-consistent after {self._setup.settings.scf_steps} iterations") from error

    def band_gap(self) -> float:
        """See `unimat_search.eval.dft.point.Engine.band_gap`."""
        return band_gap(self._calculator.eigenvalues(), self._calculator.get_fermi_level())

    def _converge(self, atoms: Atoms) -> None:
        from gpaw.new.symmetry import SymmetryBrokenError

        if self._calculator is not None:
            try:
                return self._iterate(atoms)
            except SymmetryBrokenError:
                pass
        self._calculator = self._new_calculator()
        return self._iterate(atoms)

    def _iterate(self, atoms: Atoms) -> None:
        for _ in self._calculator.icalculate(atoms):
            self._setup.check()

    def _new_calculator(self) -> Any:  # noqa: ANN401 - GPAW is untyped
        from gpaw import GPAW, PW

        settings = self._setup.settings
        return GPAW(
            mode=PW(self._setup.cutoff),
            xc="PBE",
            kpts={"size": self._setup.kpoints, "gamma": True},
            occupations={"name": "fermi-dirac", "width": settings.smearing},
            spinpol=self._setup.moments is not None,
            symmetry={"tolerance": 1e-5},
            maxiter=settings.scf_steps,
            txt=None,
        )


def gpaw_relaxer(**settings: Any) -> DftRelaxer:  # noqa: ANN401 - checked where they are made
    """PBE by GPAW: `gpaw,cutoff=800,kspacing=0.2`; see `DftSettings`.

    Raises:
        MissingPackageError: If GPAW is not installed.
        ValueError: If a setting is out of range.
    """
    return DftRelaxer(Gpaw(), DftSettings(**settings))
