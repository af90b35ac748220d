"""The progress artifact: how far, how fast, how long still; and few requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow

from tasks import progress_artifact
from tasks.progress_artifact import Pace, ProgressArtifact, readable_seconds
from tests.flows.runs import last_run


class Clock:
    """Stands still unless it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_pace_is_that_of_the_last_half_minute() -> None:
    pace = Pace(window_seconds=30)
    for second in range(1, 61):
        pace.take(10 * second, second)
    for second in range(61, 121):
        pace.take(600 + 100 * (second - 60), second)
    assert pace.per_second(120) == pytest.approx(100)


def test_a_large_shard_that_takes_minutes_still_gives_a_pace() -> None:
    pace = Pace(window_seconds=30)
    for number in range(1, 6):
        pace.take(600 * number, 120.0 * number)
    assert pace.per_second(600) == pytest.approx(5)


def test_reused_images_say_nothing_of_the_pace() -> None:
    pace = Pace(window_seconds=30)
    pace.take(7000, 1, free=7000)
    assert pace.per_second(1) is None
    pace.take(7100, 11, free=7000)
    assert pace.per_second(11) == pytest.approx(100 / 11)


def test_a_step_that_stands_still_gets_slower() -> None:
    pace = Pace(window_seconds=30)
    pace.take(100, 1)
    assert pace.per_second(1) == pytest.approx(100)
    assert pace.per_second(100) == pytest.approx(1)


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 100)), max_size=50))
def test_the_pace_is_never_negative_and_never_divides_by_nothing(steps: list[tuple[int, float]]) -> None:
    pace, done, seconds = Pace(), 0, 0.0
    for images, more in steps:
        done, seconds = done + images, seconds + more
        pace.take(done, seconds)
        rate = pace.per_second(seconds)
        assert rate is None or rate > 0


def test_the_artifact_says_how_far_how_fast_and_how_long(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    clock = Clock()
    update = progress_artifact.update_progress_artifact

    def spy(artifact_id: object, percent: float, description: str) -> None:
        sent.append(description)
        update(artifact_id, percent, description=description)  # type: ignore[arg-type]

    monkeypatch.setattr(progress_artifact, "update_progress_artifact", spy)

    @flow
    def run() -> None:
        artifact = ProgressArtifact("preprocess-progress", clock=clock)
        artifact.show(0, 1200, seconds=0.0)
        for second in range(1, 12):
            clock.now += 1
            artifact.show(100 * second, 1200, seconds=float(second))
        clock.now += 0.1
        artifact.show(1200, 1200, seconds=12.0)

    run()
    assert sent == [
        "200 of 1,200 images, 100 images/s, 10 s left",
        "400 of 1,200 images, 100 images/s, 8 s left",
        "600 of 1,200 images, 100 images/s, 6 s left",
        "800 of 1,200 images, 100 images/s, 4 s left",
        "1,000 of 1,200 images, 100 images/s, 2 s left",
        "1,200 of 1,200 images in 12 s",
    ]
    artifact = last_run().artifacts()["preprocess-progress"]
    assert (artifact.type, artifact.data, artifact.description) == ("progress", 100.0, sent[-1])


def test_a_short_step_leaves_none(prefect_api: str) -> None:
    clock = Clock()

    @flow
    def run() -> None:
        short = ProgressArtifact("short", after_seconds=10, clock=clock)
        short.show(5, 10, seconds=1)
        short.show(10, 10, seconds=2)
        long = ProgressArtifact("long", after_seconds=10, clock=clock)
        clock.now += 11
        long.show(5, 10, seconds=11)

    run()
    assert set(last_run().artifacts()) == {"long"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert readable_seconds(seconds) == text
