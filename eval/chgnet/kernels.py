"""The compiled kernels: `gated.c` through ctypes, where a compiler was at hand when the package was built."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

from torch import Tensor

from unimat_search.eval.chgnet.gated import Rows

WIDTH = 64
"""Features that the kernels are compiled for: those of every published CHGNet."""

MAX_TABLES = 4
LEVELS = ("the compiler's own", "AVX2", "AVX-512")
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


def levels() -> list[int]:
    """Indices in `LEVELS` of what was compiled and this processor has, the best one last."""
    loaded = library()
    return [] if loaded is None else [level for level in range(len(LEVELS)) if loaded.gated_has(level)]


class CompiledKernel:
    """The fused kernels; float32 on the CPU, `WIDTH` features.

    Args:
        level: Index in `LEVELS`; if not given, the best of `levels`.

    Raises:
        RuntimeError: If there is no such level here.
    """

    def __init__(self, level: int | None = None) -> None:
        here, loaded = levels(), library()
        if loaded is None or not here or level not in (None, *here):
            have = ", ".join(LEVELS[i] for i in here) or "none"
            raise RuntimeError(f"no compiled kernels for level {level}; there are: {have}")
        self.level = here[-1] if level is None else level
        self._library = loaded

    def forward(self, rows: Rows, weights: Tensor | None, tables: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See `unimat_search.eval.chgnet.gated.Kernel`."""
        tables = [table.contiguous() for table in tables]
        weights = None if weights is None else weights.contiguous()
        n_rows = len(rows.indices[0])
        saved = [tables[0].new_empty(n_rows, 2 * WIDTH), tables[0].new_empty(n_rows, 2)]
        out = tables[0].new_zeros(rows.n_out, WIDTH)
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
        table_slopes = [table.new_zeros(table.shape) for table in tables]
        weight_slope = None if weights is None else weights.new_zeros(weights.shape)
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
            second_transposed=_pointer(gate.second_transposed),
            bias=_pointer(gate.bias),
            norm=_pointer(gate.norm),
            shift=_pointer(gate.shift),
            weights=_pointer(weights),
            weight_index=_pointer(rows.weight_index),
            owners=_pointer(rows.owners),
            saved=saved[0].data_ptr(),
            inverses=saved[1].data_ptr(),
        )


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return _Pointers(*(tensor.data_ptr() for tensor in tensors))
