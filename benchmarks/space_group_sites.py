"""Find the special positions of all space groups, and write the table that ships as `airss/sites.json`.

    python benchmarks/space_group_sites.py --out airss/sites.json

It holds one point of every Wyckoff position, in the primitive cell; takes half a minute.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from unimat_search.airss.symmetry import TOLERANCE, Site, SpaceGroup, site_of, space_group, wrapped

FloatArray = NDArray[np.float64]

FRUITLESS_WALKS = 100
"""The search for special positions of a group ends after so many random walks without a new one."""


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(out: Path) -> None:
    """Write the table."""
    table = [[point.round(10).tolist() for point in find_site_points(number)] for number in range(1, 231)]
    lines = ",\n".join(json.dumps(points, separators=(",", ":")) for points in table)
    out.write_text(f"[\n{lines}\n]\n")
    click.echo(f"{sum(map(len, table))} sites of {len(table)} space groups in {out}")


def find_site_points(number: int) -> list[FloatArray]:
    """A point of every position of a space group, special ones first, equivalent ones once.

    They are found by random walks: a point is moved onto the fixed points of one operation after the
    other, and every stop is a special position.
    """
    group = space_group(number)
    rng = np.random.default_rng(number)
    found: list[tuple[FloatArray, Site]] = []
    fruitless = 0
    while fruitless < FRUITLESS_WALKS:
        fruitless += 1
        for point in _walk(group, rng):
            site = site_of(group, point)
            if not any(_equivalent(group, site, other) for _, other in found):
                found.append((point, site))
                fruitless = 0
    found.sort(key=lambda pair: pair[1].multiplicity)
    return [*(wrapped(point) for point, _ in found), rng.random(3)]


def _walk(group: SpaceGroup, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Points on special positions on the way of one random point to ever higher symmetry.

    The operations that fix the point so far are linear conditions on it; each further one joins them if
    all can hold at once.
    """
    point = rng.uniform(-1, 1, 3)
    matrix, vector = np.zeros((0, 3)), np.zeros(0)
    for operation in rng.permutation(np.arange(1, group.order)):
        rotation, translation = group.rotations[operation], group.translations[operation]
        shift = np.rint(point - rotation @ point - translation)
        stacked = np.vstack([matrix, np.eye(3) - rotation])
        target = np.concatenate([vector, translation + shift])
        inverse = np.linalg.pinv(stacked)
        fixed = point + inverse @ (target - stacked @ point)
        if np.abs(stacked @ fixed - target).max() > TOLERANCE:
            continue
        free = np.eye(3) - inverse @ stacked
        point, matrix, vector = fixed + free @ rng.uniform(-1, 1, 3), stacked, target
        yield point
        if np.abs(free).max() < TOLERANCE:
            return


def _equivalent(group: SpaceGroup, first: Site, second: Site) -> bool:
    """Whether an operation or a lattice translation maps one site onto the other."""
    freedom = np.trace(first.projector) - np.trace(second.projector)
    if first.multiplicity != second.multiplicity or abs(freedom) > TOLERANCE:
        return False
    inverses = np.rint(np.linalg.inv(group.rotations)).astype(int)
    projectors = group.rotations @ first.projector @ inverses
    same_directions = np.abs(projectors - second.projector).max(axis=(1, 2)) < TOLERANCE
    across = np.eye(3) - second.projector
    cells = np.array(list(product((-2, -1, 0, 1, 2), repeat=3)))
    apart = group.images(first.origin)[same_directions] - second.origin
    offsets = (apart[:, None] + cells - np.rint(apart)[:, None]) @ across.T
    return bool((np.abs(offsets).max(axis=2) < 1e3 * TOLERANCE).any())


if __name__ == "__main__":
    main()
