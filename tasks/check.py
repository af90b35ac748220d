"""check: stores and Ray cluster answer, before any work; a typing error is not found out after the download.

check cluster: what is installed on the cluster fits, before work is handed to it.
"""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from blocks.dataset_store import store_access
from blocks.ray_cluster import cluster_access
from imageshards.recipe import Recipe
from tasks.policies import TASK_OPTIONS
from tasks.ray_versions import check_cluster, check_versions
from tasks.stages import stage


@task(name="check", cache_policy=NO_CACHE, persist_result=False)
def check(store: str, raw_store: str, ray: str) -> None:
    """One cheap request to each part that the run needs.

    Args:
        store: Folder, URL or `block:NAME` of the finished data.
        raw_store: Likewise of the raw data.
        ray: `local`, an address, or `block:NAME`.
    """
    logger = get_run_logger()
    with stage("check"):
        for reference in dict.fromkeys((raw_store, store)):
            opened = store_access(reference).open()
            opened.check_access()
            logger.info("store %s answers", opened.url)
        cluster = cluster_access(ray)
        if not cluster.is_local:
            logger.info("Ray %s answers at %s", check_cluster(cluster), cluster.address)


@task(name="check cluster", **TASK_OPTIONS)
def check_cluster_versions(ray: str, recipe: Recipe | None = None) -> None:
    """Find out whether the Ray cluster can do the work: versions, packages, our formats. Nothing to do for `local`.

    Takes 2 to 5 s, for it runs a small job there; called only when there is something to build.

    Args:
        ray: `local`, an address, or `block:NAME`.
        recipe: What is done to pixels; some recipes need more packages than others.
    """
    cluster = cluster_access(ray)
    if cluster.is_local:
        return
    logger = get_run_logger()
    with stage("check-cluster"):
        found = check_versions(cluster, str(flow_run.id), recipe)
    logger.info("Ray cluster %s fits: Python %s, Ray %s", cluster.address, found.python, found.ray)
    for warning in found.warnings:
        logger.warning("%s", warning)
