"""What the driver says: lines that the waiting task reads, the first at once, then seldom, the last always."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from imageshards import driver_output
from imageshards.driver_output import Progress, log
from imageshards.job import parse_driver_line


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [line for text in capsys.readouterr().out.splitlines() if (line := parse_driver_line(text))]


def test_a_line_of_the_log_has_a_level(capsys: pytest.CaptureFixture[str]) -> None:
    log("unit a lost its worker")
    log("3 of 4 shards reused", level="info")
    assert said(capsys) == [
        {"kind": "log", "level": "warning", "message": "unit a lost its worker"},
        {"kind": "log", "level": "info", "message": "3 of 4 shards reused"},
    ]


def test_images_of_reused_shards_are_done_and_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(10)
    progress.advance(6, reused=4)
    progress.advance(4, reused=4)
    assert [(line["done"], line["reused"], line["total"]) for line in said(capsys)] == [(6, 4, 10), (10, 8, 10)]


def test_a_long_job_says_little(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(driver_output.time, "monotonic", lambda: now)
    progress = Progress(100_000)
    for _ in range(100_000):
        now += 0.1
        progress.advance(1)
    lines = said(capsys)
    assert len(lines) < 600
    assert lines[-1]["done"] == 100_000
    assert all(later["seconds"] > earlier["seconds"] for earlier, later in pairwise(lines))
