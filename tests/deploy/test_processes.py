"""Processes of a stack are found by what they bear, never by their number alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.processes import MARK, Service, end, end_rest, processes_of, start, wait_ready
from imageshards.errors import ImageShardsError

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)",
]
PARENT = [
    sys.executable,
    "-c",
    # the child has lost the mark
    "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], env={}).wait()",
]


@pytest.fixture
def stack_id() -> Iterator[str]:
    stack_id = uuid.uuid4().hex
    yield stack_id
    assert end_rest(stack_id, timeout_seconds=10) == []


def service(stack_id: str, command: list[str], folder: Path) -> Service:
    return Service("sleeper", command, {**os.environ, MARK: stack_id}, folder)


def wait_for(path: Path, text: str) -> None:
    wait_ready("x", os.getpid(), lambda: text in path.read_text(), log=path, timeout_seconds=20)


def test_a_started_service_is_found_and_ended(stack_id: str, tmp_path: Path) -> None:
    pid = start(service(stack_id, SLEEP, tmp_path), tmp_path / "log")
    assert processes_of(stack_id) == {pid}
    assert os.getsid(pid) == pid  # it outlives a terminal that is closed
    end(stack_id, [pid], signal.SIGTERM, timeout_seconds=20)
    assert processes_of(stack_id) == set()


def test_children_that_lost_the_mark_are_found_by_their_parent(stack_id: str, tmp_path: Path) -> None:
    pid = start(service(stack_id, PARENT, tmp_path), tmp_path / "log")
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_ready("x", pid, lambda: bool(children.read_text()), log=tmp_path / "log", timeout_seconds=20)
    assert len(processes_of(stack_id)) == 2


def test_what_does_not_go_when_asked_is_killed(stack_id: str, tmp_path: Path) -> None:
    pid = start(service(stack_id, STUBBORN, tmp_path), tmp_path / "log")
    wait_for(tmp_path / "log", "ready")
    end(stack_id, [pid], signal.SIGTERM, timeout_seconds=0.3)
    assert processes_of(stack_id) == {pid}
    assert end_rest(stack_id, timeout_seconds=20) == []
    assert processes_of(stack_id) == set()


def test_a_process_that_is_not_of_the_stack_is_left_alone(stack_id: str) -> None:
    with subprocess.Popen(SLEEP) as stranger:
        try:
            end(stack_id, [stranger.pid], signal.SIGKILL, timeout_seconds=1)
            assert end_rest(stack_id, timeout_seconds=1) == []
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_service_that_ends_at_once_is_told_with_its_log(stack_id: str, tmp_path: Path) -> None:
    broken = [sys.executable, "-c", "import sys; sys.exit('no such database')"]
    pid = start(service(stack_id, broken, tmp_path), tmp_path / "log")
    with pytest.raises(ImageShardsError, match=r"sleeper ended.*(\n.*)*no such database"):
        wait_ready("sleeper", pid, lambda: False, log=tmp_path / "log", timeout_seconds=20)


def test_a_service_that_never_answers_is_told(stack_id: str, tmp_path: Path) -> None:
    pid = start(service(stack_id, SLEEP, tmp_path), tmp_path / "log")
    with pytest.raises(ImageShardsError, match="did not answer within"):
        wait_ready("sleeper", pid, lambda: False, log=tmp_path / "log", timeout_seconds=0.2)
