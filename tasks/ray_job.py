"""Runs the driver as a job of a Ray cluster, over its Jobs API.

A job's id follows from the flow run alone, so that a task that is tried again finds the job of its predecessor and
waits for it, and a hook in another process finds it to stop it. Its metadata say which dataset it writes, so that a
later run finds what an earlier one left behind.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from blocks.ray_cluster import ClusterAccess
from imageshards.errors import ImageShardsError, TransientError
from tasks.ray_api import DRIVER_MODULES, LIVE, connect, entrypoint, job_status, ray_errors, runtime_env, stop_jobs

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

FIRST_POLL_SECONDS = 0.5
LONGEST_POLL_SECONDS = 5.0

RUN_KEY, STORE_KEY, DATASET_KEY = "imageshards_run", "imageshards_store", "imageshards_dataset"
WORK_KEY = "imageshards_work"

PROBE_ID = re.compile(r"imageshards-(?P<run>.+)-probe-(?P<number>\d+)")
"""Ids of the jobs that look at what is installed, see `tasks.ray_versions`."""

_MAX_JOBS = 20
_EXIT_BY_SIGNAL = 128
"""And the signal's number: the exit status of a program that caught it and cleaned up."""


def job_metadata(run_id: str, *, store_url: str, dataset: str, work: str = "") -> dict[str, str]:
    """What a job tells about itself, on the dashboard, to `stop_orphans`, and to a later attempt of its run.

    Args:
        run_id: Id of the flow run.
        store_url: The store's URL, which holds no secret.
        dataset: Name of the dataset.
        work: The same for jobs that do the same.
    """
    return {RUN_KEY: run_id, STORE_KEY: store_url, DATASET_KEY: dataset, WORK_KEY: work}


def run_ray_job(
    cluster: ClusterAccess,
    run_id: str,
    arguments: list[str],
    on_line: Callable[[str], None],
    *,
    metadata: Mapping[str, str] | None = None,
    has_result: Callable[[], bool] = lambda: True,
) -> None:
    """Submit the driver, or attach to the job that this flow run submitted before, and wait for its end.

    Args:
        cluster: The cluster.
        run_id: Id of the flow run.
        arguments: The driver's arguments; they are shown on the cluster's dashboard.
        on_line: Gets each line of the driver's output.
        metadata: See `job_metadata`; shown on the cluster's dashboard.
        has_result: Whether what a job that succeeded has left still lies there. A flow run that is started again as a
            whole finds its job of the first time, whose result was used up: that one is run anew.

    Raises:
        TransientError: The cluster was out of reach for long, or lost the job, or killed it.
        ImageShardsError: A person stopped the job, or the driver ended with an error; where that is one of ours, its
            output tells which.
    """
    client = connect(cluster)
    job_id = _submit_or_attach(client, cluster, run_id, arguments, dict(metadata or {}), has_result)
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
        with ray_errors(cluster):
            info = client.get_job_info(job_id)
        raise _failure(cluster, info, status)


def stop_ray_jobs(cluster: ClusterAccess, run_id: str) -> list[str]:
    """Stop what a flow run left running on the cluster, and wait until it has stopped; returns the jobs' ids.

    Raises:
        TransientError: The cluster does not answer, or a job still runs after 15 s.
    """
    client = connect(cluster)
    with ray_errors(cluster):
        jobs = client.list_jobs()
    ours = re.compile(rf"imageshards-{re.escape(run_id)}-(probe-)?\d+")
    live = sorted(
        job.submission_id
        for job in jobs
        if job.submission_id and ours.fullmatch(job.submission_id) and str(job.status.value) in LIVE
    )
    stop_jobs(client, cluster, live)
    return live


def stop_orphans(cluster: ClusterAccess, *, store_url: str, dataset: str, run_id: str) -> list[str]:
    """Stop jobs of other flow runs that write the same dataset of the same store; returns their ids.

    Whoever holds the dataset's writer lock may do so: a job that a live run waits for is that run's own.

    Args:
        cluster: The cluster.
        store_url: The store's URL, as `job_metadata` got it.
        dataset: Name of the dataset.
        run_id: Id of this flow run, whose own jobs are left alone.

    Raises:
        TransientError: The cluster does not answer, or a job still runs after 15 s.
    """
    wanted = job_metadata(run_id, store_url=store_url, dataset=dataset)
    client = connect(cluster)
    with ray_errors(cluster):
        jobs = client.list_jobs()
    orphans = [job.submission_id for job in jobs if job.submission_id and _is_orphan(job, wanted)]
    stop_jobs(client, cluster, orphans)
    return orphans


def _is_orphan(job: JobDetails, wanted: Mapping[str, str]) -> bool:
    found = job.metadata or {}
    same = all(found.get(key) == wanted[key] for key in (STORE_KEY, DATASET_KEY))
    return str(job.status.value) in LIVE and same and found.get(RUN_KEY) != wanted[RUN_KEY]


def _job_ids(run_id: str) -> list[str]:
    return [f"imageshards-{run_id}-{attempt}" for attempt in range(1, _MAX_JOBS + 1)]


def _submit_or_attach(
    client: JobSubmissionClient,
    cluster: ClusterAccess,
    run_id: str,
    arguments: list[str],
    metadata: dict[str, str],
    has_result: Callable[[], bool],
) -> str:
    for job_id in _job_ids(run_id):
        with ray_errors(cluster):
            status = job_status(client, job_id)
            found = client.get_job_info(job_id).metadata or {} if status in (*LIVE, "SUCCEEDED") else {}
        if status is None:
            _submit(client, cluster, job_id, arguments, metadata)
            return job_id
        # A run that is started again as a whole may find another source, and have other work to do than its last job.
        if found.get(WORK_KEY) == metadata.get(WORK_KEY):
            if status in LIVE or (status == "SUCCEEDED" and has_result()):
                return job_id
        elif status in LIVE:
            stop_jobs(client, cluster, [job_id])
    raise TransientError(f"{_MAX_JOBS} Ray jobs of this flow run failed; look at their logs on {cluster.address}")


def _submit(
    client: JobSubmissionClient, cluster: ClusterAccess, job_id: str, arguments: list[str], metadata: dict[str, str]
) -> None:
    try:
        with ray_errors(cluster):
            client.submit_job(
                submission_id=job_id,
                entrypoint=entrypoint(cluster, ["-m", "imageshards.ray_driver", *arguments], modules=[DRIVER_MODULES]),
                entrypoint_num_cpus=cluster.driver_cpus or None,
                entrypoint_memory=cluster.driver_memory_bytes,
                runtime_env=runtime_env(cluster),
                metadata=metadata,
            )
    except TransientError:
        with ray_errors(cluster):
            if job_status(client, job_id) is None:
                raise
        # The answer was lost, or somebody else submitted the same job in the same moment: it is there.


def _wait(client: JobSubmissionClient, cluster: ClusterAccess, job_id: str, on_line: Callable[[str], None]) -> str:
    """Wait for the end of a job and hand on its output; tells its last status."""
    seen = 0
    pause = FIRST_POLL_SECONDS
    last_answer = time.monotonic()
    while True:
        try:
            with ray_errors(cluster):
                status = job_status(client, job_id)
                logs = "" if status is None else client.get_job_logs(job_id)
            last_answer = time.monotonic()
        except TransientError as error:
            if time.monotonic() - last_answer > cluster.outage_seconds:
                raise TransientError(
                    f"the Ray cluster at {cluster.address} did not answer for {cluster.outage_seconds:.0f} s "
                    f"while job {job_id} ran: {error.message}"
                ) from error
            status, logs = "RUNNING", ""
        complete = logs.rfind("\n") + 1 if status in LIVE else len(logs)
        for line in logs[seen:complete].splitlines():
            on_line(line)
        seen = max(seen, complete)
        if status is None:
            raise TransientError(
                f"the Ray cluster at {cluster.address} does not know job {job_id} any more: its head was started anew "
                "and knows no job; finished shards are kept, the rest is submitted again"
            )
        if status not in LIVE:
            return status
        time.sleep(pause)
        pause = min(pause * 1.2, LONGEST_POLL_SECONDS)


def _failure(cluster: ClusterAccess, info: JobDetails, status: str) -> ImageShardsError:
    """The error for a job that did not succeed: for good where trying again cannot help, or is not wanted."""
    job_id = info.submission_id
    if status == "STOPPED":
        return ImageShardsError(
            f"Ray job {job_id} on {cluster.address} was stopped, in Ray's dashboard or by another program; it is not "
            "started again by itself: run the flow again, finished shards are kept",
            job_id=job_id,
        )
    ended_itself = 0 < (info.driver_exit_code or 0) <= _EXIT_BY_SIGNAL
    kind = ImageShardsError if ended_itself else TransientError
    message = info.message or "no message"
    return kind(f"Ray job {job_id} on {cluster.address} ended as {status}: {message[-2000:]}", job_id=job_id)
