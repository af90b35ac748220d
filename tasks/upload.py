"""upload: both archives into the raw store, and the index; wraps `imageshards.upload`."""

from __future__ import annotations

from prefect import get_run_logger, task

from blocks.dataset_store import store_access
from imageshards.fetch import Fetched
from imageshards.index import IndexInfo
from imageshards.upload import upload as upload_archives
from tasks.policies import TASK_OPTIONS
from tasks.progress import step_progress


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
    with step_progress("upload", "images", logger) as progress:
        uploaded = upload_archives(images, annotations, store, dataset=dataset, on_progress=progress)
    logger.info(
        "upload: %d images in the index, %d objects written (%s bytes), %d there already",
        uploaded.index.images,
        uploaded.written,
        f"{uploaded.written_bytes:,}",
        uploaded.skipped,
    )
    return uploaded.index
