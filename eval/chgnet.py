"""CHGNet as a potential: Deng et al., Nature Machine Intelligence 5, 1031 (2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from ase import Atoms
from chgnet.model.model import BatchedGraph, CHGNet
from pymatgen.core import Structure

from unimat_search.eval.potential import Evaluation
from unimat_search.eval.relax import BatchedRelaxer

if TYPE_CHECKING:
    from chgnet.graph.crystalgraph import CrystalGraph


MAX_Z = 94
"""The last element that CHGNet was trained on, plutonium."""


class ChgnetPotential:
    """A pretrained CHGNet, evaluated in batches.

    CHGNet 0.3.0 predicts energies with the Materials Project's 2020 corrections: they are not to be
    corrected again.

    Args:
        model: "0.3.0", "0.2.0" or "r2scan": weights inside chgnet's wheel.
        device: "cpu", "cuda" or "mps"; if not given, "cuda" where there is one, else "cpu".
    """

    def __init__(self, model: str = "0.3.0", device: str | None = None) -> None:
        self.name = f"chgnet-{model}"
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = CHGNet.load(model_name=model, use_device=self.device, verbose=False)
        self.model.eval().requires_grad_(False)
        self.model.graph_converter.set_isolated_atom_response("error")

    def evaluate(self, batch: Sequence[Atoms]) -> list[Evaluation]:
        """See `unimat_search.eval.potential.Potential.evaluate`."""
        if not batch:
            return []
        graphs = [self._graph(atoms) for atoms in batch]
        n_atoms = torch.tensor([len(atoms) for atoms in batch], device=self.device)
        batched = BatchedGraph.from_graphs(
            graphs,
            bond_basis_expansion=self.model.bond_basis_expansion,
            angle_basis_expansion=self.model.angle_basis_expansion,
            compute_stress=True,
        )
        energies = self.model._compute(batched)["e"] * (n_atoms if self.model.is_intensive else 1)
        # One backward pass for positions and strains, and no graph of the gradient: chgnet's own forward
        # builds what training needs.
        gradients = torch.autograd.grad(energies.sum(), [*batched.atom_positions, *batched.strains])
        offsets = self._composition_energies(graphs, n_atoms)
        return [
            Evaluation(
                energy=float(energy),
                forces=-position_gradient.double().cpu().numpy(),
                stress=strain_gradient.double().cpu().numpy() / atoms.cell.volume,
            )
            for atoms, energy, position_gradient, strain_gradient in zip(
                batch,
                (energies.detach() + offsets).double().cpu(),
                gradients[: len(batch)],
                gradients[len(batch) :],
                strict=True,
            )
        ]

    def _graph(self, atoms: Atoms) -> CrystalGraph:
        if atoms.numbers.max() > MAX_Z:
            raise ValueError(f"CHGNet knows the elements up to Z = {MAX_Z}, not Z = {atoms.numbers.max()}")
        structure = Structure(atoms.cell.array, atoms.numbers, atoms.positions, coords_are_cartesian=True)
        return self.model.graph_converter(structure).to(self.device)

    def _composition_energies(self, graphs: Sequence[CrystalGraph], n_atoms: torch.Tensor) -> torch.Tensor:
        """The part of the energy that depends on the composition alone, eV, shape (batch,)."""
        if self.model.composition_model is None:
            return torch.zeros(len(graphs), device=self.device)
        energies: torch.Tensor = self.model.composition_model(graphs)
        return energies * (n_atoms if self.model.is_intensive else 1)


def chgnet_relaxer(model: str = "0.3.0", device: str | None = None) -> BatchedRelaxer:
    """The default relaxer: CHGNet by FIRE, positions and cell together."""
    return BatchedRelaxer(ChgnetPotential(model, device), batch_size=4)
