"""Batched relaxation: structures in flight share each evaluation, and leave one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure
from torch import Tensor

from unimat_search.eval.descent import NOISE, OPTIMIZERS, Optimizer, Variables
from unimat_search.eval.potential import Crystals, Evaluations, Potential, problem_of
from unimat_search.eval.sanity import IN_FLIGHT, Problem, geometry_problem
from unimat_search.eval.symmetry import Symmetry
from unimat_search.records import EV_PER_CUBIC_ANGSTROM, Outcome, Relaxation, RelaxSettings, one_line

SAFE_HEIGHT = 1.5
"""Angstrom between opposite faces of a cell below which it is looked at more closely."""

SiteProperties = Callable[[Crystals], Mapping[str, Sequence[float]]]


class BatchedRelaxer:
    """Relaxes structures with any potential, several of them in flight.

    Args:
        potential: Where energies, forces and stresses come from.
        optimizer: "bfgs" (quasi-Newton steps that may not climb, FIRE where they fail) or "fire" (ASE's).
        capacity: Load in flight, in the units of the potential's `load`; the potential's own if not given.
            Where memory runs out, half of what was too much is the most from then on.
        site_properties: What to say of the atoms of a converged crystal, from the crystal.
        energy_noise: Rise of the energy that does not count, eV/atom: what rounding in the potential makes.

    Raises:
        ValueError: If there is no such optimizer, or the capacity is not positive.
    """

    def __init__(
        self,
        potential: Potential,
        optimizer: str = "bfgs",
        capacity: float | None = None,
        site_properties: SiteProperties | None = None,
        energy_noise: float = NOISE,
    ) -> None:
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"no optimizer {optimizer!r}; there are {', '.join(OPTIMIZERS)}")
        if capacity is not None and not capacity > 0:
            raise ValueError(f"capacity must be positive, got {capacity}")
        self.potential = potential
        self.optimizer = optimizer
        self.capacity = potential.capacity if capacity is None else float(capacity)
        self._memory_limit = np.inf
        self.site_properties = site_properties
        self.energy_noise = energy_noise

    @property
    def name(self) -> str:
        """The potential's name."""
        return self.potential.name

    def relax(self, structures: Iterable[Structure], settings: RelaxSettings) -> Iterator[Relaxation]:
        """See `unimat_search.protocol.Relaxer.relax`."""
        waiting = _Queue(structures)
        batch = _Batch(
            OPTIMIZERS[self.optimizer](self.potential.device, self.energy_noise), settings, self.potential.device
        )
        while True:
            while (head := waiting.head) and (isinstance(head, Relaxation) or self._has_room(batch, head)):
                waiting.pop()
                if isinstance(head, Relaxation):
                    yield head
                else:
                    batch.join(head)
            start = time.perf_counter()
            if batch.flights:
                batch.advance(*self._evaluate(batch.crystals()))
            elif not batch.ended:
                return
            batch.charge(time.perf_counter() - start)
            for flight in batch.pop_ended():
                self._annotate(flight)
                yield flight.result()

    def _has_room(self, batch: _Batch, flight: _Flight) -> bool:
        loads = [self.potential.load(f.num_sites, f.volume) for f in (*batch.flights, flight)]
        return len(loads) == 1 or sum(loads) <= self.capacity

    def _evaluate(self, crystals: Crystals) -> tuple[Evaluations, dict[int, Exception]]:
        """Evaluate a batch; where that raises, in ever smaller parts.

        Returns:
            The evaluations, not a number for crystals that could not be evaluated, and what was raised for these.
        """
        load = sum(map(self.potential.load, crystals.sizes.tolist(), crystals.volumes.tolist()))
        if len(crystals) == 1 or load <= self._memory_limit:
            try:
                return self.potential.evaluate(crystals), {}
            except Exception as error:  # a potential may raise anything; the rest of the batch goes on
                if len(crystals) == 1:
                    return _no_evaluation(crystals), {0: error}
                if _is_out_of_memory(error):
                    self._memory_limit = load / 2
                    self.capacity = min(self.capacity, self._memory_limit)
        half = len(crystals) // 2
        low, low_errors = self._evaluate(crystals[:half])
        high, high_errors = self._evaluate(crystals[half:])
        return Evaluations.joined([low, high]), low_errors | {half + i: e for i, e in high_errors.items()}

    def _annotate(self, flight: _Flight) -> None:
        if not (self.site_properties and flight.structure and flight.outcome is Outcome.CONVERGED):
            return
        try:
            crystals = Crystals.of([flight.structure.get_reduced_structure("LLL")], self.potential.device)
            for name, values in self.site_properties(crystals).items():
                flight.structure.add_site_property(name, list(values))
        except Exception as error:  # the relaxation is sound without them
            flight.detail = f"no site properties: {one_line(error)}"


class _Queue:
    """Structures that wait, the next one in sight; what is no crystal is a failed relaxation."""

    def __init__(self, structures: Iterable[Structure]) -> None:
        self._structures = enumerate(structures)
        self.pop()

    def pop(self) -> None:
        self.head = self._next()

    def _next(self) -> _Flight | Relaxation | None:
        for index, structure in self._structures:
            try:
                return _Flight(index, structure)
            except Exception as error:  # disordered, empty, anything
                return Relaxation(index, detail=one_line(error))
        return None


class _Flight:
    """What is known of one structure on its way down, apart from where it is."""

    def __init__(self, index: int, structure: Structure) -> None:
        if not len(structure):
            raise ValueError("a structure without atoms")
        self.index = index
        self.species = structure.species
        self.numbers = np.array([site.specie.Z for site in structure])
        self.lattice_0 = np.array(structure.lattice.matrix)
        self.positions_0 = np.array(structure.cart_coords)
        self.volume = abs(float(np.linalg.det(self.lattice_0))) or 1e-9
        self.symmetry: Symmetry | None = None
        self.reduction: NDArray[np.float64] = np.eye(3)
        self.n_steps = 0
        self.seconds = 0.0
        self.energy: float | None = None
        self.max_force: float | None = None
        self.structure: Structure | None = None
        self.outcome: Outcome | None = None
        self.detail = ""

    @property
    def num_sites(self) -> int:
        return len(self.numbers)

    def inspect(self, lattice: NDArray[np.float64], positions: NDArray[np.float64]) -> Problem | None:
        """What makes a geometry not worth evaluating, or None; the cell to evaluate it in is reduced anew."""
        problem = geometry_problem(lattice, positions, self.numbers, IN_FLIGHT)
        if problem is None:
            reduced = Lattice(lattice).get_lll_reduced_lattice().matrix
            right_handed = reduced * np.sign(np.linalg.det(reduced))  # some potentials divide by the signed volume
            self.reduction = np.round(right_handed @ np.linalg.inv(lattice)).astype(np.float64)
        return problem

    def land(self, lattice: NDArray[np.float64], positions: NDArray[np.float64], problem: Problem | None) -> None:
        if np.isfinite(positions).all() and np.isfinite(lattice).all() and abs(np.linalg.det(lattice)) > 1e-6:
            self.structure = Structure(lattice, self.species, positions, coords_are_cartesian=True, to_unit_cell=True)
        self.outcome, self.detail = problem or (Outcome.CONVERGED, "")

    def result(self) -> Relaxation:
        assert self.outcome is not None
        return Relaxation(
            self.index,
            self.structure,
            self.energy,
            self.n_steps,
            self.max_force,
            self.outcome,
            self.detail,
            self.seconds,
        )


class _Batch:
    """The structures in flight, and where they are."""

    def __init__(self, optimizer: Optimizer, settings: RelaxSettings, device: str) -> None:
        self.flights: list[_Flight] = []
        self.ended: list[_Flight] = []
        self._optimizer = optimizer
        self._settings = settings
        self._device = device
        self._variables: Variables | None = None
        self._pressure = settings.pressure / EV_PER_CUBIC_ANGSTROM

    @property
    def variables(self) -> Variables:
        assert self._variables is not None
        return self._variables

    def join(self, flight: _Flight) -> None:
        """Take a structure in; one that is not worth evaluating ends at once."""
        problem = flight.inspect(flight.lattice_0, flight.positions_0)
        if problem:
            flight.land(flight.lattice_0, flight.positions_0, problem)
            self.ended.append(flight)
            return
        if self._settings.fix_symmetry:
            flight.symmetry = Symmetry.of(flight.lattice_0, flight.positions_0, flight.numbers, self._device)
        new = Variables.of(self._tensor(flight.lattice_0), self._tensor(flight.positions_0))
        self._variables = self._variables.join(new) if self._variables else new
        self._optimizer.join(self.variables.x[-1:])
        self.flights.append(flight)

    def crystals(self) -> Crystals:
        """The geometries to evaluate, in reduced cells."""
        numbers = torch.tensor(np.concatenate([f.numbers for f in self.flights]), device=self._device)
        return Crystals(numbers, self.variables.positions, self._reduced_lattices(), self.variables.sizes)

    def advance(self, evaluations: Evaluations, errors: Mapping[int, Exception]) -> None:
        """Bring every structure one optimizer step on, or to its end."""
        settings = self._settings
        forces = self._forces(evaluations)
        max_forces = forces.norm(dim=2).amax(1).tolist()
        enthalpies = self._enthalpies(evaluations)
        stands = self._optimizer.stands(enthalpies, self.variables.sizes).tolist()
        problems: dict[int, Problem | None] = {}
        for i, (flight, energy, max_force) in enumerate(
            zip(self.flights, evaluations.energies.tolist(), max_forces, strict=True)
        ):
            if i in errors:  # a broken geometry says more than what the potential raised
                lattices, positions = self._geometries()
                failed = problem_of(errors[i])
                problems[i] = flight.inspect(lattices[i], positions[i]) or failed
            elif not np.isfinite(energy + max_force):
                problems[i] = Problem(Outcome.NAN, "the potential gave a value that is not a finite number")
            else:
                flight.energy, flight.max_force = energy, max_force
                if max_force < settings.fmax and stands[i]:
                    problems[i] = None
                elif overdue := _overdue(flight, settings):
                    problems[i] = overdue
        going = self._mask(problems)
        self._land(problems)
        self._step(forces[going], enthalpies[going])

    def charge(self, seconds: float) -> None:
        """Share out what a step took."""
        flights = [*self.flights, *self.ended]
        per_atom = seconds / max(1, sum(flight.num_sites for flight in flights))
        for flight in flights:
            flight.seconds += per_atom * flight.num_sites

    def pop_ended(self) -> list[_Flight]:
        ended, self.ended = self.ended, []
        return ended

    def _forces(self, evaluations: Evaluations) -> Tensor:
        """Forces on the variables, as far as the settings let these move."""
        pressure = self._pressure * torch.eye(3, dtype=torch.float64, device=self._device)
        forces = self.variables.forces(evaluations.forces, evaluations.stresses + pressure)
        if self._settings.fixed_cell:
            forces[:, :3] = 0
        for i, flight in enumerate(self.flights):
            if flight.symmetry:
                forces[i, : 3 + flight.num_sites] = flight.symmetry.project(forces[i, : 3 + flight.num_sites])
        return forces

    def _enthalpies(self, evaluations: Evaluations) -> Tensor:
        return evaluations.energies + self._pressure * self.variables.volumes

    def _step(self, forces: Tensor, enthalpies: Tensor) -> None:
        """Move the structures that are left, and end those that went where there is no way back."""
        if not self.flights:
            return
        old = self.variables
        x = self._optimizer.step(old.x, forces, enthalpies, old.sizes)
        self._variables = Variables(x, old.lattices_0, old.sizes)
        for flight in self.flights:
            flight.n_steps += 1
        suspects = _suspicious(self._reduced_lattices(), old.sizes).nonzero().squeeze(1).tolist()
        if not suspects:
            return
        lattices, positions = self._geometries()
        problems = {i: problem for i in suspects if (problem := self.flights[i].inspect(lattices[i], positions[i]))}
        for i in problems:
            self.flights[i].energy = self.flights[i].max_force = None
        self._land(problems)

    def _land(self, problems: Mapping[int, Problem | None]) -> None:
        """End structures, converged where there is no problem."""
        if not problems:
            return
        lattices, positions = self._geometries()
        for i, problem in problems.items():
            self.flights[i].land(lattices[i], positions[i], problem)
            self.ended.append(self.flights[i])
        going = self._mask(problems)
        self.flights = [flight for i, flight in enumerate(self.flights) if i not in problems]
        self._variables = self.variables.keep(going) if self.flights else None
        self._optimizer.keep(going)

    def _mask(self, ended: Mapping[int, object]) -> Tensor:
        """Who goes on."""
        return torch.tensor([i not in ended for i in range(len(self.flights))], dtype=torch.bool, device=self._device)

    def _geometries(self) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
        ends = np.cumsum([flight.num_sites for flight in self.flights])
        return self.variables.lattices.cpu().numpy(), np.split(self.variables.positions.cpu().numpy(), ends[:-1])

    def _reduced_lattices(self) -> Tensor:
        return self._tensor(np.array([flight.reduction for flight in self.flights])) @ self.variables.lattices

    def _tensor(self, array: NDArray[np.float64]) -> Tensor:
        return torch.tensor(array, dtype=torch.float64, device=self._device)


def _overdue(flight: _Flight, settings: RelaxSettings) -> Problem | None:
    if flight.n_steps >= settings.max_steps:
        return Problem(Outcome.NOT_CONVERGED, f"{flight.max_force:.3g} eV/angstrom after {flight.n_steps} steps")
    if flight.seconds > settings.time_limit:
        return Problem(Outcome.TIME_LIMIT, f"{settings.time_limit:g} s were over at step {flight.n_steps}")
    return None


def _suspicious(lattices: Tensor, sizes: Tensor) -> Tensor:
    """Which cells are flat or out of the sane volumes, and worth a closer look, shape (crystals,)."""
    smallest, largest = IN_FLIGHT.volume_per_atom
    per_atom = torch.linalg.det(lattices).abs() / sizes
    heights = 1 / torch.linalg.inv_ex(lattices).inverse.norm(dim=1).amax(1)
    sound: Tensor = (smallest < per_atom) & (per_atom < largest) & (heights > SAFE_HEIGHT)
    return ~sound


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "not enough memory", "can't allocate memory")
    )


def _no_evaluation(crystals: Crystals) -> Evaluations:
    n = len(crystals)
    return Evaluations(
        crystals.positions.new_full((n,), np.nan),
        torch.full_like(crystals.positions, np.nan),
        torch.full_like(crystals.lattices, np.nan),
    )
