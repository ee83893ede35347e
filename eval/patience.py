"""Ends what hangs in a worker: by an exception where Python can raise one, else with the process."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

import psutil

GRACE = 10.0
"""Seconds between the exception and the end of the process."""

LONGEST = min(1e8, threading.TIMEOUT_MAX)
"""Seconds that every system's alarms and locks take, three years."""


def end_process() -> None:
    """End this process at once, and the programs that it started."""
    try:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    finally:
        os._exit(1)


class SilentTooLongError(BaseException):
    """Nothing was heard for too long. Not an `Exception`, which libraries catch."""


class Patience:
    """Waits for signs of life of the code in its body.

    The exception comes in the main thread of a process, where the system has alarms (not on Windows). Elsewhere, and
    where code that is not Python's holds out, the process ends, which `unimat_search.eval.parallel.run_jobs` takes
    for what it is: what was in hand is tried once more, then it has failed.

    Args:
        seconds: Of silence, at most.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._alarms = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
        self._ended = threading.Event()

    def heard(self) -> None:
        """There was a sign of life: wait anew."""
        self._deadline = time.monotonic() + self.seconds + GRACE
        if self._alarms:
            signal.setitimer(signal.ITIMER_REAL, min(self.seconds, LONGEST))

    def __enter__(self) -> Self:
        if self._alarms:
            self._before = signal.signal(signal.SIGALRM, self._give_up)
        self.heard()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._alarms:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)

    def _give_up(self, _: int, __: FrameType | None) -> None:
        raise SilentTooLongError(f"nothing for {self.seconds:g} s")

    def _watch(self) -> None:
        while not self._ended.wait(max(0.0, min(self._deadline - time.monotonic(), LONGEST))):
            if time.monotonic() > self._deadline:
                with contextlib.suppress(OSError):
                    os.write(2, b"a worker hangs and is ended\n")
                end_process()
