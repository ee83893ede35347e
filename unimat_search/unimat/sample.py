"""Structures from a trained model, for one composition or many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unimat_search.records import FailedAttempt
from unimat_search.seeds import candidate_stream
from unimat_search.unimat.checkpoint import load_model
from unimat_search.unimat.elements import SYMBOLS, composition_numbers
from unimat_search.unimat.grid_model import GridModel
from unimat_search.unimat.model import CrystalModel, SampleSettings, Streams, usable_device
from unimat_search.unimat.slot_model import SlotModel
from unimat_search.unimat.sources import niggli

if TYPE_CHECKING:
    from pymatgen.core import Composition, Structure

WEIGHTS = "slots-zero-shot.safetensors"
POSITIONS_AT_ONCE = 16_000
VOLUME_PER_ATOM = (1.0, 1000.0)
"""Cells outside of this are no crystal, angstrom^3."""

NARROWEST = 0.5
"""Distance between opposite faces under which a cell is no crystal, angstrom."""

Crystal = tuple[Tensor, Tensor, Tensor]
"""Atomic numbers (n,), fractional coordinates (n, 3), and the cell (3, 3), angstrom."""


class UniMatGenerator:
    """Samples a trained UniMat model.

    Args:
        model: A model file that `unimat-search train` wrote. [default: the weights that ship, trained without any
            composition of the MP-20 test split]
        steps: Denoising steps. [default: the model's own]
        sampler: ancestral or ddim for a `unet` model; a `slots` model has euler.
        near_hull: Ask for structures near the convex hull (true), far from it (false), or either ("any").
        formation_energy: Ask for this formation energy, eV/atom.
        guidance: Weight of what is asked for (0: as trained).
        haste: Of a `slots` model, see `flow.euler`. [default: the model's own]
        precision: float32, or bf16: faster where the device computes in it, but a sample then depends a little on those
            beside it.
        device: Where the model runs.

    Raises:
        ValueError: If the file is no model, or an option is out of range.
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        near_hull: bool | str = True,
        formation_energy: float | None = None,
        guidance: float = 0.0,
        haste: float | None = None,
        precision: str = "float32",
        device: str = "cpu",
    ) -> None:
        if near_hull not in (True, False, "any"):
            raise ValueError(f"near_hull must be true, false or any, got {near_hull!r}")
        self.settings = SampleSettings(
            steps=steps, sampler=sampler, guidance=guidance, haste=haste, precision=precision
        )
        self.model, _ = load_model(Path(model) if model else shipped_weights())
        if formation_energy is not None and not self.model.knows("formation_energy_per_atom"):
            raise ValueError("this model was trained without formation energies; leave formation_energy out")
        if near_hull is False and not self.model.knows("near_hull"):
            raise ValueError("this model was trained without distances from the hull; leave near_hull out")
        self.device = usable_device(device)
        self.model.to(self.device)
        self.properties = torch.tensor(
            [
                np.nan if formation_energy is None else formation_energy,
                np.nan if near_hull == "any" else float(near_hull),
            ]
        )

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure | FailedAttempt]:
        """See `StructureGenerator.generate`; structure k does not depend on n beyond rounding."""
        if unseen := self.unseen(composition):
            yield from (FailedAttempt(f"the model has never seen {', '.join(unseen)}") for _ in range(n))
            return
        numbers = torch.tensor(composition_numbers(composition))
        streams = Streams([candidate_stream(seed, composition, index) for index in range(n)])
        yield from map(as_structure, self.sample([numbers] * n, streams))

    def unseen(self, composition: Composition) -> list[str]:
        """Elements of a composition that the model never saw in training."""
        numbers = set(composition_numbers(composition))
        return sorted(SYMBOLS[z] for z in numbers if not self.model.seen_elements[z])

    def renew(
        self, structures: Sequence[Structure], starts: Sequence[float], streams: Streams
    ) -> list[Structure | FailedAttempt]:
        """Structures noised to a time on the model's path and denoised again.

        Args:
            structures: One for each stream.
            starts: Their times: 0 forgets the structure, near 1 keeps it.
            streams: Their random numbers.

        Raises:
            ValueError: If the model has no such path; a `slots` model has.
        """
        if not isinstance(self.model, SlotModel):
            raise ValueError("this model can't renew structures; a slots model can")
        renewed: list[Structure | FailedAttempt] = [FailedAttempt("its cell has no Niggli reduction")] * len(structures)
        groups: dict[tuple[int, float], list[tuple[int, Crystal]]] = {}
        for row, (structure, start) in enumerate(zip(structures, starts, strict=True)):
            if crystal := as_crystal(structure):
                groups.setdefault((len(structure), start), []).append((row, crystal))
        for (_, start), members in groups.items():
            numbers, frac_coords, cells = (
                torch.stack(parts).to(self.device) for parts in zip(*(one for _, one in members), strict=True)
            )
            theirs = Streams([streams.generators[row] for row, _ in members])
            asked = self.properties.to(self.device).expand(len(members), -1)
            with torch.no_grad(), self.settings.autocast(self.device):
                coords, cells = self.model.renew(numbers, frac_coords, cells, asked, theirs, self.settings, start=start)
            for place, (row, _) in enumerate(members):
                renewed[row] = as_structure((numbers[place].cpu(), coords[place].cpu(), cells[place].cpu()))
        return renewed

    def generate_freely(self, n: int, *, seed: int) -> list[Structure | FailedAttempt]:
        """Structures of compositions that the model draws or makes itself."""
        streams = Streams([np.random.default_rng([seed, index]) for index in range(n)])
        made = sample_freely(self.model, streams, self.settings, self.properties.to(self.device))
        return [as_structure(one) for one in made]

    def sample(self, compositions: Sequence[Tensor], streams: Streams) -> list[Crystal]:
        """A crystal of each composition (atomic numbers), in their order."""
        return sample(self.model, compositions, streams, self.settings, self.properties.to(self.device))


def shipped_weights() -> Path:
    """The weights inside the package."""
    return Path(str(files("unimat_search.unimat").joinpath("weights", WEIGHTS)))


def sample(
    model: CrystalModel,
    compositions: Sequence[Tensor],
    streams: Streams,
    settings: SampleSettings,
    properties: Tensor,
    *,
    at_once: int = POSITIONS_AT_ONCE,
) -> list[Crystal]:
    """Crystals of many compositions, those of one size together.

    Args:
        model: In evaluation mode.
        compositions: Atomic numbers of each crystal's sites. (n,) each
        streams: One for each crystal.
        settings: How to sample.
        properties: Asked for, of all. (2,)
        at_once: Memory's limit, positions that the denoiser computes.

    Returns:
        A crystal of each composition, in their order.
    """
    order = sorted(range(len(compositions)), key=lambda index: len(compositions[index]))
    sampled: list[Crystal | None] = [None] * len(order)
    while order:
        size = len(compositions[order[0]])
        most = max(1, at_once // model.positions(size))
        chosen = [index for index in order[:most] if len(compositions[index]) == size]
        order = order[len(chosen) :]
        numbers = torch.stack([compositions[index] for index in chosen]).to(properties.device)
        theirs = Streams([streams.generators[index] for index in chosen])
        with torch.no_grad(), settings.autocast(properties.device):
            frac_coords, cells = model.sample(numbers, properties.expand(len(chosen), -1), theirs, settings)
        for row, index in enumerate(chosen):
            sampled[index] = numbers[row].cpu(), frac_coords[row].cpu(), cells[row].cpu()
    return [one for one in sampled if one is not None]


def sample_freely(model: CrystalModel, streams: Streams, settings: SampleSettings, properties: Tensor) -> list[Crystal]:
    """Crystals without a composition given: a `slots` model draws one from its data, a `unet` model makes it."""
    if not isinstance(model, GridModel):
        return sample(model, model.compositions(streams), streams, settings, properties)
    made: list[Crystal] = []
    most = max(1, POSITIONS_AT_ONCE // model.positions(0))
    for start in range(0, len(streams.generators), most):
        theirs = Streams(streams.generators[start : start + most])
        with torch.no_grad(), settings.autocast(properties.device):
            sites, cells = model.sample_free(properties.expand(len(theirs.generators), -1), theirs, settings)
        for owner, cell in enumerate(cells):
            mine = sites.owner == owner
            made.append((sites.numbers[mine].cpu(), sites.frac_coords[mine].cpu(), cell.cpu()))
    return made


def as_crystal(structure: Structure) -> Crystal | None:
    """A structure as the models see it, in its Niggli-reduced cell; None if it has none."""
    matrix = np.array(structure.lattice.matrix)
    try:
        cell = niggli(matrix)
    except ValueError:
        return None
    frac_coords = structure.frac_coords @ matrix @ np.linalg.inv(cell)
    numbers = torch.tensor([site.specie.Z for site in structure])
    return numbers, torch.from_numpy(frac_coords % 1.0).float(), torch.from_numpy(cell).float()


def as_structure(sampled: Crystal) -> Structure | FailedAttempt:
    """A sampled crystal as a structure in the usual orientation, or why it is none."""
    from pymatgen.core import Lattice, Structure

    numbers, frac_coords, cell = (x.double().numpy() for x in sampled)
    if problem := cell_problem(cell, max(len(numbers), 1)):
        return FailedAttempt(problem)
    if not np.isfinite(frac_coords).all():
        return FailedAttempt("the model left an atom without a place")
    if not len(numbers):
        return FailedAttempt("the model made no atom")
    return Structure(
        Lattice.from_parameters(*Lattice(cell).parameters), [SYMBOLS[int(z)] for z in numbers], frac_coords % 1.0
    )


def cell_problem(cell: np.ndarray, sites: int) -> str | None:
    """What is wrong with a cell of so many sites, if anything."""
    if not np.isfinite(cell).all():
        return "the model's cell is not finite"
    volume = abs(float(np.linalg.det(cell)))
    low, high = VOLUME_PER_ATOM
    if not low <= volume / sites <= high:
        return f"the model's cell has {volume / sites:.3g} cubic angstrom an atom"
    faces = np.linalg.norm(np.cross(np.roll(cell, -1, 0), np.roll(cell, -2, 0)), axis=1)
    if volume / faces.max() < NARROWEST:
        return f"the model's cell is {volume / faces.max():.2g} angstrom thin"
    return None
