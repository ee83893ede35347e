"""The contract tests must fail for what breaks the contract."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from pymatgen.core import Lattice, Structure

from tests import plugins
from unimat_search.eval.adapters import emt_relaxer
from unimat_search.protocol import Relaxer, StructureGenerator
from unimat_search.records import Outcome, Relaxation, RelaxSettings
from unimat_search.testing import check_generator, check_relaxer

ALUMINIUM = Structure(Lattice.cubic(2.6), ["Al"], [[0.0, 0, 0]])


def test_ten_lines_keep_the_contract() -> None:
    check_generator(plugins.Uniform())


@pytest.mark.parametrize(
    ("generator", "says"),
    [
        (plugins.NotAGenerator(), "a method generate"),
        (plugins.WrongComposition(), "Na2 Cl2, found Na4 Cl4"),
        (plugins.FewerThanAsked(), "4 attempts, found 3"),
        (plugins.Endless(), "4 attempts, found more than 4"),
        (plugins.Junk(), "4 attempts"),
        (plugins.SameEverySeed(), "other structures for another seed"),
    ],
)
def test_breaches_are_named(generator: StructureGenerator, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_generator(generator)


class Bent:
    """EMT with one thing bent."""

    name = "bent"

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def relax(self, structures: Iterable[Structure], settings: RelaxSettings) -> Iterator[Relaxation]:
        structures = list(structures)
        if self.kind == "moves the input":
            structures[0].apply_strain(0.01)
        for result in emt_relaxer().relax(structures, settings):
            match self.kind:
                case "loses one" if result.index == 1:
                    continue
                case "repeats itself":
                    yield result
                    yield result
                case "depends on the batch":
                    energy = (result.energy or 0.0) + 0.01 * len(structures)
                    yield Relaxation(result.index, result.structure, energy, 0, 0.01, Outcome.CONVERGED)
                case "ignores the steps":
                    yield Relaxation(result.index, result.structure, result.energy, 7, 0.01, Outcome.CONVERGED)
                case _:
                    yield result


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("moves the input", "input left untouched"),
        ("loses one", "one result for each"),
        ("repeats itself", "one result for each"),
        ("depends on the batch", "a batch and its singles"),
        ("ignores the steps", "no steps with max_steps=0"),
    ],
)
def test_bent_relaxers_are_found_out(kind: str, says: str) -> None:
    relaxer: Relaxer = Bent(kind)
    with pytest.raises(AssertionError, match=says):
        check_relaxer(relaxer, [ALUMINIUM.copy(), ALUMINIUM.copy().apply_strain(0.02, inplace=False)])
