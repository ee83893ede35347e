"""Structures from a trained model, for one composition or many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unimat_search.records import FailedAttempt
from unimat_search.seeds import candidate_stream
from unimat_search.unimat.checkpoint import PRIOR, load_model, prior_of
from unimat_search.unimat.elements import SYMBOLS, composition_numbers
from unimat_search.unimat.grid_model import GridModel
from unimat_search.unimat.model import CrystalModel, SampleSettings, Streams, usable_device
from unimat_search.unimat.slot_model import SlotModel
from unimat_search.unimat.slots import shortest_distances
from unimat_search.unimat.sources import niggli

if TYPE_CHECKING:
    from pymatgen.core import Composition, Lattice, Structure

    from unimat_search.unimat.placements import Placement
    from unimat_search.unimat.symmetric import SymmetricSampler

WEIGHTS = "slots-zero-shot.safetensors"
POSITIONS_AT_ONCE = 16_000
VOLUME_PER_ATOM = (1.0, 1000.0)
"""Cells outside of this are no crystal, angstrom^3."""

NEAREST, NEAREST_TO_HYDROGEN = 0.9, 0.6
"""Atoms nearer than this overlap, angstrom: the shortest bonds are of 1.1 (N2), with hydrogen 0.74 (H2)."""

NARROWEST = 0.5
"""Distance between opposite faces under which a cell is no crystal, angstrom."""

PLAIN = 8
"""Of so many samples, one is held to no symmetry: some crystals have placements that the prior does not know."""

Crystal = tuple[Tensor, Tensor, Tensor]
"""Atomic numbers (n,), fractional coordinates (n, 3), and the cell (3, 3), angstrom."""


class UniMatGenerator:
    """Samples of a UniMat model: the weights that ship, or a model of your own.

    Args:
        model: A model file that `unimat-search train` wrote, or its run's folder. [default: the weights that ship,
            trained without any composition of the MP-20 test split]
        steps: Denoising steps. [default: the model's own]
        sampler: ancestral or ddim for a `unet` model; a `slots` model has euler.
        near_hull: Ask for structures near the convex hull (true), far from it (false), or either ("any").
        formation_energy: Ask for this formation energy, eV/atom.
        guidance: Weight of what is asked for (0: as trained).
        haste: Of a `slots` model, see `flow.euler`. [default: the model's own]
        retries: How often a sample is drawn anew whose cell is none or whose atoms overlap.
        symmetric: Hold each sample to a space group and to sites, drawn from what the training data hold, the likeliest
            placement first; every eighth sample is held to none. [default: where the model has a prior beside it]
        space_group: Hold samples to this space group (number or symbol), on sites that are drawn.
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
        retries: int = 5,
        symmetric: bool | None = None,
        space_group: int | str | None = None,
        precision: str = "float32",
        device: str = "cpu",
    ) -> None:
        if near_hull not in (True, False, "any"):
            raise ValueError(f"near_hull must be true, false or any, got {near_hull!r}")
        self.settings = SampleSettings(
            steps=steps, sampler=sampler, guidance=guidance, haste=haste, precision=precision
        )
        if retries < 0:
            raise ValueError(f"retries must be 0 or more, got {retries}")
        self.retries = retries
        path = Path(model) if model else shipped_weights()
        self.model, header = load_model(path)
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
        prior = prior_of(path)
        self.symmetric: SymmetricSampler | None = None
        if symmetric is None:
            symmetric = space_group is not None or (isinstance(self.model, SlotModel) and prior.exists())
        if symmetric:
            self.symmetric = self._symmetric_sampler(prior, space_group, header.get("data_sha256"))
        elif space_group is not None:
            raise ValueError("symmetric=false draws no space groups; leave space_group out")

    def _symmetric_sampler(self, prior_file: Path, space_group: int | str | None, data: str | None) -> SymmetricSampler:
        """Raises ValueError if the model has no prior learnt from its data, or there is no such space group."""
        from unimat_search.unimat.prior import load_prior
        from unimat_search.unimat.symmetric import SymmetricSampler, space_group_number

        group = None if space_group is None else space_group_number(space_group)
        if not isinstance(self.model, SlotModel):
            raise ValueError("this model can't be held to a space group; a slots model can")
        if not prior_file.exists():
            raise ValueError(f"the model has no {PRIOR} beside it, which says what sites to try; train writes it")
        prior, learnt_from = load_prior(prior_file)
        if learnt_from != data:
            raise ValueError(f"{prior_file} was learnt from other data than the model beside it; train again")
        if group and group not in prior.groups.tolist():
            raise ValueError(f"the model's training data hold no crystal of space group {space_group}")
        return SymmetricSampler(self.model, prior, self.settings, self.properties.to(self.device), group)

    def generate(self, composition: Composition, n: int, *, seed: int) -> Iterator[Structure | FailedAttempt]:
        """See `StructureGenerator.generate`; structure k does not depend on n beyond rounding."""
        yield from self._generate(composition, n, seed)

    def generate_in_cell(
        self, composition: Composition, n: int, lattice: Lattice, *, seed: int
    ) -> Iterator[Structure | FailedAttempt]:
        """See `unimat_search.protocol.CellGenerator`: the cell's noise is led to that very cell."""
        from pymatgen.core import Structure

        if not self.can_renew:
            yield from [FailedAttempt("this model can't be given a cell")] * n
            return
        reduced = niggli(np.array(lattice.matrix))
        turn = reduced @ np.linalg.inv(lattice.matrix)
        for one in self._generate(composition, n, seed, reduced):
            if isinstance(one, FailedAttempt):
                yield one
            else:
                yield Structure(lattice, one.species, one.frac_coords @ turn, to_unit_cell=True)

    def _generate(
        self, composition: Composition, n: int, seed: int, cell: NDArray[np.float64] | None = None
    ) -> list[Structure | FailedAttempt]:
        """A sample of each candidate's stream, in a given Niggli-reduced cell or any."""
        if unseen := self.unseen(composition):
            return [FailedAttempt(f"the model has never seen {', '.join(unseen)}")] * n
        streams = Streams([candidate_stream(seed, composition, index) for index in range(n)])
        numbers = torch.tensor(composition_numbers(composition))
        placements: list[Placement | None] = [None] * n
        if self.symmetric:
            found = self.symmetric.placements(numbers, n, seed=seed, cell=cell)
            group = self.symmetric.group
            if group and not found:
                where = "in a primitive cell" if cell is None else "in the cell that is given"
                return [FailedAttempt(f"space group {group} has no sites for {composition.formula} {where}")] * n
            for row, one in enumerate(found):
                if group or (row + 1) % PLAIN:
                    placements[row] = one

        def draw(rows: Sequence[int]) -> list[Crystal]:
            if self.symmetric:
                chosen = [placements[row] for row in rows]
                return self.symmetric.sample(numbers, chosen, streams.take(rows), cell)
            given = None if cell is None else torch.from_numpy(cell).float()
            properties = self.properties.to(self.device)
            return sample(self.model, [numbers] * len(rows), streams.take(rows), self.settings, properties, given=given)

        return [as_structure(one) for one in self._until_sound(draw, n)]

    def from_streams(self, composition: Composition, streams: Streams) -> list[Structure | FailedAttempt]:
        """A structure of each stream of random numbers, of elements that the model has seen."""
        numbers = torch.tensor(composition_numbers(composition))
        return [as_structure(one) for one in self.sample([numbers] * len(streams.generators), streams)]

    @property
    def can_renew(self) -> bool:
        """Whether the model has a path to take structures back on."""
        return isinstance(self.model, SlotModel)

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
        if not self.can_renew:
            raise ValueError("this model can't renew structures; a slots model can")
        given = [as_crystal(structure) for structure in structures]
        rows = [row for row, one in enumerate(given) if one is not None]
        crystals = [one for one in given if one is not None]
        theirs = streams.take(rows)

        def draw(chosen: Sequence[int]) -> list[Crystal]:
            return self._renew([crystals[i] for i in chosen], [starts[rows[i]] for i in chosen], theirs.take(chosen))

        renewed: list[Structure | FailedAttempt] = [FailedAttempt("its cell has no Niggli reduction")] * len(given)
        for row, one in zip(rows, self._until_sound(draw, len(rows)), strict=True):
            renewed[row] = as_structure(one)
        return renewed

    def _renew(self, crystals: Sequence[Crystal], starts: Sequence[float], streams: Streams) -> list[Crystal]:
        """Crystals of one size and start together."""
        assert isinstance(self.model, SlotModel)
        groups: dict[tuple[int, float], list[int]] = {}
        for row, (crystal, start) in enumerate(zip(crystals, starts, strict=True)):
            groups.setdefault((len(crystal[0]), start), []).append(row)
        renewed = list(crystals)
        for (_, start), rows in groups.items():
            numbers, frac_coords, cells = (
                torch.stack(parts).to(self.device) for parts in zip(*(crystals[row] for row in rows), strict=True)
            )
            asked = self.properties.to(self.device).expand(len(rows), -1)
            with torch.no_grad(), self.settings.autocast(self.device):
                frac_coords, cells = self.model.renew(
                    numbers, frac_coords, cells, asked, streams.take(rows), self.settings, start=start
                )
            for place, row in enumerate(rows):
                renewed[row] = numbers[place].cpu(), frac_coords[place].cpu(), cells[place].cpu()
        return renewed

    @property
    def makes_compositions(self) -> bool:
        """Whether `generate_freely` makes compositions, and does not draw them from the model's training data."""
        return self.model.makes_compositions

    def generate_freely(self, n: int, *, seed: int) -> list[Structure | FailedAttempt]:
        """Structures of compositions that the model draws or makes itself."""
        streams = Streams([np.random.default_rng([seed, index]) for index in range(n)])
        made = sample_freely(self.model, streams, self.settings, self.properties.to(self.device))
        return [as_structure(one) for one in made]

    def sample(self, compositions: Sequence[Tensor], streams: Streams) -> list[Crystal]:
        """A crystal of each composition (atomic numbers), in their order."""
        properties = self.properties.to(self.device)

        def draw(rows: Sequence[int]) -> list[Crystal]:
            chosen = [compositions[row] for row in rows]
            return sample(self.model, chosen, streams.take(rows), self.settings, properties)

        return self._until_sound(draw, len(compositions))

    def _until_sound(self, draw: Callable[[Sequence[int]], list[Crystal]], n: int) -> list[Crystal]:
        """Draw n crystals, and those again that are none."""
        made = draw(range(n))
        for _ in range(self.retries):
            rows = [row for row, one in enumerate(made) if not is_sound(one)]
            if not rows:
                break
            for row, one in zip(rows, draw(rows), strict=True):
                made[row] = one
        return made


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
    given: Tensor | None = None,
) -> list[Crystal]:
    """Crystals of many compositions, those of one size together.

    Args:
        model: In evaluation mode.
        compositions: Atomic numbers of each crystal's sites. (n,) each
        streams: One for each crystal.
        settings: How to sample.
        properties: Asked for, of all (2,) or of each crystal (m, 2); `slots` takes a space group as a third.
        at_once: Memory's limit, positions that the denoiser computes.
        given: The cell of all, for models that can be given one. (3, 3)

    Returns:
        A crystal of each composition, in their order.
    """
    order = sorted(range(len(compositions)), key=lambda index: len(compositions[index]))
    asked = properties.expand(len(compositions), -1)
    sampled: list[Crystal | None] = [None] * len(order)
    while order:
        size = len(compositions[order[0]])
        most = max(1, at_once // model.positions(size))
        chosen = [index for index in order[:most] if len(compositions[index]) == size]
        order = order[len(chosen) :]
        numbers = torch.stack([compositions[index] for index in chosen]).to(properties.device)
        theirs = streams.take(chosen)
        with torch.no_grad(), settings.autocast(properties.device):
            told = {} if given is None else {"given": given.to(properties.device).expand(len(chosen), 3, 3)}
            frac_coords, cells = model.sample(numbers, asked[chosen], theirs, settings, **told)
        for row, index in enumerate(chosen):
            sampled[index] = numbers[row].cpu(), frac_coords[row].cpu(), cells[row].cpu()
    return [one for one in sampled if one is not None]


def sample_freely(model: CrystalModel, streams: Streams, settings: SampleSettings, properties: Tensor) -> list[Crystal]:
    """Crystals without a composition given: drawn from the model's data, or made by a `unet` that is told of none."""
    if not (isinstance(model, GridModel) and model.makes_compositions):
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


def is_sound(sampled: Crystal) -> bool:
    """Whether a sample has a cell, and its atoms are apart.

    A network that treats like atoms alike moves two of them alike once they are at one place, so that they never part.
    """
    numbers, frac_coords, cell = sampled
    if cell_problem(cell.double().numpy(), len(numbers)) or not torch.isfinite(frac_coords).all():
        return False
    differences = (frac_coords.unsqueeze(0) - frac_coords.unsqueeze(1)).unsqueeze(0)
    hydrogen = numbers == 1
    least = torch.where(hydrogen.unsqueeze(0) | hydrogen.unsqueeze(1), NEAREST_TO_HYDROGEN, NEAREST)
    return bool((shortest_distances(differences, cell.unsqueeze(0))[0] >= least).all())


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
