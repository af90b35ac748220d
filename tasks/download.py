"""download: a source archive onto the flow's disk; wraps `imageshards.fetch`."""

from __future__ import annotations

import os
from pathlib import Path

from prefect import get_run_logger, task

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
"""`fetch` itself tries each address several times, with growing pauses."""


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
