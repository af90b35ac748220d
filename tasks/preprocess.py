"""preprocess: the heavy step, on Ray; hands a spec to `imageshards.ray_driver` and waits for its result."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.runtime import flow_run

from blocks.dataset_store import StoreAccess, store_access
from blocks.ray_cluster import cluster_access
from imageshards.errors import ImageShardsError, TransientError, error_from_dict
from imageshards.index import IndexInfo
from imageshards.job import JobResult, JobSpec, parse_driver_line
from imageshards.recipe import Recipe
from imageshards.store import Store
from tasks.local_ray import run_local_driver
from tasks.policies import TASK_OPTIONS
from tasks.progress import StepProgress, step_progress
from tasks.ray_job import run_ray_job

ARTIFACT_SECONDS = 2.0
"""Least time between two updates of the progress artifact: each is a request to the Prefect server."""

_STORE_VARIABLES = "IMAGESHARDS_STORE_"
_RAW_STORE_VARIABLES = "IMAGESHARDS_RAW_STORE_"


@task(name="preprocess", **TASK_OPTIONS)
def preprocess(
    info: IndexInfo,
    *,
    store: str,
    raw_store: str,
    ray: str,
    resolutions: Sequence[int],
    recipe: Recipe,
    keep_unlisted: bool,
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
    """
    run_id = str(flow_run.id)
    finished, raw = store_access(store), store_access(raw_store)
    opened = finished.open()
    spec = JobSpec(
        dataset=info.dataset,
        index_key=info.key,
        raw_store=_spec(raw, _RAW_STORE_VARIABLES),
        store=_spec(finished, _STORE_VARIABLES),
        resolutions=tuple(resolutions),
        recipe=recipe,
        keep_unlisted=keep_unlisted,
        result_key=f"runs/{run_id}/result.json",
    )
    spec_key = f"runs/{run_id}/spec.json"
    arguments = _driver_arguments(opened.uri(spec_key), spec)
    environment = {**finished.environment(_STORE_VARIABLES), **raw.environment(_RAW_STORE_VARIABLES)}
    with _object(opened, spec_key, spec.model_dump_json(indent=1).encode()), _object(opened, spec.result_key, None):
        with step_progress("preprocess", "images", get_run_logger()) as progress:
            _run_driver(ray, run_id, arguments, environment, _DriverOutput(get_run_logger(), progress))
        return JobResult.from_json(opened.get(spec.result_key))


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
        store.delete(key)


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


def _run_driver(
    ray: str, run_id: str, arguments: list[str], environment: Mapping[str, str], output: _DriverOutput
) -> None:
    cluster = cluster_access(ray)
    try:
        if cluster.is_local:
            run_local_driver(arguments, environment, output.take)
        else:
            run_ray_job(cluster, run_id, arguments, output.take)
    except ImageShardsError as error:
        if output.error is not None:
            raise output.error from error
        raise


class _DriverOutput:
    """Turns lines of the driver into progress, log lines, and the error that ended it."""

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any], progress: StepProgress) -> None:
        self._logger = logger
        self._progress = progress
        self._artifact: UUID | None = None
        self._updated = 0.0
        self.error: ImageShardsError | None = None

    def take(self, line: str) -> None:
        """Take one line of output."""
        said = parse_driver_line(line)
        if said is None:
            if line.strip():
                self._logger.debug("ray: %s", line)
        elif said["kind"] == "progress":
            self._show(int(said["done"]), int(said["total"]), float(said["seconds"]))
        elif said["kind"] == "error":
            self.error = error_from_dict(said["error"])
        else:
            self._logger.warning("%s", said.get("message"))

    def _show(self, done: int, total: int, seconds: float) -> None:
        self._progress(done, total)
        if done < total and time.monotonic() - self._updated < ARTIFACT_SECONDS:
            return
        self._updated = time.monotonic()
        rate = done / seconds if seconds else 0.0
        text = f"{done:,} of {total:,} images, {rate:,.0f} images/s"
        percent = 100 * done / total if total else 100.0
        if self._artifact is None:
            created = create_progress_artifact(percent, key="preprocess-progress", description=text)
            self._artifact = created if isinstance(created, UUID) else None
        else:
            update_progress_artifact(self._artifact, percent, description=text)
