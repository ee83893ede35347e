"""CHGNet as a potential: Deng et al., Nature Machine Intelligence 5, 1031 (2023)."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from chgnet.model.model import CHGNet
from torch import Tensor

from unimat_search.disk import named_by_content
from unimat_search.eval.chgnet.gated import Kernel, TorchKernel
from unimat_search.eval.chgnet.graph import Graph, build_graph
from unimat_search.eval.chgnet.kernels import WIDTH, CompiledKernel, levels
from unimat_search.eval.chgnet.network import Network
from unimat_search.eval.potential import Crystals, Evaluations
from unimat_search.eval.relax import BatchedRelaxer
from unimat_search.records import first_line

MAX_Z = 94
"""The last element that CHGNet was trained on, plutonium."""

PUBLISHED = ("0.3.0", "0.2.0", "r2scan")


class ChgnetPotential:
    """A pretrained CHGNet, evaluated in batches.

    CHGNet 0.3.0 predicts energies with the Materials Project's 2020 corrections: they are not to be
    corrected again. Energies agree with chgnet's own within 1e-5 eV/atom.

    Args:
        model: "0.3.0", "0.2.0" or "r2scan", whose weights chgnet's wheel holds, or the path of a
            checkpoint that chgnet saved.
        device: "cpu" or "cuda"; if not given, "cuda" where there is one, else "cpu".
        compiled: Use the compiled kernels where they are present (CPU).

    Raises:
        ValueError: If there is no such model, or its architecture is not that of a published one.
    """

    def __init__(self, model: str = "0.3.0", device: str | None = None, *, compiled: bool = True) -> None:
        self.name = f"chgnet-{_name(model)}"
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = _load(model).to(self.device)
        self.model.eval().requires_grad_(False)
        self.network = Network(self.model, self._kernel(compiled))
        self.capacity = 4000.0 if self.device == "cpu" else 400_000.0
        atom_energies = self.model.composition_model
        self._atom_energies: Tensor | None = None if atom_energies is None else atom_energies.fc.weight[0].double()

    def _kernel(self, compiled: bool) -> Kernel:
        fits = self.device == "cpu" and self.model.model_args["atom_fea_dim"] == WIDTH and bool(levels())
        return CompiledKernel() if compiled and fits else TorchKernel()

    def load(self, n_atoms: int, volume: float) -> float:
        """See `Potential.load`: bonds, as many as there are at even density."""
        return n_atoms * n_atoms / volume * 2 / 3 * torch.pi * self.network.atom_cutoff**3

    def evaluate(self, crystals: Crystals) -> Evaluations:
        """See `Potential.evaluate`.

        Raises:
            ValueError: If an atom has no neighbour within CHGNet's cutoff, or CHGNet does not know its element.
        """
        graph = self._graph(crystals)
        vectors = graph.vectors.requires_grad_()
        energies = self.network(graph, vectors, crystals.numbers).energies
        (slopes,) = torch.autograd.grad(energies.sum(), vectors)
        return Evaluations(
            self._totals(energies.detach(), crystals),
            torch.zeros_like(crystals.positions).index_add(0, graph.first, slopes).index_add(0, graph.second, -slopes),
            self._stresses(vectors.detach(), slopes, graph, crystals),
        )

    def magnetic_moments(self, crystals: Crystals) -> Tensor:
        """Absolute moments of the atoms, Bohr magnetons, shape (atoms,)."""
        graph = self._graph(crystals)
        with torch.no_grad():
            return self.network(graph, graph.vectors, crystals.numbers).magmoms.double()

    def _graph(self, crystals: Crystals) -> Graph:
        heaviest = int(crystals.numbers.max())
        if heaviest > MAX_Z:
            raise ValueError(f"CHGNet knows the elements up to Z = {MAX_Z}, not Z = {heaviest}")
        return build_graph(crystals, self.network.atom_cutoff, self.network.bond_cutoff)

    def _totals(self, energies: Tensor, crystals: Crystals) -> Tensor:
        energies = energies.double()
        if self._atom_energies is not None:
            energies = energies + self._atom_energies[crystals.numbers - 1]
        return energies.new_zeros(len(crystals)).index_add(0, crystals.owners, energies)

    def _stresses(self, vectors: Tensor, slopes: Tensor, graph: Graph, crystals: Crystals) -> Tensor:
        """The strain derivative of the energy, a sum over bonds, by volume."""
        virials = vectors.new_zeros(len(crystals), 3, 3).index_add(
            0, crystals.owners[graph.first], vectors[:, :, None] * slopes[:, None, :]
        )
        return virials / crystals.volumes[:, None, None]


def _name(model: str) -> str:
    """Of a published model, or of a checkpoint by its content: a file may be trained on."""
    if model in PUBLISHED:
        return model
    if not Path(model).is_file():
        raise ValueError(f"no CHGNet {model!r}: give one of {', '.join(PUBLISHED)} or the path of a checkpoint")
    return named_by_content(Path(model))


def _load(model: str) -> CHGNet:
    if model in PUBLISHED:
        return CHGNet.load(model_name=model, use_device="cpu", verbose=False)
    try:
        return CHGNet.from_dict(torch.load(model, map_location="cpu", weights_only=True)["model"])
    except (pickle.UnpicklingError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{model} is no checkpoint of chgnet's, or holds more than numbers: {first_line(error)}"
        ) from error


def chgnet_relaxer(
    model: str = "0.3.0",
    device: str | None = None,
    *,
    optimizer: str = "bfgs",
    compiled: bool = True,
    magmoms: bool = False,
    capacity: float | None = None,
) -> BatchedRelaxer:
    """CHGNet, by a forward pass of our own: the default.

    Args:
        model: See `ChgnetPotential`.
        device: See `ChgnetPotential`.
        optimizer: See `unimat_search.eval.relax.BatchedRelaxer`.
        compiled: See `ChgnetPotential`.
        magmoms: Predict the magnetic moments of converged crystals, as the site property "magmom".
        capacity: Bonds evaluated at once; the potential's own if not given.
    """
    potential = ChgnetPotential(model, device, compiled=compiled)

    def properties(crystals: Crystals) -> dict[str, list[float]]:
        return {"magmom": potential.magnetic_moments(crystals).tolist()}

    return BatchedRelaxer(potential, optimizer, capacity, properties if magmoms else None)
