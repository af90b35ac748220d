"""Starting and ending the processes of a stack, each found again by what it has in its environment.

A process id alone may mean somebody else by now. So nothing is ended that does not bear the stack's id, or descend
from a process that does.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imageshards.errors import ConfigError, ImageShardsError

MARK = "IMAGESHARDS_STACK_ID"
POLL_SECONDS = 0.1
LOG_TAIL_CHARACTERS = 3000

_PROC = Path("/proc")
_DEAD = "ZX"


@dataclass(frozen=True)
class Service:
    """One program of the stack.

    Attributes:
        name: What it is called in messages, logs and the state.
        command: Program and arguments; no secret is among them, for every user can read them.
        environment: All that it has in its environment.
        cwd: Folder that it runs in.
        user: The system's user that it runs as; None for this one.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    user: str | None = None


def check_system() -> None:
    """Raise ConfigError where processes cannot be found by their environment."""
    if not (_PROC / "self" / "environ").exists():
        raise ConfigError("a stack needs Linux: it finds its processes through /proc")


def start(service: Service, log: Path) -> int:
    """Start a service in a session of its own, so that it outlives this process; returns its process id."""
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 (our own commands, no shell)
            list(service.command),
            env=dict(service.environment),
            cwd=service.cwd,
            **as_user(service.user),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process.pid


def as_user(user: str | None) -> dict[str, Any]:
    """Options of subprocess that run a program as another user, without any of our groups."""
    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def wait_ready(name: str, pid: int, is_ready: Callable[[], bool], *, log: Path, timeout_seconds: float) -> None:
    """Wait until a service answers.

    Raises:
        ImageShardsError: It ended, or takes too long; with the end of its log.
    """
    deadline = time.monotonic() + timeout_seconds
    while not is_ready():
        ended = not _is_alive(pid)
        if ended or time.monotonic() > deadline:
            what = "ended" if ended else f"did not answer within {timeout_seconds:.0f} s"
            raise ImageShardsError(f"{name} {what}; the end of {log}:\n{_tail(log)}")
        time.sleep(POLL_SECONDS)


def processes_of(stack_id: str) -> set[int]:
    """The living processes of a stack: those with its id in their environment, and all that descend from them."""
    wanted = f"{MARK}={stack_id}".encode()
    parents: dict[int, int] = {}
    found = set()
    for folder in _PROC.glob("[0-9]*"):
        pid = int(folder.name)
        if pid == os.getpid():
            continue
        with suppress(OSError, ValueError):  # gone meanwhile, or of another user
            state, parent = _state_and_parent(pid)
            if state in _DEAD:
                continue
            parents[pid] = parent
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.add(pid)
    return _with_descendants(found, parents)


def end(stack_id: str, pids: Sequence[int], how: signal.Signals, *, timeout_seconds: float) -> None:
    """Ask processes of the stack to end, all at once, and wait for that; those of anybody else are left alone."""
    asked = [pid for pid in pids if pid in processes_of(stack_id)]
    for pid in asked:
        with suppress(ProcessLookupError):
            os.kill(pid, how)
    deadline = time.monotonic() + timeout_seconds
    while any(_is_alive(pid) for pid in asked) and time.monotonic() < deadline:
        _reap(asked)
        time.sleep(POLL_SECONDS)


def end_rest(stack_id: str, *, timeout_seconds: float) -> list[int]:
    """Kill whatever of the stack is left; returns what would not go."""
    deadline = time.monotonic() + timeout_seconds
    while (left := processes_of(stack_id)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap(list(left))
        time.sleep(POLL_SECONDS)
    return sorted(left)


def _with_descendants(found: set[int], parents: Mapping[int, int]) -> set[int]:
    """Add the children of what was found, theirs, and so on."""
    size = -1
    while len(found) != size:
        size = len(found)
        found = found | {pid for pid, parent in parents.items() if parent in found}
    return found - {os.getpid()}


def _reap(pids: Sequence[int]) -> None:
    """Take note of the end of our own children, else they stay as zombies for as long as this process lives."""
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits for its parent to notice its end does not."""
    try:
        return _state_and_parent(pid)[0] not in _DEAD
    except (OSError, ValueError):
        return False


def _state_and_parent(pid: int) -> tuple[str, int]:
    """A letter for what a process does, and its parent: what follows the name in brackets, which may hold anything."""
    state, parent = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[:2]
    return state, int(parent)


def _tail(log: Path) -> str:
    try:
        return log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]
    except OSError:
        return "(no log)"
