"""Who holds a writer lock, and whether he still does: judged by what the lock's object says, without any store."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imageshards.errors import StoreError

_PROC = Path("/proc")
_BOOT_ID = _PROC / "sys/kernel/random/boot_id"
_STATE, _START_TICKS = 0, 19
"""Fields of /proc/PID/stat after the name in parentheses, proc(5)."""


def _machine() -> str | None:
    """This start of this machine and this numbering of processes: those of two containers are not comparable."""
    try:
        return f"{_BOOT_ID.read_text().strip()} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return None


def _process_start(pid: int) -> str | None:
    """When a process began; None where there is none, or only a dead one that its parent has not noticed."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if fields[_STATE] in ("Z", "X") else fields[_START_TICKS]


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """The times of a lease, in seconds.

    Attributes:
        lease_seconds: A holder whose heartbeat stands still for that long counts as dead.
        renew_seconds: From one heartbeat to the next.
        poll_seconds: How often one who waits looks.
        report_seconds: How often one who waits says so.
        outage_seconds: How long one who waits bears with a store that does not answer.
    """

    lease_seconds: float = 60.0
    renew_seconds: float = 10.0
    poll_seconds: float = 2.0
    report_seconds: float = 30.0
    outage_seconds: float = 300.0


class Holder(BaseModel):
    """A run that holds a lock or wants it; read by people, too. Holds no secret.

    Attributes:
        run_id: Tells runs apart; the same in a run that is tried again.
        name: What people call the run.
        deployment: Which deployment it is a run of, if any.
        host: Name of the machine.
        machine: Tells machines apart, and containers of one machine; None where the system has no such thing.
        pid: The process, as its machine numbers it.
        process_start: When that process began, in the machine's own count; numbers are used again.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    name: str
    deployment: str | None = None
    host: str = Field(default_factory=socket.gethostname)
    machine: str | None = Field(default_factory=_machine)
    pid: int = Field(default_factory=os.getpid)
    process_start: str | None = Field(default_factory=lambda: _process_start(os.getpid()))

    def is_gone(self) -> bool:
        """Whether the process has certainly ended; False for one that cannot be seen from here."""
        if (
            self.machine is None
            or self.process_start is None
            or (self.host, self.machine) != (socket.gethostname(), _machine())
        ):
            return False
        try:
            os.kill(self.pid, 0)  # /proc may hide processes of other users; this tells of them
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return _process_start(self.pid) != self.process_start


class Lease(BaseModel):
    """The content of a lock's object.

    Attributes:
        holder: Who has the lock.
        since: When he took it, by his clock.
        token: Random, so that a writer knows its own object again.
        beat: Grows as long as the holder lives.
        released: Whether he is done.
    """

    model_config = ConfigDict(frozen=True)

    holder: Holder
    since: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    token: str = Field(default_factory=lambda: secrets.token_hex(16))
    beat: int = 0
    released: bool = False

    @classmethod
    def from_json(cls, data: bytes, *, uri: str) -> Self:
        """Read a lease.

        Raises:
            StoreError: It is none.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise StoreError(
                f"{uri} is no writer lock ({error.error_count()} fields are wrong): when no run is writing there, "
                "delete it and try again",
                uri=uri,
            ) from error

    def describe(self) -> str:
        """The run, where it is and since when, for messages."""
        run = self.holder
        of = f" of {run.deployment}" if run.deployment else ""
        return f"run {run.name}{of} (process {run.pid} on {run.host}, since {self.since:%Y-%m-%d %H:%M:%S %Z})"

    def to_json(self) -> bytes:
        """The lease as JSON."""
        return self.model_dump_json(indent=1).encode()


class Stillness:
    """How long a heartbeat has stood still, as seen by one who looks again and again.

    No clocks of two machines are compared. Of the time between two looks only a part counts: one who could not look, as
    his machine slept or the store was out of reach, does not know that the other could have moved.
    """

    def __init__(self, longest_step_seconds: float) -> None:
        self.seconds = 0.0
        self._longest_step_seconds = longest_step_seconds
        self._seen: tuple[object, ...] | None = None
        self._looked = 0.0

    def look(self, lease: Lease | None, now: float) -> float:
        """Take what was read at a time of the own monotonic clock; tells for how long it has been the same, in s."""
        seen = (lease.token, lease.beat, lease.released) if lease else ()
        step = min(now - self._looked, self._longest_step_seconds)
        self.seconds = self.seconds + step if seen == self._seen else 0.0
        self._seen, self._looked = seen, now
        return self.seconds


def may_take(lease: Lease | None, run_id: str, *, still_seconds: float, policy: LeasePolicy) -> bool:
    """Whether a lock is free, its holder dead, or its holder an earlier attempt of the same run.

    Args:
        lease: What the lock says; None where nobody ever held it.
        run_id: Who asks.
        still_seconds: For how long the heartbeat has stood still.
        policy: When a lease runs out.
    """
    if lease is None or lease.released or lease.holder.run_id == run_id:
        return True
    return still_seconds >= policy.lease_seconds or lease.holder.is_gone()
