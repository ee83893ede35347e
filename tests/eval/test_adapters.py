"""Other people's models, the real ones."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from tests.eval.structures import ROCK_SALT, random_structures
from unimat_search.eval.adapters import TorchSimPotential, sevennet_relaxer
from unimat_search.eval.chgnet import ChgnetPotential
from unimat_search.eval.parallel import load_relaxer
from unimat_search.eval.potential import Crystals
from unimat_search.eval.relax import BatchedRelaxer
from unimat_search.records import Outcome, RelaxSettings
from unimat_search.registry import PluginError, Spec
from unimat_search.testing import check_relaxer


def chgnet_as_torch_sim_sees_it(**options: bool) -> Any:
    """A model by torch-sim's own interface, whose right answers are known."""
    interface = pytest.importorskip("torch_sim.models.interface")

    class Model(interface.ModelInterface):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self._device, self._dtype = torch.device("cpu"), torch.float64
            self._compute_forces, self._compute_stress = True, options.get("compute_stress", True)
            self.potential = ChgnetPotential(device="cpu")

        def forward(self, state: Any) -> dict[str, torch.Tensor]:
            assert state.pbc
            sizes = torch.bincount(state.system_idx)
            found = self.potential.evaluate(
                Crystals(state.atomic_numbers, state.positions, state.row_vector_cell, sizes)
            )
            return {"energy": found.energies, "forces": found.forces, "stress": found.stresses}

    return Model()


def test_torch_sims_conventions() -> None:
    """Columns of the cell, the owner of each atom, eV and eV/angstrom^3."""
    structures = random_structures("Na2Cl2", 2) + random_structures("Sr2Ti2O6", 1)
    crystals = Crystals.of(structures)
    ours, theirs = (
        of.evaluate(crystals)
        for of in (ChgnetPotential(device="cpu"), TorchSimPotential(chgnet_as_torch_sim_sees_it(), "chgnet"))
    )
    assert torch.equal(ours.energies, theirs.energies)
    assert torch.equal(ours.forces, theirs.forces)
    assert torch.allclose(ours.stresses, theirs.stresses, atol=1e-12)


def test_a_torch_sim_model_is_a_relaxer() -> None:
    pytest.importorskip("torch_sim")
    relaxer = load_relaxer(Spec.parse("tests.eval.test_adapters:chgnet_as_torch_sim_sees_it"))
    assert isinstance(relaxer, BatchedRelaxer)
    assert isinstance(relaxer.potential, TorchSimPotential)
    check_relaxer(relaxer, random_structures("Na2Cl2", 3))
    assert all(r.outcome is Outcome.CONVERGED for r in relaxer.relax(random_structures("Na2Cl2", 3), RelaxSettings()))


def test_a_torch_sim_model_without_stress() -> None:
    with pytest.raises(ValueError, match="compute_stress=True"):
        TorchSimPotential(chgnet_as_torch_sim_sees_it(compute_stress=False), "chgnet")


def test_the_contract_with_sevennet() -> None:
    pytest.importorskip("sevenn")
    check_relaxer(sevennet_relaxer(), random_structures("Na2Cl2", 2))
    rock_salt = next(iter(sevennet_relaxer().relax([ROCK_SALT], RelaxSettings())))
    assert rock_salt.outcome is Outcome.CONVERGED
    assert rock_salt.structure is not None
    assert rock_salt.structure.lattice.a == pytest.approx(5.69, rel=0.01)  # PBE, Materials Project mp-22862


def test_a_package_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sevenn.calculator", None)
    with pytest.raises(PluginError, match=r"^sevennet: SevenNet is missing: pip install 'unimat-search\[sevennet\]'$"):
        load_relaxer(Spec.parse("sevennet"))
