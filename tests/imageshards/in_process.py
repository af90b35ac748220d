"""A backend that runs each task in this process: for tests of the executor and of the driver without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from imageshards.errors import error_from_dict
from imageshards.executor import WorkerLostError

KILLED = "killed by signal 9"


class TaskLostError(Exception):
    """Raised by a task of a test: its process died."""


class InProcess:
    """Runs a task when it is waited for, the last one first; counts what is in flight."""

    def __init__(self, slots: int = 3) -> None:
        self.slots = slots
        self.tasks: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
        self.submitted: list[str] = []
        self.cancelled: list[int] = []
        self.timeouts: list[float | None] = []
        self.most_in_flight = 0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        handle = len(self.submitted)
        self.submitted.append(function.__name__)
        self.tasks[handle] = function, arguments
        self.most_in_flight = max(self.most_in_flight, len(self.tasks))
        return handle

    def wait(self, handles: Sequence[int], timeout_seconds: float | None) -> int | None:
        assert set(handles) == set(self.tasks)
        self.timeouts.append(timeout_seconds)
        return handles[-1]

    def fetch(self, handle: int) -> Any:
        function, arguments = self.tasks.pop(handle)
        try:
            outcome = function(*arguments)
        except TaskLostError:
            raise WorkerLostError(KILLED) from None
        if "error" in outcome:
            raise error_from_dict(outcome["error"])
        return outcome["ok"]

    def cancel(self, handle: int) -> None:
        del self.tasks[handle]
        self.cancelled.append(handle)
