"""Parquet files, as much of them as there may be memory for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_BYTES = 2**31
"""Of a parquet file's columns, decoded: its encodings let a small one hold any number of values."""


def batches(parquet: Any, columns: list[str] | None = None) -> Iterator[Any]:  # noqa: ANN401 - pyarrow has no types
    """Record batches of a `pyarrow.parquet.ParquetFile`.

    What its metadata says of sizes is not asked for: where that is damaged, pyarrow 25 ends the process.

    Raises:
        ValueError: If it holds more than there may be memory for.
    """
    size = 0
    for batch in parquet.iter_batches(batch_size=4096, columns=columns):
        size += batch.nbytes
        if size > MAX_BYTES:
            raise ValueError(f"it holds more than {MAX_BYTES >> 20} MiB of values")
        yield batch
