"""The driver as a job of a real Ray cluster: submitted once, waited for, found again, stopped.

Most jobs here run a shell command in the place of the driver, by way of a `python` that runs what it is given.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import ray
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from blocks.ray_cluster import ClusterAccess
from imageshards.errors import ConfigError, ImageShardsError, StoreError, TransientError
from tasks import ray_job
from tasks.ray_job import check_cluster, run_ray_job, stop_ray_jobs
from tests.processes import wait_until
from tests.ray_head import RayHead, running_ray_head
from tests.tasks.relay import relay_to

NOBODY = "http://127.0.0.1:1"
TOKEN = "a-token-nobody-may-see-0123456789abcdef"
JOB_SECONDS = 60
SOON_SECONDS = 10
SLEEP = ["sleep", "60"]


@pytest.fixture(scope="session")
def cluster(ray_head: RayHead, tmp_path_factory: pytest.TempPathFactory) -> ClusterAccess:
    """The cluster, with a Python that has all it needs, and runs the driver's arguments as a command."""
    python = tmp_path_factory.mktemp("python") / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\nshift 2\nexec "$@"\n')
    python.chmod(0o755)
    return ClusterAccess(ray_head.address, python=str(python))


@pytest.fixture
def run_id() -> str:
    """The id of a flow run; as luck would have it, with the number of an HTTP status in it."""
    return f"404-401-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def jobs(ray_head: RayHead, run_id: str) -> Iterator[Callable[[], list[JobDetails]]]:
    """What the cluster knows of the run's jobs, in the order of their ids; they are stopped in the end."""
    client = JobSubmissionClient(ray_head.address)

    def find() -> list[JobDetails]:
        found = [job for job in client.list_jobs() if job.submission_id and run_id in job.submission_id]
        return sorted(found, key=lambda job: job.submission_id or "")

    yield find
    for job in find():
        if not job.status.is_terminal():
            client.stop_job(job.submission_id or "")


def is_running(jobs: Callable[[], list[JobDetails]]) -> bool:
    return wait_until(lambda: [job for job in jobs() if job.status == JobStatus.RUNNING], timeout_seconds=JOB_SECONDS)


def run(cluster: ClusterAccess, run_id: str, *command: str) -> list[str]:
    """Run a command as a job; what it said, without what Ray says before."""
    lines: list[str] = []
    run_ray_job(cluster, run_id, list(command), lines.append)
    return [line for line in lines if "job_manager.py" not in line and not line.startswith("Running entrypoint")]


def test_arguments_reach_the_driver_as_they_are_and_each_line_comes_back_once(
    cluster: ClusterAccess, run_id: str
) -> None:
    strange = ["a b", "it's", "$HOME", '"', "*", "a;b", "--x=é"]
    script = 'printf "%s\\n" "$@"; printf tw; sleep 1.5; printf "o\\nthree"'
    assert run(cluster, run_id, "sh", "-c", script, "sh", *strange) == [*strange, "two", "three"]


def test_a_task_that_is_tried_again_attaches_to_the_job_of_its_predecessor(
    cluster: ClusterAccess, run_id: str, jobs: Callable[[], list[JobDetails]]
) -> None:
    script = ("sh", "-c", "echo first; sleep 2; echo last")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run, cluster, run_id, *script)
        assert is_running(jobs)
        assert run(cluster, run_id, *script) == ["first", "last"]
        assert first.result() == ["first", "last"]
    assert run(cluster, run_id, *script) == ["first", "last"]  # to one that is done, too
    assert [job.submission_id for job in jobs()] == [f"imageshards-{run_id}-1"]


def test_two_at_once_are_one_job(cluster: ClusterAccess, run_id: str, jobs: Callable[[], list[JobDetails]]) -> None:
    """Of two who submit in the same moment one may be refused; it attaches when it is tried again."""
    ready = threading.Barrier(2)

    def attempt() -> bool:
        ready.wait()
        try:
            return run(cluster, run_id, "echo", "done") == ["done"]
        except TransientError:
            return run(cluster, run_id, "echo", "done") == ["done"]

    with ThreadPoolExecutor(2) as pool:
        assert [future.result() for future in [pool.submit(attempt) for _ in range(2)]] == [True, True]
    assert len(jobs()) == 1


def test_a_failed_driver_is_an_error_for_good_and_a_killed_one_in_a_job_of_its_own_transient(
    cluster: ClusterAccess, run_id: str, jobs: Callable[[], list[JobDetails]]
) -> None:
    with pytest.raises(ImageShardsError, match="ended as FAILED") as caught:
        run(cluster, run_id, "sh", "-c", "exit 3")
    assert type(caught.value) is ImageShardsError
    assert caught.value.context["job_id"] == f"imageshards-{run_id}-1"
    with pytest.raises(TransientError, match="ended as FAILED"):
        run(cluster, run_id, "sh", "-c", "kill -9 $$")
    assert [job.submission_id for job in jobs()] == [f"imageshards-{run_id}-{number}" for number in (1, 2)]


def test_stopping_ends_what_runs_and_says_what_it_was(
    cluster: ClusterAccess, run_id: str, jobs: Callable[[], list[JobDetails]]
) -> None:
    assert stop_ray_jobs(cluster, run_id) == []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run, cluster, run_id, *SLEEP)
        assert is_running(jobs)
        assert stop_ray_jobs(cluster, run_id) == [f"imageshards-{run_id}-1"]
        assert [job.status for job in jobs()] == [JobStatus.STOPPED]
        with pytest.raises(TransientError, match="ended as STOPPED"):
            waiting.result(timeout=SOON_SECONDS)
    assert stop_ray_jobs(cluster, run_id) == []


def test_when_the_waiting_task_is_interrupted_the_job_is_stopped(
    cluster: ClusterAccess, run_id: str, jobs: Callable[[], list[JobDetails]]
) -> None:
    def interrupt() -> None:
        if is_running(jobs):
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run(cluster, run_id, *SLEEP)
    assert [job.status for job in jobs()] == [JobStatus.STOPPED]


def test_an_outage_is_waited_for_and_a_long_one_is_transient_and_leaves_the_job(
    cluster: ClusterAccess,
    run_id: str,
    jobs: Callable[[], list[JobDetails]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with relay_to(cluster.address) as relay, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run, ClusterAccess(relay.address, python=cluster.python), run_id, *SLEEP)
        assert is_running(jobs)
        relay.open = False
        time.sleep(1.5)
        relay.open = True
        time.sleep(1.5)
        assert not waiting.done()
        monkeypatch.setattr(ray_job, "OUTAGE_SECONDS", 1.0)
        relay.open = False
        with pytest.raises(TransientError, match="did not answer for 1 s"):
            waiting.result(timeout=JOB_SECONDS)
    assert [job.status for job in jobs()] == [JobStatus.RUNNING]


@pytest.mark.parametrize(
    "call", [check_cluster, lambda cluster: run(cluster, "x"), lambda cluster: stop_ray_jobs(cluster, "x")]
)
def test_where_nothing_listens_it_says_so_quickly(call: Callable[[ClusterAccess], Any]) -> None:
    started = time.monotonic()
    with pytest.raises(TransientError, match=f"no Ray cluster answers at {NOBODY}.*check the address"):
        call(ClusterAccess(NOBODY))
    assert time.monotonic() - started < SOON_SECONDS


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_job, "REQUEST_TIMEOUT_SECONDS", (1, 1))
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(TransientError, match="no Ray cluster answers"),
    ):
        check_cluster(ClusterAccess(f"http://127.0.0.1:{silent.getsockname()[1]}"))


def test_the_time_for_a_request_is_limited() -> None:
    connect, answer = ray_job.REQUEST_TIMEOUT_SECONDS
    assert 0 < connect <= 10
    assert 0 < answer <= 120


def test_another_server_is_told_from_a_ray_cluster(prefect_api: str, ray_head: RayHead) -> None:
    with pytest.raises(ConfigError, match="not Ray's Jobs API"):
        check_cluster(ClusterAccess(prefect_api.removesuffix("/api")))  # it has /api/version, too


def test_a_cluster_answers_with_its_version_which_must_be_ours(
    ray_head: RayHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_cluster(ClusterAccess(ray_head.address)) == ray.__version__
    monkeypatch.setattr(ray, "__version__", "2.0.1")
    with pytest.raises(ConfigError, match=r"this installation has 2\.0\.1"):
        check_cluster(ClusterAccess(ray_head.address))


def test_variables_that_would_lead_ray_elsewhere_do_not(ray_head: RayHead, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, NOBODY)
    check_cluster(ClusterAccess(ray_head.address))
    assert os.environ["RAY_ADDRESS"] == os.environ["RAY_API_SERVER_ADDRESS"] == NOBODY


def test_a_cluster_with_a_token_lets_in_who_has_it_and_refuses_others() -> None:
    with running_ray_head(token=TOKEN) as head:
        assert check_cluster(ClusterAccess(head.address, TOKEN)) == ray.__version__
        for token in (None, "b" * 40):
            with pytest.raises(StoreError, match=r"refuses.*ray-cluster block") as caught:
                check_cluster(ClusterAccess(head.address, token))
            assert "b" * 40 not in str(caught.value)
            with pytest.raises(StoreError):
                run(ClusterAccess(head.address, token), "x")


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
            run(ClusterAccess(f"http://127.0.0.1:{server.server_port}"), run_id)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
