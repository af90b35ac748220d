"""A child process that does not outlive its parent: its standard input is a pipe, which ends when the parent does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

_STANDARD_INPUT = 0
"""Where it is closed, it has ended."""


def stop_with_parent() -> None:
    """From now on, ask this process to stop (SIGTERM) when its standard input ends."""
    _when_input_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))


def end_group_with_parent() -> None:
    """From now on, end this process (SIGKILL) when its standard input ends, and all of the group where it leads one.

    For a process with children that would stay behind, as Ray's agents do for a minute. Nothing is asked to stop:
    whoever is asked writes a last line where nobody reads, fails of it, and leaves the rest unfinished.
    """
    _when_input_ends(_end_group)


def _end_group() -> None:
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _when_input_ends(action: Callable[[], None]) -> None:
    def watch() -> None:
        with suppress(OSError):
            while os.read(_STANDARD_INPUT, 1):  # not through the buffer: its lock would outlive the interpreter
                pass
        action()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
