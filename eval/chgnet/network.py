"""The forward pass of CHGNet, with its own weights and less work.

The same function as Deng et al., Nature Machine Intelligence 5, 1031 (2023), rearranged:

- A gated MLP's first layer acts on atoms, bonds and angles before they are gathered into rows, for
  (x | y | z) W = x W_x + y W_y + z W_z; there are far more rows than atoms and bonds.
- Core and gate of a gated MLP are one matrix.
- The bond convolution works on the short bonds alone: the others have no angles.
- Each bond and each angle is expanded and embedded once, not once a direction.
- The last angle update feeds nothing, and is not done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unimat_search.eval.chgnet.gated import Gate, Kernel, Source, gated_rows, gated_sum
from unimat_search.eval.chgnet.graph import Graph


class UnsupportedModelError(ValueError):
    """A CHGNet whose architecture this forward pass does not cover."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution: a gated MLP over rows and, if its rows are summed, the linear layer behind them.

    Attributes:
        inputs: The first layer, cut by where its inputs come from, each (features in, 2 features out).
        bias: Of the first layer, shape (2 features,).
        gate: The rest of the gated MLP.
        out: Shape (features, features); nothing for the angle update.
        out_bias: Shape (features,); None if there is none.
    """

    inputs: Sequence[Tensor]
    bias: Tensor
    gate: Gate
    out: Tensor
    out_bias: Tensor | None = None


class Prediction(NamedTuple):
    """What the network says of a batch.

    Attributes:
        energies: Of each atom, eV, without the composition's part, shape (atoms,).
        magmoms: Of each atom, Bohr magnetons, absolute values, shape (atoms,).
    """

    energies: Tensor
    magmoms: Tensor


class Network:
    """CHGNet's forward pass on a graph.

    Args:
        model: A `chgnet.model.CHGNet`; its weights are read, it is not called.
        kernel: What computes the gated MLPs.

    Raises:
        UnsupportedModelError: If the model has parts that no published CHGNet has.
    """

    def __init__(self, model: Any, kernel: Kernel) -> None:  # noqa: ANN401 - chgnet is untyped
        _check(model)
        self.kernel = kernel
        self.atom_cutoff = float(model.graph_converter.atom_graph_cutoff)
        self.bond_cutoff = float(model.graph_converter.bond_graph_cutoff)
        self.elements = model.atom_embedding.embedding.weight.detach()
        self.radial_atom = _Radial.of(model.bond_basis_expansion.rbf_expansion_ag)
        self.radial_bond = _Radial.of(model.bond_basis_expansion.rbf_expansion_bg)
        self.bond_embedding = _columns(model.bond_embedding, model.bond_weights_ag)
        self.bond_weights = _columns(model.bond_weights_bg)
        self.angle_frequencies = model.angle_basis_expansion.fourier_expansion.frequencies.detach()
        self.angle_embedding = _columns(model.angle_embedding)
        width = self.elements.shape[1]
        self.atom_layers = [_convolution(c, c.twoBody_atom, width) for c in model.atom_conv_layers]
        self.bond_layers = [_convolution(c, c.twoBody_bond, width) for c in model.bond_conv_layers]
        self.angle_layers = [_convolution(c, c.twoBody_bond, width) for c in model.angle_layers[:-1]]
        self.site_wise = model.site_wise
        self.readout = nn.Sequential(*([model.readout_norm] if model.readout_norm else []), model.mlp)

    def __call__(self, graph: Graph, vectors: Tensor, numbers: Tensor) -> Prediction:
        """Predict energies and magnetic moments.

        Args:
            graph: Of the batch.
            vectors: The graph's bond vectors, angstrom; a leaf to take gradients in, shape (bonds, 3).
            numbers: Atomic numbers, shape (atoms,).
        """
        first, second, n_short = graph.first, graph.second, graph.n_short
        bond = torch.arange(len(first), device=first.device)
        starts, ends, bond_of = torch.cat([first, second]), torch.cat([second, first]), torch.cat([bond, bond])
        one, other = graph.angle_first, graph.angle_second
        center = torch.cat([graph.angle_center, graph.angle_center])
        bond_i, bond_j = torch.cat([one, other]) % max(n_short, 1), torch.cat([other, one]) % max(n_short, 1)

        lengths = vectors.norm(dim=1)
        bonds, atom_weights = (self.radial_atom(lengths) @ self.bond_embedding).tensor_split(2, 1)
        bond_weights = self.radial_bond(lengths[:n_short]) @ self.bond_weights
        angles = self._embedded_angles(vectors[:n_short] / lengths[:n_short, None], one, other)
        angle = torch.arange(len(angles), device=first.device).repeat(2)
        atoms = self.elements[numbers - 1]
        magmoms = atoms.new_zeros(len(atoms))

        for depth, layer in enumerate(self.atom_layers):
            if depth == len(self.atom_layers) - 1:
                magmoms = self.site_wise(atoms.detach()).abs().squeeze(1)
            of_start, of_bond, of_end = layer.inputs
            rows = [
                Source(torch.addmm(layer.bias, atoms, of_start), starts),
                Source(bonds @ of_bond, bond_of),
                Source(atoms @ of_end, ends),
            ]
            messages = gated_sum(rows, layer.gate, Source(atom_weights, bond_of), starts, len(atoms), self.kernel)
            atoms = atoms + messages @ layer.out
            if layer.out_bias is not None:
                atoms = atoms + layer.out_bias
            if depth < len(self.bond_layers) and len(angles):
                layer = self.bond_layers[depth]
                rows = _angle_rows(layer, bonds[:n_short], bond_i, bond_j, angles, angle, atoms, center)
                messages = gated_sum(rows, layer.gate, Source(bond_weights, bond_j), bond_i, n_short, self.kernel)
                bonds = torch.cat([bonds[:n_short] + messages * bond_weights @ layer.out, bonds[n_short:]])
                if layer.out_bias is not None:
                    bonds = bonds + graph.angled[:, None] * layer.out_bias
            if depth < len(self.angle_layers) and len(angles):
                layer = self.angle_layers[depth]
                rows = _angle_rows(layer, bonds[:n_short], bond_i, bond_j, angles, angle, atoms, center)
                update = gated_rows(rows, layer.gate, self.kernel)
                angles = (angles.repeat(2, 1) if len(angles) < len(update) else angles) + update
                angle = torch.arange(len(angles), device=first.device)
        return Prediction(self.readout(atoms).squeeze(1), magmoms)

    def _embedded_angles(self, directions: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Fourier features of the angles between directed bonds, embedded: chgnet's `Fourier`."""
        directed = torch.cat([directions, -directions])
        # The factor keeps the arc cosine's slope finite, as in chgnet.
        cosines = (directed[first] * directed[second]).sum(1) * (1 - 1e-6)
        phases = torch.outer(torch.acos(cosines).to(self.angle_frequencies.dtype), self.angle_frequencies)
        constant = torch.full_like(phases[:, :1], 0.5**0.5)
        features = torch.cat([constant, phases.sin(), phases.cos()], 1) * (1 / torch.pi) ** 0.5
        return torch.mm(features, self.angle_embedding)


@dataclass(frozen=True, slots=True)
class _Radial:
    """Bessel functions with a smooth cutoff: chgnet's `RadialBessel`."""

    frequencies: Tensor
    cutoff: float
    power: float
    """Of the cutoff polynomial; 0 for none."""

    @classmethod
    def of(cls, layer: Any) -> _Radial:  # noqa: ANN401
        return cls(
            layer.frequencies.detach(), 1 / layer.inv_cutoff, layer.smooth_cutoff.p if layer.smooth_cutoff else 0
        )

    def __call__(self, lengths: Tensor) -> Tensor:
        """Shape (bonds,) in, (bonds, frequencies) out."""
        scaled = lengths / self.cutoff
        envelope = (2 / self.cutoff) ** 0.5 / lengths
        if p := self.power:
            polynomial = -(p + 1) * (p + 2) / 2 + p * (p + 2) * scaled - p * (p + 1) / 2 * scaled * scaled
            envelope = torch.where(scaled < 1, envelope * (1 + scaled**p * polynomial), 0)
        dtype = self.frequencies.dtype
        waves = torch.outer(scaled.to(dtype), self.frequencies).sin()
        return torch.mul(waves, envelope.to(dtype)[:, None])


def _angle_rows(
    layer: Convolution,
    bonds: Tensor,
    bond_i: Tensor,
    bond_j: Tensor,
    angles: Tensor,
    angle: Tensor,
    atoms: Tensor,
    center: Tensor,
) -> list[Source]:
    of_i, of_j, of_angle, of_center = layer.inputs
    return [
        Source(bonds @ of_i, bond_i),
        Source(bonds @ of_j, bond_j),
        Source(angles @ of_angle, angle),
        Source(torch.addmm(layer.bias, atoms, of_center), center),
    ]


def _columns(*layers: nn.Linear) -> Tensor:
    """Linear layers of one input, without bias, as one matrix (in, all out)."""
    return torch.cat([layer.weight.detach() for layer in layers]).T.contiguous()


def _convolution(layer: Any, gated_mlp: Any, width: int) -> Convolution:  # noqa: ANN401
    core, gate = _linears(gated_mlp.mlp_core), _linears(gated_mlp.mlp_gate)
    first = _columns(core[0], gate[0])
    bias = torch.cat([core[0].bias, gate[0].bias]).detach()
    out = getattr(layer, "mlp_out", None)
    linear = _linears(out)[0] if out is not None else None
    return Convolution(
        [part.contiguous() for part in torch.split(first, width)],
        bias,
        _gate(gated_mlp, core, gate),
        first[:0, :0] if linear is None else linear.weight.detach().T.contiguous(),
        None if linear is None or linear.bias is None else linear.bias.detach(),
    )


def _gate(gated_mlp: Any, core: list[nn.Linear], gate: list[nn.Linear]) -> Gate:  # noqa: ANN401
    norms = [gated_mlp.bn1, gated_mlp.bn2] if gated_mlp.norm is not None else []
    deep = len(core) == 2
    second = torch.stack([core[1].weight.T, gate[1].weight.T]).detach().contiguous() if deep else None
    return Gate(
        second,
        None if second is None else second.mT.contiguous(),
        torch.cat([core[1].bias, gate[1].bias]).detach() if deep else None,
        torch.cat([norm.weight for norm in norms]).detach() if norms else None,
        torch.cat([norm.bias for norm in norms]).detach() if norms else None,
    )


def _linears(mlp: nn.Module) -> list[nn.Linear]:
    return [module for module in mlp.modules() if isinstance(module, nn.Linear)]


def _check(model: Any) -> None:  # noqa: ANN401
    """Refuse what the published models do not have, rather than compute something else."""
    arguments = model.model_args
    expected: dict[str, list[Any]] = {
        "non_linearity": ["silu"],
        "mlp_first": [True],
        "gMLP_norm": [None, "layer"],
        "readout_norm": [None, "layer"],
        "conv_norm": [None],
        "update_bond": [True],
        "update_angle": [True],
        "is_intensive": [True],
    }
    for name, allowed in expected.items():
        value = arguments.get(name, allowed[0])
        if value not in allowed:
            raise UnsupportedModelError(f"this CHGNet has {name}={value!r}; the lean forward pass knows {allowed}")
    widths = {arguments[f"{of}_fea_dim"] for of in ("atom", "bond", "angle")}
    if len(widths) != 1:
        raise UnsupportedModelError(f"this CHGNet has features of different widths {sorted(widths)}")
    hidden = {linear.out_features for c in (*model.atom_conv_layers, *model.bond_conv_layers, *model.angle_layers)
              for linear in _linears(c)}  # fmt: skip
    if not hidden <= widths:
        raise UnsupportedModelError(f"this CHGNet has hidden layers of widths {sorted(hidden)}, features of {widths}")
    depths = {len(_linears(c.twoBody_atom.mlp_core)) for c in model.atom_conv_layers}
    depths |= {len(_linears(c.twoBody_bond.mlp_core)) for c in (*model.bond_conv_layers, *model.angle_layers)}
    if not depths <= {1, 2}:
        raise UnsupportedModelError("this CHGNet has gated MLPs of more than two layers")
