from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: two test processes would fight for cores

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,  # CI repeats itself, people explore
)
settings.load_profile("default")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Reference energies made by the tests stay out of the user's cache; one folder serves all tests."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("UNIMAT_SEARCH_CACHE")
    os.environ["UNIMAT_SEARCH_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["UNIMAT_SEARCH_CACHE"]
    else:
        os.environ["UNIMAT_SEARCH_CACHE"] = before


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).parent.parent
