"""A run that was killed half-way is finished by the next one, which keeps what was done."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from imageshards.sample import SampleArchives
from tests.e2e.conftest import ROOT, CliRun, Pets, archives
from tests.imageshards.http_site import running_site

WAIT_SECONDS = 90.0
PROMPT_SECONDS = 20.0
"""Well within the 30 s after which Prefect kills what it was told to cancel."""


def shards(store: Path) -> dict[Path, str]:
    """Digest of each shard."""
    found = (store / "shards").rglob("*-0*.parquet")
    return {path.relative_to(store): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def children_of(pid: int) -> list[int]:
    """Ids of the direct children of a process."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def alive(pid: int) -> bool:
    """Whether a process runs, a zombie not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: object, what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_SECONDS:.0f} s for {what}"
        time.sleep(0.05)


def test_a_killed_run_is_finished_by_the_next_without_rebuilding(
    pets: Pets,
    finished: tuple[CliRun, Path],
    cli_environment: dict[str, str],
    drawn: SampleArchives,
    tmp_path: Path,
) -> None:
    options = archives(drawn)
    store = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.pets", *options, "--store", str(store)],
        cwd=ROOT,
        env=cli_environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: process.poll() is not None or shards(store), "the first shard")
        drivers = children_of(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not any(alive(pid) for pid in drivers), "the driver to end with its parent")
    assert not list(store.rglob("manifest.json"))

    kept = {path: (store / path).stat().st_mtime_ns for path in shards(store)}
    assert kept
    second = pets(*options, "--store", str(store))
    assert [result["status"] for result in second.summary["results"]] == ["built"]
    assert {path: (store / path).stat().st_mtime_ns for path in kept} == kept
    assert shards(store) == shards(finished[1])


def test_an_interrupted_run_leaves_no_process_and_publishes_nothing(
    cli_environment: dict[str, str], drawn: SampleArchives, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.pets", *archives(drawn), "--store", str(tmp_path)],
        cwd=ROOT,
        env=cli_environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: process.poll() is not None or list(tmp_path.glob("runs/*/spec.json")), "the driver to start")
        wait_until(lambda: process.poll() is not None or children_of(process.pid), "the driver process")
        drivers = children_of(process.pid)
        os.kill(process.pid, signal.SIGINT)
        process.wait(WAIT_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode != 0
    wait_until(lambda: not any(alive(pid) for pid in drivers), "the driver to end")
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_run_that_downloads_ends_when_it_is_told_to(
    number: signal.Signals, cli_environment: dict[str, str], tmp_path: Path
) -> None:
    """However slow the server is: what a thread waits for, no signal interrupts."""
    asked = threading.Event()
    ended = threading.Event()

    def stall(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        asked.set()
        ended.wait(WAIT_SECONDS)

    with running_site() as site:
        urls = ["--images", site.put("/images.tar.gz", stall), "--annotations", site.put("/list.tar.gz", stall)]
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.pets", *urls, "--store", str(tmp_path / "store")],
            cwd=ROOT,
            env={**cli_environment, "IMAGESHARDS_CACHE": str(tmp_path / "cache")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            assert asked.wait(WAIT_SECONDS)
            process.send_signal(number)
            process.wait(PROMPT_SECONDS)
        finally:
            ended.set()
            if process.poll() is None:
                process.kill()
                process.wait()
    assert process.returncode != 0
