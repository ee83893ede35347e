"""The lean CHGNet against chgnet's own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chgnet.model import CHGNet
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure
from torch import Tensor

from tests.eval.structures import HOPELESS, random_structures
from unimat_search.eval.chgnet import ChgnetPotential
from unimat_search.eval.chgnet.gated import Gate, Rows, Source, TorchKernel, gated_sum
from unimat_search.eval.chgnet.graph import build_graph, neighbour_list
from unimat_search.eval.chgnet.kernels import LEVELS, WIDTH, CompiledKernel, levels
from unimat_search.eval.chgnet.network import Network, UnsupportedModelError
from unimat_search.eval.potential import Crystals, Evaluations
from unimat_search.eval.references import load_references
from unimat_search.records import EV_PER_CUBIC_ANGSTROM

compiled_only = pytest.mark.skipif(not levels(), reason="there are no compiled kernels")
KERNELS = [pytest.param(False, id="torch"), pytest.param(True, id="compiled", marks=compiled_only)]


@lru_cache
def potential(model: str = "0.3.0", *, compiled: bool = True) -> ChgnetPotential:
    return ChgnetPotential(model, "cpu", compiled=compiled)


@lru_cache
def zoo() -> list[Structure]:
    """Structures of all kinds: every element, 1 to 60 atoms, random, at rest, squeezed, stretched and skewed."""
    rng = np.random.default_rng(7)
    elements = sorted(load_references("chgnet-0.3.0").elements)
    structures = [s for el in elements for s in random_structures(f"{el}{rng.integers(1, 4)}", 1)]
    while len(structures) < 190:
        chosen = rng.choice(elements, rng.integers(2, 5), replace=False)
        formula = "".join(f"{el}{rng.integers(1, 6)}" for el in chosen)
        structures += random_structures(formula, 1, seed=len(structures))
    rock_salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    perovskite = Structure(
        Lattice.cubic(3.94), ["Sr", "Ti", *"OOO"], [[0.0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    )
    iron = Structure(Lattice.cubic(2.84), ["Fe"] * 2, [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    for structure in (rock_salt, perovskite, iron, iron.get_primitive_structure(), rock_salt.get_primitive_structure()):
        structures += [structure, structure.copy().perturb(0.1)]
        structures += [structure.copy().apply_strain(e, inplace=False) for e in (-0.15, 0.25)]
    structures += [perovskite * (2, 2, 3), iron * (3, 3, 3), rock_salt * (2, 2, 1)]
    skewed = rock_salt.get_primitive_structure()
    structures.append(Structure(np.array([[1, 0, 0], [3, 1, 0], [-2, 4, 1]]) @ skewed.lattice.matrix, ["Na", "Cl"],
                                skewed.cart_coords, coords_are_cartesian=True))  # fmt: skip
    return structures


@lru_cache
def chgnets_own(model: str, n: int) -> list[dict[str, NDArray[np.float32]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [potential(model).model.predict_structure(s, task="efsm") for s in zoo()[-n:]]


def one_by_one(of: ChgnetPotential, structures: Sequence[Structure]) -> list[Evaluations]:
    return [of.evaluate(Crystals.of([s])) for s in structures]


def assert_same(structure: Structure, ours: Evaluations, theirs: dict[str, Any]) -> None:
    """`CHGNet.predict_structure` gives eV/atom, eV/angstrom and GPa."""
    assert float(ours.energies[0]) / len(structure) == pytest.approx(float(theirs["e"]), abs=1e-5)
    forces = ours.forces.numpy()
    assert np.abs(forces - theirs["f"]).max() < 1e-3 * max(np.abs(theirs["f"]).max(), 0.1)
    handedness = np.sign(np.linalg.det(structure.lattice.matrix))  # chgnet's stress has this sign
    stress = ours.stresses[0].numpy() * EV_PER_CUBIC_ANGSTROM
    expected = handedness * theirs["s"]
    assert np.abs(stress - expected).max() < max(0.01, 1e-4 * np.abs(expected).max())


@lru_cache
def in_double_precision(model: str) -> ChgnetPotential:
    double = ChgnetPotential(model, "cpu", compiled=False)
    double.network = Network(double.model.double(), TorchKernel())
    return double


@pytest.mark.parametrize("compiled", KERNELS)
@pytest.mark.parametrize(("model", "n"), [("0.3.0", 200), ("0.2.0", 40), ("r2scan", 40)])
def test_energies_forces_and_stresses_are_chgnets_own(model: str, n: int, compiled: bool) -> None:
    """Where rounding sets chgnet's own energy further than 5e-6 eV/atom from the exact one, ours is the nearer."""
    structures = zoo()[-n:]
    if n == 200:
        assert {len(s) for s in structures} >= {1, 2, 60}
    ours = one_by_one(potential(model, compiled=compiled), structures)
    double = one_by_one(in_double_precision(model), structures)
    for structure, mine, theirs, true in zip(structures, ours, chgnets_own(model, n), double, strict=True):
        exact = float(true.energies[0]) / len(structure)
        assert float(mine.energies[0]) / len(structure) == pytest.approx(exact, abs=5e-6)
        rounding = float(theirs["e"]) - exact
        if abs(rounding) > 5e-6:
            assert abs(rounding) < 1e-4
            theirs = {**theirs, "e": np.array(exact, np.float32)}
        assert_same(structure, mine, theirs)


def test_a_fine_tuned_checkpoint(tmp_path: Path) -> None:
    """As chgnet's trainer saves it."""
    model = ChgnetPotential("0.3.0", "cpu").model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.01
    torch.save({"model": model.as_dict()}, tmp_path / "tuned.pth.tar")
    tuned = ChgnetPotential(str(tmp_path / "tuned.pth.tar"), "cpu")
    structure = zoo()[120]
    assert_same(structure, one_by_one(tuned, [structure])[0], model.predict_structure(structure, task="efs"))
    assert tuned.name.startswith("chgnet-tuned.pth-")
    torch.save({"model": tuned.model.as_dict(), "epoch": 2}, tmp_path / "tuned.pth.tar")
    assert ChgnetPotential(str(tmp_path / "tuned.pth.tar"), "cpu").name != tuned.name, "it may be trained on"


def test_a_checkpoint_that_would_run_code(tmp_path: Path) -> None:
    torch.save({"model": Path("x")}, tmp_path / "bad.pth.tar")
    with pytest.raises(ValueError, match="or holds more than numbers"):
        ChgnetPotential(str(tmp_path / "bad.pth.tar"))
    (tmp_path / "text.pth.tar").write_text("no checkpoint")
    with pytest.raises(ValueError, match="is no checkpoint of chgnet's"):
        ChgnetPotential(str(tmp_path / "text.pth.tar"))


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"no CHGNet 'nowhere'.*0\.3\.0"):
        ChgnetPotential("nowhere")


def test_a_model_that_we_would_compute_wrongly() -> None:
    model = ChgnetPotential("0.3.0", "cpu").model
    model.model_args["non_linearity"] = "tanh"
    with pytest.raises(UnsupportedModelError, match="non_linearity='tanh'"):
        Network(model, TorchKernel())


def test_a_model_of_other_hidden_widths() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CHGNet(atom_conv_hidden_dim=128)
    with pytest.raises(UnsupportedModelError, match="128"):
        Network(model, TorchKernel())


@pytest.mark.parametrize("compiled", KERNELS)
def test_crystals_without_angles_do_not_see_their_neighbours_angles(compiled: bool) -> None:
    """CHGNet 0.2.0 has a bias that counts only where there are angles."""
    copper, potassium = (
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [el], [[0.0, 0, 0]]) for el, a in (("Cu", 3.6), ("K", 5.3))
    )
    of = potential("0.2.0", compiled=compiled)
    together = of.evaluate(Crystals.of([copper, potassium])).energies
    alone = of.evaluate(Crystals.of([potassium])).energies
    assert float(together[1]) == pytest.approx(float(alone[0]), abs=2e-5)
    theirs = of.model.predict_structure(potassium, task="e")["e"]
    assert float(alone[0]) / 4 == pytest.approx(float(theirs), abs=1e-5)


def test_magnetic_moments_are_chgnets_own() -> None:
    for structure, theirs in zip(zoo()[-200:], chgnets_own("0.3.0", 200), strict=True):
        ours = potential().magnetic_moments(Crystals.of([structure]))
        assert np.allclose(ours, theirs["m"], atol=2e-5)


@pytest.mark.parametrize("compiled", KERNELS)
def test_a_batch_is_its_singles(compiled: bool) -> None:
    """Within float32: what is stated for `ChgnetPotential`."""
    structures = [s for s in zoo() if len(s) < 20][:60]
    batch = potential(compiled=compiled).evaluate(Crystals.of(structures))
    singles = Evaluations.joined(one_by_one(potential(compiled=compiled), structures))
    sizes = torch.tensor([len(s) for s in structures])
    assert torch.allclose(batch.energies / sizes, singles.energies / sizes, atol=5e-6, rtol=0)
    assert torch.allclose(batch.forces, singles.forces, atol=1e-4, rtol=1e-4)
    assert torch.allclose(batch.stresses, singles.stresses, atol=1e-5, rtol=1e-4)


def test_forces_and_stresses_are_derivatives() -> None:
    """By central differences in double precision."""
    of = in_double_precision("0.3.0")
    crystals = Crystals.of([random_structures("Sr2Ti2O6", 1, seed=3)[0]])
    here = of.evaluate(crystals)
    step = 1e-5
    rng = np.random.default_rng(0)
    for _ in range(4):
        shift, strain = torch.tensor(rng.normal(size=(10, 3))), torch.tensor(rng.normal(size=(3, 3)))

        def energy(shift: Tensor, strain: Tensor) -> float:
            deformed = torch.eye(3, dtype=torch.float64) + strain
            there = (crystals.numbers, (crystals.positions + shift) @ deformed, crystals.lattices @ deformed)
            return float(of.evaluate(Crystals(*there, crystals.sizes)).energies)

        slope = (energy(step * shift, 0 * strain) - energy(-step * shift, 0 * strain)) / (2 * step)
        assert -float((here.forces * shift).sum()) == pytest.approx(slope, abs=1e-4, rel=1e-5)
        slope = (energy(0 * shift, step * strain) - energy(0 * shift, -step * strain)) / (2 * step)
        work = float((here.stresses[0] * strain).sum() * crystals.volumes)
        assert work == pytest.approx(slope, abs=1e-4, rel=1e-5)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_bonds_are_pymatgens(seed: int) -> None:
    """Every bond once, whatever the cell and wherever the atoms are said to be."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    structure = random_structures(f"Al{n}", 1, seed=seed)[0]
    skew = np.triu(rng.integers(-2, 3, (3, 3)), 1) + np.eye(3)
    structure = Structure(skew @ structure.lattice.matrix, structure.species, structure.cart_coords,
                          coords_are_cartesian=True)  # fmt: skip
    crystals = Crystals.of([structure, *random_structures("Al3", 1, seed=seed)])
    away = torch.tensor(rng.integers(-3, 4, (n, 3))).double() @ crystals.lattices[0]
    crystals.positions[:n] += away
    first, second, vectors = neighbour_list(crystals, 5.0)
    centers, neighbors, _, distances = structure.get_neighbor_list(5.0)
    own = first < n
    ours = [(*sorted((int(a), int(b))), round(float(d), 5)) for a, b, d in
            zip(first[own], second[own], vectors[own].norm(dim=1), strict=True)]  # fmt: skip
    theirs = [(*sorted((int(a), int(b))), round(float(d), 5)) for a, b, d in
              zip(centers, neighbors, distances, strict=True)]  # fmt: skip
    assert sorted(ours + ours) == sorted(theirs)


def test_a_search_in_parts_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    crystals = Crystals.of(zoo()[:30])
    whole = neighbour_list(crystals, 6.0)
    monkeypatch.setattr("unimat_search.eval.chgnet.graph.CANDIDATES_AT_ONCE", 1000)
    for a, b in zip(whole, neighbour_list(crystals, 6.0), strict=True):
        assert torch.equal(a, b)


def test_angles_are_all_pairs_of_short_bonds() -> None:
    structure = zoo()[100]
    graph = build_graph(Crystals.of([structure]), 6.0, 3.0)
    neighbours = np.bincount(structure.get_neighbor_list(3.0)[0], minlength=len(structure))
    assert len(graph.angle_first) == (neighbours * (neighbours - 1) // 2).sum()
    ends = torch.cat([graph.first[: graph.n_short], graph.second[: graph.n_short]])
    assert torch.equal(ends[graph.angle_first], graph.angle_center)
    assert torch.equal(ends[graph.angle_second], graph.angle_center)
    assert not (graph.angle_first == graph.angle_second).any()


def test_an_isolated_atom_is_an_error() -> None:
    with pytest.raises(ValueError, match="without a neighbour"):
        potential().evaluate(Crystals.of([HOPELESS["an isolated atom"]]))


def test_an_element_beyond_the_table() -> None:
    with pytest.raises(ValueError, match="up to Z = 94, not Z = 95"):
        potential().evaluate(Crystals.of([Structure(Lattice.cubic(3), ["Am"], [[0.0, 0, 0]])]))


def some_rows(
    seed: int, *, deep: bool, normed: bool, summed: bool, width: int = WIDTH
) -> tuple[Rows, Tensor, list[Tensor]]:
    """Rows, a table of weights and tables to gather from, in double precision."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def index(n: int, size: int) -> Tensor:
        return torch.randint(n, (size,), generator=generator)

    n_tables, n_rows = 3 + seed % 2, int(index(60, 1)) + 1
    sizes = [int(index(9, 1)) + 1 for _ in range(n_tables)]
    second = normal(2, width, width) / width**0.5 if deep else None
    gate = Gate(
        second,
        None if second is None else second.mT.contiguous(),
        normal(2 * width) if deep else None,
        normal(2 * width) if normed else None,
        normal(2 * width) if normed else None,
    )
    indices = [index(size, n_rows) for size in sizes]
    if summed:
        rows = Rows(gate, indices, index(5, n_rows), index(4, n_rows), 4)
    else:
        rows = Rows(gate, indices, None, None, n_rows)
    return rows, normal(5, width), [normal(size, 2 * width) for size in sizes]


shapes = st.fixed_dictionaries({"deep": st.booleans(), "normed": st.booleans(), "summed": st.booleans()})


@settings(max_examples=20)
@given(st.integers(0, 1000), shapes)
def test_the_reference_kernels_gradient(seed: int, shape: dict[str, bool]) -> None:
    rows, weights, tables = some_rows(seed, **shape, width=3)
    kernel = TorchKernel()

    def run(weights: Tensor, *tables: Tensor) -> Tensor:
        sources = [Source(t, i) for t, i in zip(tables, rows.indices, strict=True)]
        assert rows.weight_index is not None
        assert rows.owners is not None
        return gated_sum(sources, rows.gate, Source(weights, rows.weight_index), rows.owners, rows.n_out, kernel)

    if shape["summed"]:
        inputs = [t.requires_grad_() for t in (weights, *tables)]
        assert torch.autograd.gradcheck(run, inputs)


@compiled_only
@pytest.mark.parametrize("level", levels())
@settings(max_examples=20)
@given(seed=st.integers(0, 1000), shape=shapes)
def test_the_compiled_kernel_is_the_reference(level: int, seed: int, shape: dict[str, bool]) -> None:
    compiled = CompiledKernel(level)
    rows, weights, tables = some_rows(seed, **shape)
    exact = TorchKernel().forward(rows, weights if shape["summed"] else None, tables)
    slope = torch.randn_like(exact[0])
    exact_slopes = TorchKernel().backward(rows, weights if shape["summed"] else None, tables, exact[1], slope.clone())
    parts = {f.name: getattr(rows.gate, f.name) for f in fields(Gate)}
    gate = Gate(**{name: part.float() for name, part in parts.items() if part is not None})
    single = Rows(gate, rows.indices, rows.weight_index, rows.owners, rows.n_out)
    floats, weights32 = [t.float() for t in tables], weights.float() if shape["summed"] else None
    out, saved = compiled.forward(single, weights32, floats)
    weight_slope, slopes = compiled.backward(single, weights32, floats, saved, slope.float())
    assert torch.allclose(out.double(), exact[0], rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(slopes, exact_slopes[1], strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=1e-3, atol=1e-3)
    if weight_slope is not None and exact_slopes[0] is not None:
        assert torch.allclose(weight_slope.double(), exact_slopes[0], rtol=1e-3, atol=1e-3)


@compiled_only
def test_a_level_that_no_processor_has() -> None:
    with pytest.raises(RuntimeError, match=r"no compiled kernels for level 3; there are: \w+"):
        CompiledKernel(len(LEVELS))
