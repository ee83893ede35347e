"""Elemental reference energies, per potential: what formation energies are counted from.

A file of energies ships for CHGNet. Another potential gets its own on demand, from simple crystals and
molecules, kept in the user's cache folder (`UNIMAT_SEARCH_CACHE`).
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path

from pymatgen.core import Composition, Element, Lattice, Structure

from unimat_search.disk import cache_folder, whole
from unimat_search.eval.backends import Workers
from unimat_search.eval.parallel import DEFAULT_CHUNK, chunked, relax_chunks
from unimat_search.files import read_structures
from unimat_search.protocol import ReferencedRelaxer, Relaxer
from unimat_search.records import Outcome, Relaxation, RelaxSettings
from unimat_search.registry import Spec

log = logging.getLogger(__name__)

MOLECULES = {"H": 0.74, "N": 1.10, "O": 1.21, "F": 1.41, "Cl": 1.99, "Br": 2.28, "I": 2.67}
"""Bond lengths of the diatomic elements, angstrom (CRC Handbook)."""

PROTOTYPES = "simple crystals (fcc, bcc, hcp, simple cubic, diamond) and diatomic molecules"

UNARY = "unary structures of the Materials Project, database 2023.11.1, with at most 20 atoms, and diatomic molecules"

DATA_FILE = Path("mp_2023") / "le20.parquet"
"""Within a data folder: the structures whose unary ones serve as candidates."""


@dataclass(frozen=True, slots=True)
class ElementReference:
    """The lowest energy found for one element.

    Attributes:
        energy_per_atom: eV/atom.
        source: Name of the starting structure.
        n_candidates: Structures relaxed.
        n_converged: Of these, how many converged.
    """

    energy_per_atom: float
    source: str
    n_candidates: int
    n_converged: int


@dataclass(frozen=True)
class References:
    """Elemental energies in one potential.

    Attributes:
        potential: The relaxer's name.
        origin: Where the starting structures come from.
        elements: By symbol; an element without a converged structure is absent.
    """

    potential: str
    origin: str = ""
    elements: Mapping[str, ElementReference] = field(default_factory=dict)

    def missing(self, composition: Composition) -> list[str]:
        """Elements of the composition that have no reference, sorted."""
        return sorted(el.symbol for el in composition.elements if el.symbol not in self.elements)

    def formation_energy_per_atom(self, composition: Composition, energy: float) -> float | None:
        """(E - sum of n_i mu_i) / N in eV/atom, for a total energy in eV; None if a reference is missing."""
        if self.missing(composition):
            return None
        elemental = sum(amount * self.elements[el.symbol].energy_per_atom for el, amount in composition.items())
        return float((energy - elemental) / composition.num_atoms)

    def merged(self, other: References) -> References:
        """Both sets of elements; the other's where both have one."""
        origin = _joined([self.origin, other.origin])
        return References(self.potential, origin, {**self.elements, **other.elements})

    def to_json(self) -> str:
        """The file format: one JSON object."""
        elements = {symbol: asdict(self.elements[symbol]) for symbol in sorted(self.elements)}
        return json.dumps({"potential": self.potential, "origin": self.origin, "elements": elements}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> References:
        """Read what `to_json` wrote."""
        data = json.loads(text)
        elements = {symbol: ElementReference(**values) for symbol, values in data["elements"].items()}
        return cls(data["potential"], data["origin"], elements)


def _joined(origins: Iterable[str]) -> str:
    """What is said of origins, each said once."""
    said = (part for origin in origins for part in origin.split("; ") if part)
    return "; ".join(dict.fromkeys(said))


def load_references(potential: str) -> References:
    """The references of a potential: the shipped ones, and the user's own over them.

    Raises:
        ValueError: If the user's file is damaged; it names the file.
    """
    shipped = resources.files(__package__) / "references" / _file_name(potential)
    known = References(potential)
    for source in (shipped, cache_file(potential)):
        if source.is_file():
            try:
                found = References.from_json(source.read_text(encoding="utf-8"))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{source} is damaged; delete it: it is made again ({error})") from error
            known = known.merged(found) if found.potential == potential else known
    return known


def cache_file(potential: str) -> Path:
    """Where references made on this machine are kept."""
    return cache_folder() / "references" / _file_name(potential)


def save_references(references: References, file: Path) -> None:
    """Write a reference file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file, alone=False) as partial:
        partial.write_text(references.to_json() + "\n", encoding="utf-8")


def references_for(spec: Spec, relaxer: Relaxer, elements: Collection[str], *, workers: Workers) -> References:
    """The references of a potential, with what is missing for `elements` computed and kept, element by element.

    They are relaxed under the default limits whatever those of a run are: they outlive it.
    """
    known = load_references(relaxer.name)
    lacking = [symbol for symbol in sorted(elements) if symbol not in known.elements]
    if not lacking or potential_ships(relaxer.name):
        return known
    candidates, origin = reference_candidates(None, lacking, relaxer)
    return known.merged(build_references(spec, relaxer, candidates, origin, workers=workers, keep=keep_references))


def keep_references(built: References) -> None:
    """Put references into the user's cache, beside those that are there."""
    try:
        save_references(load_references(built.potential).merged(built), cache_file(built.potential))
    except OSError as error:
        log.warning("elemental references can't be kept: %s", error)


def potential_ships(potential: str) -> bool:
    """Whether the package has a reference file for this potential, built from the full data."""
    return (resources.files(__package__) / "references" / _file_name(potential)).is_file()


def build_references(
    spec: Spec,
    relaxer: Relaxer,
    candidates: Mapping[str, Sequence[tuple[str, Structure]]],
    origin: str,
    *,
    workers: Workers,
    on_progress: Callable[[int], None] = lambda _: None,
    keep: Callable[[References], None] = lambda _: None,
) -> References:
    """Relax all candidates of every element and keep the lowest that converged.

    Args:
        spec: The relaxer, for the workers to build.
        relaxer: The same, built.
        candidates: Named structures by element symbol.
        origin: Where they come from, in words.
        workers: Processes.
        on_progress: Called with the number of structures finished so far.
        keep: Called with all references so far whenever one is found.
    """
    size, settings = DEFAULT_CHUNK, RelaxSettings()
    if isinstance(relaxer, ReferencedRelaxer):
        size, settings = 1, relaxer.reference_settings
    built = References(relaxer.name, origin)
    found: dict[str, list[tuple[str, Relaxation]]] = {symbol: [] for symbol in candidates}
    named = [(symbol, name, s) for symbol, group in candidates.items() for name, s in group]
    named.sort(key=lambda item: len(item[2]))
    chunks = (([item[:2] for item in chunk], [item[2] for item in chunk]) for chunk in chunked(named, size))
    for tags, results in relax_chunks(spec, chunks, settings, workers=workers):
        for (symbol, name), result in zip(tags, results, strict=True):
            found[symbol].append((name, result))
        on_progress(sum(map(len, found.values())))
        for symbol in dict.fromkeys(symbol for symbol, _ in tags):
            whole = len(found[symbol]) == len(candidates[symbol])
            if whole and (lowest := _lowest(found[symbol])):
                built = References(built.potential, origin, {**built.elements, symbol: lowest})
                keep(built)
    return built


def _lowest(group: Sequence[tuple[str, Relaxation]]) -> ElementReference | None:
    energies = sorted(
        (result.energy / len(result.structure), name)
        for name, result in group
        if result.outcome is Outcome.CONVERGED and result.structure and result.energy is not None
    )
    return ElementReference(*energies[0], len(group), len(energies)) if energies else None


def reference_candidates(
    data_dir: Path | None, elements: Sequence[str], relaxer: Relaxer
) -> tuple[dict[str, list[tuple[str, Structure]]], str]:
    """Starting structures by element, and their origin in words.

    Args:
        data_dir: Data folder; without one, what the relaxer asks for, or simple crystals.
        elements: Only these; all up to curium if empty.
        relaxer: What they are relaxed by.

    Raises:
        ValueError: If the data can't be read, or a name is no element.
    """
    symbols = [Element.from_Z(z).symbol for z in range(1, 97)]
    unknown = [symbol for symbol in elements if symbol not in symbols]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no element from H to Cm")
    wanted = list(elements) or symbols
    if isinstance(relaxer, ReferencedRelaxer):
        asked = {symbol: relaxer.reference_structures(symbol) for symbol in wanted}
        return {symbol: named for symbol, (named, _) in asked.items()}, _joined(origin for _, origin in asked.values())
    if data_dir is None:
        return {symbol: prototype_structures(symbol) for symbol in wanted}, PROTOTYPES
    unary = unary_structures(data_dir)
    return {symbol: unary[symbol] for symbol in wanted if symbol in unary}, UNARY


def unary_structures(data_dir: Path) -> dict[str, list[tuple[str, Structure]]]:
    """Candidates from a data folder (`mp_2023/le20.parquet`), with the diatomic molecules added.

    Raises:
        ValueError: If the file is missing or can't be read.
    """
    symbols = [Element.from_Z(z).symbol for z in range(1, 95)]
    unary: dict[str, list[tuple[str, Structure]]] = {}
    for name, structure in read_structures(
        data_dir / DATA_FILE, element_sets={frozenset([symbol]) for symbol in symbols}
    ):
        unary.setdefault(structure.composition.elements[0].symbol, []).append((name, structure))
    for symbol in MOLECULES:
        unary.setdefault(symbol, []).append(_molecule(symbol))
    return unary


def prototype_structures(symbol: str) -> list[tuple[str, Structure]]:
    """Simple crystals of an element with touching covalent spheres, and its molecule if it is diatomic."""
    return [*_simple_crystals(symbol), *([_molecule(symbol)] if symbol in MOLECULES else [])]


def _simple_crystals(symbol: str) -> Iterator[tuple[str, Structure]]:
    from ase.build import bulk
    from ase.data import atomic_numbers, covalent_radii

    bond = 2 * covalent_radii[atomic_numbers[symbol]]
    edges = {
        "fcc": bond * math.sqrt(2),
        "bcc": bond * 2 / math.sqrt(3),
        "hcp": bond,
        "sc": bond,
        "diamond": bond * 4 / math.sqrt(3),
    }
    for name, a in edges.items():
        atoms = bulk(symbol, name, a=a, covera=math.sqrt(8 / 3) if name == "hcp" else None)
        yield name, Structure(atoms.cell.array, [symbol] * len(atoms), atoms.get_scaled_positions())


def _molecule(symbol: str) -> tuple[str, Structure]:
    coords = [[0.0, 0.0, 0.0], [0.0, 0.0, MOLECULES[symbol]]]
    box = Lattice.cubic(5.5)
    return "molecule", Structure(box, [symbol] * 2, coords, coords_are_cartesian=True)


def file_stem(potential: str) -> str:
    """A potential's name as that of a file."""
    return re.sub(r"[^\w.-]", "_", potential)


def _file_name(potential: str) -> str:
    return f"{file_stem(potential)}.json"
