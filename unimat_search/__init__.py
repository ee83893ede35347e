"""Crystal structures for a composition: any generators, one harness, one fair comparison."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unimat_search.compare import run_comparison
    from unimat_search.plan import CompareSettings
    from unimat_search.protocol import Relaxer, StructureGenerator
    from unimat_search.records import (
        FailedAttempt,
        MatchSettings,
        Outcome,
        Record,
        Relaxation,
        RelaxSettings,
        Task,
    )

__all__ = [
    "CompareSettings",
    "FailedAttempt",
    "MatchSettings",
    "Outcome",
    "Record",
    "RelaxSettings",
    "Relaxation",
    "Relaxer",
    "StructureGenerator",
    "Task",
    "__version__",
    "run_comparison",
]

_HOMES = {
    "CompareSettings": "plan",
    "run_comparison": "compare",
    "Relaxer": "protocol",
    "StructureGenerator": "protocol",
}


def __getattr__(name: str) -> object:
    """Import the public names when they are first used: importing the package costs nothing."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("unimat-search")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'records')}")
    return getattr(module, name)
