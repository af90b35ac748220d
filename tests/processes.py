"""Which processes run: found by a variable of their environment, which children and their children inherit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process.

    Attributes:
        id: Its number.
        command: Its arguments, joined by spaces; what it calls itself, where it has renamed itself.
    """

    id: int
    command: str


def processes_with(variable: str, value: str) -> list[Process]:
    """The processes, this one apart, in whose environment a variable had this value when they were started."""
    wanted = f"{variable}={value}".encode()
    found = []
    for folder in PROC.glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if command:  # else it is dead, and only waits for its parent to notice
                    found.append(Process(int(folder.name), command))
        except OSError:  # gone meanwhile, or of another user
            continue
    return found


def wait_until(condition: Callable[[], object], *, timeout_seconds: float) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
