"""What the tests of Ray jobs share: a cluster that runs a command in the place of the driver, and its jobs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from ray.job_submission import JobDetails, JobSubmissionClient

from blocks.ray_cluster import ClusterAccess
from tests.ray_head import RayHead


@pytest.fixture(scope="session")
def command_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A `python` that has all it needs, and runs the driver's arguments as a command."""
    python = tmp_path_factory.mktemp("python") / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\nshift 2\nexec "$@"\n')
    python.chmod(0o755)
    return str(python)


@pytest.fixture
def cluster(ray_head: RayHead, command_python: str) -> ClusterAccess:
    """The cluster, which runs a command in the place of the driver."""
    return ClusterAccess(ray_head.address, python=command_python)


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
