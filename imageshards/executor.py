"""Gets every work unit through, or fails the run: bounded units in flight, retries, and the search for a poison image.

Knows no Ray: a `Backend` runs the functions of `worker` somewhere else. `ray_driver` has the one that is used.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from imageshards import worker
from imageshards.errors import TransientError
from imageshards.index import IndexRow
from imageshards.plan import Unit
from imageshards.reuse import PublishedShard
from imageshards.shard_inputs import Build
from imageshards.shards import unit_rows
from imageshards.store import StoreSpec, open_store

LOSSES_BEFORE_PROBE = 2
MAX_LOSSES = 6
MAX_TRANSIENT_TRIES = 4

RETRY_PAUSES_SECONDS = (1.0, 8.0, 60.0)
"""Before the second, third and each further try of a unit, while others go on. By then a store was asked for 30 s."""

PROBE_IMAGES = 16
PROBE_TRIES = 2


class WorkerLostError(TransientError):
    """A task died with its process: killed, out of memory, or its node is gone."""


class Backend(Protocol):
    """Runs functions in other processes."""

    @property
    def slots(self) -> int:
        """How many tasks to keep submitted at once."""

    def submit(self, function: Callable[..., dict[str, Any]], *arguments: Any) -> Any:
        """Start a function of `worker`; returns a hashable handle."""

    def wait(self, handles: Sequence[Any], timeout_seconds: float | None) -> Any | None:
        """Block until one of the handles is done; returns it, or None when time was up before."""

    def fetch(self, handle: Any) -> Any:
        """The value of a task.

        Raises:
            WorkerLostError: The process that ran it died.
            ImageShardsError: The task failed, with the error's own type.
        """

    def cancel(self, handle: Any) -> None:
        """Stop a task that is not wanted any more."""


@dataclass(slots=True)
class _Attempt:
    """A unit on its way: what happened to it so far."""

    unit: Unit
    build: Build
    losses: int = 0
    transient_tries: int = 0


class _Queue:
    """Attempts to be submitted: those that are tried again once their pause is over, else new ones.

    Takes a new unit only when it is asked for one, so that nothing is held for each of very many.
    """

    def __init__(self, attempts: Iterator[_Attempt]) -> None:
        self._new = attempts
        self._paused: list[tuple[float, int, _Attempt]] = []
        self._pauses = 0

    def take(self) -> _Attempt | None:
        """The next attempt; None where there is none, or none yet."""
        if self._paused and self._paused[0][0] <= time.monotonic():
            return heapq.heappop(self._paused)[-1]
        return next(self._new, None)

    def pause(self, attempt: _Attempt, seconds: float) -> None:
        """Keep an attempt back for a while."""
        self._pauses += 1  # so that no two attempts are ever compared
        heapq.heappush(self._paused, (time.monotonic() + seconds, self._pauses, attempt))

    @property
    def pause_seconds(self) -> float | None:
        """How long the next pause lasts; None where nothing is paused."""
        return max(0.0, self._paused[0][0] - time.monotonic()) if self._paused else None


@dataclass(frozen=True, slots=True)
class Executor:
    """Runs units on a backend.

    Attributes:
        backend: Where tasks run.
        raw_store: Where the images lie.
        store: Where the shards go.
        log: Takes a line on what went wrong and was mended.
        build_function: What builds a unit, with the form of `worker.run_build`.
        probe_function: What tries images without writing, with the form of `worker.run_probe`.
        pauses_seconds: Before each further try of a unit; the last one counts for all that follow.
        poison: Images found to kill their workers, by id, with what is known of it.
    """

    backend: Backend
    raw_store: StoreSpec
    store: StoreSpec
    log: Callable[[str], None]
    build_function: Callable[..., dict[str, Any]] = worker.run_build
    probe_function: Callable[..., dict[str, Any]] = worker.run_probe
    pauses_seconds: Sequence[float] = RETRY_PAUSES_SECONDS
    poison: dict[str, str] = field(default_factory=dict)

    def build(
        self,
        build: Build,
        units: Iterable[Unit],
        on_done: Callable[[Unit, Any], None],
        published: Callable[[Unit], Sequence[PublishedShard]] = lambda _: (),
    ) -> None:
        """Build all units; `on_done` gets each one's results as they come in, in any order.

        Args:
            build: What they have in common.
            units: Which.
            on_done: Takes a unit and its results.
            published: Gives the shards that a unit may copy.

        Raises:
            ImageShardsError: A unit failed for good, or lost its worker too often; the others are cancelled.
        """

        def call(attempt: _Attempt) -> tuple[Any, ...]:
            return self.build_function, attempt, self.raw_store, self.store, published(attempt.unit)

        self.run(build, units, on_done, call)

    def run(
        self,
        build: Build,
        units: Iterable[Unit],
        on_done: Callable[[Unit, Any], None],
        call: Callable[[_Attempt], tuple[Any, ...]],
    ) -> None:
        """The same for any function of `worker`: `call` gives the function, the attempt and its further arguments."""
        queue = _Queue(_Attempt(unit, build) for unit in units)
        running: dict[Any, _Attempt] = {}
        try:
            while self._fill(queue, running, call) or queue.pause_seconds is not None:
                if not running:
                    time.sleep(queue.pause_seconds or 0.0)
                    continue
                idle = len(running) < self.backend.slots  # there is room for a unit whose pause ends
                handle = self.backend.wait(list(running), queue.pause_seconds if idle else None)
                if handle is None:
                    continue
                attempt = running.pop(handle)
                try:
                    results = self.backend.fetch(handle)
                except TransientError as error:
                    queue.pause(*self._next_attempt(attempt, error))
                else:
                    on_done(attempt.unit, results)
        finally:
            for handle in running:
                self.backend.cancel(handle)

    def _fill(self, queue: _Queue, running: dict[Any, _Attempt], call: Callable[[_Attempt], tuple[Any, ...]]) -> bool:
        """Submit attempts while there is room; returns whether any runs."""
        while len(running) < self.backend.slots and (attempt := queue.take()) is not None:
            function, _, *arguments = call(attempt)
            running[self.backend.submit(function, attempt.build, attempt.unit, *arguments)] = attempt
        return bool(running)

    def _next_attempt(self, attempt: _Attempt, error: TransientError) -> tuple[_Attempt, float]:
        """The attempt that follows one that failed, and the pause before it."""
        if not isinstance(error, WorkerLostError):
            attempt.transient_tries += 1
            if attempt.transient_tries >= MAX_TRANSIENT_TRIES:
                raise error
            self.log(f"unit {attempt.unit.name} is tried again after: {error.message}")
            return attempt, self._pause(attempt.transient_tries)
        attempt.losses += 1
        self.log(f"unit {attempt.unit.name} lost its worker ({attempt.losses} of {MAX_LOSSES}): {error.message}")
        if attempt.losses >= MAX_LOSSES:
            raise TransientError(
                f"unit {attempt.unit.name} lost its worker {attempt.losses} times, and no single image does it: "
                f"{error.message}; give workers more memory, or look at the node's log",
                unit=attempt.unit.name,
            ) from error
        if attempt.losses == LOSSES_BEFORE_PROBE:
            found = self._find_poison(attempt, error.message)
            self.poison.update(found)
            attempt.build = replace(attempt.build, poison={**attempt.build.poison, **found})
            if found:
                return attempt, 0.0
        return attempt, self._pause(attempt.losses)

    def _pause(self, failures: int) -> float:
        return self.pauses_seconds[min(failures, len(self.pauses_seconds)) - 1]

    def _find_poison(self, attempt: _Attempt, cause: str) -> dict[str, str]:
        """The images of a unit that kill their worker, each tried in a task of its own."""
        rows = unit_rows(attempt.build, attempt.unit, open_store(self.raw_store))
        groups = [rows[start : start + PROBE_IMAGES] for start in range(0, len(rows), PROBE_IMAGES)]
        suspects = [row for group in self._lost(attempt, groups) for row in group]
        for _ in range(PROBE_TRIES):
            suspects = [group[0] for group in self._lost(attempt, [[row] for row in suspects])]
        for row in suspects:
            self.log(f"image {row.image_id} killed its worker {PROBE_TRIES} times when tried alone: rejected")
        return {row.image_id: f"killed its worker each time it was tried: {cause}" for row in suspects}

    def _lost(self, attempt: _Attempt, groups: Sequence[Sequence[IndexRow]]) -> list[Sequence[IndexRow]]:
        lost = []
        for start in range(0, len(groups), self.backend.slots):
            batch = groups[start : start + self.backend.slots]
            handles = deque(
                self.backend.submit(self.probe_function, attempt.build, attempt.unit, group, self.raw_store)
                for group in batch
            )
            try:
                for group in batch:
                    if self._is_lost(handles.popleft(), group):
                        lost.append(group)
            finally:
                for handle in handles:
                    self.backend.cancel(handle)
        return lost

    def _is_lost(self, handle: Any, group: Sequence[IndexRow]) -> bool:
        try:
            self.backend.fetch(handle)
        except WorkerLostError:
            return True
        except TransientError as error:
            self.log(f"trying {group[0].image_id} and others alone: {error.message}")
        return False
