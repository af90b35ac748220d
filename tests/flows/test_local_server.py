"""The API server of a run from the command line: started early, used where it is needed, never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.local_server import LocalServer, start_local_server
from tests.processes import PROC, processes_with, wait_until

ROOT = Path(__file__).resolve().parents[2]
MARK = "IMAGESHARDS_TEST_SERVER"
START_SECONDS = 120
"""With a database that has to be made first, on a busy machine."""
GONE_SECONDS = 20

PARENT = """
import time
from flows.local_server import LocalServer
server = LocalServer()
print(server.wait(120), flush=True)
time.sleep(600)
"""

needs_proc = pytest.mark.skipif(not PROC.is_dir(), reason="processes are looked up in /proc")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's folder, without a profile; one for all, for it takes seconds to make a database."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[str]:
    """No server is configured; gives what the processes are found by."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(home))
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)
    yield value
    for process in processes_with(MARK, value):
        os.kill(process.id, signal.SIGKILL)


@needs_proc
def test_it_answers_and_is_gone_when_stopped(mark: str) -> None:
    server = LocalServer()
    try:
        assert server.wait(START_SECONDS)
        with urllib.request.urlopen(f"{server.api_url}/admin/version") as answer:
            assert answer.status == 200
    finally:
        server.stop()
    assert processes_with(MARK, mark) == []
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", server.port)):
        pass
    server.stop()  # again


@needs_proc
def test_it_ends_when_its_parent_is_killed(mark: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "True\n"
        assert [process for process in processes_with(MARK, mark) if "flows.local_server" in process.command]
        parent.kill()
    assert wait_until(lambda: not processes_with(MARK, mark), timeout_seconds=GONE_SECONDS)


def test_an_environment_that_names_an_api_starts_none(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert start_local_server() is None


@needs_proc
def test_it_ends_by_itself_where_a_profile_names_an_api(
    mark: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    (tmp_path / "profiles.toml").write_text(
        'active = "elsewhere"\n[profiles.elsewhere]\nPREFECT_API_URL = "http://127.0.0.1:1/api"\n'
    )
    server = LocalServer()
    try:
        assert wait_until(lambda: not processes_with(MARK, mark), timeout_seconds=START_SECONDS)
        assert not server.wait(START_SECONDS)
    finally:
        server.stop()


def test_a_server_that_cannot_start_does_not_keep_anyone_waiting(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////no/such/folder/prefect.db")
    server = LocalServer()
    try:
        assert not server.wait(10 * START_SECONDS)  # longer than the test may take
    finally:
        server.stop()
