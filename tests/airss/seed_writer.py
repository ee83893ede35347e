"""Seeds as files: the inverse of the parser, to try it."""

from __future__ import annotations

from unimat_search.airss.seedfile import PAIRS_A_SECOND, PUSH_STEP, Seed, SpeciesLine
from unimat_search.airss.settings import BuildSettings


def to_cell(seed: Seed) -> str:
    """A seed as text that AIRSS and `SeedText.parse` read; what is as the original has it by default is left out."""
    lines = _lattice_lines(seed)
    if any(line.position for line in seed.species):
        lines += ["%BLOCK POSITIONS_FRAC", *map(_position_text, seed.species), "%ENDBLOCK POSITIONS_FRAC"]
    else:
        lines.append("#SPECIES=" + ",".join(f"{line.symbol}%{_tags_text(line)}" for line in seed.species))
    ranges = {"NATOM": seed.atoms, "NFORM": seed.units, "TARGVOL": seed.target_volume, "VOL": seed.cell_volume}
    numbers = {
        "FOCUS": seed.distinct or None,
        "VARVOL": seed.set_volume,
        "PACKING": seed.packing,
        "CELLAMP": seed.strain if seed.cell == "strained" else None,
        "PERMFRAC": seed.permuted if seed.permuted != 1.0 else None,
    }
    lines += [f"#{key}={_range_text(window)}" for key, window in ranges.items() if window]
    lines += [f"#{key}={value:.10g}" for key, value in numbers.items() if value is not None]
    words = [_range_text(seed.separation)] if seed.separation else []
    words += [f"{a}-{b}={_range_text(window)}" for a, b, window in seed.pairs]
    words += ["AUTO"] * seed.auto + ["AUTOVOL"] * seed.auto_volume
    if words:
        lines.append("#MINSEP=" + " ".join(words))
    if seed.octet:
        lines.append("#OCTET")
    if seed.vacancies[0]:
        lines.append(f"#VACANCIES={seed.vacancies[0]}@{seed.vacancies[1]}")
    if seed.permute:
        lines.append("#PERMUTE" + ("" if seed.permute == ("*",) else "=" + ",".join(seed.permute)))
    if seed.seed:
        lines.append("#SEED=" + " ".join(map(str, seed.seed)))
    return "\n".join([*lines, *_settings_lines(seed.settings), ""])


def _settings_lines(own: BuildSettings) -> list[str]:
    """Directives of how structures are built."""
    usual = BuildSettings()
    written: dict[str, object] = {
        "SYMMNO": ",".join(map(str, own.groups)) or None,
        "SYMMOPS": _range_text(own.operations) if own.operations != usual.operations else None,
        "SGRANK": _range_text(own.rank) if own.rank != usual.rank else None,
        "CELLCON": " ".join(f"{x:.10g}" for x in own.constraints) if any(own.constraints) else None,
        "ADJGEN": own.extra_sites or None,
        "CONS": own.elongation if own.elongation != usual.elongation else None,
        "ACONS": own.flatness if own.flatness != usual.flatness else None,
        "PUSHSTEP": own.step / PUSH_STEP if own.step != usual.step else None,
        "PUSHMAX": own.patience if own.patience != usual.patience else None,
        "AUTOSLACK" if own.slack_growth else "SLACK": own.slack if own.slack or own.slack_growth else None,
        "OVERLAP": own.overlap,
        "MAXTIME": own.budget / PAIRS_A_SECOND if own.budget != usual.budget else None,
        "BREAKAMP": own.shake or None,
        "RASH_POSAMP": own.rash or None,
    }
    flags = {
        "SYMMORPHIC": own.symmorphic,
        "CHIRAL": own.chiral,
        "NOPUSH": not own.push,
        "CELLADAPT": own.adapt,
        "RASH": own.rash > 0,
        "COMPACT": own.compact,
        "NOCOMPACT": not own.compact,
    }
    return [f"#{key}={value}" for key, value in written.items() if value is not None] + [
        f"#{key}" for key, on in flags.items() if on
    ]


def _lattice_lines(seed: Seed) -> list[str]:
    if seed.lattice is None:
        return []
    flag = {"fixed": ["#FIX"], "ab": ["#CFIX"], "c": ["#ABFIX"]}.get(seed.cell, [])
    rows = [" ".join(f"{x:.10f}" for x in row) for row in seed.lattice]
    return ["%BLOCK LATTICE_CART", *rows, *flag, "%ENDBLOCK LATTICE_CART"]


def _position_text(line: SpeciesLine) -> str:
    place = " ".join(f"{x:.10f}" for x in line.position or (0.0, 0.0, 0.0))
    return f"{line.symbol} {place} # % {_tags_text(line)}"


def _tags_text(line: SpeciesLine) -> str:
    written = {
        "NUM": _range_text(line.number),
        "MINAMP": line.reach[0] or None,
        "POSAMP": line.reach[1] if line.reach[1] >= 0 else None,
        **{f"{axis}AMP": width if width >= 0 else None for axis, width in zip("XYZ", line.box, strict=True)},
        "RAD": line.radius or None,
        "VOL": line.volume or None,
    }
    tags = [f"{key}={value}" for key, value in written.items() if value is not None]
    return " ".join([*tags, *([] if line.movable else ["NOMOVE"])])


def _range_text(window: tuple[float, float]) -> str:
    low, high = (f"{x:.10g}" for x in window)
    return low if low == high else f"{low}-{high}"
