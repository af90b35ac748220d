"""preprocess: the heavy step, on Ray; hands a spec to `imageshards.ray_driver` and waits for its result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

from prefect import get_run_logger, task
from prefect.runtime import flow_run

from blocks.dataset_store import StoreAccess, store_access
from blocks.ray_cluster import ClusterAccess, cluster_access
from imageshards.errors import ImageShardsError, TransientError
from imageshards.index import IndexInfo
from imageshards.job import JobResult, JobSpec
from imageshards.recipe import Recipe
from imageshards.store import Store
from tasks.driver_lines import DriverOutput, Secrets
from tasks.local_ray import run_local_driver
from tasks.policies import TASK_OPTIONS
from tasks.progress import step_progress
from tasks.ray_job import job_metadata, run_ray_job, stop_orphans
from tasks.stages import stage
from tasks.tables import rejects_artifact

_STORE_VARIABLES = "IMAGESHARDS_STORE_"
_RAW_STORE_VARIABLES = "IMAGESHARDS_RAW_STORE_"
_DIGEST_DIGITS = 16


@task(name="preprocess", **TASK_OPTIONS)
def preprocess(  # noqa: PLR0913 (each is a choice of the run)
    info: IndexInfo,
    *,
    store: str,
    raw_store: str,
    ray: str,
    resolutions: Sequence[int],
    recipe: Recipe,
    keep_unlisted: bool,
    lease: str | None = None,
) -> JobResult:
    """Build what is missing of the resolutions, all in one pass over the images.

    Args:
        info: The index.
        store: Folder, URL or `block:NAME` of the finished data.
        raw_store: Likewise of the raw data.
        ray: `local`, an address, or `block:NAME`.
        resolutions: Sides of the square in px.
        recipe: What is done to pixels.
        keep_unlisted: Whether images in no split become rows.
        lease: Id of the run that holds the dataset's writer lock, which makes jobs of other runs orphans; None where
            nobody holds it.
    """
    finished, raw, cluster = store_access(store), store_access(raw_store), cluster_access(ray)
    run_id = str(flow_run.id)
    spec = JobSpec(
        dataset=info.dataset,
        index_key=info.key,
        raw_store=_spec(raw, _RAW_STORE_VARIABLES),
        store=_spec(finished, _STORE_VARIABLES),
        resolutions=tuple(resolutions),
        recipe=recipe,
        keep_unlisted=keep_unlisted,
        result_key=f"runs/{run_id}/result.json",
        lease=lease,
    )
    with stage("preprocess") as report:
        if lease is not None and not cluster.is_local:
            _stop_orphans(cluster, spec, run_id)
        result = _build(spec, finished, raw, cluster, run_id)
        report.count(**counts(result))
    rejects_artifact(result)
    return result


def _stop_orphans(cluster: ClusterAccess, spec: JobSpec, run_id: str) -> None:
    """No other run may write now, so a job of one has lost it, and would write beside ours."""
    for job_id in stop_orphans(cluster, store_url=_store_name(spec), dataset=spec.dataset, run_id=run_id):
        get_run_logger().warning("stopped Ray job %s, which an earlier run left behind", job_id)


def _build(spec: JobSpec, finished: StoreAccess, raw: StoreAccess, cluster: ClusterAccess, run_id: str) -> JobResult:
    """Hand the spec to the driver, and wait for its result."""
    store = finished.open()
    spec_key = f"runs/{run_id}/spec.json"
    arguments = _driver_arguments(store.uri(spec_key), spec)
    logger = get_run_logger()
    with (
        _object(store, spec_key, spec.model_dump_json(indent=1).encode()),
        _object(store, spec.result_key, None),
        step_progress("preprocess", "images", logger) as progress,
        closing(DriverOutput(logger, progress, _secrets(finished, raw, cluster))) as output,
    ):
        try:
            if cluster.is_local:
                environment = {**finished.environment(_STORE_VARIABLES), **raw.environment(_RAW_STORE_VARIABLES)}
                run_local_driver(arguments, environment, output.take)
            else:
                metadata = job_metadata(run_id, store_url=_store_name(spec), dataset=spec.dataset, work=_digest(spec))
                run_ray_job(
                    cluster,
                    run_id,
                    arguments,
                    output.take,
                    metadata=metadata,
                    has_result=lambda: store.exists(spec.result_key),
                )
        except ImageShardsError as error:
            if output.error is not None:
                raise output.error from error
            raise
        return JobResult.from_json(store.get(spec.result_key))


def _digest(spec: JobSpec) -> str:
    """Tells jobs of one run apart that are not to do the same."""
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:_DIGEST_DIGITS]


def _store_name(spec: JobSpec) -> str:
    """Tells stores apart: two servers may have buckets of one name."""
    return f"{spec.store.url} at {spec.store.endpoint_url}" if spec.store.endpoint_url else spec.store.url


def counts(result: JobResult) -> dict[str, int]:
    """What the stage's line tells of a job; images and rows count once for each resolution."""
    shards = [shard for version in result.versions for shard in version.shards]
    rejects = sum(len(shard.rejects) for shard in shards)
    return {
        "resolutions": len(result.versions),
        "images": sum(shard.samples for shard in shards) + rejects,
        "rows": sum(shard.rows for shard in shards),
        "rejects": rejects,
        "shards": result.shards,
        "reused": result.reused,
        "bytes": sum(shard.size_bytes for shard in shards),
    }


def _secrets(finished: StoreAccess, raw: StoreAccess, cluster: ClusterAccess) -> Secrets:
    """What this process knows and no line of output may show."""
    keys = [access.credentials for access in (finished, raw) if access.credentials is not None]
    hidden = [value for key in keys for value in (key.secret_access_key, key.session_token)]
    return Secrets([*hidden, cluster.token])


@contextmanager
def _object(store: Store, key: str, data: bytes | None) -> Iterator[None]:
    """An object of this run alone; stays only where a job may go on that needs it."""
    if data is not None:
        store.put(key, data)
    try:
        yield
    except TransientError:
        raise
    except BaseException:
        with suppress(ImageShardsError):
            store.delete(key)
        raise
    else:
        try:
            store.delete(key)
        except ImageShardsError as error:  # the work is done; housekeeping takes it
            get_run_logger().warning("%s is left behind: %s", store.uri(key), error.message)


def _spec(access: StoreAccess, variables: str) -> Any:
    return access.open().spec.model_copy(update={"credentials_env": variables})


def _driver_arguments(spec_uri: str, spec: JobSpec) -> list[str]:
    """The driver's arguments; they name no secret, only the variables that may hold one."""
    arguments = ["--spec", spec_uri, "--credentials-env", _STORE_VARIABLES]
    if spec.store.endpoint_url:
        arguments += ["--endpoint-url", spec.store.endpoint_url]
    if spec.store.region:
        arguments += ["--region", spec.store.region]
    return arguments
