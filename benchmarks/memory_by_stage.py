"""Memory of a run of the flow, by process and stage, read from /proc while it runs.

The kernel keeps the highest resident memory of a process; at the end of each stage that record is read and begun anew,
so that no peak between two looks is missed, and each belongs to its stage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.process_tree import PROC, CpuLedger, Stat, read_stats

_KIB = 1024
_BEGIN_ANEW = b"5"
"""What /proc/PID/clear_refs takes for it, see proc(5)."""

_STAGE_LINE = re.compile(r"\bstage=(?P<name>[\w-]+) outcome=(?P<outcome>\w+) seconds=(?P<seconds>[0-9.]+)")
_LAST_STAGE = "end"


class Peak(NamedTuple):
    """Highest memory of a process, in bytes.

    Attributes:
        resident: All that is in memory, files that it maps included; the kernel's own record.
        anonymous: Of this, what is no file; the highest that was seen.
    """

    resident: int
    anonymous: int

    def joined(self, other: Peak | None) -> Peak:
        """The higher of both."""
        return Peak(max(self.resident, other.resident), max(self.anonymous, other.anonymous)) if other else self


class StageEnd(NamedTuple):
    """What a line of the run's log says of a stage that has ended."""

    name: str
    outcome: str
    seconds: float


def stage_end(line: str) -> StageEnd | None:
    """The stage that a line of the log tells of; None for any other line."""
    found = _STAGE_LINE.search(line)
    return StageEnd(found["name"], found["outcome"], float(found["seconds"])) if found else None


def role_of(process: int, root: int, command: bytes) -> str | None:
    """What a process does in a run; None for those of Ray itself, and for children that live but a moment.

    Args:
        process: Its number.
        root: Number of the process of the flow.
        command: Its command line, as /proc has it.
    """
    if process == root:
        return "flow"
    if command.startswith(b"ray::"):  # Ray's own agents have such names, too
        return None if b"Agent" in command else "worker"
    roles = {b"imageshards.ray_driver": "driver", b"flows.local_server": "Prefect's server"}
    return next((role for module, role in roles.items() if module in command.split(b"\0")), None)


@dataclass(slots=True)
class Memory:
    """What was found.

    Attributes:
        peaks: By role and stage.
        seconds: By stage.
        cpu_seconds: Of all processes, by stage.
    """

    peaks: dict[tuple[str, str], Peak] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    def peak_of(self, role: str) -> tuple[str, Peak]:
        """The highest memory of a role, and the stage that makes it."""
        found = {stage: peak for (each, stage), peak in self.peaks.items() if each == role}
        stage = max(found, key=lambda name: found[name].resident)
        highest = found[stage]
        for peak in found.values():
            highest = highest.joined(peak)
        return stage, highest


class MemoryWatch:
    """Watches a flow and all its children. To be asked to look often, and told of each line of the log.

    Args:
        root: Number of the process of the flow.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._cpu = CpuLedger(root)
        self._cpu_before = 0.0
        self._roles: dict[tuple[int, int], str | None] = {}
        self._now: dict[str, Peak] = {}
        self.found = Memory()

    @property
    def alive(self) -> list[Stat]:
        """The processes that were there when last looked."""
        return self._cpu.alive

    def look(self) -> None:
        """Take note of the state of things."""
        self._cpu.update(read_stats())
        for stat in self._cpu.alive:
            if role := self._role(stat):
                status = _status(stat.id)
                peak = Peak(status.get("VmHWM", 0), status.get("RssAnon", 0))
                self._now[role] = peak.joined(self._now.get(role))

    def take(self, line: str) -> None:
        """Take a line of the log: where it tells of a stage, what was seen belongs to this stage."""
        if end := stage_end(line):
            self._close(end.name, end.seconds)

    def finish(self) -> None:
        """What comes after the last stage."""
        self._close(_LAST_STAGE, 0.0)

    def _close(self, stage: str, seconds: float) -> None:
        self.look()
        for role, peak in self._now.items():
            self.found.peaks[role, stage] = peak.joined(self.found.peaks.get((role, stage)))
        self._now = {}
        cpu_seconds = self._cpu.seconds()
        self.found.seconds[stage] = self.found.seconds.get(stage, 0.0) + seconds
        self.found.cpu_seconds[stage] = self.found.cpu_seconds.get(stage, 0.0) + cpu_seconds - self._cpu_before
        self._cpu_before = cpu_seconds
        for stat in self._cpu.alive:
            _begin_anew(stat.id)

    def _role(self, stat: Stat) -> str | None:
        """Asked again while it has none: a child begins as a copy of its parent, and Ray names its workers late."""
        key = (stat.id, stat.started)
        if self._roles.get(key) is None:
            try:
                command = (PROC / str(stat.id) / "cmdline").read_bytes()
            except OSError:
                return None
            self._roles[key] = role_of(stat.id, self._root, command)
        return self._roles[key]


def _status(process: int) -> Mapping[str, int]:
    """Sizes in bytes, by the names of proc(5); nothing of a process that has ended."""
    try:
        lines = (PROC / str(process) / "status").read_text().splitlines()
    except OSError:
        return {}
    parts = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(value) * _KIB for name, value, _ in parts}


def _begin_anew(process: int) -> None:
    with suppress(OSError):  # ended meanwhile
        (PROC / str(process) / "clear_refs").write_bytes(_BEGIN_ANEW)
