"""Models whose cells are told from the volume that a composition usually has."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unimat_search.unimat.cell import cell_to_vector, metric_to_vector, vector_to_cell
from unimat_search.unimat.elements import MAX_ATOMIC_NUMBER
from unimat_search.unimat.model import CrystalModel
from unimat_search.unimat.orbits import Freedom
from unimat_search.unimat.structures import StructureSet


class VolumeModel(CrystalModel):
    """Cells as standardised vectors around the composition's usual volume."""

    element_log_volumes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("element_log_volumes", torch.zeros(MAX_ATOMIC_NUMBER + 1))

    def fit(self, structures: StructureSet) -> None:
        """Learn the volume of an atom of each element, and the spread of the cells around it."""
        super().fit(structures)
        self.element_log_volumes.copy_(torch.from_numpy(fit_log_volumes(structures)))
        vectors = cell_to_vector(torch.from_numpy(structures.cells.astype(np.float64)))
        usual = torch.from_numpy(usual_log_volumes(structures, self.element_log_volumes.numpy()))
        vectors[:, 0] -= (usual + torch.from_numpy(structures.num_sites).log()) / 3
        self.fit_cells(vectors)

    def inherit_scales(self, other: CrystalModel) -> None:
        """The volumes too, of the elements that the other has seen."""
        super().inherit_scales(other)
        assert isinstance(other, VolumeModel)
        seen = other.seen_elements
        self.element_log_volumes[seen] = other.element_log_volumes[seen]

    def positions(self, sites: int) -> int:
        """Its sites."""
        return sites

    def usual_size(self, numbers: Tensor) -> Tensor:
        """log(V / angstrom^3) / 3 to be expected of a cell of these atoms. (b, n) -> (b,)."""
        means: Tensor = self.element_log_volumes[numbers].mean(-1)
        return (means + math.log(numbers.shape[-1])) / 3

    def encode_cells(self, cells: Tensor, numbers: Tensor) -> Tensor:
        """Standardised vectors of cells. (b, 3, 3) -> (b, 6)."""
        return self._standardise(cell_to_vector(cells), numbers)

    def symmetric_cells(self, vectors: Tensor, numbers: Tensor, freedom: Freedom) -> Tensor:
        """Standardised vectors of the nearest cells that symmetry allows. (b, 6) -> (b, 6)."""
        with torch.autocast(vectors.device.type, enabled=False):
            cells = self.decode_cells(vectors, numbers)
            metrics = freedom.symmetric(cells @ cells.transpose(-1, -2))
            return self._standardise(metric_to_vector(metrics), numbers)

    def _standardise(self, vectors: Tensor, numbers: Tensor) -> Tensor:
        vectors[:, 0] -= self.usual_size(numbers)
        standardised: Tensor = (vectors - self.cell_mean) / self.cell_std
        return standardised

    def decode_cells(self, vectors: Tensor, numbers: Tensor) -> Tensor:
        """Cells of standardised vectors. (b, 6) -> (b, 3, 3)."""
        scaled = vectors * self.cell_std + self.cell_mean
        size = scaled[:, :1] + self.usual_size(numbers).unsqueeze(-1)
        return vector_to_cell(torch.cat([size, scaled[:, 1:]], dim=-1))


def usual_log_volumes(structures: StructureSet, log_volumes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logarithm of the volume per atom that each composition usually has, angstrom^3. (119,) -> (m,)."""
    sites = log_volumes[structures.numbers].astype(np.float64)
    return np.asarray(np.add.reduceat(sites, structures.offsets[:-1]) / structures.num_sites)


def fit_log_volumes(structures: StructureSet, *, cutoff: float = 0.8) -> NDArray[np.float32]:
    """Logarithm of the volume of an atom of each element, angstrom^3; a cell's mean is that of its volume per atom.

    Least squares with a weak pull to the mean, without the structures that a first fit misses by more than the cutoff
    (molecules and atoms in empty cells).

    Returns:
        (119,), the mean for elements that are not there.
    """
    rows = np.repeat(np.arange(len(structures)), structures.num_sites)
    shares = np.zeros((len(structures), MAX_ATOMIC_NUMBER + 1))
    np.add.at(shares, (rows, structures.numbers), 1.0)
    shares /= structures.num_sites[:, None]
    volumes = np.log(structures.volumes_per_atom)
    mean = np.median(volumes)
    kept = np.ones(len(structures), dtype=bool)
    fitted = np.zeros(MAX_ATOMIC_NUMBER + 1)
    for _ in range(2):
        x, y = shares[kept], volumes[kept] - mean
        fitted = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
        kept = np.abs(volumes - mean - shares @ fitted) < cutoff
    log_volumes: NDArray[np.float32] = (fitted + mean).astype(np.float32)
    return log_volumes
