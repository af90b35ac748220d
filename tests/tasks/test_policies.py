"""When a task is tried again: after a TransientError, and after nothing else."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.schemas.objects import State

from imageshards.errors import (
    ConfigError,
    ImageShardsError,
    ObjectMissingError,
    SourceError,
    StoreError,
    TransientError,
    ValidationError,
)
from imageshards.executor import WorkerLostError
from tasks.download import download
from tasks.policies import RETRIES, TASK_OPTIONS, is_transient
from tasks.preprocess import preprocess
from tasks.publish import find_published, publish
from tasks.upload import upload
from tasks.validate import validate

FINAL = [ConfigError, SourceError, StoreError, ObjectMissingError, ValidationError, ImageShardsError, ValueError, OSError]


class Failed:
    """As much of a failed state as the predicate looks at."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def result(self, *, raise_on_failure: bool) -> BaseException:
        assert not raise_on_failure
        return self._error


def test_the_predicate_is_a_plain_function() -> None:
    """Prefect takes anything else as "never try again"."""
    assert inspect.isfunction(is_transient)
    assert not inspect.iscoroutinefunction(is_transient)


@pytest.mark.parametrize("kind", [TransientError, WorkerLostError])
def test_what_may_pass_is_tried_again(kind: type[Exception]) -> None:
    assert is_transient(None, None, Failed(kind("later")))


@pytest.mark.parametrize("kind", FINAL)
def test_what_will_stay_so_is_not_tried_again(kind: type[Exception]) -> None:
    assert not is_transient(None, None, Failed(kind("TransientError: try again")))


@pytest.mark.parametrize("step", [download, upload, find_published, preprocess, validate, publish])
def test_each_step_has_the_policy(step: Any) -> None:
    assert step.retries == RETRIES
    assert step.retry_condition_fn is is_transient
    assert step.retry_delay_seconds == [2, 4, 8]
    assert step.persist_result is False


def tried(error: Exception, failures: int) -> tuple[int, State[Any]]:
    """How often a task was run that fails so many times, and its last state; without the pauses between."""
    calls: list[int] = []

    @task(**{**TASK_OPTIONS, "retry_delay_seconds": 0})
    def step() -> str:
        calls.append(len(calls))
        if len(calls) <= failures:
            raise error
        return "done"

    @flow
    def run() -> State[Any]:
        return step(return_state=True)

    return len(calls), run(return_state=True) if False else _last(run, calls)


def _last(run: Any, calls: list[int]) -> State[Any]:
    return run(return_state=True)
