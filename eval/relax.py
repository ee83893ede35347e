"""Batched relaxation: structures in flight share each evaluation, and leave one by one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from ase import Atoms
from pymatgen.core import Structure

from unimat_search.eval.descent import CellDescent
from unimat_search.eval.potential import Evaluation, Potential
from unimat_search.eval.sanity import IN_FLIGHT, Problem, geometry_problem
from unimat_search.records import Outcome, Relaxation, RelaxSettings


class BatchedRelaxer:
    """Relaxes structures with any potential, `batch_size` of them in flight.

    Args:
        potential: Where energies, forces and stresses come from.
        batch_size: Structures evaluated together.
    """

    def __init__(self, potential: Potential, batch_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        self.potential = potential
        self.batch_size = batch_size

    @property
    def name(self) -> str:
        """The potential's name."""
        return self.potential.name

    def relax(self, structures: Iterable[Structure], settings: RelaxSettings) -> Iterator[Relaxation]:
        """See `unimat_search.protocol.Relaxer.relax`."""
        waiting = (_Flight(index, structure, settings) for index, structure in enumerate(structures))
        in_flight: list[_Flight] = []
        while True:
            in_flight += islice(waiting, self.batch_size - len(in_flight))
            if not in_flight:
                return
            self._step(in_flight)
            yield from (flight.result for flight in in_flight if flight.result)
            in_flight = [flight for flight in in_flight if not flight.result]

    def _step(self, in_flight: Sequence[_Flight]) -> None:
        """Bring every structure in flight one optimizer step on, or to its end."""
        sound = [(flight, atoms) for flight in in_flight if (atoms := flight.atoms_if_sound())]
        start = time.perf_counter()
        evaluations = self._evaluate([atoms for _, atoms in sound])
        seconds_per_atom = (time.perf_counter() - start) / max(1, sum(len(atoms) for _, atoms in sound))
        for (flight, atoms), evaluation in zip(sound, evaluations, strict=True):
            flight.advance(evaluation, seconds_per_atom * len(atoms))

    def _evaluate(self, batch: Sequence[Atoms]) -> list[Evaluation | Exception]:
        try:
            return list(self.potential.evaluate(batch))
        except Exception as error:  # a potential may raise anything; the rest of the batch goes on
            if len(batch) == 1:
                return [error]
            return [result for atoms in batch for result in self._evaluate([atoms])]


class _Flight:
    """One structure on its way down."""

    def __init__(self, index: int, structure: Structure, settings: RelaxSettings) -> None:
        self.index = index
        self.settings = settings
        self.species = structure.species
        self.numbers = np.array([site.specie.Z for site in structure])
        self.descent = CellDescent(structure.lattice.matrix, structure.cart_coords)
        self.n_steps = 0
        self.seconds = 0.0
        self.energy: float | None = None
        self.max_force: float | None = None
        self.result: Relaxation | None = None

    def atoms_if_sound(self) -> Atoms | None:
        """The geometry to evaluate; None if there is no use in that, and the flight has ended."""
        lattice, positions = self.descent.lattice, self.descent.positions
        problem = geometry_problem(lattice, positions, self.numbers, IN_FLIGHT)
        if problem:
            self._end(problem)
            return None
        return Atoms(numbers=self.numbers, positions=positions, cell=lattice, pbc=True)

    def advance(self, evaluation: Evaluation | Exception, seconds: float) -> None:
        """Take one optimizer step from an evaluated geometry, or end.

        Args:
            evaluation: Of the geometry, or what the potential raised.
            seconds: What the evaluation took.
        """
        start = time.perf_counter()
        self.seconds += seconds
        if isinstance(evaluation, Exception):
            self._end(Problem(Outcome.RELAXER_FAILED, one_line(evaluation)))
        elif not _is_finite(evaluation):
            self._end(Problem(Outcome.NAN, "the potential gave a value that is not a finite number"))
        else:
            self._descend(evaluation)
        self.seconds += time.perf_counter() - start

    def _descend(self, evaluation: Evaluation) -> None:
        limits = self.settings
        forces = self.descent.generalised_forces(evaluation.forces, evaluation.stress)
        self.energy = evaluation.energy
        self.max_force = float(np.linalg.norm(forces, axis=1).max())
        if self.max_force < limits.fmax:
            self._end(None)
        elif self.n_steps >= limits.max_steps:
            detail = f"{self.max_force:.3g} eV/angstrom after {self.n_steps} steps"
            self._end(Problem(Outcome.NOT_CONVERGED, detail))
        elif self.seconds > limits.time_limit:
            detail = f"{limits.time_limit:g} s were over at step {self.n_steps}"
            self._end(Problem(Outcome.TIME_LIMIT, detail))
        else:
            self.descent.step(forces)
            self.n_steps += 1

    def _end(self, problem: Problem | None) -> None:
        lattice, positions = self.descent.lattice, self.descent.positions
        structure = None
        if np.isfinite(positions).all() and np.isfinite(lattice).all() and abs(np.linalg.det(lattice)) > 1e-6:
            structure = Structure(lattice, self.species, positions, coords_are_cartesian=True, to_unit_cell=True)
        outcome, detail = problem or (Outcome.CONVERGED, "")
        self.result = Relaxation(
            self.index, structure, self.energy, self.n_steps, self.max_force, outcome, detail, self.seconds
        )


def one_line(error: BaseException) -> str:
    """An exception as one line of text: its type and the first line of its message."""
    message = str(error).strip().splitlines()
    return f"{type(error).__name__}: {message[0]}"[:300] if message else type(error).__name__


def _is_finite(evaluation: Evaluation) -> bool:
    return bool(
        np.isfinite(evaluation.energy) and np.isfinite(evaluation.forces).all() and np.isfinite(evaluation.stress).all()
    )
