"""Space groups as operations on a primitive cell, and the positions on which atoms may sit.

Column vectors throughout: an operation maps fractional coordinates x to W x + w.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from itertools import product
from typing import NamedTuple

import numpy as np
import spglib
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int_]

TOLERANCE = 1e-6


@dataclass(frozen=True)
class SpaceGroup:
    """Operations in a primitive cell, one for each rotation.

    Attributes:
        number: In the International Tables, 1 to 230.
        rotations: Integer matrices W, shape (order, 3, 3); the identity comes first.
        translations: Vectors w in [0, 1), shape (order, 3).
        centring: Row vectors of the primitive cell in the conventional one, shape (3, 3).
    """

    number: int
    rotations: IntArray
    translations: FloatArray
    centring: FloatArray

    @property
    def order(self) -> int:
        """Operations in the primitive cell: the order of the point group."""
        return len(self.rotations)

    def images(self, point: FloatArray) -> FloatArray:
        """The orbit of a point, one row for each operation, shape (order, 3); not wrapped."""
        return self.rotations @ point + self.translations

    def symmetrised(self, metric: FloatArray) -> FloatArray:
        """The nearest metric tensor (3, 3) that all rotations leave as it is: the average over the group."""
        return np.asarray(np.einsum("gji,jk,gkl->il", self.rotations, metric, self.rotations)) / self.order


@dataclass(frozen=True)
class Site:
    """A set of equivalent positions, as a Wyckoff position is.

    A point of it is `origin + projector @ u` for any u; `projector` maps onto the directions in which the
    site's own symmetry lets an atom move.

    Attributes:
        multiplicity: Atoms that it adds to the primitive cell.
        origin: Fractional coordinates, shape (3,).
        projector: Shape (3, 3).
        operations: Indices of operations that give each atom of the orbit once, shape (multiplicity,).
    """

    multiplicity: int
    origin: FloatArray
    projector: FloatArray
    operations: IntArray

    @cached_property
    def is_point(self) -> bool:
        """Whether it leaves no freedom, so that only one orbit of atoms finds room on it."""
        return not np.abs(self.projector).max() > TOLERANCE


@lru_cache(maxsize=256)
def space_group(number: int) -> SpaceGroup:
    """A space group by its number, in the International Tables' standard setting."""
    database = spglib.get_symmetry_from_database(_hall_numbers()[number])
    rotations, translations = database["rotations"], database["translations"]
    is_translation = (rotations == np.eye(3, dtype=int)).all(axis=(1, 2))
    basis = _primitive_basis(translations[is_translation])  # rows, in the conventional cell
    to_primitive = np.linalg.inv(basis.T)
    primitive_rotations = np.rint(to_primitive @ rotations @ basis.T).astype(int)
    primitive_translations = translations @ to_primitive.T
    _, first = np.unique(primitive_rotations.reshape(-1, 9), axis=0, return_index=True)
    is_identity = (primitive_rotations[first] == np.eye(3, dtype=int)).all(axis=(1, 2))
    order = first[np.argsort(~is_identity, kind="stable")]
    return SpaceGroup(number, primitive_rotations[order], wrapped(primitive_translations[order]), basis)


@lru_cache(maxsize=256)
def sites(number: int) -> tuple[Site, ...]:
    """The positions of a space group, special ones first, equivalent ones listed once."""
    group = space_group(number)
    return tuple(site_of(group, np.array(point)) for point in _site_points()[number - 1])


@lru_cache(maxsize=1)
def _site_points() -> list[list[list[float]]]:
    """A point of every site of every space group, made by `benchmarks/space_group_sites.py`."""
    points: list[list[list[float]]] = json.loads((resources.files(__package__) / "sites.json").read_text())
    return points


class GroupTable(NamedTuple):
    """Space groups and their sites as flat arrays, for compiled code. m groups, p operations and s sites in all.

    Attributes:
        numbers: Of each group. (m,)
        first_operation: Where each group's operations start. (m + 1,)
        rotations: (p, 3, 3)
        translations: (p, 3)
        centring: Row vectors of the primitive cell in the conventional one. (m, 3, 3)
        uncentring: The inverses. (m, 3, 3)
        first_site: Where each group's sites start. (m + 1,)
        multiplicity: (s,)
        is_point: (s,)
        origin: (s, 3)
        projector: (s, 3, 3)
        first_image: Where the operations that give each atom of a site once start in `images`. (s + 1,)
        images: Numbers of operations, from the group's first one on.
    """

    numbers: IntArray
    first_operation: IntArray
    rotations: FloatArray
    translations: FloatArray
    centring: FloatArray
    uncentring: FloatArray
    first_site: IntArray
    multiplicity: IntArray
    is_point: NDArray[np.bool_]
    origin: FloatArray
    projector: FloatArray
    first_image: IntArray
    images: IntArray


@lru_cache(maxsize=64)
def group_table(numbers: tuple[int, ...]) -> GroupTable:
    """Some space groups as a table."""
    groups = [space_group(number) for number in numbers]
    all_sites = [site for number in numbers for site in sites(number)]

    def starts(lengths: Iterable[int]) -> IntArray:
        return np.cumsum([0, *lengths]).astype(np.int64)

    return GroupTable(
        numbers=np.array(numbers, dtype=np.int64),
        first_operation=starts(group.order for group in groups),
        rotations=np.concatenate([group.rotations for group in groups]).astype(float),
        translations=np.concatenate([group.translations for group in groups]),
        centring=np.array([group.centring for group in groups]),
        uncentring=np.array([np.linalg.inv(group.centring) for group in groups]),
        first_site=starts(len(sites(number)) for number in numbers),
        multiplicity=np.array([site.multiplicity for site in all_sites], dtype=np.int64),
        is_point=np.array([site.is_point for site in all_sites]),
        origin=np.array([site.origin for site in all_sites]),
        projector=np.array([site.projector for site in all_sites]),
        first_image=starts(site.multiplicity for site in all_sites),
        images=np.concatenate([site.operations for site in all_sites]).astype(np.int64),
    )


@lru_cache(maxsize=1)
def orders() -> dict[int, int]:
    """Order of the point group of every space group."""
    return {number: space_group(number).order for number in range(1, 231)}


@lru_cache(maxsize=1)
def _hall_numbers() -> dict[int, int]:
    """The first Hall number of each space group, which is the standard setting."""
    first: dict[int, int] = {}
    for hall in range(1, 531):
        first.setdefault(spglib.get_spacegroup_type(hall).number, hall)
    return first


def _primitive_basis(translations: FloatArray) -> FloatArray:
    """Three short vectors that span all lattice translations, right-handed, as rows."""
    cells = np.array(list(product((-1, 0, 1), repeat=3)))
    vectors = (translations[:, None] + cells).reshape(-1, 3)
    vectors = vectors[np.argsort(np.linalg.norm(vectors, axis=1), kind="stable")]
    vectors = vectors[np.linalg.norm(vectors, axis=1) > TOLERANCE]
    volume = 1 / len(translations)
    for i, first in enumerate(vectors):
        for j, second in enumerate(vectors[i + 1 :], start=i + 1):
            determinants = vectors[j + 1 :] @ np.cross(first, second)
            fitting = np.flatnonzero(np.abs(np.abs(determinants) - volume) < TOLERANCE)
            if len(fitting):
                basis = np.array([first, second, vectors[j + 1 + fitting[0]]])
                return basis if np.linalg.det(basis) > 0 else -basis
    raise AssertionError("translations span no lattice")


def _fixes(group: SpaceGroup, point: FloatArray) -> NDArray[np.bool_]:
    """Which operations map a point to a lattice translation of itself."""
    moved = group.images(point) - point
    return np.asarray(np.abs(moved - np.rint(moved)).max(axis=1) < TOLERANCE)


def site_of(group: SpaceGroup, point: FloatArray) -> Site:
    """The site that a point is on."""
    stabiliser = _fixes(group, point)
    projector = group.rotations[stabiliser].mean(axis=0)
    images = wrapped(group.images(point))
    apart = images[:, None] - images
    same = np.abs(apart - np.rint(apart)).max(axis=2) < TOLERANCE
    operations = np.flatnonzero(same.argmax(axis=1) == np.arange(group.order))
    return Site(len(operations), point - projector @ point, projector, operations)


def wrapped(coords: FloatArray) -> FloatArray:
    """Into [0, 1), with values just below 1 counted as 0."""
    wrapped = coords - np.floor(coords)
    return np.where(wrapped > 1 - TOLERANCE, 0.0, wrapped)
