"""Candidates in a cell that is given: every generator that can, and what is said of those that can't."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from pymatgen.core import Composition, Lattice, Structure

from unimat_search.airss import dense
from unimat_search.baselines.uniform import UniformRandom
from unimat_search.cells import strained_into
from unimat_search.cli import main
from unimat_search.compare import run_comparison
from unimat_search.generation import in_given_cell
from unimat_search.plan import CompareSettings, cell_volume, plan
from unimat_search.protocol import CellGenerator, StructureGenerator
from unimat_search.records import FailedAttempt, RelaxSettings
from unimat_search.store import Store
from unimat_search.unimat.sample import UniMatGenerator

CELL = (5.5, 5.5, 7.8, 90.0, 90.0, 90.0)
SKEW = (4.1, 5.2, 6.3, 75.0, 101.0, 118.0)


class Stubborn:
    """Says that it can be given a cell, and takes another."""

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure]:
        return self.generate_in_cell(composition, n, Lattice.cubic(5), seed=seed)

    def generate_in_cell(self, composition: Composition, n: int, lattice: Lattice, *, seed: int) -> Iterator[Structure]:
        species = [element for element, amount in composition.items() for _ in range(int(amount))]
        coords = np.random.default_rng(seed).random((len(species), 3))
        return (Structure(Lattice.cubic(lattice.a + 1), species, coords) for _ in range(n))


@pytest.mark.parametrize("cell", [CELL, SKEW])
@pytest.mark.parametrize(
    "generator",
    [dense(), UniformRandom(), UniMatGenerator(steps=3), UniMatGenerator(steps=3, symmetric=True)],
    ids=["airss", "uniform", "unimat", "unimat:symmetric"],
)
def test_cells_are_the_one_that_was_given(generator: StructureGenerator, cell: tuple[float, ...]) -> None:
    assert isinstance(generator, CellGenerator)
    made = list(in_given_cell(generator, Composition("Sr2Ti2O6"), 9, cell, seed=1))
    structures = [one for one in made if isinstance(one, Structure)]
    assert len(structures) >= 8, made
    for one in structures:
        assert one.lattice.parameters == pytest.approx(cell, abs=1e-6)
        assert one.composition == Composition("Sr2Ti2O6")
    again = list(in_given_cell(generator, Composition("Sr2Ti2O6"), 2, cell, seed=1))
    assert isinstance(again[1], Structure)
    assert isinstance(made[1], Structure)
    assert np.allclose(again[1].frac_coords, made[1].frac_coords, atol=1e-4)


def test_a_group_holds_in_a_given_cell_or_contradicts_it() -> None:
    generator = UniMatGenerator(steps=3, space_group=221, retries=0)
    (held,) = in_given_cell(generator, Composition("SrTiO3"), 1, (3.9, 3.9, 3.9, 90.0, 90.0, 90.0), seed=0)
    assert isinstance(held, Structure)
    assert held.get_space_group_info(symprec=1e-3)[1] == 221
    (failed,) = in_given_cell(generator, Composition("SrTiO3"), 1, (3.9, 3.9, 4.4, 90.0, 90.0, 90.0), seed=0)
    assert isinstance(failed, FailedAttempt)
    assert failed.reason == "space group 221 has no sites for Sr1 Ti1 O3 in the cell that is given"


def test_a_crystal_strained_into_its_own_cell_is_itself() -> None:
    """A rhombohedral cell's Niggli-reduced cell is another one."""
    salt = Structure(Lattice.from_parameters(4, 4, 4, 100, 100, 100), ["Na", "Cl"], [[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]])
    into = strained_into(salt, salt.lattice)
    assert into.lattice == salt.lattice
    apart = into.distance_matrix
    assert np.allclose(apart, salt.distance_matrix, atol=1e-4)


def test_what_can_t_be_given_a_cell_or_changes_it_is_a_row_with_the_reason(tmp_path: Path) -> None:
    settings = CompareSettings(
        formulas=("Al2Cu2",),
        generators=("uniform", "tests.plugins:Uniform", "tests.unimat_search.test_given_cell:Stubborn"),
        n=2,
        relaxer="emt",
        relax=RelaxSettings(max_steps=2),
        cell=(4.0, 4.0, 4.0, 90.0, 90.0, 90.0),
    )
    run_comparison(settings, tmp_path / "run")
    with Store(tmp_path / "run" / "results.sqlite") as store:
        rows = list(store.records(structures=True))
    details = {row.generator: row.detail for row in rows}
    assert details["tests.plugins:Uniform"] == "this generator can't draw in a given cell"
    assert details["tests.unimat_search.test_given_cell:Stubborn"] == "the generator changed the cell that was given"
    for row in rows:
        if row.generator == "uniform":
            assert row.initial_structure is not None
            assert row.initial_structure.lattice.parameters == pytest.approx(settings.cell)
    assert CompareSettings.from_toml(settings.to_toml()) == settings


@pytest.mark.parametrize("cell", [CELL, SKEW])
def test_volumes_of_cells(cell: tuple[float, ...]) -> None:
    assert cell_volume(cell) == pytest.approx(Lattice.from_parameters(*cell).volume)


@pytest.mark.parametrize(
    ("formula", "cell", "message"),
    [
        ("Sr2Ti2O6", (5.5, 5.5, 7.8, 90.0, 90.0), "three lengths"),
        ("Sr2Ti2O6", (5.5, 5.5, -7.8, 90.0, 90.0, 90.0), "all positive"),
        ("Sr2Ti2O6", (5.5, 5.5, 7.8, 170.0, 170.0, 90.0), "no cell has the angles 170, 170 and 90"),
        ("Sr2Ti2O6", (5.5, 5.5, 7.8, 20.0, 30.0, 60.0), "no cell has the angles"),
        ("Sr2Ti2O6", (2.0, 2.0, 2.0, 90.0, 90.0, 90.0), "0.8 cubic angstrom for each of 10 atoms"),
        ("Sr2Ti2O6", (50.0, 50.0, 50.0, 90.0, 90.0, 90.0), "crystals have 2 to 150"),
        ("SrTiO3", CELL, "give --formula-units too"),
    ],
)
def test_a_cell_that_can_t_hold_the_atoms_is_one_line(formula: str, cell: tuple[float, ...], message: str) -> None:
    def searches() -> None:
        plan(CompareSettings(formulas=(formula,), generators=("uniform",), cell=cell))

    with pytest.raises(ValueError, match=message):
        searches()


def test_the_commands_take_a_cell_and_a_space_group(tmp_path: Path) -> None:
    from ase.io import read

    out = tmp_path / "made.extxyz"
    command = ["sample", "--formula", "Sr2Ti2O6", "--cell", "5.5,5.5,7.8,90,90,90", "-n", "3", "--steps", "3"]
    result = CliRunner().invoke(main, [*command, "--out", str(out)])
    assert result.exit_code == 0, result.output
    for atoms in read(out, index=":"):
        assert atoms.cell.cellpar() == pytest.approx(CELL)
    for extra, message in (
        (["--cell", "5.5,5.5"], "is not A,B,C,ALPHA,BETA,GAMMA"),
        (["--cell", "1,1,1,90,90,90"], "cubic angstrom for each of 10 atoms"),
        (["--space-group", "231"], "there is no space group 231"),
        (["--space-group", "Fm-3m"], "space group 225 has no sites for Sr2 Ti2 O6 in the cell"),
    ):
        result = CliRunner().invoke(main, [*command, *extra, "--out", str(tmp_path / "none.extxyz")])
        assert result.exit_code == 2, result.output
        assert message in result.output
        assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "none.extxyz").exists()
    result = CliRunner().invoke(main, ["sample", "--cell", "5,5,5,90,90,90", "--out", str(out)])
    assert result.exit_code == 2
    assert "give --formula too" in result.output
