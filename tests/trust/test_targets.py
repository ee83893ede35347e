"""Mutated files: each is taken, or refused in one line; nothing hangs, nothing is left behind."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trust.targets import TARGETS, attempt, mutated


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_taken(name: str, tmp_path: Path) -> None:
    """Else what is mutated would be refused at once."""
    for data in TARGETS[name].seeds:
        assert attempt(TARGETS[name], data, tmp_path), name


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("inputs")

    @settings(max_examples=60)
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        rng = random.Random(seed)
        attempt(TARGETS[name], mutated(rng.choice(TARGETS[name].seeds), rng), folder)

    check()


@pytest.mark.parametrize("name", ["formulas", "numbers of formula units", "specifications"])
def test_any_text(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("texts")

    @settings(max_examples=200)
    @given(st.text(max_size=40))
    def check(text: str) -> None:
        attempt(TARGETS[name], text.encode("utf-8", "replace"), folder)

    check()
