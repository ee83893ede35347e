"""How large a parquet file may be."""

from __future__ import annotations

from typing import Any

MAX_VALUES = 200_000_000
"""Of a parquet file, whose encodings let a small one hold any number."""


def check_size(parquet: Any) -> None:  # noqa: ANN401 - pyarrow has no types
    """See that a `pyarrow.parquet.ParquetFile` holds no more than there may be memory for.

    Raises:
        ValueError: If it does.
    """
    groups = [parquet.metadata.row_group(index) for index in range(parquet.metadata.num_row_groups)]
    if sum(group.column(index).num_values for group in groups for index in range(group.num_columns)) > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES:,} values")
