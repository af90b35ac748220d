"""The driver as a job of a real Ray cluster: submitted once, waited for, found again, stopped.

Most jobs here run a shell command in the place of the driver, by way of a `python` that runs what it is given.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import imageshards
from blocks.ray_cluster import ClusterAccess
from imageshards.errors import ImageShardsError, TransientError
from imageshards.sample import SampleSpec, write_sample
from tasks.ray_job import job_metadata, run_ray_job, stop_orphans, stop_ray_jobs
from tests.processes import processes_with, wait_until
from tests.ray_head import RayHead
from tests.tasks.jobs import write_endless_job
from tests.tasks.relay import relay_to

JOB_SECONDS = 60
SOON_SECONDS = 10
CANCEL_SECONDS = 15
SLEEP = ["sleep", "60"]


def is_running(jobs: Callable[[], list[JobDetails]]) -> bool:
    return wait_until(lambda: [job for job in jobs() if job.status == JobStatus.RUNNING], timeout_seconds=JOB_SECONDS)


def run(cluster: ClusterAccess, run_id: str, *command: str) -> list[str]:
    """Run a command as a job; what it said, without what Ray says before."""
    lines: list[str] = []
    run_ray_job(cluster, run_id, list(command), lines.append)
    return own(lines)


def own(lines: list[str]) -> list[str]:
    """What a job said itself; Ray's line may come before or after it."""
    return [line for line in lines if "job_manager.py" not in line and not line.startswith("Running entrypoint")]


def test_arguments_reach_the_driver_as_they_are_and_each_line_comes_back_once(
    cluster: ClusterAccess, run_id: str
) -> None:
    strange = ["a b", "it's", "$HOME", '"', "*", "a;b", "--x=é"]
    # Ray writes a line of its own into the same file, at the start as a rule: it must not come amid one of these.
    script = 'sleep 1; printf "%s\\n" "$@"; printf tw; sleep 1.5; printf "o\\nthree"'
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


def test_a_run_with_other_work_to_do_takes_no_job_of_its_earlier_attempt_for_its_own(
    cluster: ClusterAccess, run_id: str, jobs: Callable[[], list[JobDetails]]
) -> None:
    def attempt(work: str, *command: str) -> list[str]:
        lines: list[str] = []
        metadata = job_metadata(run_id, store_url="s3://a", dataset="pets", work=work)
        run_ray_job(cluster, run_id, list(command), lines.append, metadata=metadata)
        return own(lines)

    assert attempt("one", "echo", "first") == ["first"]
    assert attempt("one", "echo", "second") == ["first"]
    assert attempt("two", "echo", "third") == ["third"]
    with ThreadPoolExecutor(1) as pool:
        live = pool.submit(attempt, "three", *SLEEP)
        assert is_running(jobs)
        assert attempt("four", "echo", "last") == ["last"]
        with pytest.raises(ImageShardsError, match="was stopped"):
            live.result(timeout=SOON_SECONDS)
    assert [job.status.value for job in jobs()] == ["SUCCEEDED", "SUCCEEDED", "STOPPED", "SUCCEEDED"]


def test_two_at_once_are_one_job(cluster: ClusterAccess, run_id: str, jobs: Callable[[], list[JobDetails]]) -> None:
    """Of two who submit in the same moment Ray refuses one, which then attaches."""
    ready = threading.Barrier(2)

    def attempt() -> bool:
        ready.wait()
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
    with pytest.raises(TransientError, match="ended as FAILED"):  # as the driver does that is told to end
        run(cluster, run_id, "sh", "-c", "exit 143")
    assert [job.submission_id for job in jobs()] == [f"imageshards-{run_id}-{number}" for number in (1, 2, 3)]


def test_stopping_ends_what_runs_and_says_what_it_was(
    cluster: ClusterAccess, run_id: str, jobs: Callable[[], list[JobDetails]]
) -> None:
    assert stop_ray_jobs(cluster, run_id) == []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run, cluster, run_id, *SLEEP)
        assert is_running(jobs)
        assert stop_ray_jobs(cluster, run_id) == [f"imageshards-{run_id}-1"]
        assert [job.status for job in jobs()] == [JobStatus.STOPPED]
        with pytest.raises(ImageShardsError, match="was stopped, in Ray's dashboard") as caught:
            waiting.result(timeout=SOON_SECONDS)
        assert type(caught.value) is ImageShardsError  # a person's will: not tried again
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
    cluster: ClusterAccess, run_id: str, jobs: Callable[[], list[JobDetails]]
) -> None:
    with relay_to(cluster.address) as relay, ThreadPoolExecutor(2) as pool:
        patient = replace(cluster, address=relay.address)
        waiting = pool.submit(run, patient, run_id, *SLEEP)
        assert is_running(jobs)
        hasty = pool.submit(run, replace(patient, outage_seconds=1.0), run_id, *SLEEP)
        time.sleep(1.0)
        relay.open = False
        with pytest.raises(TransientError, match="did not answer for 1 s"):
            hasty.result(timeout=JOB_SECONDS)
        relay.open = True
        time.sleep(1.5)
        assert not waiting.done()
        assert [job.status for job in jobs()] == [JobStatus.RUNNING]
        stop_ray_jobs(cluster, run_id)
        with pytest.raises(ImageShardsError, match="was stopped"):
            waiting.result(timeout=JOB_SECONDS)


def test_a_job_whose_result_was_used_up_is_run_anew(
    cluster: ClusterAccess, run_id: str, jobs: Callable[[], list[JobDetails]]
) -> None:
    """A flow run that Prefect starts again as a whole has the same id."""
    lines: list[str] = []
    for has_result in (True, True, False):
        run_ray_job(cluster, run_id, ["echo", "done"], lines.append, has_result=lambda known=has_result: known)
    assert [job.submission_id for job in jobs()] == [f"imageshards-{run_id}-{number}" for number in (1, 2)]


def test_orphans_of_the_same_dataset_are_stopped_and_no_other_job(
    cluster: ClusterAccess, run_id: str, ray_head: RayHead, jobs: Callable[[], list[JobDetails]]
) -> None:
    client = JobSubmissionClient(ray_head.address)
    mine = {"store_url": f"s3://{run_id}/a", "dataset": "pets"}
    others = {
        "orphan": job_metadata("gone", **mine),
        "own": job_metadata(run_id, **mine),
        "store": job_metadata("gone", store_url="s3://b", dataset="pets"),
        "dataset": job_metadata("gone", store_url=mine["store_url"], dataset="birds"),
        "foreign": None,
    }
    for name, metadata in others.items():
        client.submit_job(entrypoint="sleep 60", submission_id=f"{run_id}-{name}", metadata=metadata)
    assert stop_orphans(cluster, **mine, run_id=run_id) == [f"{run_id}-orphan"]
    stopped = {job.submission_id for job in jobs() if job.status == JobStatus.STOPPED}
    assert stopped == {f"{run_id}-orphan"}
    assert stop_orphans(cluster, **mine, run_id=run_id) == []


def test_a_job_tells_whose_it_is(cluster: ClusterAccess, run_id: str, jobs: Callable[[], list[JobDetails]]) -> None:
    metadata = job_metadata(run_id, store_url="s3://bucket/a", dataset="pets")
    run_ray_job(cluster, run_id, ["true"], print, metadata=metadata)
    (job,) = jobs()
    assert metadata.items() <= (job.metadata or {}).items()


LOOK = """
import json, pathlib, imageshards
folder = pathlib.Path(imageshards.__file__).parent
files = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
print(json.dumps([str(folder), files]))
"""


def test_the_whole_package_travels_and_wins_over_a_checkout_that_the_head_was_started_in(
    cluster: ClusterAccess, run_id: str
) -> None:
    here = Path(imageshards.__file__).parent
    assert here.parent == Path.cwd(), "the head of the tests is started in the checkout"
    folder, files = json.loads(run(cluster, run_id, sys.executable, "-c", LOOK)[-1])
    assert Path(folder) != here
    sent = {name: size for name, size in files.items() if "__pycache__" not in name}
    assert sent == {
        str(path.relative_to(here)): path.stat().st_size
        for path in here.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "templates/report.html.jinja" in sent


def test_where_the_image_has_the_code_nothing_is_sent(
    cluster: ClusterAccess, run_id: str, jobs: Callable[[], list[JobDetails]]
) -> None:
    installed = replace(cluster, code="installed")
    folder, _ = json.loads(run(installed, run_id, sys.executable, "-c", LOOK)[-1])
    assert folder == str(Path(imageshards.__file__).parent)  # where this environment has it installed
    (job,) = jobs()
    assert "py_modules" not in (job.runtime_env or {})


def test_a_stopped_driver_leaves_no_process_on_the_cluster(ray_head: RayHead, run_id: str, tmp_path: Path) -> None:
    arguments = write_endless_job(
        tmp_path / "store",
        write_sample(tmp_path / "sample", SampleSpec(per_class=2, median_long_side_px=120, faults=False)),
    )
    cluster = ClusterAccess(ray_head.address, python=sys.executable)

    def works() -> list[str]:
        """Commands of the driver, and of workers inside a task of ours."""
        found = [process.command for process in processes_with("RAY_AUTH_MODE", "disabled")]
        return [each for each in found if each.startswith("ray::run_") or arguments[1] in each]

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run, cluster, run_id, *arguments)
        assert wait_until(lambda: any("run_build" in each for each in works()), timeout_seconds=JOB_SECONDS)
        started = time.monotonic()
        stop_ray_jobs(cluster, run_id)
        assert wait_until(lambda: not works(), timeout_seconds=CANCEL_SECONDS - (time.monotonic() - started))
        with pytest.raises(ImageShardsError, match="was stopped"):
            waiting.result(timeout=SOON_SECONDS)
