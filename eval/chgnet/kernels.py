"""The compiled kernels: `gated.c` through ctypes, where a compiler was at hand when the package was built."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from unimat_search.eval.chgnet.gated import Rows

WIDTH = 64
"""Features that the kernels are compiled for: those of every published CHGNet."""

MAX_TABLES = 4
LEVELS = ("baseline", "AVX2", "AVX-512")
"""Instruction sets, as `gated.c` numbers them."""

_Pointers = ctypes.c_void_p * MAX_TABLES


class _Job(ctypes.Structure):
    """The struct of the same name in `gated.c`."""

    _fields_ = (
        ("n_rows", ctypes.c_int64),
        ("n_tables", ctypes.c_int64),
        ("tables", _Pointers),
        ("indices", _Pointers),
        ("second", ctypes.c_void_p),
        ("second_transposed", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("norm", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("weight_index", ctypes.c_void_p),
        ("owners", ctypes.c_void_p),
        ("saved", ctypes.c_void_p),
        ("inverses", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("out_slope", ctypes.c_void_p),
        ("table_slopes", _Pointers),
        ("weight_slope", ctypes.c_void_p),
    )


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled library; None if it was not built."""
    spec = find_spec("unimat_search.eval.chgnet._gated")
    if spec is None or spec.origin is None:
        return None
    try:
        loaded = ctypes.CDLL(spec.origin)
    except OSError:  # built for another system
        return None
    for name in ("gated_forward", "gated_backward"):
        getattr(loaded, name).argtypes = (ctypes.POINTER(_Job), ctypes.c_int)
        getattr(loaded, name).restype = None
    return loaded


class CompiledKernel:
    """The fused kernels; float32 on the CPU, `WIDTH` features.

    Args:
        level: Index in `LEVELS`; if not given, the best that this processor has.

    Raises:
        RuntimeError: If the library was not built, or the processor lacks the level.
    """

    def __init__(self, level: int | None = None) -> None:
        loaded = library()
        if loaded is None:
            raise RuntimeError("the compiled kernels were not built")
        best = int(loaded.gated_best())
        if level is not None and not 0 <= level <= best:
            raise RuntimeError(f"this processor has no {LEVELS[level]}")
        self.level = best if level is None else level
        self._library = loaded
        self._transposed: dict[int, Tensor] = {}

    def forward(self, rows: Rows, weights: Tensor | None, tables: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See `unimat_search.eval.chgnet.gated.Kernel`."""
        tables = [table.contiguous() for table in tables]
        weights = None if weights is None else weights.contiguous()
        saved = [torch.empty(len(rows.indices[0]), 2 * WIDTH), torch.empty(len(rows.indices[0]), 2)]
        out = torch.zeros(rows.n_out, WIDTH)
        job = self._job(rows, weights, tables, saved)
        job.out = out.data_ptr()
        self._library.gated_forward(ctypes.byref(job), self.level)
        return out, saved

    def backward(
        self,
        rows: Rows,
        weights: Tensor | None,
        tables: Sequence[Tensor],
        saved: Sequence[Tensor],
        slope: Tensor,
    ) -> tuple[Tensor | None, list[Tensor]]:
        """See `unimat_search.eval.chgnet.gated.Kernel`."""
        tables = [table.contiguous() for table in tables]
        weights = None if weights is None else weights.contiguous()
        slope = slope.contiguous()
        table_slopes = [torch.zeros_like(table) for table in tables]
        weight_slope = None if weights is None else torch.zeros_like(weights)
        job = self._job(rows, weights, tables, saved)
        job.out_slope = slope.data_ptr()
        job.table_slopes = _pointers(table_slopes)
        job.weight_slope = _pointer(weight_slope)
        self._library.gated_backward(ctypes.byref(job), self.level)
        return weight_slope, table_slopes

    def _job(self, rows: Rows, weights: Tensor | None, tables: Sequence[Tensor], saved: Sequence[Tensor]) -> _Job:
        gate = rows.gate
        return _Job(
            n_rows=len(rows.indices[0]),
            n_tables=len(tables),
            tables=_pointers(tables),
            indices=_pointers(rows.indices),
            second=_pointer(gate.second),
            second_transposed=_pointer(self._transpose(gate.second)),
            bias=_pointer(gate.bias),
            norm=_pointer(gate.norm),
            shift=_pointer(gate.shift),
            weights=_pointer(weights),
            weight_index=_pointer(rows.weight_index),
            owners=_pointer(rows.owners),
            saved=saved[0].data_ptr(),
            inverses=saved[1].data_ptr(),
        )

    def _transpose(self, second: Tensor | None) -> Tensor | None:
        """The second layer the other way round, made once."""
        if second is None:
            return None
        key = second.data_ptr()
        if key not in self._transposed:
            self._transposed[key] = second.transpose(1, 2).contiguous()
        return self._transposed[key]


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return _Pointers(*(tensor.data_ptr() for tensor in tensors))
