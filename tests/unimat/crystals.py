"""Random structures and tiny models that the tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from unimat_search.unimat.checkpoint import build
from unimat_search.unimat.model import CrystalModel
from unimat_search.unimat.structures import PROPERTIES, StructureSet

GRAPH = {"width": 16, "told": 16, "layers": 2, "neighbours": 8, "distances": 6}

TINY: dict[str, dict[str, Any]] = {
    "cdvae": {"encoder": GRAPH, "network": GRAPH, "latent": 8, "flow_width": 32, "levels": 4},
    "slots": {"network": {"width": 32, "layers": 2, "heads": 4, "frequencies": 3, "distances": 4}},
    "unet": {
        "network": {"width": 8, "blocks": 1, "head": 8},
        "depth": 3,
        "rows": [1, 2, 3, 4],
        "groups": [1, 2, 16, 17],
    },
}


def random_set(seed: int, count: int, *, elements: tuple[int, ...] = (3, 8, 11, 17, 20), most: int = 2) -> StructureSet:
    """Structures of random atoms, at most so many of each element."""
    rng = np.random.default_rng(seed)
    numbers = []
    for _ in range(count):
        amounts = rng.integers(0, most + 1, size=len(elements))
        amounts[rng.integers(len(elements))] += amounts.sum() == 0
        numbers.append(rng.permutation(np.repeat(elements, amounts)))
    sizes = np.array([len(mine) for mine in numbers])
    cells = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0] @ np.diag([4.0, 5.0, 6.0])
    return StructureSet(
        ids=tuple(f"{seed}-{index}" for index in range(count)),
        numbers=np.concatenate(numbers).astype(np.uint8),
        frac_coords=rng.random((sizes.sum(), 3), dtype=np.float32),
        cells=(cells * (sizes / 4)[:, None, None] ** (1 / 3)).astype(np.float32),
        properties=rng.normal(size=(count, len(PROPERTIES))).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
    )


def sets(most: int) -> st.SearchStrategy[StructureSet]:
    """Sets of up to eight structures over the whole table."""
    return st.builds(
        lambda seed, count, elements: random_set(seed, count, elements=tuple(elements), most=most),
        st.integers(0, 2**32),
        st.integers(1, 8),
        st.lists(st.integers(1, 118), min_size=1, max_size=6, unique=True),
    )


def tiny_model(denoiser: str, structures: StructureSet) -> CrystalModel:
    """A small model with random weights everywhere, so that nothing is zero by construction."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build(denoiser, TINY[denoiser])
        model.fit(structures)
        for parameter in model.parameters():
            if not parameter.abs().sum():
                torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()
