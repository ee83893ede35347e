"""AIRSS seed files (`.cell`): what they say, as the original `buildcell` (0.9.1) reads it.

Directives are lines `#KEY=value` or `#FLAG`; lines of CASTEP's own (k-points, pseudopotentials, ...) concern the DFT
code and are let pass. What the original would ignore without a word, or what is not supported here, is an error that
names the line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition, Element, Lattice, Structure

from unimat_search.airss.settings import (
    ORDERS,
    BuildSettings,
    parse_number,
    parse_numbers,
    parse_range,
    parse_whole_range,
)
from unimat_search.records import did_you_mean

FloatArray = NDArray[np.float64]
Range = tuple[float, float]

BOHR = 0.529177210903
"""In angstrom."""

PUSH_STEP = 0.7 / 0.25
"""Our step for the original's: its default of 0.25 belongs to another law of pushing, ours is 0.7."""

PAIRS_A_SECOND = 30_000_000

SYSTEMS = {
    "tric": (0, 0, 0, 0, 0, 0),
    "mono": (0, 0, 0, 90, 0, 90),
    "hexa": (-1, -1, 0, 90, 90, 120),
    "rhom": (-1, -1, -1, -1, -1, -1),
    "trig": (-1, -1, -1, -1, -1, -1),
    "orth": (0, 0, 0, 90, 90, 90),
    "tetr": (-1, -1, 0, 90, 90, 90),
    "cubi": (-1, -1, -1, 90, 90, 90),
}
"""Constraints of the cell by crystal system, as CELLCON writes them."""

RENAMED = {"abm2": "aem2", "aba2": "aea2", "cmca": "cmce", "cmma": "cmme", "ccca": "ccce"}
"""Symbols of space groups that the International Tables have changed since 1992."""

UNSUPPORTED = {
    **dict.fromkeys(("CLUSTER", "SLAB", "SURFACE", "SPHERE", "CORE", "ELLIPSOID"), "bulk"),
    **dict.fromkeys(("PANCAKE", "CIGAR", "CYLINDER", "WIDTH", "SHIFT", "VACUUM"), "bulk"),
    **dict.fromkeys(("MOLECULES", "ANGAMP", "FLIP", "TIGHT", "RASH_ANGAMP"), "units"),
    **dict.fromkeys(("COORD", "MINBANGLE", "MAXBANGLE", "SPIN"), "later"),
    **dict.fromkeys(("SUPERCELL", "HOLE", "HOLEPOS", "REMOVE", "THREE", "NFAILS"), "later"),
}  # fmt: skip
REASONS = {
    "bulk": "only bulk crystals are built",
    "units": "rigid units are not supported",
    "later": "it is not supported; take the line out if it does not matter",
}

ATOM_TAGS = ("NUM", "POSAMP", "MINAMP", "XAMP", "YAMP", "ZAMP", "RAD", "VOL", "FIX", "NOMOVE")


class SeedError(ValueError):
    """A seed file that can't be used; the message is one line that names the line at fault."""


@dataclass(frozen=True)
class SpeciesLine:
    """One line of a seed's atoms.

    Attributes:
        symbol: Element.
        number: How many atoms it stands for.
        position: Fractional coordinates, None if the atoms start anywhere.
        reach: Least and largest displacement from the position, angstrom; negative: anywhere.
        box: Full widths of a box of displacements, angstrom; negative for none.
        radius: Angstrom, 0 for none.
        volume: Cubic angstrom, 0 for none.
        movable: Whether overlaps move it.
    """

    symbol: str
    number: tuple[int, int] = (1, 1)
    position: tuple[float, float, float] | None = None
    reach: Range = (0.0, -1.0)
    box: tuple[float, float, float] = (-1.0, -1.0, -1.0)
    radius: float = 0.0
    volume: float = 0.0
    movable: bool = True


@dataclass(frozen=True)
class Seed:
    """A seed, its lists `{a,b,c}` expanded, its ranges still open.

    Attributes:
        species: Its atoms.
        atoms: Atoms of random composition (NATOM), in place of the species' own numbers.
        distinct: Elements that there must be (FOCUS), 0 for any number.
        octet: Whether the valence electrons must be a multiple of eight.
        units: Formula units in the cell (NFORM); None: the atoms are the asymmetric unit, on general positions.
        set_volume: VARVOL: cubic angstrom for one atom of each line, within 5 %.
        target_volume: TARGVOL: likewise, exact.
        cell_volume: VOL: of the whole cell, exact.
        packing: Part of the cell that spheres with the separations as diameters fill, if no volume is given.
        lattice: A given cell, row vectors, angstrom; its volume counts where no other is given.
        cell: What may change in it: "free", "fixed", "ab" (a and b scale), "c" or "strained".
        strain: Largest random strain (CELLAMP).
        separation: MINSEP of pairs that are not named; None for no check.
        pairs: MINSEP of named pairs.
        auto: Whether separations and volume come from what is known (AUTO).
        auto_volume: Whether the volume alone does (AUTOVOL).
        settings: How structures are built.
        vacancies: Atoms that are taken out at the end, and of which element ("" for any).
        permute: Names of atoms that swap places at the end, () for none, ("*",) for all.
        permuted: Part of them that does.
        seed: Of the random numbers, () for the user's.
    """

    species: tuple[SpeciesLine, ...]
    atoms: tuple[int, int] | None = None
    distinct: int = 0
    octet: bool = False
    units: tuple[int, int] | None = None
    set_volume: float | None = None
    target_volume: Range | None = None
    cell_volume: Range | None = None
    packing: float | None = None
    lattice: tuple[tuple[float, float, float], ...] | None = None
    cell: str = "free"
    strain: float = 0.0
    separation: Range | None = None
    pairs: tuple[tuple[str, str, Range], ...] = ()
    auto: bool = False
    auto_volume: bool = False
    settings: BuildSettings = field(default_factory=BuildSettings)
    vacancies: tuple[int, str] = (0, "")
    permute: tuple[str, ...] = ()
    permuted: float = 1.0
    seed: tuple[int, ...] = ()

    @property
    def is_placed(self) -> bool:
        """Whether the cell or some atoms are given."""
        return self.cell != "free" or any(line.position or not line.movable for line in self.species)


@dataclass(frozen=True)
class SeedText:
    """A seed file's lines, its lists `{a,b,c}` not yet expanded.

    Attributes:
        lines: Without comments and blank ones, with their numbers.
    """

    lines: tuple[tuple[int, str], ...]

    @classmethod
    def parse(cls, text: str) -> SeedText:
        """Read a seed and check it, each alternative of each list.

        Raises:
            SeedError: If a line is wrong, unknown or not supported.
        """
        kept = []
        for number, line in enumerate(text.splitlines(), start=1):
            content = re.sub(r"##.*", "", line).strip()
            if content:
                kept.append((number, content))
        seed = cls(tuple(kept))
        for i, choices in enumerate(seed._choices()):
            for choice in choices:
                first = [options[0] for options in seed._choices()]
                read = _read(_numbered(seed.lines, [*first[:i], choice, *first[i + 1 :]]))
                try:
                    groups = read.settings.space_groups()
                except ValueError as error:
                    raise SeedError(str(error)) from error
                if groups != (1,) and read.is_placed:
                    raise SeedError("a given cell and given positions go with one symmetry operation (P1) only")
        return seed

    @property
    def varies(self) -> bool:
        """Whether lists are to be expanded."""
        return any(len(choices) > 1 for choices in self._choices())

    def expand(self, rng: np.random.Generator) -> Seed:
        """The seed with one item drawn from each list."""
        return _read(_numbered(self.lines, [choices[int(rng.integers(len(choices)))] for choices in self._choices()]))

    def _choices(self) -> list[list[str]]:
        return [_alternatives(line) for _, line in self.lines]


def _numbered(lines: Sequence[tuple[int, str]], texts: Sequence[str]) -> list[tuple[int, str]]:
    return [(number, text) for (number, _), text in zip(lines, texts, strict=True)]


def _alternatives(line: str) -> list[str]:
    """A line with each item of its list `{a,b,c}` in turn; the line itself if it has none."""
    found = re.search(r"\{([^{}]*)\}", line)
    if not found:
        return [line]
    return [line[: found.start()] + item.strip() + line[found.end() :] for item in found[1].split(",")]


def _read(lines: Sequence[tuple[int, str]]) -> Seed:
    """A seed from its expanded lines."""
    values: dict[str, Any] = {}
    build: dict[str, Any] = {}
    blocks: dict[str, list[tuple[int, str]]] = {}
    rest = iter(lines)
    for number, line in rest:
        block = re.match(r"%\s*block\s+(\w+)", line, re.IGNORECASE)
        if block:
            blocks[block[1].upper()] = list(_block(rest, number, block[1]))
        elif "#" in line:
            with Named(number, line):
                _directive(line.partition("#")[2], values, build)
    if ("LATTICE_CART" in blocks) or ("LATTICE_ABC" in blocks):
        _lattice(blocks, values)
    _species(blocks, values)
    compact = _cell_shape(values, build)
    amplitude = build.pop("rash", 1.0)
    build["rash"] = amplitude if build.pop("rash_asked", False) else 0.0
    try:
        return Seed(**values, settings=BuildSettings(**build, compact=compact))
    except ValueError as error:
        raise SeedError(str(error)) from error


def _block(rest: Iterator[tuple[int, str]], number: int, name: str) -> Iterator[tuple[int, str]]:
    for inner, line in rest:
        if re.match(r"%\s*endblock", line, re.IGNORECASE):
            return
        yield inner, line
    raise SeedError(f"line {number}: the block {name} has no %ENDBLOCK")


def _cell_shape(values: dict[str, Any], build: dict[str, Any]) -> bool:
    """SYSTEM and CELLCON as one, and whether cells are reduced."""
    system = build.pop("system", None)
    if system and "constraints" in build:
        raise SeedError("SYSTEM and CELLCON exclude each other; keep one")
    if system:
        build["constraints"] = system
    if build.get("constraints") == (-1.0,) * 6 and (build.get("operations", (1, 1)) != (1, 1) or build.get("groups")):
        raise SeedError(
            "a rhombohedral SYSTEM goes with one symmetry operation only; for rhombohedral groups write "
            "#SYMMNO=146,148,155,160,161,166,167"
        )
    asked, refused = build.pop("compact", False), build.pop("nocompact", False)
    if any(build.get("constraints", ())) or refused:
        return False
    return bool(asked or values.get("cell", "free") == "free")


class Named:
    """Names the line in errors that happen inside.

    Args:
        number: Of the line, 0 if it is not known.
        line: Its text.
    """

    def __init__(self, number: int, line: str) -> None:
        self.number, self.line = number, line

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, (ValueError, LookupError, ArithmeticError, TypeError)) and not isinstance(
            error, SeedError
        ):
            where = f"line {self.number}, " if self.number else ""
            raise SeedError(f"{where}{self.line!r}: {error}") from error


def _directive(text: str, values: dict[str, Any], build: dict[str, Any]) -> None:
    """One directive, without its `#`."""
    before, equals, after = text.partition("=")
    key, value = before.strip(), after.strip()
    if equals and before != before.rstrip() and key.upper() in DIRECTIVES:
        raise ValueError(f"the = stands right behind the name; write #{key.upper()}={value}")
    if text[:1].isspace() or not re.fullmatch(r"[A-Za-z_]+", key):
        if equals and key.upper() in DIRECTIVES:
            raise ValueError(f"a directive begins right after the #; write #{key.upper()}={value}")
        return  # a comment
    name = key.upper()
    if name in UNSUPPORTED:
        raise ValueError(f"#{name}: {REASONS[UNSUPPORTED[name]]}")
    if name not in DIRECTIVES:
        known = ", ".join(sorted(DIRECTIVES))
        raise ValueError(f"#{name} is no directive of AIRSS{did_you_mean(name, DIRECTIVES)}; there are {known}")
    DIRECTIVES[name](value, values, build)


def _set(where: str, key: str, read: Callable[[str], Any]) -> Callable[[str, dict[str, Any], dict[str, Any]], None]:
    """A directive that sets one value."""

    def directive(text: str, values: dict[str, Any], build: dict[str, Any]) -> None:
        (values if where == "seed" else build)[key] = read(text)

    return directive


def _between(low: float, high: float) -> Callable[[str], float]:
    """A number in a range."""

    def read(text: str) -> float:
        value = parse_number(text)
        if not low <= value <= high:
            raise ValueError(f"{text!r} must be {low} to {high}")
        return value

    return read


def _positive(text: str) -> float:
    value = parse_number(text)
    if not value > 0:
        raise ValueError(f"{text!r} must be positive")
    return value


def _positive_range(text: str) -> Range:
    low, high = parse_range(text)
    if not low > 0:
        raise ValueError(f"{text!r} must be positive")
    return low, high


def _count(text: str) -> tuple[int, int]:
    low, high = parse_whole_range(text)
    if low < 1:
        raise ValueError(f"{text!r} must be 1 or more")
    return low, high


def _exact(text: str) -> str:
    if text.startswith("~"):
        raise ValueError("approximate symmetry (~) is not supported; leave the ~ out, or use BREAKAMP")
    return text


def _operations(text: str) -> tuple[int, int]:
    low, high = parse_whole_range(_exact(text))
    for end in (low, high):
        if end not in ORDERS:
            raise ValueError(f"no space group has {end} operations; there are {', '.join(map(str, ORDERS))}")
    return low, high


def _symmetry(text: str) -> tuple[int, ...]:
    """A space group by its short symbol, without blanks, slashes and underscores."""
    import spglib

    wanted = _exact(text).replace("_", "").replace("/", "").replace(" ", "").lower()
    wanted = RENAMED.get(wanted, wanted)
    for hall in range(1, 531):
        kind = spglib.get_spacegroup_type(hall)
        if wanted == kind.international_short.replace("_", "").replace("/", "").lower():
            return (int(kind.number),)
    raise ValueError(f"{text!r} is no short symbol of a space group; write one such as P21c or Fm-3m, or use SYMMNO")


def _groups(text: str) -> tuple[int, ...]:
    numbers = tuple(parse_numbers(_exact(text)))
    if not numbers or not all(1 <= number <= 230 for number in numbers):
        raise ValueError("space groups have the numbers 1 to 230")
    return numbers


def _constraints(text: str) -> tuple[float, ...]:
    numbers = tuple(parse_number(word) for word in text.split())
    if len(numbers) != 6:
        raise ValueError("six numbers are wanted: a b c alpha beta gamma")
    return numbers


def _system(text: str, _: dict[str, Any], build: dict[str, Any]) -> None:
    known = text[:4].lower()
    if known not in SYSTEMS:
        raise ValueError(f"{text!r} is none of {', '.join(name.capitalize() for name in SYSTEMS)}")
    build["system"] = tuple(float(x) for x in SYSTEMS[known])


def _separations(text: str, values: dict[str, Any], _: dict[str, Any]) -> None:
    words = text.split()
    values["auto"], values["auto_volume"] = "AUTO" in words, "AUTOVOL" in words
    words = [word for word in words if word not in ("AUTO", "AUTOVOL")]
    pairs = []
    for word in words:
        ends, equals, value = word.partition("=")
        if not equals:
            values["separation"] = _positive_range(word)
            continue
        first, _dash, second = ends.partition("-")
        for symbol in (first, second):
            if not Element.is_valid_symbol(symbol):
                raise ValueError(f"{word!r} is no pair of elements with a distance, such as Si-O=1.6")
        if value.startswith("-"):
            raise ValueError(f"{word!r}: negative distances (attraction) are not supported")
        pairs.append((*sorted((first, second)), _positive_range(value)))
    values["pairs"] = tuple(pairs)
    if not text.split():
        raise ValueError("a distance is wanted, such as MINSEP=1.5")


def _vacancies(text: str) -> tuple[int, str]:
    number, _, symbol = (part.strip() for part in text.partition("@"))
    low, high = _count(number)
    if low != high or (symbol and not Element.is_valid_symbol(symbol)):
        raise ValueError("one number and one element are wanted, as in VACANCIES=1@O")
    return low, symbol


def _flag(where: str, key: str, value: Any) -> Callable[[str, dict[str, Any], dict[str, Any]], None]:  # noqa: ANN401
    def directive(text: str, values: dict[str, Any], build: dict[str, Any]) -> None:
        if text:
            raise ValueError("it takes no value")
        (values if where == "seed" else build)[key] = value

    return directive


def _permute(text: str, values: dict[str, Any], _: dict[str, Any]) -> None:
    values["permute"] = tuple(name.strip() for name in text.split(",")) if text else ("*",)


def _autoslack(text: str, _: dict[str, Any], build: dict[str, Any]) -> None:
    build["slack"], build["slack_growth"] = _between(0, 0.9)(text), 0.01


def _strain(text: str, values: dict[str, Any], _: dict[str, Any]) -> None:
    if parse_number(text) >= 0:
        values["cell"], values["strain"] = "strained", parse_number(text)


def _default_amplitude(key: str) -> Callable[[str, dict[str, Any], dict[str, Any]], None]:
    def directive(text: str, values: dict[str, Any], _: dict[str, Any]) -> None:
        values.setdefault("amplitudes", {})[key] = parse_number(text)

    return directive


Directive = Callable[[str, dict[str, Any], dict[str, Any]], None]

DIRECTIVES: dict[str, Directive] = {
    "SPECIES": _set("seed", "species_text", str),
    "FORMULA": _set("seed", "formula", str),
    "NATOM": _set("seed", "atoms", _count),
    "NFORM": _set("seed", "units", _count),
    "FOCUS": _set("seed", "distinct", lambda text: parse_whole_range(text)[0]),
    "OCTET": _flag("seed", "octet", True),
    "VARVOL": _set("seed", "set_volume", _positive),
    "TARGVOL": _set("seed", "target_volume", _positive_range),
    "VOL": _set("seed", "cell_volume", _positive_range),
    "PACKING": _set("seed", "packing", _positive),
    "MINSEP": _separations,
    "RAD": _default_amplitude("RAD"),
    "SYMM": _set("build", "groups", _symmetry),
    "SYMMNO": _set("build", "groups", _groups),
    "SYMMOPS": _set("build", "operations", _operations),
    "SGRANK": _set("build", "rank", lambda text: (1, _count(text)[1]) if "-" not in text else _count(text)),
    "SYMMORPHIC": _flag("build", "symmorphic", True),
    "CHIRAL": _flag("build", "chiral", True),
    "SYSTEM": _system,
    "CELLCON": _set("build", "constraints", _constraints),
    "ADJGEN": _set("build", "extra_sites", lambda text: parse_whole_range(text)[1]),
    "CONS": _set("build", "elongation", lambda text: max(0.01, _between(0, 1)(text))),
    "ACONS": _set("build", "flatness", _between(0, 0.99)),
    "COMPACT": _flag("build", "compact", True),
    "NOCOMPACT": _flag("build", "nocompact", True),
    "NOPUSH": _flag("build", "push", False),
    "PUSHSTEP": _set("build", "step", lambda text: min(2.0, PUSH_STEP * _positive(text))),
    "PUSHMAX": _set("build", "patience", lambda text: _count(text)[0]),
    "SLACK": _set("build", "slack", _between(0, 0.9)),
    "AUTOSLACK": _autoslack,
    "OVERLAP": _set("build", "overlap", _positive),
    "CELLADAPT": _flag("build", "adapt", True),
    "RASH": _flag("build", "rash_asked", True),
    "RASH_POSAMP": _set("build", "rash", _positive),
    "MAXTIME": _set("build", "budget", lambda text: int(PAIRS_A_SECOND * _positive(text))),
    "BREAKAMP": _set("build", "shake", _positive),
    "CELLAMP": _strain,
    "POSAMP": _default_amplitude("POSAMP"),
    "MINAMP": _default_amplitude("MINAMP"),
    "XAMP": _default_amplitude("XAMP"),
    "YAMP": _default_amplitude("YAMP"),
    "ZAMP": _default_amplitude("ZAMP"),
    "VACANCIES": _set("seed", "vacancies", _vacancies),
    "PERMUTE": _permute,
    "PERMFRAC": _set("seed", "permuted", _between(0, 1)),
    "SEED": _set("seed", "seed", lambda text: tuple(abs(int(word)) for word in text.split())),
    "FIX": _flag("seed", "cell", "fixed"),
    "CFIX": _flag("seed", "cell", "ab"),
    "ABFIX": _flag("seed", "cell", "c"),
}
"""Directives by name; each reads its value into a seed's fields and its settings' fields."""


def _lattice(blocks: dict[str, list[tuple[int, str]]], values: dict[str, Any]) -> None:
    """A given cell, and the flag that may stand in its block."""
    name = "LATTICE_CART" if "LATTICE_CART" in blocks else "LATTICE_ABC"
    rows: list[list[float]] = []
    scale = 1.0
    for number, line in blocks[name]:
        with Named(number, line):
            if line.startswith("#"):
                _directive(line[1:], values, {})
            elif line.lower() in ("ang", "bohr"):
                scale = BOHR if line.lower() == "bohr" else 1.0
            else:
                rows.append([parse_number(word) for word in line.split()[:3]])
    if len(rows) != (3 if name == "LATTICE_CART" else 2) or any(len(row) != 3 for row in rows):
        raise SeedError(f"the block {name} must have {3 if name == 'LATTICE_CART' else 2} lines of three numbers")
    if name == "LATTICE_ABC":
        matrix = Lattice.from_parameters(*(scale * x for x in rows[0]), *rows[1]).matrix
    else:
        matrix = scale * np.array(rows)
    if abs(np.linalg.det(matrix)) < 1e-6:
        raise SeedError(f"the block {name} is no cell: its volume is zero")
    values["lattice"] = tuple((float(a), float(b), float(c)) for a, b, c in matrix)


def _species(blocks: dict[str, list[tuple[int, str]]], values: dict[str, Any]) -> None:
    """The atoms, from SPECIES, FORMULA or a block of positions."""
    defaults = values.pop("amplitudes", {})
    texts = {key: values.pop(key) for key in ("species_text", "formula") if key in values}
    names = [name for name in ("POSITIONS_FRAC", "POSITIONS_ABS") if name in blocks]
    if len(texts) + len(names) != 1:
        given = [*("SPECIES" if key == "species_text" else "FORMULA" for key in texts), *names]
        raise SeedError(
            "the atoms must be given once, by SPECIES, FORMULA or a block of positions; "
            f"there are {', '.join(given) or 'none'}"
        )
    if "formula" in texts:
        with Named(0, f"#FORMULA={texts['formula']}"):
            lines = _formula_lines(texts["formula"], defaults)
    elif "species_text" in texts:
        lines = [_species_line(part, defaults) for part in texts["species_text"].split(",")]
    else:
        lines = [_position_line(number, line, names[0], defaults, values) for number, line in blocks[names[0]]]
        _check_units(blocks[names[0]])
    for line in lines:
        if not Element.is_valid_symbol(line.symbol):
            raise SeedError(f"{line.symbol!r} is no element")
    if not lines:
        raise SeedError("the seed names no atom")
    values["species"] = tuple(lines)


def _formula_lines(text: str, defaults: dict[str, float]) -> list[SpeciesLine]:
    amounts = Composition(text)
    if not all(amount == int(amount) for amount in amounts.values()):
        raise ValueError("whole numbers of atoms are wanted")
    return [
        SpeciesLine(element.symbol, (int(n), int(n)), radius=defaults.get("RAD", 0.0)) for element, n in amounts.items()
    ]


def _species_line(text: str, defaults: dict[str, float]) -> SpeciesLine:
    name, _, tags = text.partition("%")
    with Named(0, text):
        return _tagged(SpeciesLine(re.sub(r"[^A-Za-z].*", "", name.strip())), tags, defaults)


def _position_line(
    number: int, text: str, block: str, defaults: dict[str, float], values: dict[str, Any]
) -> SpeciesLine:
    before, _, after = text.partition("#")
    _, _, tags = after.partition("%")
    with Named(number, text):
        name, *words = before.split()
        coords = np.array([parse_number(word) for word in words[:3]])
        if len(coords) != 3:
            raise ValueError("three coordinates are wanted")
        if block == "POSITIONS_ABS":
            if "lattice" not in values:
                raise ValueError("absolute positions want a lattice block")
            coords = coords @ np.linalg.inv(np.array(values["lattice"]))
        line = _tagged(SpeciesLine(re.sub(r"[^A-Za-z].*", "", name)), tags, defaults)
        if line.reach[1] >= 0 or max(line.box) >= 0:
            line = replace(line, position=(float(coords[0]), float(coords[1]), float(coords[2])))
        return line


def _check_units(lines: Sequence[tuple[int, str]]) -> None:
    labels = [text.partition("#")[2].partition("%")[0].strip() for _, text in lines if text.partition("#")[2].strip()]
    for label in labels:
        if label and labels.count(label) > 1:
            raise SeedError(f"several atoms have the label {label!r}: rigid units are not supported")


def _tagged(line: SpeciesLine, text: str, defaults: dict[str, float]) -> SpeciesLine:
    """A line with its tags `TAG=value`."""
    tags: dict[str, str] = {}
    for word in text.split():
        key, _, value = word.partition("=")
        if key.upper() not in ATOM_TAGS:
            raise ValueError(f"the tag {key} is not supported; there are {', '.join(ATOM_TAGS)}")
        tags[key.upper()] = value

    def amplitude(key: str, default: float) -> float:
        return parse_number(tags[key]) if key in tags else defaults.get(key, default)

    low, high = parse_whole_range(tags.get("NUM", "1"))
    return replace(
        line,
        number=(low, high),
        reach=(amplitude("MINAMP", 0.0), amplitude("POSAMP", -1.0)),
        box=(amplitude("XAMP", -1.0), amplitude("YAMP", -1.0), amplitude("ZAMP", -1.0)),
        radius=amplitude("RAD", 0.0),
        volume=amplitude("VOL", 0.0),
        movable=not {"FIX", "NOMOVE"} & set(tags),
    )


def structure_to_cell(structure: Structure) -> str:
    """A structure as CASTEP's `.cell`, as `buildcell` writes it."""
    lines = ["%BLOCK LATTICE_ABC"]
    lines += [" ".join(f"{x:13.7f}" for x in row) for row in (structure.lattice.abc, structure.lattice.angles)]
    lines += ["%ENDBLOCK LATTICE_ABC", "", "%BLOCK POSITIONS_FRAC"]
    for site in structure:
        lines.append(f"{site.specie.symbol:<4}" + "".join(f"{x:17.10f}" for x in site.frac_coords))
    return "\n".join([*lines, "%ENDBLOCK POSITIONS_FRAC", ""])
