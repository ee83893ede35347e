"""Numba's compiler with the types kept, and random numbers for compiled code."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., object])

SOURCES = sha256(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()


def compiled(function: Function) -> Function:
    """Compiles a function once for each machine; division by zero follows IEEE.

    Code of other files becomes a part of it, so what is kept counts for the present state of all of them: Numba itself
    looks at the function's own file alone.
    """
    dispatcher = njit(cache=True, error_model="numpy")(function)
    if hasattr(dispatcher, "_cache"):  # without NUMBA_DISABLE_JIT
        index = dispatcher._cache._cache_file
        index._source_stamp = (index._source_stamp, SOURCES)
    return cast(Function, dispatcher)


inner = cast(Callable[[Function], Function], njit(error_model="numpy", no_cpython_wrapper=True))
"""The same for functions that only compiled ones call: they are compiled, and kept, as a part of these."""


def random_state(rng: np.random.Generator) -> NDArray[np.uint64]:
    """A state for `uniform`. (4,)."""
    return rng.integers(1, 2**64, 4, dtype=np.uint64)


@compiled
def uniform(state: NDArray[np.uint64]) -> float:
    """A random number in [0, 1), by xoshiro256++ (Blackman and Vigna, arXiv:1805.01407). Changes the state (4,)."""
    total = state[0] + state[3]
    result = ((total << np.uint64(23)) | (total >> np.uint64(41))) + state[0]
    shifted = state[1] << np.uint64(17)
    state[2] ^= state[0]
    state[3] ^= state[1]
    state[1] ^= state[2]
    state[0] ^= state[3]
    state[2] ^= shifted
    state[3] = (state[3] << np.uint64(45)) | (state[3] >> np.uint64(19))
    return float(result >> np.uint64(11)) * 2.0**-53
