from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pymatgen.core import Composition, Structure

from unimat_search.airss import RandomSearch
from unimat_search.cli import main
from unimat_search.files import read_structures
from unimat_search.records import EV_PER_CUBIC_ANGSTROM, Outcome, Relaxation, RelaxSettings
from unimat_search.registry import Spec
from unimat_search.res import read_res, to_res
from unimat_search.search import search, united
from unimat_search.shaking import Shaking, shaken

SEED = "#VARVOL=35\n#SPECIES=Si%NUM=1,O%NUM=2\n#NFORM=2-4\n#MINSEP=1.0 Si-Si=3.00 Si-O=1.60 O-O=2.58\n#COMPACT\n"
COPPER = "#VARVOL=12\n#SPECIES=Cu%NUM=1\n#NFORM=4\n#MINSEP=2.0\n#SYMMOPS=2-4\n"


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def candidates(n: int) -> list[tuple[str, Structure]]:
    made = RandomSearch().generate(Composition("Cu4"), n, seed=0)
    return [(f"Cu4-{k}", one) for k, one in enumerate(made) if isinstance(one, Structure)]


def test_shaking_lowers_or_keeps_every_enthalpy() -> None:
    settings = RelaxSettings(fmax=0.02)
    plain = search(candidates(6), Spec.parse("emt"), settings)
    again = search(candidates(6), Spec.parse("emt"), settings, shaking=Shaking(2, 0.8, 0.1))
    assert [entry.name for entry in plain.entries] == [entry.name for entry in again.entries]
    gains = [one.enthalpy - two.enthalpy for one, two in zip(plain.entries, again.entries, strict=True)]
    assert min(gains) >= 0
    assert max(gains) > 0.01
    assert again == search(candidates(6), Spec.parse("emt"), settings, shaking=Shaking(2, 0.8, 0.1), workers=2)


def test_pressure_enters_the_enthalpy() -> None:
    found = search(candidates(2), Spec.parse("emt"), RelaxSettings(pressure=20.0))
    for entry in found.entries:
        assert entry.pressure == 20.0
        assert entry.enthalpy > 20 * entry.structure.volume / EV_PER_CUBIC_ANGSTROM - 1  # EMT's own zero is the crystal


def test_failures_are_told() -> None:
    found = search(candidates(3), Spec.parse("emt"), RelaxSettings(max_steps=1))
    assert found.entries == ()
    assert set(found.failures) == {"Cu4-0", "Cu4-1", "Cu4-2"}


def test_a_shake_has_its_bounds() -> None:
    (_, structure), *_ = candidates(1)
    for k in range(20):
        other = shaken(structure, np.random.default_rng(k), Shaking(1, 0.3, 0.0))
        apart = other.frac_coords - structure.frac_coords
        moves = np.linalg.norm((apart - np.rint(apart)) @ structure.lattice.matrix, axis=1)
        assert 0 < moves.max() <= 0.3 + 1e-9
        assert other.lattice == structure.lattice
        strained = shaken(structure, np.random.default_rng(k), Shaking(1, 0.0, 0.1))
        strain = np.linalg.solve(structure.lattice.matrix, strained.lattice.matrix) - np.eye(3)
        assert np.abs(strain).max() <= 0.1
        assert strain == pytest.approx(strain.T)


def test_copies_are_counted() -> None:
    found = search(candidates(8), Spec.parse("emt"), RelaxSettings(fmax=0.01))
    entries = united(found.entries)
    assert sum(entry.copies for entry in entries) == len(found.entries)
    assert len(entries) < len(found.entries)
    assert united(entries) == entries


def test_generate_from_a_seed_file(tmp_path: Path) -> None:
    (tmp_path / "SiO2.cell").write_text(SEED)
    result = call("airss", "generate", tmp_path / "SiO2.cell", "-n", "6", "--out", tmp_path / "made.extxyz")
    assert result.exit_code == 0, result.output
    assert "52.50 for each SiO2" in result.stderr
    structures = [structure for _, structure in read_structures(tmp_path / "made.extxyz")]
    assert len(structures) == 6
    assert {structure.composition.reduced_formula for structure in structures} == {"SiO2"}
    assert call("airss", "generate", tmp_path / "SiO2.cell", "-n", "2", "--out", tmp_path / "cells").exit_code == 0
    assert sorted(file.name for file in (tmp_path / "cells").iterdir()) == ["SiO2-0.cell", "SiO2-1.cell"]
    from ase.io import read

    first = read(tmp_path / "cells" / "SiO2-0.cell", format="castep-cell")
    assert first.get_volume() == pytest.approx(structures[0].volume, rel=1e-5)


def test_generate_from_options_with_any_number_of_workers(tmp_path: Path) -> None:
    for workers in ("1", "2"):
        result = call("airss", "generate", "--formula", "Ti2O4", "--operations", "1-4", "--option", "extra_sites=any",
                      "-n", "450", "--workers", workers, "--out", tmp_path / f"{workers}.extxyz")  # fmt: skip
        assert result.exit_code == 0, result.output
    assert (tmp_path / "1.extxyz").read_bytes() == (tmp_path / "2.extxyz").read_bytes()


def test_search_and_rank(tmp_path: Path) -> None:
    (tmp_path / "Cu.cell").write_text(COPPER)
    out = tmp_path / "found.res"
    result = call("airss", "search", tmp_path / "Cu.cell", "-n", "4", "--shakes", "1", "--relaxer", "emt",
                  "--workers", "1", "--out", out)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(list(read_res(out))) == 4
    ranked = call("airss", "rank", out)
    assert len(ranked.stdout.splitlines()) == 4
    energies = [float(line[39:51]) for line in ranked.stdout.splitlines()]
    assert energies[1:] == sorted(energies[1:])
    united_lines = call("airss", "rank", tmp_path, "--unite", "0.01").stdout.splitlines()
    assert sum(int(line.split()[-1]) for line in united_lines) == 4
    assert call("airss", "rank", out, "--formula", "Al", "--top", "1").stdout.strip() == ""
    (tmp_path / "O.res").write_text(out.read_text().replace("Cu", "O"))
    assert len(call("airss", "rank", tmp_path / "O.res", "--formula", "O").stdout.splitlines()) == 4
    pressed = call("airss", "rank", out, "--pressure", "10", "--top", "1").stdout
    assert pressed.split()[1] == "10.00"


def test_ctrl_c_ends_a_search_and_not_its_ranking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(
        _: Spec, chunks: Iterable[tuple[list[tuple[str, Structure]], list[Structure]]], *__: Any, **___: Any
    ) -> Iterator[tuple[list[tuple[str, Structure]], list[Relaxation]]]:
        for part, structures in chunks:
            yield part, [Relaxation(i, s, -1.0, outcome=Outcome.CONVERGED) for i, s in enumerate(structures)]
            raise KeyboardInterrupt

    monkeypatch.setattr("unimat_search.search.relax_chunks", interrupted)
    (tmp_path / "Cu.cell").write_text(COPPER)
    out = tmp_path / "found.res"
    result = call("airss", "search", tmp_path / "Cu.cell", "-n", "20", "--relaxer", "emt", "--out", out)
    assert result.exit_code == 130, result.output
    assert f"what was found is in {out}" in result.stderr
    assert len(list(read_res(out))) == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "--out", "x"], "give a seed file, or --formula"),
        (["generate", "nowhere.cell", "--out", "x"], "can't be read as a seed file"),
        (["generate", "SEED", "--operations", "2", "--out", "x"], "leave the option out"),
        (["generate", "--formula", "TiO2", "--operations", "5", "--out", "x"], "operations must be"),
        (["generate", "--formula", "TiO2", "--out", "x.pdf"], "must end in .extxyz"),
        (["search", "--formula", "TiO2", "--out", "x.txt"], "ends in .res"),
        (["search", "--formula", "TiO2", "--shakes", "-1", "--out", "x.res"], "shakes"),
        (["rank", "nowhere"], "is no .res file"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed.cell").write_text(SEED)
    result = call("airss", *("seed.cell" if word == "SEED" else word for word in arguments))
    assert result.exit_code == 2
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["seed.cell"]


def test_unrelaxed_structures_can_not_be_ranked(tmp_path: Path) -> None:
    (_, structure), *_ = candidates(1)
    from unimat_search.res import ResEntry

    text = to_res(ResEntry("x", structure, enthalpy=0.0)).replace("TITL x 0.0000", "TITL x unknown")
    (tmp_path / "x.res").write_text(text)
    result = call("airss", "rank", tmp_path / "x.res")
    assert result.exit_code == 2
    assert "states no enthalpy" in result.stderr


def test_compare_with_a_seed_file(tmp_path: Path) -> None:
    (tmp_path / "Cu.cell").write_text(
        COPPER.replace("Cu%NUM=1", "Cu%NUM=1,Al%NUM=1").replace("=4", "=1-2").replace("=12", "=28")
    )
    result = call("compare", "--seed-file", tmp_path / "Cu.cell", "--generator", "airss", "-n", "4", "--relaxer", "emt",
                  "--workers", "1", "--out", tmp_path / "run")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "28.00 for each AlCu" in result.stderr
    assert "Cu.cell" in result.stdout
    varying = SEED.replace("Si%NUM=1", "Si%NUM=1-2")
    (tmp_path / "vary.cell").write_text(varying)
    refused = call("compare", "--seed-file", tmp_path / "vary.cell", "--out", tmp_path / "other")
    assert refused.exit_code == 2
    assert "give --formula too" in refused.stderr
