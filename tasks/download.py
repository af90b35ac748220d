"""download: a source archive onto the flow's disk; wraps `imageshards.fetch`."""

from __future__ import annotations

import os
from pathlib import Path

from prefect import get_run_logger, task
from prefect.runtime import deployment
from prefect.tasks import Task

from imageshards.fetch import Fetched, Source, fetch
from tasks.policies import TASK_OPTIONS
from tasks.progress import step_progress
from tasks.stages import stage


def cache_folder() -> Path:
    """Where downloads are kept: IMAGESHARDS_CACHE, else `imageshards` in the user's cache folder."""
    if named := os.environ.get("IMAGESHARDS_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imageshards"


RETRIES = 1
"""`fetch` itself tries each address several times, with growing pauses: a quarter of a minute in all."""

PATIENT_PAUSES_SECONDS = (60.0, 300.0, 900.0)
"""Before further tries of a run that nobody sits before: a source that is down at two is often up at half past."""


@task(name="download", task_run_name="download {what}", **{**TASK_OPTIONS, "retries": RETRIES})
def download(what: str, source: Source) -> Fetched:
    """Fetch one archive, unless it is there already and right.

    Args:
        what: `images` or `annotations`, for names and messages.
        source: Where it is, and what its digest must be.
    """
    with stage("download", what=what) as report:
        with step_progress(f"download {what}", "bytes", get_run_logger()) as progress:
            fetched = fetch(source, cache_folder(), on_progress=progress)
        report.count(bytes=fetched.size_bytes)
        report.note(status=fetched.status, sha256=fetched.sha256)
    return fetched


def patient_download() -> Task[[str, Source], Fetched]:
    """`download`, with long pauses where the run belongs to a deployment; at a terminal a person wants to know soon."""
    if deployment.id is None:
        return download
    pauses = list(PATIENT_PAUSES_SECONDS)
    return download.with_options(retries=len(pauses), retry_delay_seconds=pauses)
