"""Runs the driver as a job of a Ray cluster, over its Jobs API.

A job's id follows from the flow run alone, so that a task that is tried again finds the job of its predecessor and
waits for it, and a hook in another process finds it to stop it.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageshards
from blocks.ray_cluster import ClusterAccess
from imageshards.errors import ConfigError, ImageShardsError, StoreError, TransientError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

REQUEST_TIMEOUT_SECONDS = (5, 60)
"""To connect, and to wait for an answer; Ray's own client has no limit."""

FIRST_POLL_SECONDS = 0.5
LONGEST_POLL_SECONDS = 5.0
STOP_TIMEOUT_SECONDS = 15.0
OUTAGE_SECONDS = 120.0
"""How long a cluster may be out of reach before waiting for its job is given up."""

_MAX_JOBS = 20
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_LIVE = ("PENDING", "RUNNING")

_HTTP_MISSING = re.compile(r"status code 404\b")
"""In the text of Ray's error, which is all that tells; the ids of jobs, in that text too, may hold any digits."""


def check_cluster(cluster: ClusterAccess) -> str:
    """Ask the cluster for its version of Ray, which must be ours.

    Raises:
        TransientError: Nothing answers.
        StoreError: The cluster refuses.
        ConfigError: It runs another version of Ray.
    """
    import ray  # noqa: PLC0415 (heavy; only runs that use a cluster need it)

    with _ray_errors(cluster):
        found = str(_client(cluster)._do_request("GET", "/api/version").json()["ray_version"])
    if found != ray.__version__:
        raise ConfigError(
            f"the Ray cluster at {cluster.address} runs Ray {found}, this installation has {ray.__version__}: "
            "install the same version on both sides"
        )
    return found


def run_ray_job(cluster: ClusterAccess, run_id: str, arguments: list[str], on_line: Callable[[str], None]) -> None:
    """Submit the driver, or attach to the job that this flow run submitted before, and wait for its end.

    Args:
        cluster: The cluster.
        run_id: Id of the flow run.
        arguments: The driver's arguments; they are shown on the cluster's dashboard.
        on_line: Gets each line of the driver's output.

    Raises:
        TransientError: The cluster was out of reach for long, or the job was killed or stopped.
        ImageShardsError: The driver ended with an error; where that is one of ours, its output tells which.
    """
    client = _client(cluster)
    job_id = _submit_or_attach(client, cluster, run_id, arguments)
    try:
        status = _wait(client, cluster, job_id, on_line)
    except TransientError:
        raise  # the job goes on; the next attempt attaches to it
    except BaseException as error:
        try:
            stop_ray_jobs(cluster, run_id)
        except ImageShardsError as failure:  # what happened first is what counts
            error.add_note(f"Ray job {job_id} may still run: {failure.message}")
        raise
    if status != "SUCCEEDED":
        with _ray_errors(cluster):
            info = client.get_job_info(job_id)
        kind = ImageShardsError if (info.driver_exit_code or 0) > 0 else TransientError
        message = info.message or "no message"
        raise kind(f"Ray job {job_id} on {cluster.address} ended as {status}: {message[-2000:]}", job_id=job_id)


def stop_ray_jobs(cluster: ClusterAccess, run_id: str) -> list[str]:
    """Stop what a flow run left running on the cluster, and wait until it has stopped; returns the jobs' ids."""
    client = _client(cluster)
    with _ray_errors(cluster):
        live = [job_id for job_id in _job_ids(run_id) if _status(client, job_id) in _LIVE]
        for job_id in live:
            client.stop_job(job_id)
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        while time.monotonic() < deadline and any(_status(client, job_id) in _LIVE for job_id in live):
            time.sleep(FIRST_POLL_SECONDS)
    return live


def _job_ids(run_id: str) -> list[str]:
    return [f"imageshards-{run_id}-{attempt}" for attempt in range(1, _MAX_JOBS + 1)]


def _submit_or_attach(client: JobSubmissionClient, cluster: ClusterAccess, run_id: str, arguments: list[str]) -> str:
    for job_id in _job_ids(run_id):
        with _ray_errors(cluster):
            status = _status(client, job_id)
            if status is None:
                return client.submit_job(
                    submission_id=job_id,
                    entrypoint=_entrypoint(cluster, arguments),
                    entrypoint_num_cpus=cluster.driver_cpus or None,
                    entrypoint_memory=cluster.driver_memory_bytes,
                    runtime_env={
                        "py_modules": [str(Path(imageshards.__file__).parent)],
                        "excludes": ["__pycache__", "*.pyc"],
                    },
                )
        if status in (*_LIVE, "SUCCEEDED"):
            return job_id
    raise TransientError(f"{_MAX_JOBS} Ray jobs of this flow run failed; look at their logs on {cluster.address}")


def _entrypoint(cluster: ClusterAccess, arguments: list[str]) -> str:
    """A shell line that runs the driver with the first Python of the head that has Ray.

    The head may have been started from a virtual environment that is not on its path: on the flow's own machine that
    is this one.
    """
    candidates = " ".join(shlex.quote(python) for python in dict.fromkeys((cluster.python, "python3", sys.executable)))
    needed = ("ray", "obstore", "simplejpeg", "cykooz_resizer")
    probe = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {needed})))"
    driver = shlex.join(["-m", "imageshards.ray_driver", *arguments])
    return (
        f"for python in {candidates}; do "
        f'if "$python" -c {shlex.quote(probe)} 2>/dev/null; then exec "$python" {driver}; fi; done; '
        f"echo no Python with {' '.join(needed)} on this node: tried {candidates} >&2; exit 1"
    )


def _wait(client: JobSubmissionClient, cluster: ClusterAccess, job_id: str, on_line: Callable[[str], None]) -> str:
    """Wait for the end of a job and hand on its output; tells its last status."""
    seen = 0
    pause = FIRST_POLL_SECONDS
    last_answer = time.monotonic()
    while True:
        try:
            with _ray_errors(cluster):
                status = _status(client, job_id)
                logs = "" if status is None else client.get_job_logs(job_id)
            last_answer = time.monotonic()
        except TransientError as error:
            if time.monotonic() - last_answer > OUTAGE_SECONDS:
                raise TransientError(
                    f"the Ray cluster at {cluster.address} did not answer for {OUTAGE_SECONDS:.0f} s "
                    f"while job {job_id} ran: {error.message}"
                ) from error
            status, logs = "RUNNING", ""
        complete = logs.rfind("\n") + 1 if status in _LIVE else len(logs)
        for line in logs[seen:complete].splitlines():
            on_line(line)
        seen = max(seen, complete)
        if status is None:
            raise TransientError(
                f"the Ray cluster at {cluster.address} does not know job {job_id} any more: was it restarted?"
            )
        if status not in _LIVE:
            return status
        time.sleep(pause)
        pause = min(pause * 1.2, LONGEST_POLL_SECONDS)


def _status(client: JobSubmissionClient, job_id: str) -> str | None:
    """The status of a job; None where the cluster knows no such job."""
    try:
        return str(client.get_job_status(job_id).value)
    except RuntimeError as error:
        if _HTTP_MISSING.search(str(error)):
            return None
        raise


def _client(cluster: ClusterAccess) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415 (heavy; only runs that use a cluster need it)

    class Client(JobSubmissionClient):
        """Ray's client with a limit to each request."""

        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": REQUEST_TIMEOUT_SECONDS, **options})

    headers = {"Authorization": f"Bearer {cluster.token}"} if cluster.token else None
    try:
        with _ray_errors(cluster), _without(_ADDRESS_VARIABLES):
            return Client(cluster.address, headers=headers)
    except (LookupError, TypeError, ValueError) as error:  # it looks for Ray's version in whatever JSON it gets
        raise ConfigError(f"what answers at {cluster.address} is not Ray's Jobs API: check address and port") from error


@contextmanager
def _ray_errors(cluster: ClusterAccess) -> Iterator[None]:
    from ray.exceptions import AuthenticationError  # noqa: PLC0415 (heavy; only runs that use a cluster need it)

    try:
        yield
    except AuthenticationError as error:
        raise StoreError(
            f"the Ray cluster at {cluster.address} refuses: {_first_line(error)}; put its token into a "
            "ray-cluster block, or into RAY_AUTH_TOKEN"
        ) from error
    except RuntimeError as error:
        raise TransientError(
            f"the Ray cluster at {cluster.address} answers with an error: {str(error)[-2000:]}"
        ) from error
    except OSError as error:  # requests' and Ray's own ConnectionError among them
        raise TransientError(
            f"no Ray cluster answers at {cluster.address}: {_first_line(error)}; check the address "
            "(the Jobs API listens on the dashboard's port, 8265 by default) and that the head runs"
        ) from error


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Ray lets these variables override the address it is given."""
    held = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
