"""The frozen records that cross rooms. Their defaults describe a failed attempt.

Units everywhere: energies in eV, lengths in angstrom, forces in eV/angstrom, times in seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymatgen.core import Composition, Structure


EV_PER_CUBIC_ANGSTROM = 160.21766208
"""In GPa."""


class UserError(Exception):
    """Something that the user can put right; the message is one line that says how."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; its type where there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def one_line(error: BaseException) -> str:
    """An exception as one line of text: its type and the first line of its message."""
    name, message = type(error).__name__, first_line(error)
    return name if message == name else storable(f"{name}: {message}")[:300]


def storable(text: object) -> str:
    """A text that can be stored: halves of characters, as in names of files that are no UTF-8, are replaced."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def plain(text: str) -> str:
    """A text with what file names can't hold replaced: letters, digits and `_.+=-` of ASCII stay."""
    return re.sub(r"[^\w.+=-]", "_", text, flags=re.ASCII)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest known one, if one is near."""
    nearest = get_close_matches(name.lower(), (own := {one.lower(): one for one in known}), n=1)
    return f"; did you mean {own[nearest[0]]}?" if nearest else ""


class Outcome(StrEnum):
    """How a candidate ended. Everything but `CONVERGED` counts as a failure."""

    CONVERGED = "converged"
    NOT_CONVERGED = "not_converged"
    EXPLODED = "exploded"
    COLLAPSED = "collapsed"
    ISOLATED_ATOMS = "isolated_atoms"
    NAN = "nan"
    SCF_NOT_CONVERGED = "scf_not_converged"
    TIME_LIMIT = "time_limit"
    UNPHYSICAL_ENERGY = "unphysical_energy"
    GENERATOR_FAILED = "generator_failed"
    RELAXER_FAILED = "relaxer_failed"


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """What a generator yields in place of a structure that it could not make.

    Attributes:
        reason: One line, shown to the user.
        origin: As of a `Record`.
    """

    reason: str
    origin: str = ""


@dataclass(frozen=True, slots=True)
class RelaxSettings:
    """What is relaxed, and when that ends.

    Attributes:
        fmax: Largest force that counts as relaxed, eV/angstrom, on every atom and on the cell as
            ASE's `FrechetCellFilter` defines its forces.
        max_steps: Optimizer steps at most; 0 evaluates the structure as it is.
        time_limit: Seconds that one structure may take.
        pressure: Hydrostatic, GPa; the enthalpy goes down, the energy that is recorded is without p V.
        fixed_cell: Move the atoms alone.
        fix_symmetry: Keep the space group that a structure has (spglib, 0.01 angstrom).

    Raises:
        ValueError: If a value is out of range.
    """

    fmax: float = 0.05
    max_steps: int = 500
    time_limit: float = 600.0
    pressure: float = 0.0
    fixed_cell: bool = False
    fix_symmetry: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fmax) and self.fmax > 0):
            raise ValueError(f"fmax must be positive and finite (eV/angstrom), got {self.fmax}")
        if self.max_steps < 0:
            raise ValueError(f"max_steps must be 0 or more, got {self.max_steps}")
        if not (math.isfinite(self.time_limit) and self.time_limit > 0):
            raise ValueError(f"time_limit must be positive and finite (seconds), got {self.time_limit}")
        if not math.isfinite(self.pressure):
            raise ValueError(f"pressure must be finite (GPa), got {self.pressure}")


@dataclass(frozen=True, slots=True)
class MatchSettings:
    """When two structures count as the same: the tolerances of pymatgen's StructureMatcher.

    The defaults are pymatgen's own: of relaxed structures, looser ones call zincblende rock salt.

    Attributes:
        ltol: Fractional tolerance on cell lengths.
        stol: Site tolerance, in units of (volume / atoms)^(1/3).
        angle_tol: Degrees.

    Raises:
        ValueError: If a tolerance is not positive.
    """

    ltol: float = 0.2
    stol: float = 0.3
    angle_tol: float = 5.0

    def __post_init__(self) -> None:
        if not all(math.isfinite(tol) and tol > 0 for tol in (self.ltol, self.stol, self.angle_tol)):
            raise ValueError(f"matcher tolerances must be positive, got {self}")


BENCHMARK_MATCH = MatchSettings(ltol=0.3, stol=0.5, angle_tol=10.0)
"""Of samples that were not relaxed, as the crystal structure prediction benchmarks (CDVAE, DiffCSP) have it."""


@dataclass(frozen=True, slots=True)
class Relaxation:
    """What became of one structure that was handed to a relaxer.

    Attributes:
        index: Position of the structure in the input, 0-based.
        structure: The last geometry reached; None if there is none.
        energy: Total energy of that geometry, eV.
        n_steps: Optimizer steps taken.
        max_force: Largest force left, eV/angstrom, cell included.
        outcome: How it ended.
        detail: One line that explains a failure.
        seconds: Wall seconds that this structure took (its share of a batch).
    """

    index: int
    structure: Structure | None = None
    energy: float | None = None
    n_steps: int = 0
    max_force: float | None = None
    outcome: Outcome = Outcome.RELAXER_FAILED
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Task:
    """Candidates that one generator is asked for: one cell composition, `n` structures.

    Attributes:
        generator: Label of the generator.
        reduced_formula: The composition that is compared, e.g. "TiO2".
        formula_units: How many reduced formulas the cell holds (Z).
        cell_formula: The whole cell's composition in alphabetical order, e.g. "O4 Ti2".
        n: How many structures.
        seed: The seed given to the generator.
        spec: The generator as the user wrote it, options included.
        searched: Of a `FiniteGenerator` that is asked for each of its structures in its own cell: all numbers of
            formula units that are searched. Else empty.
        cell: Lengths (angstrom) and angles (degrees) of a cell that is given; empty for any cell.
    """

    generator: str
    reduced_formula: str
    formula_units: int
    cell_formula: str
    n: int
    seed: int
    spec: str
    searched: tuple[int, ...] = ()
    cell: tuple[float, ...] = ()

    @property
    def composition(self) -> Composition:
        """The whole cell's composition."""
        from pymatgen.core import Composition

        return Composition(self.cell_formula)

    def key(self, index: int) -> str:
        """The deterministic name of one candidate: the same question has the same key."""
        return f"{self.generator}/{self.cell_formula.replace(' ', '')}/{self.seed}/{index}"


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a run: a candidate from its generation to its score.

    Attributes:
        key: Unique and deterministic, see `Task.key`.
        generator: Label of the generator.
        reduced_formula: As in `Task`.
        formula_units: As in `Task`.
        cell_formula: As in `Task`.
        seed: As in `Task`.
        index: Position in the generator's output for this composition, 0-based.
        initial_structure: What the generator gave; None if it failed.
        valid: Whether the initial structure is physically sane before any relaxation.
        generate_seconds: Wall seconds that the generator took for it.
        outcome: How it ended; None while it waits for its relaxation.
        detail: One line that explains a failure.
        final_structure: Relaxed geometry, the last one reached if it failed.
        energy: Total energy of the final structure, eV.
        enthalpy: The same and pressure times volume, eV: what structures of one composition are ranked by.
        formation_energy_per_atom: Of the energy, eV/atom against the elements in the same potential; None where a
            reference is missing.
        n_steps: Optimizer steps.
        max_force: Largest force left, eV/angstrom.
        relax_seconds: Wall seconds of the relaxation.
        match: Name of the known structure that the final one matches best; empty if none.
        rms_dist: Its distance, dimensionless (normalised by the cube root of the volume per atom).
        origin: How the generator made it, if it says so (`Structure.properties["origin"]`).
    """

    key: str
    generator: str
    reduced_formula: str
    formula_units: int
    cell_formula: str
    seed: int
    index: int
    initial_structure: Structure | None = None
    valid: bool = False
    generate_seconds: float = 0.0
    outcome: Outcome | None = None
    detail: str = ""
    final_structure: Structure | None = None
    energy: float | None = None
    enthalpy: float | None = None
    formation_energy_per_atom: float | None = None
    n_steps: int = 0
    max_force: float | None = None
    relax_seconds: float = 0.0
    match: str = ""
    rms_dist: float | None = None
    origin: str = ""

    @property
    def num_sites(self) -> int:
        """Atoms in the cell."""
        from pymatgen.core import Composition

        return round(Composition(self.cell_formula).num_atoms)

    @property
    def energy_per_atom(self) -> float | None:
        """Energy of the final structure, eV/atom."""
        return None if self.energy is None else self.energy / self.num_sites

    @property
    def enthalpy_per_atom(self) -> float | None:
        """Enthalpy of the final structure, eV/atom; its energy without pressure."""
        return None if self.enthalpy is None else self.enthalpy / self.num_sites

    @property
    def converged(self) -> bool:
        """Relaxed below the force threshold, and physically sane."""
        return self.outcome is Outcome.CONVERGED
