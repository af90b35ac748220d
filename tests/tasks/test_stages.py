"""Stages: one line each that nothing can break, also for those that fail, and the list of all of a run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

from imageshards.errors import TransientError
from tasks.stages import Stage, collect_stages, stage
from tests.flows.runs import last_run

ROOT = Path(__file__).resolve().parents[2]


@task
def download(what: str) -> None:
    with stage("download", what=what) as report:
        report.count(bytes=len(what))


@task(retries=1)
def upload(marker: Path) -> None:
    with stage("upload") as report:
        report.count(images=3)
        if not marker.exists():
            marker.touch()
            raise TransientError("later")
        report.count(images=4)


class Stopped(BaseException):
    """As Prefect's signal for a run that is cancelled."""


@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
def staged(marker: Path) -> list[Stage]:
    with collect_stages() as stages:
        for pending in [download.submit(what) for what in ("images", "annotations")]:
            pending.result()
        upload(marker)
    with stage("afterwards"):
        pass
    return stages


def told(stages: list[Stage]) -> list[tuple[str, str, dict[str, int | str]]]:
    return [(each.name, each.outcome, each.facts) for each in stages]


def test_a_run_collects_its_stages_from_every_thread_and_every_attempt(prefect_api: str, tmp_path: Path) -> None:
    stages = told(staged(tmp_path / "marker"))

    assert sorted(stages[:2], key=str) == [
        ("download", "done", {"what": "annotations", "bytes": 11}),
        ("download", "done", {"what": "images", "bytes": 6}),
    ]
    assert stages[2:] == [
        ("upload", "failed", {"images": 3, "error": "TransientError"}),
        ("upload", "done", {"images": 4}),
    ]
    lines = [message for message in last_run().messages() if message.startswith("stage=")]
    assert len(lines) == 5
    assert any(re.fullmatch(r"stage=upload outcome=done seconds=[0-9.]+ images=4", line) for line in lines)
    assert any(
        re.fullmatch(r"stage=upload outcome=failed seconds=[0-9.]+ images=3 error=TransientError", line)
        for line in lines
    )


def test_an_interrupted_stage_says_so(prefect_api: str) -> None:
    @flow
    def run() -> list[Stage]:
        with collect_stages() as stages, pytest.raises(Stopped), stage("preprocess"):
            raise Stopped
        return stages

    assert told(run()) == [("preprocess", "interrupted", {"error": "Stopped"})]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc and /proc")
def test_what_a_stage_has_freed_is_not_there_when_the_next_one_begins(prefect_api: str) -> None:
    @flow
    def run() -> int:
        with stage("upload"):
            pieces = [bytes(1000) for _ in range(100_000)]
            last = pieces[-1]  # keeps the heap from shrinking by itself
            del pieces
            before = _resident_bytes()
        assert last
        return before - _resident_bytes()

    assert run() > 50_000_000


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_collector_of_json_gets_the_numbers_as_numbers(prefect_api: str) -> None:
    program = """
from prefect import flow
from tasks.stages import stage

@flow
def run():
    with stage("upload", what="images") as report:
        report.count(images=3)

run()
"""
    environment = {**os.environ, "PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    records = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    [found] = [record["imageshards_stage"] for record in records if "imageshards_stage" in record]
    assert found == {
        "stage": "upload",
        "outcome": "done",
        "seconds": found["seconds"],
        "what": "images",
        "images": 3,
    }


def test_a_line_is_logfmt() -> None:
    found = Stage("validate", "done", 3.2149, {"resolution": 224, "bytes": 12345678, "status": "as it was"})
    assert found.line() == 'stage=validate outcome=done seconds=3.21 resolution=224 bytes=12345678 status="as it was"'
    assert found.number("bytes") == 12345678
    assert found.number("status") is None
    assert found.number("images") is None


@given(st.text())
def test_no_value_breaks_out_of_its_line(text: str) -> None:
    line = Stage("a", "done", 0.0, {"note": text, "images": 1}).line()
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    assert re.fullmatch(r'stage=a outcome=done seconds=0\.0 note=("(\\.|[^"\\])*"|[^ "=]+) images=1', line)
