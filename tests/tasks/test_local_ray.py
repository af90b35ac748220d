"""The driver as a child process: how it ends, that nothing outlives it, that it keeps its secrets."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imageshards.errors import ImageShardsError, TransientError
from imageshards.job import parse_driver_line
from imageshards.sample import SampleArchives
from tasks.local_ray import run_local_driver
from tests.processes import PROC, Process, processes_with, wait_until
from tests.tasks.jobs import write_endless_job

pytestmark = pytest.mark.skipif(not PROC.is_dir(), reason="processes are looked up in /proc")

START_SECONDS = 90
GONE_SECONDS = 20
CPUS_ALLOWED = sorted(os.sched_getaffinity(0))[:2]
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")

MARK = "IMAGESHARDS_TEST_DRIVER"
SECRET = "a-secret-nobody-may-see"
SECRET_VARIABLE = "IMAGESHARDS_STORE_AWS_SECRET_ACCESS_KEY"

PARENT = f"""
import json, os, sys
from imageshards.errors import ImageShardsError
from tasks.local_ray import run_local_driver
os.sched_setaffinity(0, {CPUS_ALLOWED})
try:
    run_local_driver(json.loads(sys.argv[1]), {{{SECRET_VARIABLE!r}: {SECRET!r}}}, print)
except ImageShardsError as error:
    print(json.dumps(error.to_dict()))
"""
"""What the flow's process does; a process of its own here, for it is killed."""


@dataclass(frozen=True)
class Run:
    """A parent and what it started."""

    parent: subprocess.Popen[str]
    mark: str
    home: Path

    def processes(self) -> list[Process]:
        """The parent, the driver, and all of Ray."""
        return processes_with(MARK, self.mark)

    def driver(self) -> Process | None:
        return next((each for each in self.processes() if "-m imageshards.ray_driver" in each.command), None)

    def works(self) -> bool:
        """Whether a worker is at an image."""
        assert self.parent.poll() is None, self.parent.communicate()
        return any(each.command.startswith("ray::run_build") for each in self.processes())

    def left(self) -> list[str]:
        """What does not go away soon."""
        wait_until(lambda: not self.processes(), timeout_seconds=GONE_SECONDS)
        return [process.command for process in self.processes()]


@pytest.fixture(scope="session")
def endless_job(drawn_sample: SampleArchives, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_endless_job(tmp_path_factory.mktemp("endless"), drawn_sample)


@pytest.fixture
def run(endless_job: list[str], tmp_path: Path) -> Iterator[Run]:
    """A driver at work that would never end; variables that would lead Ray elsewhere are not for it."""
    mark = uuid.uuid4().hex
    elsewhere = {"RAY_ADDRESS": "127.0.0.1:1", "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1", "RAY_AUTH_TOKEN": "x"}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, json.dumps(endless_job)],
        env={**os.environ, **elsewhere, MARK: mark, "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started = Run(parent, mark, tmp_path)
    try:
        assert wait_until(started.works, timeout_seconds=START_SECONDS)
        yield started
    finally:
        for process in started.processes():
            os.kill(process.id, signal.SIGKILL)
        parent.communicate()


NEEDLESS = ("dashboard/dashboard.py", "autoscaler/_private/monitor.py", "_private/log_monitor.py")


def test_ray_has_a_worker_for_each_cpu_it_may_use_and_no_process_that_one_driver_does_not_need(run: Run) -> None:
    commands = [process.command for process in run.processes()]
    assert any("gcs_server" in command for command in commands)
    assert not [command for command in commands if any(name in command for name in NEEDLESS)]
    workers = [command for command in commands if command.startswith("ray::") and command not in AGENTS]
    assert len(workers) == len(CPUS_ALLOWED)


def test_when_its_parent_is_killed_all_of_it_ends_and_meanwhile_no_secret_shows(run: Run) -> None:
    driver = run.driver()
    assert driver is not None
    environment = dict(
        entry.split("=", 1) for entry in (PROC / str(driver.id) / "environ").read_text().split("\0") if "=" in entry
    )
    token = Path(environment["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert re.fullmatch(r"[0-9a-f]{64}", token.read_text())
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment[SECRET_VARIABLE] == SECRET
    commands = [process.command for process in run.processes() if process.id != run.parent.pid]
    assert not [command for command in commands if SECRET in command or token.read_text() in command]
    assert not (run.home / ".ray").exists()  # where a later `ray start` would find a token to demand

    run.parent.kill()

    assert run.left() == []


def test_a_driver_that_is_killed_is_a_transient_error_and_takes_ray_along(run: Run) -> None:
    driver = run.driver()
    assert driver is not None
    os.kill(driver.id, signal.SIGKILL)
    out, _ = run.parent.communicate(timeout=GONE_SECONDS)
    error = json.loads(out.splitlines()[-1])
    assert error["type"] == TransientError.__name__
    assert "killed by signal 9" in error["message"]
    assert run.left() == []


def test_an_error_of_the_driver_is_told_by_its_output_and_its_exit_status(tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(ImageShardsError, match="exit status 1") as caught:
        run_local_driver(["--spec", str(tmp_path / "spec.json")], {}, lines.append)
    assert type(caught.value) is ImageShardsError
    said = [said for line in lines if (said := parse_driver_line(line))]
    assert said[-1]["error"]["type"] == "ObjectMissingError"
    assert "spec.json" in said[-1]["error"]["message"]


def test_an_error_of_whoever_takes_its_lines_stops_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    driver = tmp_path / "driver"
    driver.write_text("#!/bin/sh\necho a line\nsleep 60\n")
    driver.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(driver))
    with pytest.raises(KeyError, match="a line"):
        run_local_driver([], {}, lambda line: {}[line])
    assert wait_until(lambda: not processes_with(MARK, mark), timeout_seconds=GONE_SECONDS)


def test_an_exit_status_that_stands_for_a_signal_is_a_transient_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a driver that cleans up first."""
    driver = tmp_path / "driver"
    driver.write_text("#!/bin/sh\necho its last words\nexit 143\n")
    driver.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(driver))
    with pytest.raises(TransientError, match=r"signal 15; its last lines:\nits last words"):
        run_local_driver([], {}, lambda _: None)


def test_what_the_driver_prints_of_its_secrets_is_not_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "driver"
    driver.write_text(f'#!/bin/sh\necho "key: ${SECRET_VARIABLE}"\nexit 1\n')
    driver.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(driver))
    lines: list[str] = []
    with pytest.raises(ImageShardsError, match=r"key: \*\*\*") as caught:
        run_local_driver([], {SECRET_VARIABLE: SECRET}, lines.append)
    assert lines == ["key: ***"]
    assert SECRET not in caught.value.message
