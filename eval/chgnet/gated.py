"""CHGNet's gated MLP over gathered rows, and its gradient: where nearly all of its time goes.

A row is the sum of what it gathers from tables: features of atoms, bonds and angles that went through their
part of the MLP's first layer. The rows are many and the tables short, so the rows are never kept longer than
needed, and the gradient is written out rather than recorded operation by operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-5
"""Of the layer norms: torch's default."""


@dataclass(frozen=True, slots=True)
class Source:
    """Rows gathered from a table: row r is table[index[r]]."""

    table: Tensor
    index: Tensor


@dataclass(frozen=True, slots=True)
class Gate:
    """What follows the first layer of a gated MLP; core and gate side by side.

    Attributes:
        second: The second layer, (core or gate, in, out); None if there is none.
        second_transposed: The same, (core or gate, out, in).
        bias: Its bias, core then gate, shape (2 features,).
        norm: Scale of the layer norm, core then gate, shape (2 features,); None if there is none.
        shift: Shift of the layer norm, shape (2 features,).
    """

    second: Tensor | None = None
    second_transposed: Tensor | None = None
    bias: Tensor | None = None
    norm: Tensor | None = None
    shift: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """Where rows come from and where they go.

    Attributes:
        gate: What happens to them.
        indices: One index for each table, each of shape (rows,).
        weight_index: Index of the weights' table, shape (rows,); None for no weights.
        owners: The row of the output that each row is added to, shape (rows,); None for its own.
        n_out: Rows of the output.
    """

    gate: Gate
    indices: Sequence[Tensor]
    weight_index: Tensor | None
    owners: Tensor | None
    n_out: int


class Kernel(Protocol):
    """One way to do the work."""

    def forward(self, rows: Rows, weights: Tensor | None, tables: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the output, shape (n_out, features), and what `backward` wants to find again."""
        ...

    def backward(
        self,
        rows: Rows,
        weights: Tensor | None,
        tables: Sequence[Tensor],
        saved: Sequence[Tensor],
        slope: Tensor,
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Return the gradients in the weights and the tables from that in the output."""
        ...


def gated_rows(sources: Sequence[Source], gate: Gate, kernel: Kernel) -> Tensor:
    """silu(core) * sigmoid(gate) of each row, shape (rows, features).

    Args:
        sources: Their gathered sum is the first layer's output, core then gate, shape (rows, 2 features).
        gate: The layers after it.
        kernel: Who does it.
    """
    indices = [source.index for source in sources]
    return _apply(kernel, Rows(gate, indices, None, None, len(indices[0])), None, sources)


def gated_sum(
    sources: Sequence[Source], gate: Gate, weights: Source, owners: Tensor, n_owners: int, kernel: Kernel
) -> Tensor:
    """The rows of `gated_rows`, weighted and summed by owner, shape (n_owners, features).

    Args:
        sources: As for `gated_rows`.
        gate: As for `gated_rows`.
        weights: Factors, gathered, shape (rows, features).
        owners: The owner of each row, shape (rows,).
        n_owners: How many there are.
        kernel: Who does it.
    """
    rows = Rows(gate, [source.index for source in sources], weights.index, owners, n_owners)
    return _apply(kernel, rows, weights.table, sources)


def _apply(kernel: Kernel, rows: Rows, weights: Tensor | None, sources: Sequence[Source]) -> Tensor:
    out: Tensor = _Gated.apply(kernel, rows, weights, *(source.table for source in sources))  # type: ignore[no-untyped-call]
    return out


class _Gated(torch.autograd.Function):
    """A kernel as torch's autograd sees it."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, rows: Rows, weights: Tensor | None, *tables: Tensor) -> Tensor:  # noqa: ANN401
        out, saved = kernel.forward(rows, weights, tables)
        ctx.kernel, ctx.rows, ctx.n_tables = kernel, rows, len(tables)
        ctx.save_for_backward(weights, *tables, *saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        weights, *rest = ctx.saved_tensors
        tables, saved = rest[: ctx.n_tables], rest[ctx.n_tables :]
        weight_slope, table_slopes = ctx.kernel.backward(ctx.rows, weights, tables, saved, slope)
        return None, None, weight_slope, *table_slopes


class TorchKernel:
    """The reference, on any device and for any width; core and gate lie apart, as (2, rows, features)."""

    def forward(self, rows: Rows, weights: Tensor | None, tables: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See `Kernel.forward`."""
        first = _gathered(rows, tables)
        first_sigmoid = torch.sigmoid(first)
        first_silu = first.mul_(first_sigmoid) if rows.gate.second is not None else first
        last = _through_second(rows.gate, first_silu)
        (core, gate), norms = _normed(rows.gate, last)
        core_sigmoid, gate_sigmoid = torch.sigmoid(core), torch.sigmoid(gate)
        silu = core * core_sigmoid
        messages = silu * gate_sigmoid
        if weights is not None and rows.weight_index is not None:
            messages.mul_(weights.index_select(0, rows.weight_index))
        if rows.owners is not None:
            messages = messages.new_zeros(rows.n_out, messages.shape[1]).index_add_(0, rows.owners, messages)
        return messages, [first_silu, first_sigmoid, last, *norms, silu, core_sigmoid, gate_sigmoid]

    def backward(
        self,
        rows: Rows,
        weights: Tensor | None,
        tables: Sequence[Tensor],
        saved: Sequence[Tensor],
        slope: Tensor,
    ) -> tuple[Tensor | None, list[Tensor]]:
        """See `Kernel.backward`."""
        first_silu, first_sigmoid, last, *norms, silu, core_sigmoid, gate_sigmoid = saved
        if rows.owners is not None:
            slope = slope.index_select(0, rows.owners)
        gated = slope * gate_sigmoid
        weight_slope = None
        if weights is not None and rows.weight_index is not None:
            weight_slope = torch.zeros_like(weights).index_add_(0, rows.weight_index, gated * silu)
            gated.mul_(weights.index_select(0, rows.weight_index))
        core_slope = _silu_slope(silu, core_sigmoid).mul_(gated)
        gate_slope = gated.mul_(silu).addcmul_(gated, gate_sigmoid, value=-1)
        down = _before_norm(rows.gate, last, norms, core_slope, gate_slope)
        if rows.gate.second is not None:
            down = torch.bmm(down, rows.gate.second.mT).mul_(_silu_slope(first_silu, first_sigmoid))
        return weight_slope, [
            _together(_added_up(down, index, len(table))) for table, index in zip(tables, rows.indices, strict=True)
        ]


def _gathered(rows: Rows, tables: Sequence[Tensor]) -> Tensor:
    """The rows' sums over the tables, shape (2, rows, features)."""
    parts = (_apart(table).index_select(1, index) for table, index in zip(tables, rows.indices, strict=True))
    total = next(parts)
    for part in parts:
        total.add_(part)
    return total


def _added_up(rows: Tensor, index: Tensor, n: int) -> Tensor:
    """The reverse of gathering, (2, rows, features) to (2, n, features)."""
    total = rows.new_zeros(2, n, rows.shape[2])
    for part, whole in zip(rows, total, strict=True):
        whole.index_add_(0, index, part)
    return total


def _apart(table: Tensor) -> Tensor:
    """Core and gate side by side, (n, 2 features), as (2, n, features)."""
    return table.view(len(table), 2, -1).transpose(0, 1).contiguous()


def _together(table: Tensor) -> Tensor:
    """The reverse of `_apart`."""
    return table.transpose(0, 1).reshape(table.shape[1], -1)


def _through_second(gate: Gate, first: Tensor) -> Tensor:
    if gate.second is None or gate.bias is None:
        return first
    return torch.baddbmm(gate.bias.view(2, 1, -1), first, gate.second)


def _normed(gate: Gate, last: Tensor) -> tuple[Sequence[Tensor], list[Tensor]]:
    """Core and gate behind their layer norms, and what these need for their gradient."""
    if gate.norm is None or gate.shift is None:
        return last.unbind(0), []
    normed = [
        torch.native_layer_norm(part, part.shape[1:], scale, shift, EPSILON)
        for part, scale, shift in zip(last, gate.norm.view(2, -1), gate.shift.view(2, -1), strict=True)
    ]
    return [out for out, _, _ in normed], [kept for _, *kepts in normed for kept in kepts]


def _before_norm(gate: Gate, last: Tensor, norms: Sequence[Tensor], core: Tensor, gates: Tensor) -> Tensor:
    """Gradients in the input of the layer norms from those in their output, shape (2, rows, features)."""
    if gate.norm is None or gate.shift is None:
        return torch.stack([core, gates])
    pairs = zip((core, gates), last, (norms[:2], norms[2:]), gate.norm.view(2, -1), gate.shift.view(2, -1), strict=True)
    return torch.stack(
        [
            torch.ops.aten.native_layer_norm_backward(
                slope, part, part.shape[1:], mean, inverse, scale, shift, [True, False, False]
            )[0]
            for slope, part, (mean, inverse), scale, shift in pairs
        ]
    )


def _silu_slope(silu: Tensor, sigmoid: Tensor) -> Tensor:
    """The derivative of x sigmoid(x), from its value."""
    return torch.addcmul(silu + sigmoid, silu, sigmoid, value=-1)
