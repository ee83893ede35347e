"""Random structures: symmetry, cell and atoms drawn until a draw finds room; compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unimat_search.airss.cell import (
    copy,
    determinant,
    inverse,
    lattice_of,
    multiply,
    random_metric,
    reduce_cell,
    shortest_edge,
    transform,
)
from unimat_search.airss.compiled import compiled, inner, uniform
from unimat_search.airss.packing import Crystal, Pairs, place_atoms, push_apart, random_in_sphere, relieve_and_shake
from unimat_search.airss.symmetry import GroupTable

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
StateArray = NDArray[np.uint64]
IntArray = NDArray[np.int64]

RESTART = 200_000
"""Pairs looked at between two rises of the slack."""

DRAW = 500
"""What drawing a cell and sites costs, in pairs looked at."""


class Occupations(NamedTuple):
    """The ways to share an element's atoms out over the sites of a group. m groups, e elements.

    Attributes:
        first_option: Options of element s in group g are numbers `first_option[g * e + s]` and on. (m e + 1,)
        first_part: Where the multiplicities of each option start. (options + 1,)
        parts: Multiplicities.
    """

    first_option: IntArray
    first_part: IntArray
    parts: IntArray


class Plan(NamedTuple):
    """What many structures have in common. e elements, n atoms, m space groups; lengths in angstrom.

    Attributes:
        groups: Space groups to draw from.
        weights: Their probabilities, added up. (m,)
        occupations: How each may be occupied.
        species: Element of each atom, rising. (n,)
        movable: Whether overlaps move the atom, in P1. (n,)
        placed: Whether the atom starts at a given point, in P1. (n,)
        given_cell: Whether the cell is given too.
        persistence: Draws in one space group before another one is drawn.
        constraints: See `cell.random_metric`. (6,)
        elongation: Likewise.
        flatness: Likewise.
        compact: Whether cells are reduced.
        shake: Atoms are displaced up to so far before they are pushed, which breaks the symmetry; 0 for not at all.
        push: Whether overlapping atoms are pushed apart; else the draw is rejected.
        step: See `packing.push_apart`.
        patience: Likewise.
        slack: Part of the least distances that is let go when atoms are pushed.
        slack_growth: Added to it after every `RESTART` pairs looked at.
        overlap: Energy per atom that `packing.relieve_and_shake` may leave; negative: it is not called.
        adapt: See there.
        rash: Amplitude of its shakes.
        budget: Pairs that may be looked at before a structure is given up.
    """

    groups: GroupTable
    weights: FloatArray
    occupations: Occupations
    species: IntArray
    movable: BoolArray
    placed: BoolArray
    given_cell: bool
    persistence: int
    constraints: FloatArray
    elongation: float
    flatness: float
    compact: bool
    shake: float
    push: bool
    step: float
    patience: int
    slack: float
    slack_growth: float
    overlap: float
    adapt: bool
    rash: float
    budget: int


class Wanted(NamedTuple):
    """What each of b structures has of its own.

    Attributes:
        states: Of the random numbers. (b, 4)
        volumes: Smallest and largest volume of the cell, cubic angstrom. (b, 2)
        least: Least distance of each pair of elements. (b, e, e)
        lattices: Given cells. (b, 3, 3), or (b, 0, 0)
        points: Given fractional coordinates. (b, n, 3), or (b, 0, 3)
        moves: Displacements from there, Cartesian. (b, n, 3), or (b, 0, 3) if there are no points
    """

    states: StateArray
    volumes: FloatArray
    least: FloatArray
    lattices: FloatArray
    points: FloatArray
    moves: FloatArray


class Built(NamedTuple):
    """What became of b structures.

    Attributes:
        groups: Position of the space group in the table, -1 where nothing was found. (b,)
        slacks: Part of the least distances that was let go. (b,)
        work: Pairs looked at. (b,)
        lattices: Right-handed. (b, 3, 3)
        coords: Fractional, in [0, 1). (b, n, 3)
        species: Rising. (b, n)
    """

    groups: IntArray
    slacks: FloatArray
    work: IntArray
    lattices: FloatArray
    coords: FloatArray
    species: IntArray


class Room(NamedTuple):
    """Memory for one build of n atoms.

    Attributes:
        crystal: Arrays for n orbits and n atoms.
        pairs: For the listed pairs.
    """

    crystal: Crystal
    pairs: Pairs


def make_room(atoms: int) -> Room:
    """Memory for structures of so many atoms."""
    capacity = 400 * atoms + 4000
    return Room(
        Crystal(
            lattice=np.zeros((3, 3)),
            points=np.zeros((atoms, 3)),
            projectors=np.zeros((atoms, 3, 3)),
            sizes=np.zeros(atoms, dtype=np.int64),
            movable=np.ones(atoms, dtype=bool),
            orbit=np.zeros(atoms, dtype=np.int64),
            species=np.zeros(atoms, dtype=np.int64),
            rotations=np.zeros((atoms, 3, 3)),
            shifts=np.zeros((atoms, 3)),
            group=np.zeros((48, 3, 3)),
        ),
        Pairs(
            first=np.zeros(capacity, dtype=np.int32),
            second=np.zeros(capacity, dtype=np.int32),
            shift=np.zeros((capacity, 3)),
            least=np.zeros(capacity),
        ),
    )


@compiled
def build(plan: Plan, wanted: Wanted, room: Room, built: Built) -> None:
    """Draw until a draw finds room or the budget is used up, for each structure.

    Args:
        plan: What all have in common.
        wanted: What each has of its own; its random states are changed.
        room: Memory for one.
        built: Takes the results.
    """
    for b in range(len(built.groups)):
        built.groups[b] = -1
        built.work[b] = 0
        draws, group = 0, 0
        while built.groups[b] < 0 and built.work[b] < plan.budget:
            slack = min(plan.slack + plan.slack_growth * (built.work[b] // RESTART), 0.9)
            if draws % plan.persistence == 0:
                group = _draw_group(wanted.states[b], plan.weights)
            draws += 1
            found, work = _draw(plan, wanted, b, group, slack, plan.budget - built.work[b], room, built)
            built.work[b] += work
            if found:
                built.groups[b] = group
                built.slacks[b] = slack


@inner
def _draw_group(state: StateArray, weights: FloatArray) -> int:
    """A position, by probabilities that are added up."""
    wanted = uniform(state) * weights[len(weights) - 1]
    group = 0
    while weights[group] <= wanted:
        group += 1
    return group


@inner
def _draw(
    plan: Plan, wanted: Wanted, b: int, group: int, slack: float, budget: int, room: Room, built: Built
) -> tuple[bool, int]:
    """One draw in a space group; whether it found room, and the pairs looked at."""
    state, least, crystal = wanted.states[b], wanted.least[b], room.crystal
    own = plan.groups.first_operation[group]
    order = plan.groups.first_operation[group + 1] - own
    effort = DRAW
    if plan.given_cell:
        copy(wanted.lattices[b], crystal.lattice)
    elif not _draw_cell(state, plan, wanted.volumes[b], group, crystal.lattice):
        return False, effort
    to_cartesian, back = np.empty((3, 3)), np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            to_cartesian[i, j] = crystal.lattice[j, i]
    inverse(to_cartesian, back)
    for g in range(order):
        _turned(to_cartesian, plan.groups.rotations[own + g], back, crystal.group[g])
    if plan.compact:
        reduce_cell(crystal.lattice)
    widest, scaled = 0.0, np.empty((len(least), len(least)))
    for i in range(len(least)):
        widest = max(widest, least[i, i])
        for j in range(len(least)):
            scaled[i, j] = (1 - slack) * least[i, j]
    if shortest_edge(crystal.lattice) < widest * (1 - slack):
        return False, effort
    if order == 1:
        orbits = len(plan.species)
        _start_atoms(state, plan, wanted.points[b], wanted.moves[b], to_cartesian, crystal)
    else:
        orbits = _draw_sites(state, plan, group, to_cartesian, back, crystal)
    if orbits < 0:
        return False, effort
    if plan.shake > 0:
        orbits, order = _break_symmetry(state, plan.shake, plan.movable, crystal), 1
    drawn = Crystal(
        crystal.lattice,
        crystal.points[:orbits],
        crystal.projectors[:orbits],
        crystal.sizes[:orbits],
        crystal.movable[:orbits],
        crystal.orbit,
        crystal.species,
        crystal.rotations,
        crystal.shifts,
        crystal.group[:order],
    )
    found, work = push_apart(drawn, scaled, room.pairs, plan.step, plan.patience, budget if plan.push else 1)
    effort += work
    if found and plan.overlap >= 0:
        found, work = relieve_and_shake(
            state, drawn, least, room.pairs, plan.overlap, plan.adapt, plan.rash, min(RESTART, budget)
        )
        effort += work
    if found:
        _write(plan, drawn, built.lattices[b], built.coords[b], built.species[b])
    return found, effort


@inner
def _draw_cell(state: StateArray, plan: Plan, volumes: FloatArray, group: int, lattice: FloatArray) -> bool:
    """A cell of the right volume that the group allows. Writes (3, 3)."""
    first, last = plan.groups.first_operation[group], plan.groups.first_operation[group + 1]
    volume = volumes[0] + (volumes[1] - volumes[0]) * uniform(state)
    metric = np.empty((3, 3))
    found = random_metric(
        state,
        plan.groups.rotations[first:last],
        plan.groups.centring[group],
        plan.groups.uncentring[group],
        plan.constraints,
        plan.elongation,
        plan.flatness,
        metric,
    )
    if found:
        lattice_of(metric, volume, lattice)
    return found


@inner
def _turned(to_cartesian: FloatArray, m: FloatArray, back: FloatArray, out: FloatArray) -> None:
    """A fractional matrix in Cartesian coordinates. All (3, 3)."""
    half = np.empty((3, 3))
    multiply(to_cartesian, m, half)
    multiply(half, back, out)


@inner
def _draw_sites(
    state: StateArray, plan: Plan, group: int, to_cartesian: FloatArray, back: FloatArray, crystal: Crystal
) -> int:
    """Put atoms on sites of the group at random; how many orbits they make, -1 if this draw came to a dead end."""
    table, occupations, elements = plan.groups, plan.occupations, plan.species[len(plan.species) - 1] + 1
    own, start = table.first_operation[group], table.first_site[group]
    taken = np.zeros(table.first_site[group + 1] - start, dtype=np.bool_)
    frac = np.empty(3)
    orbits, atoms = 0, 0
    turn = int(uniform(state) * elements)
    for e in range(elements):
        s = (e + turn) % elements
        first, last = occupations.first_option[group * elements + s], occupations.first_option[group * elements + s + 1]
        option = first + int(uniform(state) * (last - first))
        for part in range(occupations.first_part[option], occupations.first_part[option + 1]):
            site = _draw_site(state, table, group, occupations.parts[part], taken)
            if site < 0:
                return -1
            _turned(to_cartesian, table.projector[site], back, crystal.projectors[orbits])
            transform(table.projector[site], uniform(state), uniform(state), uniform(state), frac)
            for c in range(3):
                frac[c] += table.origin[site, c]
            transform(to_cartesian, frac[0], frac[1], frac[2], crystal.points[orbits])
            crystal.sizes[orbits] = table.multiplicity[site]
            crystal.movable[orbits] = not table.is_point[site]
            for image in range(table.first_image[site], table.first_image[site + 1]):
                operation = table.images[image]
                copy(crystal.group[operation], crystal.rotations[atoms])
                x, y, z = table.translations[own + operation]
                transform(to_cartesian, x, y, z, crystal.shifts[atoms])
                crystal.orbit[atoms] = orbits
                crystal.species[atoms] = s
                atoms += 1
            orbits += 1
    return orbits


@inner
def _draw_site(state: StateArray, table: GroupTable, group: int, multiplicity: int, taken: BoolArray) -> int:
    """A site of this multiplicity, with room; -1 if there is none."""
    start = table.first_site[group]
    chosen, fitting = -1, 0
    for site in range(start, table.first_site[group + 1]):
        if table.multiplicity[site] == multiplicity and not taken[site - start]:
            fitting += 1
            if uniform(state) * fitting < 1:
                chosen = site
    if chosen >= 0 and table.is_point[chosen]:
        taken[chosen - start] = True
    return chosen


@inner
def _make_single(crystal: Crystal, j: int) -> None:
    """Atom j becomes an orbit of its own."""
    for a in range(3):
        crystal.shifts[j, a] = 0.0
        for c in range(3):
            crystal.projectors[j, a, c] = crystal.rotations[j, a, c] = 1.0 if a == c else 0.0
    crystal.sizes[j] = 1
    crystal.orbit[j] = j
    crystal.movable[j] = True


@inner
def _break_symmetry(state: StateArray, radius: float, movable: BoolArray, crystal: Crystal) -> int:
    """Displace the movable atoms by up to a radius, each on its own from now on; how many atoms there are."""
    atoms = np.empty((len(crystal.orbit), 3))
    place_atoms(crystal, atoms)
    for j in range(len(atoms)):
        _make_single(crystal, j)
        crystal.movable[j] = movable[j]
        random_in_sphere(state, radius if movable[j] else 0.0, crystal.points[j])
        for c in range(3):
            crystal.points[j, c] += atoms[j, c]
    return len(atoms)


@inner
def _start_atoms(
    state: StateArray, plan: Plan, points: FloatArray, moves: FloatArray, to_cartesian: FloatArray, crystal: Crystal
) -> None:
    """Every atom an orbit of its own, where it is given or anywhere."""
    for j in range(len(plan.species)):
        _make_single(crystal, j)
        crystal.species[j] = plan.species[j]
        crystal.movable[j] = plan.movable[j]
        if plan.placed[j]:
            transform(to_cartesian, points[j, 0], points[j, 1], points[j, 2], crystal.points[j])
            for c in range(3):
                crystal.points[j, c] += moves[j, c]
        else:
            transform(to_cartesian, uniform(state), uniform(state), uniform(state), crystal.points[j])


@inner
def _write(plan: Plan, crystal: Crystal, lattice: FloatArray, coords: FloatArray, species: IntArray) -> None:
    """The crystal in a right-handed cell, atoms by element."""
    if plan.compact:
        reduce_cell(crystal.lattice)
    sign = 1.0 if determinant(crystal.lattice) > 0 else -1.0
    back, atoms = np.empty((3, 3)), np.empty((len(plan.species), 3))
    for i in range(3):
        for j in range(3):
            lattice[i, j] = sign * crystal.lattice[i, j]
    inverse(lattice, back)
    place_atoms(crystal, atoms)
    row = 0
    for s in range(plan.species[len(plan.species) - 1] + 1):
        for j in range(len(atoms)):
            if crystal.species[j] == s:
                for c in range(3):
                    along = atoms[j, 0] * back[0, c] + atoms[j, 1] * back[1, c] + atoms[j, 2] * back[2, c]
                    wrapped = along - np.floor(along)
                    coords[row, c] = wrapped if wrapped < 1 else 0.0
                species[row] = s
                row += 1
