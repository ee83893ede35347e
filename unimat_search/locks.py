"""One process at a time on a folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from unimat_search.records import UserError


class InUseError(UserError):
    """A folder or file that another process works on; the message is one line."""


LOCK, OWNER = ".lock", ".owner"
"""What lies in a folder that somebody works on."""


@contextmanager
def owned(folder: Path, *, name: str = "") -> Iterator[None]:
    """Work on a folder, made if it is missing, as the only process; the lock ends with the process, however it ends.

    Args:
        folder: The folder.
        name: Of a file in it, where only that is meant.

    Raises:
        InUseError: If another process does.
        UserError: If the folder can't be written.
    """
    owner = folder / f"{name}{OWNER}"
    lock = FileLock(folder / f"{name}{LOCK}", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        who = owner.read_text(encoding="utf-8") if owner.is_file() else "another process"
        raise InUseError(f"{folder / name} is in use by {who}; wait until it ends, or give another --out") from error
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror or error}") from error
    try:
        owner.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            owner.unlink()
        lock.release()


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but a lock."""
    return all(file.name in (LOCK, OWNER) for file in folder.iterdir())
