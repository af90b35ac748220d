"""When a task is tried again: after a TransientError, and after nothing else."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

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

FINAL = [
    ConfigError,
    SourceError,
    StoreError,
    ObjectMissingError,
    ValidationError,
    ImageShardsError,
    ValueError,
    OSError,
]


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
    assert step.retries >= 1
    assert step.retry_condition_fn is is_transient
    assert step.persist_result is False
    assert step.cache_policy is NO_CACHE


def tries(error: Exception, *, failures: int) -> tuple[int, bool]:
    """How often Prefect runs a task that fails so many times, without the pauses between; whether it is done then."""
    calls: list[Exception] = []

    @task(**{**TASK_OPTIONS, "retry_delay_seconds": 0})
    def step() -> None:
        calls.append(error)
        if len(calls) <= failures:
            raise error

    @flow
    def run() -> None:
        step()

    state = run(return_state=True)
    return len(calls), state.is_completed()


def test_prefect_tries_again_after_a_transient_error(prefect_api: str) -> None:
    assert tries(TransientError("later"), failures=1) == (2, True)


def test_prefect_gives_up_after_some_tries(prefect_api: str) -> None:
    assert tries(TransientError("later"), failures=100) == (1 + RETRIES, False)


def test_prefect_does_not_try_again_what_will_stay_so(prefect_api: str) -> None:
    assert tries(ConfigError("wrong"), failures=1) == (1, False)
