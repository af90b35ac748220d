"""Runs the driver as a child process that starts a Ray of its own on this machine."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from imageshards.errors import ImageShardsError, TransientError
from tasks.driver_lines import Secrets

STOP_TIMEOUT_SECONDS = 10.0
_TAIL_LINES = 20
_EXIT_BY_SIGNAL = 128  # and the signal's number, as shells have it
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""How the names of variables end that hold secrets, see `StoreAccess.environment`."""

_OUR_VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN")


def run_local_driver(arguments: list[str], environment: Mapping[str, str], on_line: Callable[[str], None]) -> None:
    """Start the driver, hand on its output, and wait for its end. It never outlives this process.

    Args:
        arguments: The driver's arguments.
        environment: Variables beside those of this process, credentials among them.
        on_line: Gets each line of the driver's output, without the secrets among the variables.

    Raises:
        TransientError: The driver was killed.
        ImageShardsError: The driver ended with an error; where that is one of ours, its output tells which.
    """
    with tempfile.TemporaryDirectory(prefix="imageshards-ray-") as folder:
        command = [
            sys.executable,
            "-m",
            "imageshards.ray_driver",
            "--ray-address",
            "local",
            "--stop-with-parent",
            *arguments,
        ]
        process = subprocess.Popen(  # noqa: S603 (our own program, no shell)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(environment, Path(folder)),
            start_new_session=True,
        )
        tail: deque[str] = deque(maxlen=_TAIL_LINES)
        secrets_of_child = Secrets(value for name, value in environment.items() if name.endswith(_SECRET_VARIABLES))
        try:
            for line in process.stdout or ():
                shown = secrets_of_child.hide(line.rstrip("\n"))
                tail.append(shown.rstrip())
                on_line(shown)
            status = process.wait()
        finally:
            _stop(process)
    said = "\n".join(tail)
    if status < 0 or status > _EXIT_BY_SIGNAL:  # the second where the driver catches the signal and cleans up
        number = -status if status < 0 else status - _EXIT_BY_SIGNAL
        raise TransientError(f"the local Ray driver was killed by signal {number}; its last lines:\n{said}")
    if status > 0:
        raise ImageShardsError(f"the local Ray driver ended with exit status {status}; its last lines:\n{said}")


def _environment(extra: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The child's environment: Ray with a token of its own, which neither a later `ray start` nor a log sees."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    inherited = {name: value for name, value in os.environ.items() if name not in _OUR_VARIABLES}
    return {
        **inherited,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with suppress(ProcessLookupError):  # after a kill, Ray's agents would stay for another minute
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()
