"""check: stores and Ray cluster answer, before any work; a typing error is not found out after the download."""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from blocks.dataset_store import store_access
from blocks.ray_cluster import cluster_access
from tasks.ray_job import check_cluster


@task(name="check", cache_policy=NO_CACHE, persist_result=False)
def check(store: str, raw_store: str, ray: str) -> None:
    """One cheap request to each part that the run needs.

    Args:
        store: Folder, URL or `block:NAME` of the finished data.
        raw_store: Likewise of the raw data.
        ray: `local`, an address, or `block:NAME`.
    """
    logger = get_run_logger()
    for reference in dict.fromkeys((raw_store, store)):
        opened = store_access(reference).open()
        opened.check_access()
        logger.info("store %s answers", opened.url)
    cluster = cluster_access(ray)
    if not cluster.is_local:
        logger.info("Ray %s answers at %s", check_cluster(cluster), cluster.address)
