"""Models on disk: safetensors with a JSON header, so that a file from a stranger can hold numbers and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimat_search.disk import whole
from unimat_search.records import did_you_mean, first_line
from unimat_search.unimat.elements import MAX_ATOMIC_NUMBER
from unimat_search.unimat.model import CrystalModel
from unimat_search.unimat.tables import from_table

DENOISERS = "unimat_search.denoisers"
"""Entry points of models by name: classes made from the settings that their `config_class` describes."""

MODEL = "model.safetensors"
"""In the folder of a training run: what is sampled from."""

PRIOR = "placements.safetensors"
"""Beside it: which space groups and sites compositions have."""


def prior_of(model: Path) -> Path:
    """Where the prior of a model lies, whose file or run's folder is given."""
    return (model if model.is_dir() else model.parent) / PRIOR


def denoisers() -> dict[str, EntryPoint]:
    """All installed models by name."""
    return {point.name: point for point in sorted(entry_points(group=DENOISERS), key=lambda point: point.name)}


def denoiser_class(denoiser: str) -> Any:  # noqa: ANN401 - a CrystalModel with a config_class
    """The class of a model by name.

    Only what is installed has a name: a file from a stranger can't name other code.

    Raises:
        ValueError: If there is no such denoiser.
    """
    known = denoisers()
    if denoiser not in known:
        raise ValueError(f"no denoiser {denoiser!r}; there are {', '.join(known)}{did_you_mean(denoiser, known)}")
    return known[denoiser].load()


def build(denoiser: str, table: Mapping[str, Any]) -> CrystalModel:
    """An untrained model.

    Raises:
        ValueError: If there is no such denoiser, or one of its settings is wrong.
    """
    model = denoiser_class(denoiser)
    built: CrystalModel = model(from_table(model.config_class, table, where="model."))
    return built


def save(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a header as one file, whole or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole(path) as partial:
        save_file(plain, partial, {"json": json.dumps(header)})


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file.

    Raises:
        ValueError: If it is no checkpoint of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["json"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ValueError(f"there is no checkpoint {path}") from error
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is not a checkpoint: {first_line(error)}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} is not a checkpoint: its header is no table")
    return tensors, header


def save_model(path: Path, model: CrystalModel, header: Mapping[str, Any], *, dtype: torch.dtype) -> None:
    """Write a model to sample from: its weights in `dtype`, its scales as they are."""
    weights = {name: parameter.to(dtype) for name, parameter in model.named_parameters()}
    save(path, model.state_dict() | weights, header)


def load_model(path: Path) -> tuple[CrystalModel, dict[str, Any]]:
    """A model to sample from, in float32 and evaluation mode, and its header; of a file, or of a training run's folder.

    Raises:
        ValueError: If the file is no model of ours.
    """
    path = path / MODEL if path.is_dir() else path
    tensors, header = load(path)
    try:
        weights = part(tensors, "ema") or tensors
        denoiser, settings = header["config"]["denoiser"], header["config"]["model"]
        _check_size(denoiser, settings, weights)
        model = build(denoiser, settings)
        restore(model, weights)
    except (KeyError, TypeError, RuntimeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is not a model of this version: {first_line(error)}") from error
    return model.eval(), header


def begin_with(model: CrystalModel, path: Path) -> None:
    """Give a fitted model the weights and scales of a trained one; what that one lacks keeps its neutral start.

    Args:
        model: Before training.
        path: Of the trained model: a file or a run's folder.

    Raises:
        ValueError: If the file is not a model, or its network has another kind or size.
    """
    trained, header = load_model(path)
    if type(trained) is not type(model):
        raise ValueError(f"{path} is a {header['config']['denoiser']} model; the settings name another denoiser")
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, parameter in trained.named_parameters():
        if shapes.get(name) != parameter.shape:
            raise ValueError(f"{path} has a network of another size ({name}); give the settings in its header")
    model.inherit(trained)


def _check_size(denoiser: str, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """See, before memory is taken for them, that a file holds the weights that its settings speak of.

    Raises:
        ValueError: If it does not.
    """
    with torch.device("meta"):
        model = build(denoiser, settings)
    wanted = {name: one.shape for name, one in model.named_parameters() if name in weights or name not in model.neutral}
    held = {name: weights[name].shape for name in wanted if name in weights}
    if held != wanted:
        raise ValueError("its weights are not those that its settings speak of")


def restore(model: CrystalModel, tensors: Mapping[str, Tensor]) -> None:
    """Give a model these weights and scales.

    Raises:
        RuntimeError: If they are of another model.
    """
    sizes, numbers = tensors["composition_sizes"], tensors["composition_numbers"]
    _check_compositions(sizes, numbers)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise RuntimeError(f"{name} holds a value that is not a finite number")
    device = model.composition_sizes.device
    model.composition_sizes = sizes.clone().to(device)  # no view of the file, which will be replaced
    model.composition_numbers = numbers.clone().to(device)
    own = {name: parameter.detach() for name, parameter in model.named_parameters() if name in model.neutral}
    model.load_state_dict(own | dict(tensors))


def _check_compositions(sizes: Tensor, numbers: Tensor) -> None:
    if any(one.dim() != 1 or one.is_floating_point() or one.is_complex() for one in (sizes, numbers)):
        raise RuntimeError("the compositions are no lists of whole numbers")
    if len(sizes) and (sizes.min() < 1 or int(sizes.sum()) != len(numbers)):
        raise RuntimeError("the sizes of compositions do not fit their atoms")
    if len(numbers) and not (int(numbers.min()) >= 1 and int(numbers.max()) <= MAX_ATOMIC_NUMBER):
        raise RuntimeError("a composition holds what is no element")


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one part of a checkpoint: those whose names begin with the part's, without it."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
