"""What becomes of the driver's lines: progress, log lines, the error that ended it; no secret is among them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.runtime import flow_run

from imageshards.errors import Check, ConfigError, ImageShardsError, ObjectMissingError, TransientError, ValidationError
from imageshards.job import driver_line
from tasks import progress_artifact
from tasks.driver_lines import LINE_CHARACTERS, DriverOutput, LineBudget, Secrets
from tasks.progress import StepProgress

NO_SECRETS = Secrets([])


class Records(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((record.levelno, record.getMessage()))


@dataclass(frozen=True)
class Listener:
    """The driver's output and where its log lines go."""

    output: DriverOutput
    records: list[tuple[int, str]]


@pytest.fixture
def listener() -> Iterator[Listener]:
    logger = logging.getLogger("tests.driver-output")
    logger.setLevel(logging.DEBUG)
    handler = Records()
    logger.addHandler(handler)
    try:
        yield Listener(DriverOutput(logger, StepProgress("preprocess", "images", logger), NO_SECRETS), handler.records)
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize(
    "error",
    [
        TransientError("later", uri="s3://bucket/key"),
        ConfigError("wrong"),
        ObjectMissingError("missing", bucket=None),
        ValidationError.of("pets", [Check("rows", passed=False, expected="1", found="2", examples=("a",))]),
        ImageShardsError("something"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_line_becomes_the_error_it_was(listener: Listener, error: ImageShardsError) -> None:
    listener.output.take(driver_line("error", error=error.to_dict()))
    found = listener.output.error
    assert type(found) is type(error)
    assert found.to_dict() == error.to_dict()


def test_an_error_of_a_class_that_is_not_known_here_keeps_its_message(listener: Listener) -> None:
    listener.output.take(driver_line("error", error={"type": "NewError", "message": "what", "context": {}}))
    assert type(listener.output.error) is ImageShardsError
    assert listener.output.error.message == "what"


def test_plain_lines_reach_the_log_and_empty_ones_do_not(listener: Listener) -> None:
    for line in ("", "  ", "\x1b[36m(raylet)\x1b[0m something", "imageshards-driver: {no json", '{"kind": "error"}'):
        listener.output.take(line)
    assert listener.records == [
        (logging.INFO, "ray: (raylet) something"),
        (logging.INFO, "ray: imageshards-driver: {no json"),
        (logging.INFO, 'ray: {"kind": "error"}'),
    ]
    assert listener.output.error is None


def test_what_the_driver_logs_is_a_warning_here(listener: Listener) -> None:
    listener.output.take(driver_line("log", message="unit a lost its worker"))
    assert listener.records == [(logging.WARNING, "unit a lost its worker")]


def test_what_is_as_it_should_be_is_no_warning(listener: Listener) -> None:
    listener.output.take(driver_line("log", message="31 of 32 shards reused", level="info"))
    assert listener.records == [(logging.INFO, "31 of 32 shards reused")]


def test_no_line_shows_a_secret() -> None:
    logger = logging.getLogger("tests.driver-secrets")
    handler = Records()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    secret = 'a/secret"with+quotes'
    output = DriverOutput(logger, StepProgress("preprocess", "images", logger), Secrets([secret, "", None, "short"]))
    try:
        output.take(f"AWS_SECRET_ACCESS_KEY={secret} and a short word")
        output.take(driver_line("log", message=f"denied with {secret}"))
        output.take(driver_line("error", error=TransientError(f"denied with {secret}").to_dict()))
    finally:
        logger.removeHandler(handler)
    assert handler.records == [
        (logging.INFO, "ray: AWS_SECRET_ACCESS_KEY=*** and a short word"),
        (logging.WARNING, "denied with ***"),
    ]
    assert output.error is not None
    assert output.error.message == "denied with ***"


def test_a_worker_that_complains_endlessly_does_not_fill_the_log() -> None:
    lines: list[str] = []
    now = [0.0]
    budget = LineBudget(lines.append, lines_a_minute=3, clock=lambda: now[0])
    for number in range(1000):
        budget.take(f"line {number}")
    now[0] = 61.0
    budget.take("x" * 2 * LINE_CHARACTERS)
    budget.close()
    assert lines == [
        "line 0",
        "line 1",
        "line 2",
        "… 997 lines left out, see the job's log in the Ray dashboard",
        "x" * LINE_CHARACTERS,
    ]


def test_a_line_is_understood_behind_what_ray_puts_before_it(listener: Listener) -> None:
    listener.output.take("(driver pid=1) " + driver_line("log", message="told"))
    assert listener.records == [(logging.WARNING, "told")]


def artifacts_after(*lines: str) -> list[Artifact]:
    """The artifacts of a run whose driver says these lines."""

    @flow
    def run() -> str:
        logger = logging.getLogger("tests.driver-output")
        output = DriverOutput(logger, StepProgress("preprocess", "images", logger), NO_SECRETS)
        for line in lines:
            output.take(line)
        return str(flow_run.id)

    run_id = run()
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id])))


def test_progress_is_one_artifact_that_ends_at_a_hundred(prefect_api: str) -> None:
    lines = [driver_line("progress", done=done, total=1200, seconds=done / 100) for done in (300, 600, 1200)]
    [artifact] = artifacts_after(*lines)
    assert artifact.key == "preprocess-progress"
    assert artifact.type == "progress"
    assert artifact.data == 100.0
    assert artifact.description == "1,200 of 1,200 images in 12 s"


def test_progress_is_sent_seldom_for_each_time_is_a_request(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[float] = []
    monkeypatch.setattr(progress_artifact, "update_progress_artifact", lambda _, percent, **__: sent.append(percent))
    artifacts_after(*(driver_line("progress", done=done, total=1000, seconds=1.0) for done in range(1, 1001)))
    assert sent == [100.0]


def test_progress_of_nothing_is_all_of_it(prefect_api: str) -> None:
    [artifact] = artifacts_after(driver_line("progress", done=0, total=0, seconds=0.0))
    assert artifact.data == 100.0
