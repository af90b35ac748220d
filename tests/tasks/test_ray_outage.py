"""A Ray head that dies and comes back empty, and one that does not come back."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from blocks.ray_cluster import ClusterAccess
from imageshards.errors import TransientError
from tasks.ray_job import run_ray_job
from tests.processes import processes_with, wait_until
from tests.ray_head import RayHead, running_ray_head

MARK = "IMAGESHARDS_TEST_OUTAGE"
JOB_SECONDS = 60
GONE_SECONDS = 30


def test_a_head_that_comes_back_empty_gets_the_job_anew_and_nothing_of_the_old_one_stays(
    command_python: str, run_id: str
) -> None:
    mark = f"{os.getpid()}-{run_id}"
    with running_ray_head(env={MARK: mark}) as head, ThreadPoolExecutor(2) as pool:
        cluster = ClusterAccess(head.address, python=command_python)
        hasty = ClusterAccess(head.address, python=command_python, outage_seconds=1.0)
        waiting = [pool.submit(run_ray_job, access, run_id, ["sleep", "60"], print) for access in (cluster, hasty)]
        assert wait_until(_is_running(head, run_id), timeout_seconds=JOB_SECONDS)
        head.kill()
        assert wait_until(lambda: not processes_with(MARK, mark), timeout_seconds=GONE_SECONDS)
        with pytest.raises(TransientError, match=r"did not answer for 1 s while job .* ran"):
            waiting[1].result(timeout=GONE_SECONDS)
        with running_ray_head(dashboard_port=urlsplit(head.address).port):
            with pytest.raises(TransientError, match="its head was started anew"):
                waiting[0].result(timeout=JOB_SECONDS)
            lines: list[str] = []
            run_ray_job(cluster, run_id, ["echo", "done"], lines.append)  # as the task does that is tried again
            assert "done" in lines


def _is_running(head: RayHead, run_id: str) -> Callable[[], bool]:
    client = JobSubmissionClient(head.address)
    wanted = f"imageshards-{run_id}-1"
    return lambda: any(job.submission_id == wanted and job.status == JobStatus.RUNNING for job in client.list_jobs())
