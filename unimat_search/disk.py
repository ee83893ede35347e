"""Files that are there whole or not at all, and where what is kept between runs lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def cache_folder() -> Path:
    """The folder of what is made or fetched once on a machine."""
    from platformdirs import user_cache_path

    root = os.environ.get("UNIMAT_SEARCH_CACHE")
    return Path(root) if root else user_cache_path("unimat-search")


@contextmanager
def whole(path: Path, *, alone: bool = True) -> Iterator[Path]:
    """A file that is there whole or not at all: what is written to the path given takes its place at the end.

    Args:
        path: The file.
        alone: Whether no other process may be writing it.
    """
    partial = path.with_name(f"{path.name}.partial" if alone else f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a text file such that it is there whole or not at all."""
    with whole(path) as partial:
        partial.write_bytes(text.encode("utf-8"))
