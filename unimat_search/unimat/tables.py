"""Frozen settings from plain tables (TOML, JSON) and back, with errors that name what is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from unimat_search.records import did_you_mean

T = TypeVar("T")


MOST = 4096
"""Of whatever sizes a network has: a file from a stranger may ask for more than there is memory."""


def at_least_one(settings: Any, *names: str, where: str, most: float = math.inf) -> None:  # noqa: ANN401 - any dataclass
    """Check counts.

    Raises:
        ValueError: If a setting is below 1, or above `most`; the message names it.
    """
    for name in names:
        value = getattr(settings, name)
        if value < 1:
            raise ValueError(f"{where}.{name} must be at least 1, got {value}")
        if value > most:
            raise ValueError(f"{where}.{name} must be at most {most}, got {value}")


def from_table(kind: type[T], table: Mapping[str, Any], *, where: str = "") -> T:
    """A dataclass from a table of its fields, nested ones too.

    Args:
        kind: The dataclass.
        table: Its fields; what is left out keeps its default.
        where: Name of the table, for errors.

    Raises:
        ValueError: If a key is unknown or a value has the wrong type; the message names it.
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"{where.rstrip('.') or 'the settings'} must be a table, got {table!r}")
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    values = {}
    for key, value in table.items():
        if key not in names:
            raise ValueError(f"unknown setting {where}{key}; there are {', '.join(names)}{did_you_mean(key, names)}")
        values[key] = _value(hints[key], value, f"{where}{key}")
    return kind(**values)


def to_table(settings: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    """The fields of a dataclass as a table, tuples as lists, without what is None (TOML has no such value)."""
    return {key: value for key, value in asdict(settings).items() if value is not None}


def _value(hint: Any, value: Any, name: str) -> Any:  # noqa: ANN401 - what TOML holds
    if is_dataclass(hint) and isinstance(hint, type):
        return from_table(hint, value, where=f"{name}.")
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} must be a list, got {value!r}")
        kinds = get_args(hint)
        if kinds[-1] is not Ellipsis and len(value) != len(kinds):
            raise ValueError(f"{name} must have {len(kinds)} values, got {len(value)}")
        return tuple(_value(kinds[0], item, name) for item in value)
    if get_origin(hint) is dict:
        hint = dict
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise ValueError(f"{name} must be {hint.__name__}, got {value!r}")
    return value
