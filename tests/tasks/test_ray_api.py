"""Ray's Jobs API as we call it: with limits, with errors that say what to do, and nowhere but where it was told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.runtime_env.packaging import create_package

from blocks.ray_cluster import ClusterAccess
from imageshards.errors import ConfigError, StoreError, TransientError
from tasks import ray_api
from tasks.ray_api import connect, entrypoint, runtime_env
from tasks.ray_job import run_ray_job, stop_orphans, stop_ray_jobs
from tasks.ray_versions import check_cluster, check_versions
from tests.ray_head import RayHead, running_ray_head

NOBODY = "http://127.0.0.1:1"
TOKEN = "a-token-nobody-may-see-0123456789abcdef"
SOON_SECONDS = 30  # Ray's own client tries for minutes
MOST_SENT_BYTES = 2_000_000


def run(cluster: ClusterAccess) -> None:
    run_ray_job(cluster, "x", [], print)


@pytest.mark.parametrize(
    "call",
    [
        check_cluster,
        run,
        lambda cluster: check_versions(cluster, "x"),
        lambda cluster: stop_ray_jobs(cluster, "x"),
        lambda cluster: stop_orphans(cluster, store_url="s3://a", dataset="b", run_id="x"),
    ],
)
def test_where_nothing_listens_it_says_so_quickly(call: Callable[[ClusterAccess], Any]) -> None:
    started = time.monotonic()
    with pytest.raises(TransientError, match=f"no Ray cluster answers at {NOBODY}.*check the address"):
        call(ClusterAccess(NOBODY))
    assert time.monotonic() - started < SOON_SECONDS


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_api, "REQUEST_TIMEOUT_SECONDS", (1, 1))
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(TransientError, match="no Ray cluster answers"),
    ):
        connect(ClusterAccess(f"http://127.0.0.1:{silent.getsockname()[1]}"))


def test_the_time_for_a_request_is_limited() -> None:
    to_connect, to_answer = ray_api.REQUEST_TIMEOUT_SECONDS
    assert 0 < to_connect <= 10
    assert 0 < to_answer <= 120


def test_another_server_is_told_from_a_ray_cluster(prefect_api: str, ray_head: RayHead) -> None:
    with pytest.raises(ConfigError, match="not Ray's Jobs API"):
        connect(ClusterAccess(prefect_api.removesuffix("/api")))  # it has /api/version, too


def test_variables_that_would_lead_ray_elsewhere_do_not(ray_head: RayHead, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, NOBODY)
    connect(ClusterAccess(ray_head.address))
    assert os.environ["RAY_ADDRESS"] == os.environ["RAY_API_SERVER_ADDRESS"] == NOBODY


def test_a_cluster_with_a_token_lets_in_who_has_it_and_refuses_others() -> None:
    with running_ray_head(token=TOKEN) as head:
        assert check_cluster(ClusterAccess(head.address, TOKEN)) == ray.__version__
        for token in (None, "b" * 40):
            with pytest.raises(StoreError, match=r"refuses.*ray-cluster block") as caught:
                check_cluster(ClusterAccess(head.address, token))
            assert "b" * 40 not in str(caught.value)
            with pytest.raises(StoreError):
                run(ClusterAccess(head.address, token))


def test_an_error_of_the_cluster_is_no_missing_job_whatever_numbers_it_names(run_id: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/api/version"
            self.send_response(200 if known else 500)
            self.end_headers()
            self.wfile.write(f'{{"ray_version": "{ray.__version__}"}}'.encode() if known else self.path.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.raises(TransientError, match="status code 500"):
            run_ray_job(ClusterAccess(f"http://127.0.0.1:{server.server_port}"), run_id, [], print)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_travels_is_small(tmp_path: Path) -> None:
    environment = runtime_env(ClusterAccess(NOBODY))
    assert set(environment) == {"py_modules", "excludes"}  # no variable, which the dashboard would show
    package = tmp_path / "package.zip"
    create_package(*environment["py_modules"], package, include_gitignore=True, excludes=environment["excludes"])
    assert package.stat().st_size < MOST_SENT_BYTES
    assert runtime_env(ClusterAccess(NOBODY, code="installed")) == {}


def test_the_first_python_that_can_is_taken_wherever_the_head_was_started(tmp_path: Path) -> None:
    """A relative command means the folder that the job begins in, though the program runs in another."""
    able = tmp_path / "bin" / "python"
    able.parent.mkdir()
    able.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exit 0\n{sys.executable} -c "import os; print(os.getcwd())"\necho "$@"'
    )
    able.chmod(0o755)
    line = entrypoint(ClusterAccess(NOBODY, python="bin/python"), ["a b"], modules=[["no_such_module"], ["sys"]])
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["/", "a b"]


def test_where_no_python_can_it_says_what_was_tried(tmp_path: Path) -> None:
    line = entrypoint(ClusterAccess(NOBODY, python="no-such-python"), [], modules=[["ray"], ["no_such_module"]])
    path = {"PATH": str(tmp_path)}
    done = subprocess.run(
        ["/bin/sh", "-c", line.replace(sys.executable, "none")],
        capture_output=True,
        text=True,
        env=path,
        check=False,
    )
    assert done.returncode == 1
    assert "no Python with no_such_module on this node: tried no-such-python python3" in done.stderr
