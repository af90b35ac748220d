"""What all tasks have in common: when to try again, and that Prefect caches nothing.

The manifest is the truth about what was done before.
"""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from imageshards.errors import TransientError

RETRIES = 3
BACKOFF_SECONDS = 2
JITTER = 0.5


def is_transient(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 (Prefect's form)
    """Whether a failed task may succeed when run again: the one retry predicate.

    A plain function, for Prefect takes a partial or a callable object as "never".
    """
    return isinstance(state.result(raise_on_failure=False), TransientError)


TASK_OPTIONS: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": exponential_backoff(BACKOFF_SECONDS),
    "retry_jitter_factor": JITTER,
    "retry_condition_fn": is_transient,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}
