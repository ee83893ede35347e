"""Relaxation by DFT in the Materials Project's stages, which are the UniMat paper's: twice, then one static run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from pymatgen.core import Structure

from unimat_search.eval.dft.elements import reference_structures
from unimat_search.eval.dft.point import FIXED_CELL, DftCode, DftPotential, Setup, to_atoms
from unimat_search.eval.dft.primitive import Primitive
from unimat_search.eval.dft.settings import STATIC, DftSettings, spacing_for
from unimat_search.eval.potential import problem_of
from unimat_search.eval.relax import BatchedRelaxer
from unimat_search.records import Outcome, Relaxation, RelaxSettings

STAGES = 2
"""Relaxations, one after the other: plane waves and k-points are chosen anew for the second."""

ENERGY_NOISE = 1e-3
"""Rise of the energy on the way that does not count, eV/atom: plane waves come and go with the cell."""


class DftRelaxer:
    """Relaxes crystals by DFT, one after the other.

    First with the k-points of an insulator; what gap that finds chooses those of the second relaxation and, denser by
    the third root of 100/64, those of the static run, whose energy counts. Crystals are relaxed in their primitive
    cells, with the symmetry that they come with; where the cell is fixed, or nothing moves, as they are.

    Args:
        code: The program.
        settings: What it is asked for.
    """

    def __init__(self, code: DftCode, settings: DftSettings) -> None:
        self.code = code
        self.settings = settings

    @property
    def name(self) -> str:
        """Program, version and settings."""
        return f"{self.code.name}-{self.settings.label}"

    @property
    def reference_settings(self) -> RelaxSettings:
        """See `unimat_search.protocol.ReferencedRelaxer`."""
        return RelaxSettings(time_limit=86400.0)

    def reference_structures(self, symbol: str) -> tuple[list[tuple[str, Structure]], str]:
        """See `unimat_search.protocol.ReferencedRelaxer`."""
        return reference_structures(symbol)

    def relax(self, structures: Iterable[Structure], settings: RelaxSettings) -> Iterator[Relaxation]:
        """See `unimat_search.protocol.Relaxer.relax`."""
        for index, structure in enumerate(structures):
            start = time.perf_counter()
            result = self._relax(structure, settings)
            yield replace(result, index=index, seconds=time.perf_counter() - start)

    def _relax(self, structure: Structure, settings: RelaxSettings) -> Relaxation:
        missing = self.code.missing({site.specie.symbol for site in structure})
        if missing:
            return Relaxation(0, detail=f"{self.code.name} has no PBE data for {', '.join(missing)}")
        try:
            as_it_is = settings.fixed_cell or settings.max_steps == 0
            cell = Primitive.of(structure, 0 if as_it_is else self.settings.symprec)
            return _Descent(self.code, self.settings, settings, cell).run()
        except Exception as error:  # a program may raise anything
            outcome, detail = problem_of(error)
            return Relaxation(0, outcome=outcome, detail=detail)


@dataclass
class _Descent:
    """One crystal on its way through the stages."""

    code: DftCode
    dft: DftSettings
    settings: RelaxSettings
    cell: Primitive
    began: float = field(default_factory=time.perf_counter)
    n_steps: int = 0

    def run(self) -> Relaxation:
        structure, spacing = self.cell.structure, self.dft.kspacing_insulator
        for _ in range(STAGES):
            setup = Setup.of(structure, spacing, self.dft, self.left)
            potential = DftPotential(self.code, setup, structure)
            result = self._stage(potential, structure)
            if result.outcome is not Outcome.CONVERGED or result.structure is None:
                return self._whole(result)
            structure, spacing = self._kept(structure, result.structure), spacing_for(potential.band_gap(), self.dft)
        return self._whole(self._static(replace(result, structure=structure), structure, spacing * STATIC))

    def _stage(self, potential: DftPotential, structure: Structure) -> Relaxation:
        settings = replace(
            self.settings,
            max_steps=max(0, self.settings.max_steps - self.n_steps),
            time_limit=max(self.left(), 1e-3),
            fixed_cell=self.settings.fixed_cell or bool(structure.properties.get(FIXED_CELL, False)),
        )
        relaxer = BatchedRelaxer(potential, energy_noise=ENERGY_NOISE)
        (result,) = relaxer.relax([structure], settings)
        self.n_steps += result.n_steps
        return result

    def _static(self, result: Relaxation, structure: Structure, spacing: float) -> Relaxation:
        """The relaxation's result with the energy of the static run."""
        setup = Setup.of(structure, spacing, self.dft, self.left)
        try:
            energy = self.code.engine(setup).evaluate(to_atoms(structure), gradients=False).energy
        except Exception as error:  # what was relaxed is kept
            outcome, detail = problem_of(error)
            return replace(result, energy=None, outcome=outcome, detail=f"static run: {detail}")
        return replace(result, energy=energy)

    def _kept(self, before: Structure, after: Structure) -> Structure:
        """The new geometry with what the old one said of its sites."""
        after.properties = before.properties
        for name, values in before.site_properties.items():
            after.add_site_property(name, values)
        return after

    def _whole(self, result: Relaxation) -> Relaxation:
        """The result of the whole cell."""
        return replace(
            result,
            structure=result.structure and self.cell.whole(result.structure),
            energy=None if result.energy is None else result.energy * self.cell.copies,
            n_steps=self.n_steps,
        )

    def left(self) -> float:
        """Seconds."""
        return self.settings.time_limit - (time.perf_counter() - self.began)
