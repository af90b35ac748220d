"""Progress of a step as an artifact of the run, for whoever looks at the Prefect UI while it works."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tasks.artifacts import artifact_or_warning

UPDATE_SECONDS = 2.0
"""Least time between two updates: each is a request to the Prefect server."""

AWAY_SECONDS = 60.0
"""The same where an update failed: Prefect's client tries for a minute to reach a server that is away."""

PACE_SECONDS = 30.0
"""The speed shown is that of so many last seconds, so that the time left follows what happens now."""

_LEAST_STEPS = 4
"""Kept even if older: images are counted a shard at a time, and a large one takes longer than the window."""


@dataclass(frozen=True, slots=True)
class _Seen:
    seconds: float
    done: int


class Pace:
    """How fast a step has been lately.

    Args:
        window_seconds: How far it looks back.
    """

    def __init__(self, window_seconds: float = PACE_SECONDS) -> None:
        self._window = window_seconds
        self._seen: deque[_Seen] = deque([_Seen(0.0, 0)])

    def take(self, done: int, seconds: float, *, free: int = 0) -> None:
        """Note how far the step is.

        Args:
            done: How many are done so far.
            seconds: Since the step began.
            free: How many of them cost nothing: images of reused shards say nothing about the others.
        """
        worked = done - free
        if worked > self._seen[-1].done:
            self._seen.append(_Seen(seconds, worked))
        while len(self._seen) > _LEAST_STEPS and self._seen[1].seconds < seconds - self._window:
            self._seen.popleft()

    def per_second(self, seconds: float) -> float | None:
        """The speed; None as long as nothing is known of it. Sinks while nothing happens.

        Args:
            seconds: Now, since the step began.
        """
        first, last = self._seen[0], self._seen[-1]
        elapsed = max(seconds, last.seconds) - first.seconds
        return (last.done - first.done) / elapsed if last.done > first.done and elapsed > 0 else None


class ProgressArtifact:
    """Shows how far a step is, how fast it is and how long it will take.

    Args:
        key: Of the artifact.
        unit: What is counted.
        after_seconds: Steps shorter than this leave none.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        key: str,
        *,
        unit: str = "images",
        after_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key = key
        self._unit = unit
        self._clock = clock
        self._next = clock() + after_seconds
        self._pace = Pace()
        self._id: UUID | None = None

    def show(self, done: int, total: int, *, seconds: float, free: int = 0) -> None:
        """Say how far the step is. Most calls only take note of it.

        Args:
            done: How many are done so far.
            total: How many there are.
            seconds: Since the step began, by the clock of whoever does it: what is told late was not done late.
            free: How many of those done cost nothing.
        """
        self._pace.take(done, seconds, free=free)
        ends = done >= total and (self._id is not None or self._clock() >= self._next)
        if not ends and self._clock() < self._next:
            return
        self._next = self._clock() + AWAY_SECONDS
        with artifact_or_warning(f"artifact {self._key}"):
            self._send(100 * done / total if total else 100.0, self._text(done, total, seconds))
            self._next = self._clock() + UPDATE_SECONDS

    def _text(self, done: int, total: int, seconds: float) -> str:
        text = f"{done:,} of {total:,} {self._unit}"
        if done >= total:
            return f"{text} in {readable_seconds(seconds)}"
        rate = self._pace.per_second(seconds)
        if rate is None:
            return text
        return f"{text}, {rate:,.0f} {self._unit}/s, {readable_seconds((total - done) / rate)} left"

    def _send(self, percent: float, text: str) -> None:
        if self._id is None:
            created = create_progress_artifact(percent, key=self._key, description=text)
            self._id = created if isinstance(created, UUID) else None
        else:
            update_progress_artifact(self._id, percent, description=text)


def readable_seconds(seconds: float) -> str:
    """A duration for people: `42 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
