"""Other people's models through the same optimizer: torch-sim's in batches, SevenNet from its wheel, ASE's EMT."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unimat_search.disk import named_by_content
from unimat_search.eval.potential import AsePotential, Crystals, Evaluations
from unimat_search.eval.relax import BatchedRelaxer
from unimat_search.records import UserError

if TYPE_CHECKING:
    from torch_sim.models.interface import ModelInterface


class MissingPackageError(UserError):
    """A potential's package is not installed; the message is the command that installs it."""


class TorchSimPotential:
    """Any model of torch-sim (Cohen et al., AI for Science 1, 025003), in batches.

    Args:
        model: Gives energies, forces and stresses.
        name: Model and version, e.g. "mace-mp-0".
        capacity: Atoms evaluated at once.

    Raises:
        ValueError: If the model does not compute forces and stresses.
    """

    def __init__(self, model: ModelInterface, name: str, capacity: float = 500.0) -> None:
        if not (model.compute_forces and model.compute_stress):
            raise ValueError(f"{name} must compute forces and stresses: build it with compute_stress=True")
        self.model = model
        self.name = name
        self.device = str(model.device)
        self.capacity = capacity

    def load(self, n_atoms: int, volume: float) -> float:  # noqa: ARG002
        """See `unimat_search.eval.potential.Potential.load`: atoms."""
        return float(n_atoms)

    def evaluate(self, crystals: Crystals) -> Evaluations:
        """See `unimat_search.eval.potential.Potential.evaluate`."""
        from torch_sim.state import SimState

        lattices = crystals.lattices[crystals.owners]
        fractional = (crystals.positions[:, None] @ torch.linalg.inv(lattices)).floor()
        wrapped = crystals.positions - (fractional @ lattices).squeeze(1)  # some of its neighbour lists want that
        state = SimState(
            positions=wrapped.to(self.model.dtype),
            masses=torch.ones_like(crystals.positions[:, 0], dtype=self.model.dtype),
            cell=crystals.lattices.mT.contiguous().to(self.model.dtype),  # columns there
            pbc=True,
            atomic_numbers=crystals.numbers,
            system_idx=crystals.owners,
        )
        found = self.model(state)
        return Evaluations(*(found[key].detach().double() for key in ("energy", "forces", "stress")))


def is_torch_sim_model(thing: object) -> bool:
    """Whether something is a model of torch-sim, without importing it for the question."""
    interface: Any = sys.modules.get("torch_sim.models.interface")
    return interface is not None and isinstance(thing, interface.ModelInterface)


def sevennet_relaxer(model: str = "7net-0", device: str = "auto", optimizer: str = "bfgs") -> BatchedRelaxer:
    """SevenNet-0 and its kin (Park et al., J. Chem. Theory Comput. 20, 4857, 2024).

    Args:
        model: "7net-0" or "7net-l3i5", whose weights sevenn's wheel holds, or the path of a checkpoint, which
            may run code: sevenn reads it as a pickle.
        device: "auto", "cpu" or "cuda".
        optimizer: See `BatchedRelaxer`.

    Raises:
        MissingPackageError: If sevenn is not installed.
    """
    try:
        from sevenn.calculator import SevenNetCalculator
    except ImportError as error:
        raise MissingPackageError("SevenNet is missing: pip install 'unimat-search[sevennet]'") from error
    name = named_by_content(Path(model)) if Path(model).is_file() else model
    return BatchedRelaxer(AsePotential(SevenNetCalculator(model, device=device), f"sevennet-{name}"), optimizer)


def emt_relaxer() -> BatchedRelaxer:
    """ASE's effective medium theory: instant, for tests; Al, Cu, Ag, Au, Ni, Pd, Pt and a few more."""
    from ase.calculators.emt import EMT

    return BatchedRelaxer(AsePotential(EMT(), "ase-emt"))
