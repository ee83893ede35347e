"""Files that are there whole or not at all, and where what is kept between runs lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory


def cache_folder() -> Path:
    """The folder of what is made or fetched once on a machine."""
    from platformdirs import user_cache_path

    root = os.environ.get("UNIMAT_SEARCH_CACHE")
    return Path(root) if root else user_cache_path("unimat-search")


def named_by_content(path: Path) -> str:
    """A file's name without its suffix, and what tells its content from any other's."""
    return f"{path.stem}-{sha256(path.read_bytes()).hexdigest()[:8]}"


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


@contextmanager
def whole_new(path: Path) -> Iterator[Path]:
    """The same for what is not there yet, a folder with all that is in it, or a file."""
    with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        yield partial
        partial.replace(path)


def write_whole(path: Path, text: str, *, alone: bool = True) -> None:
    """Write a text file such that it is there whole or not at all; see `whole`."""
    with whole(path, alone=alone) as partial:
        partial.write_bytes(text.encode("utf-8"))
