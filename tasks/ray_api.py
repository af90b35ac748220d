"""The Jobs API of a Ray cluster: Ray's own client with limits, errors of ours, and how a program of ours is started."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageshards
from blocks.ray_cluster import ClusterAccess
from imageshards.errors import ConfigError, StoreError, TransientError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

REQUEST_TIMEOUT_SECONDS = (5, 60)
"""To connect, and to wait for an answer; Ray's own client has no limit."""

STOP_TIMEOUT_SECONDS = 15.0
STOP_POLL_SECONDS = 0.25

LIVE = ("PENDING", "RUNNING")

DRIVER_MODULES = ("ray", "obstore", "simplejpeg", "cykooz_resizer", "kornia_rs")
"""By these a Python that can run the driver is told from others on the same node."""

_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")

_HTTP_MISSING = re.compile(r"status code 404\b")
"""In the text of Ray's error, which is all that tells; the ids of jobs, in that text too, may hold any digits."""


def connect(cluster: ClusterAccess) -> JobSubmissionClient:
    """A client of the cluster's Jobs API.

    Raises:
        TransientError: Nothing answers.
        StoreError: The cluster refuses.
        ConfigError: What answers is no Ray cluster.
    """
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415 (heavy; only runs that use a cluster need it)

    class Client(JobSubmissionClient):
        """Ray's client with a limit to each request."""

        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": REQUEST_TIMEOUT_SECONDS, **options})

    headers = {"Authorization": f"Bearer {cluster.token}"} if cluster.token else None
    try:
        with ray_errors(cluster), _without(_ADDRESS_VARIABLES):
            return Client(cluster.address, headers=headers)
    except (LookupError, TypeError, ValueError) as error:  # it looks for Ray's version in whatever JSON it gets
        raise ConfigError(f"what answers at {cluster.address} is not Ray's Jobs API: check address and port") from error


@contextmanager
def ray_errors(cluster: ClusterAccess) -> Iterator[None]:
    """Turn errors of Ray's client into ours."""
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


def job_status(client: JobSubmissionClient, job_id: str) -> str | None:
    """The status of a job; None where the cluster knows no such job."""
    try:
        return str(client.get_job_status(job_id).value)
    except RuntimeError as error:
        if _HTTP_MISSING.search(str(error)):
            return None
        raise


def stop_jobs(client: JobSubmissionClient, cluster: ClusterAccess, job_ids: Sequence[str]) -> None:
    """Stop jobs and wait until they have stopped: the driver is gone then, and Ray ends its workers.

    Raises:
        TransientError: One still runs after 15 s.
    """
    with ray_errors(cluster):
        for job_id in job_ids:
            client.stop_job(job_id)
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        while live := [job_id for job_id in job_ids if job_status(client, job_id) in LIVE]:
            if time.monotonic() > deadline:
                raise TransientError(
                    f"Ray jobs {', '.join(live)} on {cluster.address} were told to stop and still run after "
                    f"{STOP_TIMEOUT_SECONDS:.0f} s: look at them in Ray's dashboard"
                )
            time.sleep(STOP_POLL_SECONDS)


def runtime_env(cluster: ClusterAccess) -> dict[str, Any]:
    """What travels with a job: the package imageshards as it is here, its templates included, or nothing.

    Ray uploads it once for each content (0.8 MB) and unpacks it on each node that runs a task. Nothing is excluded
    but byte code; no variable is set: Ray's dashboard would show it.
    """
    if cluster.code == "installed":
        return {}
    return {"py_modules": [str(Path(imageshards.__file__).parent)], "excludes": ["__pycache__", "*.pyc"]}


def entrypoint(cluster: ClusterAccess, arguments: Sequence[str], *, modules: Sequence[Sequence[str]]) -> str:
    """A shell line that runs the first Python of the head that has the modules.

    The head may have been started from a virtual environment that is not on its path: on the flow's own machine that
    is this one. It runs in `/`: a job begins where the head was started, and were that a checkout, Python and Ray would
    import imageshards from it, in driver and workers alike.

    Args:
        cluster: The cluster.
        arguments: What that Python is given.
        modules: Sets of modules, of which one must be there: those of the first are looked for first.
    """
    candidates = " ".join(shlex.quote(python) for python in dict.fromkeys((cluster.python, "python3", sys.executable)))
    lines = [_search(candidates, needed, arguments) for needed in modules]
    missing = f"no Python with {' '.join(modules[-1])} on this node: tried {candidates}"
    return "".join(lines) + f"echo {shlex.quote(missing)} >&2; exit 1"


def _search(candidates: str, needed: Sequence[str], arguments: Sequence[str]) -> str:
    probe = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {tuple(needed)})))"
    return (
        f"for python in {candidates}; do "
        f'if "$python" -c {shlex.quote(probe)} 2>/dev/null; then '
        'case "$python" in /*) ;; */*) python="$PWD/$python" ;; esac; '
        f'cd / && exec "$python" {shlex.join(arguments)}; fi; done; '
    )


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
