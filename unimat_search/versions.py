"""Versions of the packages that decide a result."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "unimat-search",
    "torch",
    "chgnet",
    "pymatgen",
    "ase",
    "numba",
    "numpy",
    "scipy",
    "spglib",
    "joblib",
    "pyxtal",
)


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Installed versions by package; "missing" where there is none."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
