"""Optimizers of the trainer, their state as plain tensors, and the learning rate over a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

OPTIMIZERS = ("adam", "adamw", "muon")

HIDDEN = frozenset({"blocks", "down", "messages", "middle", "up", "updates"})
"""Names of the parts of the networks that lie between what enters and what leaves."""


def make_optimizers(
    model: nn.Module, name: str, *, lr: float, weight_decay: float, betas: Sequence[float]
) -> list[torch.optim.Optimizer]:
    """Adam, AdamW, or Muon for the hidden layers' matrices (Jordan et al. 2024) with AdamW for the rest.

    Raises:
        ValueError: If there is no such optimizer here.
    """
    parameters = list(model.named_parameters())
    first, second = betas
    if name == "adam":
        return [torch.optim.Adam(model.parameters(), lr=lr, betas=(first, second))]
    if name == "adamw":
        return [torch.optim.AdamW(model.parameters(), lr=lr, betas=(first, second), weight_decay=weight_decay)]
    if name != "muon":
        raise ValueError(f"no optimizer {name!r}; there are {', '.join(OPTIMIZERS)}")
    if not hasattr(torch.optim, "Muon"):
        raise ValueError("the optimizer muon needs torch 2.9 or later; adamw does with any")
    hidden = {key for key, parameter in parameters if parameter.ndim == 2 and HIDDEN.intersection(key.split("."))}
    matrices = [parameter for key, parameter in parameters if key in hidden]
    others = [parameter for key, parameter in parameters if key not in hidden]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(first, second), weight_decay=weight_decay),
    ]


def rate(step: int, *, steps: int, warmup: int, decay: float) -> float:
    """Share of the learning rate at a step: linear warm-up, constant, linear to zero over the last share `decay`."""
    start = steps * (1 - decay)
    falling = (steps - step) / max(steps - start, 1.0)
    return min(1.0, (step + 1) / max(warmup, 1), max(falling, 0.0))


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """All that the optimizers remember, by "which.parameter.what"."""
    return {
        f"{which}.{index}.{what}": value if isinstance(value, Tensor) else torch.tensor(value)
        for which, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for what, value in state.items()
    }


def restore_optimizers(optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` wrote."""
    states: list[dict[int, dict[str, Any]]] = [{} for _ in optimizers]
    for key, tensor in tensors.items():
        which, index, what = key.split(".", 2)
        own = states[int(which)].setdefault(int(index), {})
        own[what] = tensor.clone()  # no view of the file, which will be replaced
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
