"""Oxford-IIIT Pet, from two archives to validated, versioned Parquet.

    download → upload (index) → preprocess on Ray → validate → publish

Run it here with `python -m flows.pets` (`--help` names its options, which are the flow's parameters), or deploy it with
`prefect deploy --all`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before the imports below, which take seconds: see there
    from flows.command import main

    sys.exit(main())

import time
from collections.abc import Sequence
from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.logging import get_logger
from prefect.task_runners import ThreadPoolTaskRunner

from blocks.dataset_store import store_access
from blocks.ray_cluster import cluster_access
from flows.summary import create_artifacts, result_of
from imageshards import oxford_pets
from imageshards.errors import ConfigError
from imageshards.fetch import Fetched, Source
from imageshards.oxford_facts import known_facts
from imageshards.plan import fingerprint
from imageshards.recipe import RESOLUTIONS, Recipe
from imageshards.validate import Subject
from tasks.check import check
from tasks.download import download
from tasks.preprocess import preprocess
from tasks.publish import find_published, publish
from tasks.ray_job import stop_ray_jobs
from tasks.upload import upload
from tasks.validate import validate

Resolution = Literal[224, 299, 336, 384, 448, 512, 600]

_TASKS_AT_ONCE = 2


def stop_job(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 (Prefect's form)
    """Stop what a cancelled or crashed run left on its Ray cluster. Runs in a process of its own, later."""
    cluster = cluster_access(str(flow_run.parameters.get("ray", "local")))
    if not cluster.is_local:
        for job_id in stop_ray_jobs(cluster, str(flow_run.id)):
            get_logger("flows.pets").warning("stopped Ray job %s", job_id)


@flow(
    name="pets",
    log_prints=False,
    persist_result=False,
    task_runner=ThreadPoolTaskRunner(max_workers=_TASKS_AT_ONCE),  # type: ignore[arg-type]
    on_cancellation=[stop_job],
    on_crashed=[stop_job],
)
def pets(  # noqa: PLR0913, PLR0917 (each is a field of the form in the Prefect UI)
    images: str = oxford_pets.IMAGES_URL,
    annotations: str = oxford_pets.ANNOTATIONS_URL,
    images_sha256: str | None = None,
    annotations_sha256: str | None = None,
    store: str = "data",
    raw_store: str | None = None,
    resolutions: list[Resolution] = [224],  # noqa: B006 (Prefect shows the default in its form; it is never changed)
    ray: str = "local",
    recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
    max_reject_fraction: float = 0.01,
    max_leaks: int | None = None,
    keep_unlisted: bool = False,
) -> dict[str, Any]:
    """Turn the two archives of Oxford-IIIT Pet into validated, versioned, train-ready Parquet shards.

    Args:
        images: The images archive: URL, file:// URL or path.
        annotations: The annotations archive, likewise.
        images_sha256: What the images archive must be; known for the original, optional for others.
        annotations_sha256: What the annotations archive must be, likewise.
        store: Where the finished shards go: a folder, s3://bucket/prefix, or block:NAME of a dataset-store block.
        raw_store: Where the raw images go, likewise; the same store unless given.
        resolutions: Sides of the square in pixels. 224: ResNet. 299: Inception v3, Xception. 336: CLIP, ViT. 384: large
            ViT, ConvNeXt. 448 and 512: detection, segmentation. 600: EfficientNet-B7.
        ray: local, the http(s) address of a Ray cluster's Jobs API, or block:NAME of a ray-cluster block.
        recipe: What is done to pixels.
        max_reject_fraction: Highest share of rejected images, 0 to 1; above it nothing is published.
        max_leaks: Most pairs of duplicate images across splits; above it nothing is published. Empty: any number.
        keep_unlisted: Whether images in no split become rows of a split named unlisted; else they are left out.

    Returns:
        dataset, store, index, and one result for each resolution.
    """
    _check_parameters(resolutions, max_reject_fraction, max_leaks)
    raw_store = raw_store or store
    check(store, raw_store, ray)
    started = time.monotonic()
    archives = _download(images, annotations, images_sha256, annotations_sha256)
    info = upload(archives["images"], archives["annotations"], raw_store, oxford_pets.DATASET)

    wanted: dict[int, str] = {
        resolution: fingerprint(info.digest, recipe, resolution, keep_unlisted=keep_unlisted)
        for resolution in sorted(set(resolutions))
    }
    manifests = find_published(info.dataset, wanted, store)
    seconds = dict.fromkeys(manifests, time.monotonic() - started)
    missing = [resolution for resolution in wanted if resolution not in manifests]
    if missing:
        built = preprocess(
            info,
            store=store,
            raw_store=raw_store,
            ray=ray,
            resolutions=missing,
            recipe=recipe,
            keep_unlisted=keep_unlisted,
        )
        subjects = [
            Subject(
                dataset=info.dataset,
                info=info,
                recipe=recipe,
                version=version,
                keep_unlisted=keep_unlisted,
                max_reject_fraction=max_reject_fraction,
                max_leaks=max_leaks,
                facts=known_facts(info.images_sha256, info.annotations_sha256),
            )
            for version in built.versions
        ]
        validated = [
            (subject, validate(subject, resolution=subject.version.resolution, store=store, raw_store=raw_store))
            for subject in subjects
        ]
        for subject, findings in validated:
            resolution = subject.version.resolution
            manifests[resolution] = publish(
                subject, findings, built, archives, resolution=resolution, store=store, raw_store=raw_store
            )
            seconds[resolution] = time.monotonic() - started

    opened = store_access(store).open()
    summary = {
        "dataset": info.dataset,
        "store": opened.url,
        "index": store_access(raw_store).open().uri(info.key),
        "results": [
            result_of(
                manifests[resolution],
                opened,
                status="built" if resolution in missing else "unchanged",
                seconds=seconds[resolution],
            )
            for resolution in wanted
        ],
    }
    create_artifacts(summary, [manifests[resolution] for resolution in wanted])
    return summary


def _check_parameters(resolutions: Sequence[int], max_reject_fraction: float, max_leaks: int | None) -> None:
    if not resolutions:
        raise ConfigError(f"resolutions is empty: choose at least one out of {', '.join(map(str, RESOLUTIONS))}")
    if not 0 <= max_reject_fraction <= 1:
        raise ConfigError(f"max_reject_fraction is a share from 0 to 1, found {max_reject_fraction}")
    if max_leaks is not None and max_leaks < 0:
        raise ConfigError(f"max_leaks is a number of pairs, 0 or more, found {max_leaks}")


def _download(
    images: str, annotations: str, images_sha256: str | None, annotations_sha256: str | None
) -> dict[str, Fetched]:
    """Both archives, at the same time; the originals with their known digests and mirrors."""
    sources = {"images": Source(images, images_sha256), "annotations": Source(annotations, annotations_sha256)}
    if images == oxford_pets.IMAGES_URL:
        digest = images_sha256 or oxford_pets.IMAGES_SHA256
        sources["images"] = Source(images, digest, oxford_pets.IMAGES_MIRRORS)
    if annotations == oxford_pets.ANNOTATIONS_URL:
        digest = annotations_sha256 or oxford_pets.ANNOTATIONS_SHA256
        sources["annotations"] = Source(annotations, digest, oxford_pets.ANNOTATIONS_MIRRORS)
    pending = {what: download.submit(what, source) for what, source in sources.items()}
    return {what: future.result() for what, future in pending.items()}
