"""What a relaxation is worth: enthalpy, formation energy, and whether it is the known structure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from pymatgen.core import Composition

from unimat_search.eval.match import Known, best_match
from unimat_search.eval.references import References
from unimat_search.eval.sanity import energy_problem
from unimat_search.records import EV_PER_CUBIC_ANGSTROM, MatchSettings, Outcome, Record, Relaxation
from unimat_search.store import Store


@lru_cache
def _composition(formula: str) -> Composition:
    return Composition(formula)


@dataclass(frozen=True)
class Scorer:
    """Gives candidates their numbers.

    Attributes:
        references: What formation energies are counted from.
        known: Known structures; None without a reference.
        matcher: When a structure is a known one.
        pressure: GPa.
    """

    references: References
    known: Known | None
    matcher: MatchSettings
    pressure: float = 0.0

    def score(self, record: Record, relaxation: Relaxation) -> Record:
        """A candidate with its relaxation, its formation energy and its match."""
        relaxed = replace(
            record,
            outcome=relaxation.outcome,
            detail=relaxation.detail,
            final_structure=relaxation.structure,
            energy=relaxation.energy,
            enthalpy=self._enthalpy(relaxation),
            n_steps=relaxation.n_steps,
            max_force=relaxation.max_force,
            relax_seconds=relaxation.seconds,
        )
        return self._assessed(relaxed)

    def rescore(self, store: Store) -> None:
        """Have what was relaxed before follow the references as they are now; its energies stay."""
        for key in [record.key for record in store.with_energy() if self._is_outdated(record)]:
            relaxed = replace(
                store.record(key),
                outcome=Outcome.CONVERGED,
                detail="",
                formation_energy_per_atom=None,
                match="",
                rms_dist=None,
            )
            store.write([self._assessed(relaxed)])

    def _is_outdated(self, record: Record) -> bool:
        """Whether a candidate's formation energy, or the verdict on it, is by other references."""
        now = self._formation_energy(record)
        problem = energy_problem(now)
        if record.outcome is Outcome.UNPHYSICAL_ENERGY:
            return problem is None or problem.detail != record.detail
        return problem is not None or now != record.formation_energy_per_atom

    def _formation_energy(self, record: Record) -> float | None:
        if record.energy is None:
            return None
        return self.references.formation_energy_per_atom(_composition(record.cell_formula), record.energy)

    def _enthalpy(self, relaxation: Relaxation) -> float | None:
        """Energy plus pressure times volume, eV."""
        if relaxation.energy is None or relaxation.structure is None:
            return None
        return relaxation.energy + self.pressure * float(relaxation.structure.volume) / EV_PER_CUBIC_ANGSTROM

    def _assessed(self, record: Record) -> Record:
        """A relaxed candidate with its formation energy and its match."""
        if not record.converged or record.final_structure is None:
            return record
        energy = self._formation_energy(record)
        if problem := energy_problem(energy):
            return replace(record, outcome=problem.outcome, detail=problem.detail)
        match = best_match(record.final_structure, self.known, self.matcher) if self.known else None
        return replace(
            record,
            formation_energy_per_atom=energy,
            match=match.name if match else "",
            rms_dist=match.rms_dist if match else None,
        )
