"""look: whether the source changed since the last run, without a download; wraps `imageshards.sources`."""

from __future__ import annotations

from prefect import get_run_logger, task

from blocks.dataset_store import store_access
from imageshards.fetch import Source
from imageshards.sources import Unchanged
from imageshards.sources import look as look_at_sources
from tasks.policies import TASK_OPTIONS
from tasks.stages import stage


@task(name="look", **TASK_OPTIONS)
def look(images: Source, annotations: Source, raw_store: str, dataset: str) -> Unchanged | None:
    """Ask for both archives conditionally; None where one has to be downloaded.

    Args:
        images: Where the images archive is, and what its digest must be.
        annotations: Likewise of the annotations archive.
        raw_store: Folder, URL or `block:NAME`.
        dataset: Name of the dataset.
    """
    found: list[str] = []
    with stage("look") as report:
        unchanged = look_at_sources(
            images,
            annotations,
            store_access(raw_store).open(),
            dataset=dataset,
            on_finding=lambda what, reason: found.append(f"{what} {reason}"),
        )
        report.note(source="may have changed" if unchanged is None else "unchanged")
    get_run_logger().info("%s: %s", "to be downloaded" if unchanged is None else "nothing new", ", ".join(found))
    return unchanged
