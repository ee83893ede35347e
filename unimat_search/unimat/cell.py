"""Cells as six numbers that no rotation changes and that are a cell whatever their values."""

from __future__ import annotations

import torch
from torch import Tensor

CELL_SIZE = 6


def cell_to_vector(cells: Tensor) -> Tensor:
    """The six numbers of cells.

    The logarithm of the stretch of a cell, half of log(A A^T), is a symmetric matrix; its trace is the logarithm of the
    volume, and its traceless part is the shape, which no change of scale touches. (Polar decomposition as in
    CrystalFlow, Luo et al. 2025, and DiffCSP++, Jiao et al. 2024.)

    Args:
        cells: Row vectors A, angstrom. (..., 3, 3)

    Returns:
        log(V / angstrom^3) / 3, then the shape. (..., 6)
    """
    with torch.autocast(cells.device.type, enabled=False):  # angstroms need more than the eight bits of bf16
        return metric_to_vector(cells @ cells.transpose(-1, -2))


def metric_to_vector(metrics: Tensor) -> Tensor:
    """The six numbers of `cell_to_vector` from metric tensors A A^T. (..., 3, 3) -> (..., 6)."""
    with torch.autocast(metrics.device.type, enabled=False):
        values, vectors = torch.linalg.eigh(metrics)
        logs: Tensor = (vectors * (0.5 * values.log()).unsqueeze(-2)) @ vectors.transpose(-1, -2)
    xx, yy, zz = logs[..., 0, 0], logs[..., 1, 1], logs[..., 2, 2]
    return torch.stack(
        [
            (xx + yy + zz) / 3,
            logs[..., 0, 1],
            logs[..., 0, 2],
            logs[..., 1, 2],
            (xx - yy) / 2,
            (xx + yy - 2 * zz) / 6,
        ],
        dim=-1,
    )


def vector_to_cell(vectors: Tensor) -> Tensor:
    """Cells of six numbers: the inverse of `cell_to_vector`, in the orientation that makes A symmetric.

    Args:
        vectors: As `cell_to_vector` returns them. (..., 6)

    Returns:
        Row vectors, angstrom, right-handed. (..., 3, 3)
    """
    size, xy, xz, yz, plane, axis = vectors.unbind(-1)
    logs = torch.stack(
        [size + plane + axis, xy, xz, xy, size - plane + axis, yz, xz, yz, size - 2 * axis],
        dim=-1,
    ).view(*vectors.shape[:-1], 3, 3)
    with torch.autocast(vectors.device.type, enabled=False):
        values, axes = torch.linalg.eigh(logs)
        cells: Tensor = (axes * values.exp().unsqueeze(-2)) @ axes.transpose(-1, -2)
    return cells
