"""Runs a program in processes of its own, pinned to some CPUs, and measures it: time, CPU time, memory."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.process_tree import ProcessTree, is_running
from benchmarks.stopwatch import HARNESS_VARIABLE, PREFIX

_LOOK_SECONDS = 0.1
_MEMORY_SECONDS = 0.5
"""Between two looks at memory: PSS walks page tables, some milliseconds for a tree of Ray's."""
_END_SECONDS = 30
_LOG_TAIL_BYTES = 3000
_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",  # else Ray leaves a token in the home folder
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    HARNESS_VARIABLE: "1",
}


class ProgramFailedError(Exception):
    """A measured program ended before it was done; the message has the end of its log."""


class StartFailedError(ProgramFailedError):
    """It ended before its stopwatch started."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to measure: a module that uses a `Stopwatch`.

    Attributes:
        module: Its name.
        arguments: Its arguments.
        python: The interpreter.
        environment: Variables beside those of this process; credentials go here and never into arguments.
        inputs: Folders of the files that it reads. They are read just before the clock starts, so that they lie in the
            page cache, whatever the machine has thrown out of it since the run before.
    """

    module: str
    arguments: Sequence[str] = ()
    python: Path = Path(sys.executable)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    inputs: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured between start and stop of the program's stopwatch.

    Attributes:
        images: Images dealt with.
        seconds: Wall-clock time.
        cpu_seconds: User and system time of all processes.
        peaks: Highest resident memory of a single process by kind (`program`, `worker`, `other`), in bytes, from its
            start on.
        peak_together: Highest sum of the proportional memory (PSS) of all processes, in bytes.
        facts: What the program said besides.
    """

    images: int
    seconds: float
    cpu_seconds: float
    peaks: Mapping[str, int]
    peak_together: int
    facts: Mapping[str, Any]

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds

    @property
    def cpu_ms_per_image(self) -> float:
        """CPU milliseconds per image."""
        return 1000 * self.cpu_seconds / self.images

    @property
    def peak_largest(self) -> int:
        """Highest resident memory of a single process, in bytes."""
        return max(self.peaks.values())


def measure(program: Program, *, cpus: Sequence[int], folder: Path) -> Measurement:
    """Run a program to its end; one that could not start is tried once more.

    Args:
        program: What to run.
        cpus: The CPUs that it and its children may use.
        folder: For its temporary files and its log.

    Raises:
        ProgramFailedError: It ended without having stopped its stopwatch.
    """
    try:
        return _measure_once(program, cpus, folder)
    except StartFailedError:  # Ray gives its nodes 30 s to start, which a busy machine may take
        return _measure_once(program, cpus, folder)


def _measure_once(program: Program, cpus: Sequence[int], folder: Path) -> Measurement:
    log = folder / "program.log"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, **_SETTINGS, "TMPDIR": str(folder), **program.environment}
    before = os.sched_getaffinity(0)
    with log.open("wb") as errors:
        os.sched_setaffinity(0, cpus)  # what is started inherits it, from its first instruction on
        try:
            process = subprocess.Popen(
                [program.python, "-m", program.module, *program.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,  # an interrupt is for the harness, which then ends the program
            )
        finally:
            os.sched_setaffinity(0, before)
    tree = ProcessTree(process.pid)
    try:
        return _Session(process, tree, log).run(program)
    finally:
        _end(process, tree)


class _Session:
    """Looks at the process tree while the program runs, and answers its messages."""

    def __init__(self, process: subprocess.Popen[bytes], tree: ProcessTree, log: Path) -> None:
        self._process = process
        self._tree = tree
        self._log = log
        self._line = b""

    def run(self, program: Program) -> Measurement:
        self._next("start", program)
        for folder in program.inputs:
            _read_all(folder)
        self._tree.look(memory=True)
        cpu_before = self._tree.cpu.seconds()
        self._answer()
        stop = self._next("stop", program)
        self._tree.look(memory=True)
        measurement = Measurement(
            images=stop["images"],
            seconds=stop["seconds"],
            cpu_seconds=self._tree.cpu.seconds() - cpu_before,
            peaks=dict(self._tree.peaks),
            peak_together=self._tree.peak_together,
            facts=stop["facts"],
        )
        self._answer()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)  # not communicate: what it leaves running may hold its output open
        return measurement

    def _answer(self) -> None:
        assert self._process.stdin
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def _next(self, event: str, program: Program) -> dict[str, Any]:
        assert self._process.stdout
        output = self._process.stdout.fileno()
        memory_due = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while True:
                if selector.select(_LOOK_SECONDS):
                    data = os.read(output, 1 << 16)
                    if not data:
                        kind = StartFailedError if event == "start" else ProgramFailedError
                        raise kind(f"{program.module} ended early; the end of its log:\n{self._tail()}")
                    if message := self._message(data):
                        if message["event"] != event:
                            raise ProgramFailedError(f"{program.module} said {message['event']}, expected {event}")
                        return message
                now = time.monotonic()
                self._tree.look(memory=now >= memory_due)
                memory_due = now + _MEMORY_SECONDS if now >= memory_due else memory_due

    def _message(self, data: bytes) -> dict[str, Any] | None:
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            _, found, content = line.decode(errors="replace").partition(PREFIX)
            if found:
                message: dict[str, Any] = json.loads(content)
                return message
        return None

    def _tail(self) -> str:
        return self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")


def _read_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def _end(process: subprocess.Popen[bytes], tree: ProcessTree) -> None:
    """End the program and every process of its tree that is still there, each by its own number."""
    tree.look()
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    left = [stat for stat in tree.cpu.alive if is_running(stat)]
    for stat in left:
        with suppress(ProcessLookupError):
            os.kill(stat.id, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + _END_SECONDS
    while any(is_running(stat) for stat in left) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    for stream in (process.stdin, process.stdout):
        if stream:
            with suppress(BrokenPipeError):
                stream.close()
