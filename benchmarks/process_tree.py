"""CPU time and memory of a process and all its descendants, read from /proc.

A process that ends takes its numbers with it. If its parent waits for it, the kernel adds its CPU time to the parent's;
Ray's raylet does not wait for its workers. So each process counts once: with the time that its parent was credited
with, or with what was last seen of it, whichever is more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_KIB = 1024


class Stat(NamedTuple):
    """What the kernel says of a process, times in clock ticks.

    Attributes:
        id: Its number.
        parent: Number of its parent.
        started: When it was started; with the number it names a process for good.
        own: User and system time of its own.
        waited: The same of its ended children that it waited for, theirs included.
    """

    id: int
    parent: int
    started: int
    own: int
    waited: int


@dataclass(slots=True)
class _Seen:
    stat: Stat
    parent: tuple[int, int] | None
    alive: bool = True


class CpuLedger:
    """CPU time of a tree of processes, from what was seen of it again and again.

    Args:
        root: Number of the process at its top.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._seen: dict[tuple[int, int], _Seen] = {}

    @property
    def alive(self) -> list[Stat]:
        """The members that were there when last looked."""
        return [seen.stat for seen in self._seen.values() if seen.alive]

    def update(self, stats: Iterable[Stat]) -> None:
        """Take note of all processes there are; those of the tree stay in it when their parent ends before them."""
        running = {stat.id: stat for stat in stats}
        children: dict[int, list[Stat]] = {}
        for stat in running.values():
            children.setdefault(stat.parent, []).append(stat)
        for key, seen in self._seen.items():
            now = running.get(key[0])
            seen.alive = now is not None and now.started == key[1]
        pending = [seen.stat.id for seen in self._seen.values() if seen.alive]
        if self._root in running and not self._seen:
            self._note(running[self._root], None)
            pending = [self._root]
        visited = set()
        while pending:
            process = running[pending.pop()]
            if process.id in visited:
                continue
            visited.add(process.id)
            self._note(process, None)
            for child in children.get(process.id, []):
                self._note(child, (process.id, process.started))
                pending.append(child.id)

    def _note(self, stat: Stat, parent: tuple[int, int] | None) -> None:
        seen = self._seen.setdefault((stat.id, stat.started), _Seen(stat, parent))
        seen.stat, seen.alive = stat, True

    def seconds(self) -> float:
        """CPU seconds of all members since each was started."""
        children: dict[tuple[int, int], list[tuple[int, int]]] = {}
        roots = []
        for key, seen in self._seen.items():
            if seen.parent:
                children.setdefault(seen.parent, []).append(key)
            else:
                roots.append(key)
        return sum(self._ticks(key, children) for key in roots) / _TICKS_PER_SECOND

    def _ticks(self, key: tuple[int, int], children: Mapping[tuple[int, int], list[tuple[int, int]]]) -> int:
        ended = running = 0
        for child in children.get(key, []):
            ticks = self._ticks(child, children)
            if self._seen[child].alive:
                running += ticks
            else:
                ended += ticks
        stat = self._seen[key].stat
        return stat.own + max(stat.waited, ended) + running


class ProcessTree:
    """Watches a process and its descendants.

    Attributes:
        cpu: Its CPU time.
        peaks: Highest resident memory so far of a single process of each kind, in bytes: `program` (the root), `worker`
            (of Ray), `other`. The kernel's own record, so that no peak between two looks is missed.
        peak_together: Highest sum seen so far of all processes' proportional memory (PSS), in bytes: what they share
            counts once.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self.cpu = CpuLedger(root)
        self.peaks: dict[str, int] = {}
        self.peak_together = 0

    def look(self, *, memory: bool = False) -> None:
        """Take note of the state of things; `memory` costs the kernel some milliseconds."""
        self.cpu.update(read_stats())
        if memory:
            together = 0
            for stat in self.cpu.alive:
                kind = self._kind(stat.id)
                self.peaks[kind] = max(self.peaks.get(kind, 0), _kib_of(stat.id, "status", "VmHWM:") * _KIB)
                together += _kib_of(stat.id, "smaps_rollup", "Pss:") * _KIB
            self.peak_together = max(self.peak_together, together)

    def _kind(self, process: int) -> str:
        if process == self._root:
            return "program"
        try:
            command = (PROC / str(process) / "cmdline").read_bytes()
        except OSError:
            return "other"
        return "worker" if command.startswith(b"ray::") else "other"


def read_stats() -> list[Stat]:
    """Every process of this machine."""
    found = []
    for name in os.listdir(PROC):  # noqa: PTH208 (a fifth of the time that paths take, ten times a second)
        if name.isdecimal() and (stat := read_stat(int(name))):
            found.append(stat)
    return found


def read_stat(process: int) -> Stat | None:
    """One process; None where it has ended."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:  # noqa: PTH123 (likewise)
            fields = file.read().rpartition(b")")[2].split()  # proc(5): what follows the name, from field 3 on
    except OSError:
        return None
    user, system, waited_user, waited_system = (int(ticks) for ticks in fields[11:15])
    return Stat(process, int(fields[1]), int(fields[19]), user + system, waited_user + waited_system)


def is_running(process: Stat) -> bool:
    """Whether this very process still runs; one that only waits for its parent to notice its end does not."""
    now = read_stat(process.id)
    if now is None or now.started != process.started:
        return False
    try:
        return bool((PROC / str(process.id) / "cmdline").read_bytes())
    except OSError:
        return False


def _kib_of(process: int, file: str, name: str) -> int:
    try:
        for line in (PROC / str(process) / file).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    except OSError:  # ended meanwhile
        pass
    return 0
