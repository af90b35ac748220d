"""upload: both archives into the raw store, and the index; wraps `imageshards.upload`."""

from __future__ import annotations

from prefect import get_run_logger, task

from blocks.dataset_store import store_access
from imageshards.fetch import Fetched
from imageshards.index import IndexInfo
from imageshards.sources import remember_sources
from imageshards.upload import upload as upload_archives
from tasks.policies import TASK_OPTIONS
from tasks.progress import step_progress
from tasks.stages import stage


@task(name="upload", **TASK_OPTIONS)
def upload(images: Fetched, annotations: Fetched, raw_store: str, dataset: str) -> IndexInfo:
    """Bring both archives into the raw store, skipping what is there, and write the index.

    Args:
        images: The images archive.
        annotations: The annotations archive.
        raw_store: Folder, URL or `block:NAME`.
        dataset: Name of the dataset.
    """
    logger = get_run_logger()
    store = store_access(raw_store).open()
    with stage("upload") as report:
        with step_progress("upload", "images", logger) as progress:
            uploaded = upload_archives(images, annotations, store, dataset=dataset, on_progress=progress)
        remember_sources(store, dataset, {"images": images, "annotations": annotations})
        report.count(
            images=uploaded.index.images,
            written=uploaded.written,
            skipped=uploaded.skipped,
            bytes=uploaded.written_bytes,
        )
    return uploaded.index
