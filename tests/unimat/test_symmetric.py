from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spglib
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure

from tests.unimat.crystals import TINY, random_set, tiny_model
from unimat_search.airss.symmetry import sites, space_group
from unimat_search.records import FailedAttempt
from unimat_search.unimat.checkpoint import PRIOR, save, save_model
from unimat_search.unimat.drawing import Drawn, distinct_placements, draw, order_of_trying
from unimat_search.unimat.model import SampleSettings, Streams
from unimat_search.unimat.occupying import has_room
from unimat_search.unimat.orbits import find_operations, find_orbits, metric_projector
from unimat_search.unimat.placements import (
    Placement,
    Setting,
    Settings,
    canonical,
    constraint_of,
    equivalences,
    find_placement,
)
from unimat_search.unimat.prior import PlacementPrior, learn_prior, load_prior, save_prior
from unimat_search.unimat.sample import UniMatGenerator
from unimat_search.unimat.slot_model import SlotModel
from unimat_search.unimat.symmetric import space_group_number

NUMBERS = np.array([11, 17], dtype=np.uint8)
ROCK_SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
PEROVSKITE = Structure.from_spacegroup(
    "Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]]
)
RUTILE = Structure.from_spacegroup(
    "P4_2/mnm", Lattice.tetragonal(4.6, 2.95), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
)
CORUNDUM = Structure.from_spacegroup(
    "R-3c", Lattice.hexagonal(4.76, 12.99), ["Al", "O"], [[0, 0, 0.352], [0.306, 0, 0.25]]
)
QUARTZ = Structure.from_spacegroup(
    "P3_221", Lattice.hexagonal(4.91, 5.40), ["Si", "O"], [[0.47, 0, 2 / 3], [0.413, 0.267, 0.786]]
)
CRYSTALS = [ROCK_SALT, PEROVSKITE, RUTILE, CORUNDUM, QUARTZ]


def arrays(structure: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    reduced = structure.get_primitive_structure().get_reduced_structure("niggli")
    return reduced.lattice.matrix, reduced.frac_coords, np.array([site.specie.Z for site in reduced], dtype=np.uint8)


def placement(structure: Structure) -> Placement:
    found = find_placement(*arrays(structure))
    assert found is not None
    return Settings().standard(found)


def random_placement(number: int, rng: np.random.Generator) -> Placement:
    """Up to three orbits on sites of a group, each of an element of its own."""
    table = sites(number)
    chosen = rng.permutation(len(table))[: rng.integers(1, 4)]
    return Placement(
        Setting(number), tuple(sorted((int(z), int(s)) for z, s in zip((8, 22, 38), chosen, strict=False)))
    )


def general_crystal(one: Placement, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A crystal on a placement, in a cell as general as the group allows."""
    points, orbits = one.orbits()
    parameters = rng.random((len(points), 3))
    frac_coords = points + np.einsum("nxy,ny->nx", orbits.moves, parameters[orbits.owner])
    draw = rng.normal(size=(3, 3))
    metric = space_group(one.setting.number).symmetrised(draw @ draw.T + 2 * np.eye(3))
    cell = np.linalg.cholesky(30 * metric)
    return cell, frac_coords, one.numbers.astype(np.uint8)


@pytest.mark.parametrize("structure", CRYSTALS, ids=lambda one: one.reduced_formula)
def test_orbits_of_known_crystals_move_as_their_group_allows(structure: Structure) -> None:
    cell, frac_coords, numbers = arrays(structure)
    operations = find_operations(cell, frac_coords, numbers)
    assert operations is not None
    owner, moves = find_orbits(operations)
    parameters = np.random.default_rng(0).normal(size=frac_coords.shape)
    displaced = np.einsum("nxy,ny->nx", moves, parameters[owner])
    for rotation, images in zip(operations.rotations, operations.images, strict=True):
        assert np.allclose(displaced[images], displaced @ rotation.T)
    assert np.abs(moves - np.rint(moves)).max() < 1e-9
    projector = metric_projector(operations.rotations)
    assert np.allclose(projector @ projector, projector)
    metric = (cell @ cell.T)[np.triu_indices(3)]
    assert np.allclose(projector @ metric, metric, atol=1e-6)


def test_sites_of_known_prototypes() -> None:
    """Rock salt: two points of the full group; rutile: metal fixed, oxygen on a line (International Tables)."""
    salt = placement(ROCK_SALT)
    assert salt.setting.number == 225
    assert [sites(225)[site].multiplicity for _, site in salt.occupied] == [1, 1]
    oxide = placement(RUTILE)
    assert oxide.setting.number == 136
    freedom = {z: round(float(np.trace(sites(136)[site].projector))) for z, site in oxide.occupied}
    assert freedom == {22: 0, 8: 1}


@given(st.integers(3, 230), st.integers(0, 2**32))
def test_what_stands_on_a_placement_has_its_space_group(number: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = random_placement(number, rng)
    cell, frac_coords, numbers = general_crystal(one, rng)
    apart = frac_coords[:, None] - frac_coords
    apart = np.linalg.norm((apart - np.rint(apart)) @ cell, axis=-1) + 9 * np.eye(len(numbers))
    if apart.min() < 0.3:
        return
    found = spglib.get_symmetry((cell, frac_coords, numbers), symprec=1e-4)
    assert found is not None
    operations = {rotation.tobytes() for rotation in np.asarray(found["rotations"], dtype=np.int64)}
    assert {rotation.tobytes() for rotation in one.setting.rotations} <= operations


@pytest.mark.parametrize("number", [12, 14, 36, 62, 63, 139, 166, 186, 194, 216, 227])
def test_a_placement_is_found_again_in_what_stands_on_it(number: int) -> None:
    """General points of the general site fix the group, so nothing more symmetric is found."""
    rng = np.random.default_rng(number)
    general = len(sites(number)) - 1
    one = Placement(Setting(number), ((8, general), (8, general), (22, general)))
    cell, frac_coords, numbers = general_crystal(one, rng)
    found = find_placement(cell, frac_coords, numbers, symprec=1e-3)
    assert found is not None
    assert found.setting.number == number
    assert Settings((Setting(number),)).standard(found).occupied == canonical(number, one.occupied)


def test_another_origin_is_the_same_placement() -> None:
    """Rock salt with the elements' places exchanged, and both moved, is one placement."""
    moved = Structure(ROCK_SALT.lattice, ROCK_SALT.species, (ROCK_SALT.frac_coords + 0.5) % 1)
    assert placement(ROCK_SALT) == placement(moved)
    assert len(equivalences(225)) > 1
    assert canonical(225, ((11, 1), (17, 0))) == canonical(225, ((11, 0), (17, 1)))


def test_settings_of_one_group_in_one_cell_are_put_together() -> None:
    settings = Settings()
    found = find_placement(*arrays(PEROVSKITE))
    assert found is not None
    turned = Setting(221, (0, 1, 0, 0, 0, 1, 1, 0, 0))
    first = settings.standard(found)
    assert settings.standard(Placement(turned, found.occupied)).setting == first.setting


@pytest.fixture(scope="module")
def prior() -> PlacementPrior:
    settings = Settings()
    found = [find_placement(*arrays(one)) for one in CRYSTALS for _ in range(4)]
    return learn_prior(
        [settings.standard(one) for one in found if one is not None], seed=0, epochs=40, say=lambda _: None
    )


COUNTS = ((8, 4), (22, 2))


def test_draws_have_the_composition_and_the_likelihood_that_the_network_gives_them(prior: PlacementPrior) -> None:
    drawn = draw(prior, COUNTS, 50, np.random.default_rng(0))
    assert len(drawn) == 50
    usable = [has_room(number, COUNTS) for number in prior.groups.tolist()]
    for score, one in drawn:
        assert Counter(one.numbers.tolist()) == dict(COUNTS)
        with torch.no_grad():
            steps = prior.steps([one])
            _, placed = prior.log_likelihood(steps)
            _, whole = prior.composition(steps.elements, steps.amounts)
            logits = prior.setting_logits(whole)[0].masked_fill(~torch.tensor(usable), -torch.inf)
        assert score == pytest.approx(float(logits.log_softmax(-1)[steps.setting[0]] + placed[0]), abs=1e-4)


def test_the_prior_puts_known_crystals_first(prior: PlacementPrior) -> None:
    drawn = distinct_placements(prior, COUNTS, np.random.default_rng(0), draws=100)
    assert drawn[0].placement.setting.number == 136
    assert drawn[0].placement == placement(RUTILE)
    assert [one.log_likelihood for one in drawn] == sorted((one.log_likelihood for one in drawn), reverse=True)
    assert len({one.placement for one in drawn}) == len(drawn)
    again = distinct_placements(prior, COUNTS, np.random.default_rng(0), draws=100)
    assert again == drawn
    only = distinct_placements(prior, COUNTS, np.random.default_rng(0), draws=100, group=152)
    assert {one.placement.setting.number for one in only} <= {152}


def test_projections_are_exact_and_find_what_the_group_allows() -> None:
    """The projection leaves alone what it allows, in bf16 too."""
    constraint = constraint_of(10, [placement(CORUNDUM)] * 2)
    moves = torch.randn(2, len(constraint.points[0]), 3, generator=torch.Generator().manual_seed(0))
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            once = constraint.project(moves)
            assert torch.allclose(constraint.project(once), once, atol=1e-6)


def test_a_given_cell_is_heeded_when_placements_are_drawn(prior: PlacementPrior) -> None:
    cubic = distinct_placements(prior, ((8, 3), (22, 1), (38, 1)), np.random.default_rng(0), cell=3.9 * np.eye(3))
    assert {one.placement.setting.number for one in cubic} >= {221}
    oblong = np.diag([3.9, 4.0, 4.4])
    assert all(
        one.placement.setting.allows(oblong)
        for one in distinct_placements(prior, ((8, 3), (22, 1), (38, 1)), np.random.default_rng(0), cell=oblong)
    )


def test_minus_one_in_any_cell_is_one_setting_with_its_sites_carried_over() -> None:
    """The middle of the first edge of one basis is the middle of the second of another."""
    middles = {tuple(np.round(site.origin % 1, 3)): number for number, site in enumerate(sites(2))}
    turned = Setting(2, (0, 1, 0, 1, 0, 0, 0, 0, -1))
    first, second = middles[0.5, 0.0, 0.0], middles[0.0, 0.5, 0.0]
    corner = middles[0.0, 0.0, 0.0]
    same = Settings((Setting(2),)).standard(Placement(turned, tuple(sorted([(8, corner), (22, first)]))))
    expected = canonical(2, tuple(sorted([(8, corner), (22, second)])))
    assert same == Placement(Setting(2), expected)


def test_the_order_of_trying_returns_to_the_likely_ones() -> None:
    first, second = Placement(Setting(225), ((11, 0),)), Placement(Setting(221), ((11, 0),))
    drawn = [Drawn(first, np.log(0.6)), Drawn(second, np.log(0.3))]
    assert list(islice(order_of_trying(drawn, hit=0.4), 4)) == [first, first, second, first]
    assert list(order_of_trying([])) == []


def test_a_prior_survives_its_file_and_broken_files_are_refused(prior: PlacementPrior, tmp_path: Path) -> None:
    save_prior(prior, tmp_path / PRIOR, {})
    again, learnt_from = load_prior(tmp_path / PRIOR)
    assert learnt_from is None
    assert again.settings == prior.settings
    with torch.no_grad():
        steps = prior.steps([placement(RUTILE)])
        for one, other in zip(prior.log_likelihood(steps), again.log_likelihood(steps), strict=True):
            assert torch.allclose(one, other, atol=0.1)  # bf16
    headers: list[dict[str, Any]] = [
        {},
        {"settings": []},
        {"settings": [[999, 1]]},
        {"settings": [[225, *[1] * 9]]},
        {"settings": [[2, 1, 100, 0, 0, 1, 0, 0, 0, 1]]},
        {"settings": [[float("inf"), 1, 0, 0, 0, 1, 0, 0, 0, 1]]},
        {"settings": 3},
    ]
    for header in headers:
        save(tmp_path / "broken.safetensors", {"x": torch.zeros(2)}, header)
        with pytest.raises(ValueError, match="not a table of placements"):
            load_prior(tmp_path / "broken.safetensors")


@pytest.fixture(scope="module")
def run(prior: PlacementPrior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run: an untrained model with the prior beside it."""
    folder = tmp_path_factory.mktemp("run")
    model = tiny_model("slots", random_set(0, 40, elements=(8, 11, 13, 14, 17, 22, 38)))
    header = {"config": {"denoiser": "slots", "model": TINY["slots"]}}
    save_model(folder / "model.safetensors", model, header, dtype=torch.float32)
    save_prior(prior, folder / PRIOR, {})
    return folder


@pytest.mark.parametrize("structure", CRYSTALS, ids=lambda one: one.reduced_formula)
def test_samples_keep_the_space_group_exactly(structure: Structure) -> None:
    one = placement(structure)
    model = tiny_model("slots", random_set(0, 40))
    assert isinstance(model, SlotModel)
    numbers, constraint = torch.from_numpy(one.numbers).expand(3, -1), constraint_of(len(one.numbers), [one] * 3)
    streams = Streams([np.random.default_rng(seed) for seed in range(3)])
    with torch.no_grad():
        frac_coords, cells = model.sample_held(
            numbers, torch.full((3, 2), torch.nan), constraint, streams, SampleSettings(steps=6)
        )
    group, back = space_group(one.setting.number), np.linalg.inv(one.setting.to_standard)
    for coords, cell in zip(frac_coords.double().numpy(), cells.double().numpy(), strict=True):
        metric = cell @ cell.T
        for rotation, shift in zip(one.setting.rotations, group.translations @ back.T, strict=True):
            assert np.allclose(rotation.T @ metric @ rotation, metric, rtol=1e-3, atol=1e-3 * np.trace(metric))
            apart = (coords @ rotation.T + shift)[:, None] - coords
            nearest = np.abs(apart - np.rint(apart)).max(-1) + 9 * (one.numbers[:, None] != one.numbers)
            assert (nearest.min(1) < 1e-4).all()


def test_what_nothing_holds_is_sampled_beside_the_held_as_if_alone() -> None:
    one = placement(RUTILE)
    model = tiny_model("slots", random_set(0, 40))
    assert isinstance(model, SlotModel)
    numbers, nothing = torch.from_numpy(one.numbers).expand(2, -1), torch.full((2, 2), torch.nan)
    streams = [Streams([np.random.default_rng(seed) for seed in range(2)]) for _ in range(2)]
    with torch.no_grad():
        constraint = constraint_of(len(one.numbers), [one, None])
        held = model.sample_held(numbers, nothing, constraint, streams[0], SampleSettings(steps=6))
        free = model.sample(numbers, nothing, streams[1], SampleSettings(steps=6))
    for mine, alone in zip(held, free, strict=True):
        assert torch.allclose(mine[1], alone[1], atol=1e-4)
        assert not torch.allclose(mine[0], alone[0], atol=1e-2)


def test_the_generator_holds_samples_to_the_group_asked_for(run: Path) -> None:
    generator = UniMatGenerator(model=str(run), space_group="P4_2/mnm", steps=4, retries=0)
    made = list(generator.generate(Composition("Ti2O4"), 4, seed=1))
    assert [one.formula for one in made if isinstance(one, Structure)] == ["Ti2 O4"] * 4
    again = list(generator.generate(Composition("Ti2O4"), 2, seed=1))
    for one, same in zip(again, made, strict=False):
        assert isinstance(one, Structure)
        assert isinstance(same, Structure)
        assert np.allclose(one.frac_coords, same.frac_coords, atol=1e-5)
        found = spglib.get_symmetry((one.lattice.matrix, one.frac_coords, [s.specie.Z for s in one]), symprec=1e-3)
        assert found is not None
        assert len(found["rotations"]) >= 16


def test_the_symmetric_generator_fulfils_the_contract(run: Path) -> None:
    from unimat_search.testing import check_generator

    check_generator(UniMatGenerator(model=str(run), symmetric=True, steps=2), "Ti2O4")


def test_what_can_t_be_held_is_said_in_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no space group 231"):
        UniMatGenerator(model=str(run), space_group=231)
    with pytest.raises(ValueError, match="there is no space group 'Fm-4m'"):
        UniMatGenerator(model=str(run), space_group="Fm-4m")
    with pytest.raises(ValueError, match="hold no crystal of space group 2"):
        UniMatGenerator(model=str(run), space_group=2)
    with pytest.raises(ValueError, match="leave space_group out"):
        UniMatGenerator(model=str(run), space_group=136, symmetric=False)
    (failed,) = UniMatGenerator(model=str(run), space_group=221, steps=2).generate(Composition("Ti2O4"), 1, seed=0)
    assert isinstance(failed, FailedAttempt)
    assert failed.reason == "space group 221 has no sites for Ti2 O4 in a primitive cell"
    lonely = tmp_path / "model.safetensors"
    lonely.write_bytes((run / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"has no placements\.safetensors beside it"):
        UniMatGenerator(model=str(lonely), symmetric=True)


@pytest.mark.parametrize(("group", "number"), [(225, 225), ("Fm-3m", 225), ("P2_1/c", 14), ("C2/m", 12)])
def test_space_groups_by_number_and_symbol(group: int | str, number: int) -> None:
    assert space_group_number(group) == number
