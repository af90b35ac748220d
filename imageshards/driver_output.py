"""What the driver says while it works: lines on its standard output that the waiting task reads."""

from __future__ import annotations

import sys
import time
from typing import Literal

from imageshards.job import driver_line

_PROGRESS_SECONDS = 1.0
_PROGRESS_SHARE = 0.01
"""A progress line at most each second, and at most each hundredth of the time gone by: a long job's log stays short."""


def say(line: str) -> None:
    """Write one line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def log(message: str, *, level: Literal["info", "warning"] = "warning") -> None:
    """A line for the log of the run; `info` for what is as it should be."""
    say(driver_line("log", message=message, level=level))


class Progress:
    """Prints how far the job is, seldom enough.

    Args:
        total: Images to be done, each once for each resolution.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._reused = 0
        self._started = time.monotonic()
        self._next = 0.0

    def advance(self, images: int, *, reused: int = 0) -> None:
        """More images are done.

        Args:
            images: How many.
            reused: How many of them lie in shards that were copied: they take no time, and say nothing of speed.
        """
        self._done += images
        self._reused += reused
        elapsed = time.monotonic() - self._started
        if elapsed >= self._next or self._done >= self._total:
            self._next = elapsed + max(_PROGRESS_SECONDS, elapsed * _PROGRESS_SHARE)
            seconds = round(elapsed, 1)
            say(driver_line("progress", done=self._done, total=self._total, reused=self._reused, seconds=seconds))
