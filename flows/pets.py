"""Oxford-IIIT Pet, from two archives to validated, versioned Parquet.

    look → download → upload (index) → preprocess on Ray → validate → publish → clean

Run it here with `python -m flows.pets` (`--help` names its options, which are the flow's parameters), or deploy it with
`prefect deploy --all`.
"""

# Without `from __future__ import annotations`: `pets.serve()` sends the flow by value, and annotations that are text
# would look in vain for what they name.
import sys

if __name__ == "__main__":  # before the imports below, which take seconds: see there
    from flows.command import main

    sys.exit(main())

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.logging import get_logger

from blocks.dataset_store import store_access
from blocks.ray_cluster import LOCAL, cluster_access
from flows import form
from flows.run_report import RunReport, run_report
from flows.summary import Outcome, Status, result_of
from imageshards import oxford_pets
from imageshards.errors import ConfigError
from imageshards.fetch import Fetched, Source
from imageshards.index import IndexInfo
from imageshards.manifest import ArchiveSource
from imageshards.memory import limit_heaps
from imageshards.oxford_facts import known_facts
from imageshards.plan import fingerprint
from imageshards.recipe import RESOLUTIONS, Recipe
from imageshards.retention import RetentionPolicy
from imageshards.sources import Unchanged, sources_of
from imageshards.validate import Subject
from tasks.check import check, check_cluster_versions
from tasks.clean import clean_after_publishing
from tasks.download import patient_download
from tasks.look import look
from tasks.preprocess import preprocess
from tasks.publish import find_published, publish
from tasks.ray_job import stop_ray_jobs
from tasks.upload import upload
from tasks.validate import validate
from tasks.writer import Writing, writing


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
    on_cancellation=[stop_job],
    on_crashed=[stop_job],
)
def pets(  # noqa: PLR0913, PLR0917 (each is a field of the form in the Prefect UI)
    images: form.Images = oxford_pets.IMAGES_URL,
    annotations: form.Annotations = oxford_pets.ANNOTATIONS_URL,
    resolutions: form.Resolutions = [224],  # noqa: B006 (Prefect shows the default in its form; it is never changed)
    store: form.StoreReference = "data",
    raw_store: form.RawStoreReference = None,
    ray: form.RayReference = "local",
    max_reject_fraction: form.RejectLimit = 0.01,
    max_leaks: form.LeakLimit = None,
    keep_unlisted: form.KeepUnlisted = False,
    keep_versions: form.VersionsKept = None,
    images_sha256: form.ImagesDigest = None,
    annotations_sha256: form.AnnotationsDigest = None,
    recipe: form.RecipeForm = Recipe(),  # noqa: B008 (frozen)
) -> dict[str, Any]:
    """Turn the two archives of Oxford-IIIT Pet into validated, versioned, train-ready Parquet shards.

    Args:
        images: A .tar, .tar.gz or .zip: an http(s) or file:// URL, or a path on the machine that runs the flow.
        annotations: The annotations that belong to it, given in the same way.
        resolutions: Sides of the square images, in pixels; any number of them in one pass. 224: ResNet. 299: Inception
            v3, Xception. 336: CLIP, ViT. 384: large ViT, ConvNeXt. 448 and 512: detection, segmentation. 600:
            EfficientNet-B7.
        store: Where the finished shards go: s3://bucket/prefix, a folder, or block:NAME of a dataset-store block, which
            holds keys, too.
        raw_store: Where the raw images go, if not there.
        ray: local starts Ray beside the flow; else http(s)://head:8265 of a cluster, or block:NAME of a ray-cluster
            block, which holds the token, too.
        max_reject_fraction: From 0 to 1; when more of the images than this are rejected, nothing is published.
        max_leaks: Pairs of duplicate images in different splits; when there are more, nothing is published.
        keep_unlisted: On: they become rows of a split named unlisted. Off: they are left out, and counted.
        keep_versions: Of each resolution; older ones are deleted once nobody has been pointed at them for a week. Raw
            images are not touched.
        images_sha256: 64 hexadecimal digits; any other archive is refused. The original's is known and checked anyway.
        annotations_sha256: The same for the annotations.
        recipe: What is done to pixels: size and crop, filters, colors, normalization, augmented copies, encoding.

    Returns:
        dataset, store, index, and one result for each resolution.
    """
    limit_heaps()
    choices = _Choices(
        store=store,
        raw_store=raw_store or store,
        ray=ray,
        resolutions=tuple(sorted(set(resolutions))),
        recipe=recipe,
        max_reject_fraction=max_reject_fraction,
        max_leaks=max_leaks,
        keep_unlisted=keep_unlisted,
        keep_versions=keep_versions,
    )
    with run_report(oxford_pets.DATASET, store) as report:
        _check_parameters(choices)
        check(choices.store, choices.raw_store, ray)
        info = _update(choices, _sources(images, annotations, images_sha256, annotations_sha256), report)
    opened = store_access(store).open()
    return {
        "dataset": info.dataset,
        "store": opened.url,
        "index": store_access(choices.raw_store).open().uri(info.key),
        "results": [result_of(outcome, opened) for outcome in report.by_resolution()],
    }


@dataclass(frozen=True, slots=True)
class _Choices:
    """The flow's parameters, sources apart; their meaning is in its docstring."""

    store: str
    raw_store: str
    ray: str
    resolutions: tuple[int, ...]
    recipe: Recipe
    max_reject_fraction: float
    max_leaks: int | None
    keep_unlisted: bool
    keep_versions: int | None

    def fingerprints(self, info: IndexInfo) -> dict[int, str]:
        """The version that is wanted of each resolution."""
        return {
            resolution: fingerprint(info.digest, self.recipe, resolution, keep_unlisted=self.keep_unlisted)
            for resolution in self.resolutions
        }


def _update(choices: _Choices, sources: Mapping[str, Source], report: RunReport) -> IndexInfo:
    """Look first, and write only where there is something to do."""
    known = _look(choices, sources)
    if known is not None and choices.keep_versions is None and _nothing_to_do(choices, known, report):
        return known.info
    with writing(choices.store, oxford_pets.DATASET, raw_store=choices.raw_store) as right:
        # That may have been for hours, in which another run published what a newer source gave.
        if known is not None and right.waited:
            known = _look(choices, sources)
        return _write(choices, sources, known, right, report)


def _look(choices: _Choices, sources: Mapping[str, Source]) -> Unchanged | None:
    return look(sources["images"], sources["annotations"], choices.raw_store, oxford_pets.DATASET)


def _nothing_to_do(choices: _Choices, known: Unchanged, report: RunReport) -> bool:
    """Whether all that is wanted is what readers get already."""
    wanted = choices.fingerprints(known.info)
    current = find_published(known.info.dataset, wanted, choices.store, raw_store=choices.raw_store, make_current=False)
    if len(current) < len(wanted):
        return False
    for found in current.values():
        report.add(Outcome(found.manifest, "unchanged", report.seconds))
    return True


def _write(
    choices: _Choices, sources: Mapping[str, Source], known: Unchanged | None, right: Writing, report: RunReport
) -> IndexInfo:
    """Bring the store to what is wanted, as its one writer."""
    if known is None:
        _check_cluster(choices)
        archives = _download(sources)
        info = upload(archives["images"], archives["annotations"], choices.raw_store, oxford_pets.DATASET)
        origin = sources_of(archives)
    else:
        info, origin = known.info, dict(known.sources)
    wanted = choices.fingerprints(info)
    published = find_published(
        info.dataset, wanted, choices.store, raw_store=choices.raw_store, check_writer=right.check
    )
    for found in published.values():
        status: Status = "restored" if found.changes else "unchanged"
        report.add(Outcome(found.manifest, status, report.seconds, found.changes))
    missing = [resolution for resolution in wanted if resolution not in published]
    if missing:
        if known is not None:
            _check_cluster(choices)
        _build(choices, missing, info, origin, right, report)
    if choices.keep_versions is not None:
        policy = RetentionPolicy(keep_versions=choices.keep_versions)
        cleaned = clean_after_publishing(
            choices.store, info.dataset, policy, raw_store=choices.raw_store, check_writer=right.check
        )
        report.problems += cleaned["problems"]
    return info


def _check_cluster(choices: _Choices) -> None:
    """Before the work that a cluster which does not fit would waste: the download, where there is one."""
    if choices.ray != LOCAL:
        check_cluster_versions(choices.ray, choices.recipe)


def _build(
    choices: _Choices,
    missing: Sequence[int],
    info: IndexInfo,
    origin: Mapping[str, ArchiveSource],
    right: Writing,
    report: RunReport,
) -> None:
    """Build, validate and publish the resolutions that are missing; nothing is published before all are valid."""
    places = {"store": choices.store, "raw_store": choices.raw_store}
    built = preprocess(
        info,
        **places,
        ray=choices.ray,
        resolutions=missing,
        recipe=choices.recipe,
        keep_unlisted=choices.keep_unlisted,
        lease=right.run_id,
    )
    subjects = {
        version.resolution: Subject(
            dataset=info.dataset,
            info=info,
            recipe=choices.recipe,
            version=version,
            keep_unlisted=choices.keep_unlisted,
            max_reject_fraction=choices.max_reject_fraction,
            max_leaks=choices.max_leaks,
            facts=known_facts(info.images_sha256, info.annotations_sha256),
        )
        for version in built.versions
    }
    findings = {
        resolution: validate(subject, resolution=resolution, **places) for resolution, subject in subjects.items()
    }
    for resolution, subject in subjects.items():
        published = publish(
            subject, findings[resolution], built, origin, resolution=resolution, check_writer=right.check, **places
        )
        report.add(Outcome(published.manifest, "built", report.seconds, published.changes))


def _check_parameters(choices: _Choices) -> None:
    if not choices.resolutions:
        raise ConfigError(f"resolutions is empty: choose at least one out of {', '.join(map(str, RESOLUTIONS))}")
    if not 0 <= choices.max_reject_fraction <= 1:
        raise ConfigError(f"max_reject_fraction is a share from 0 to 1, found {choices.max_reject_fraction}")
    if choices.max_leaks is not None and choices.max_leaks < 0:
        raise ConfigError(f"max_leaks is a number of pairs, 0 or more, found {choices.max_leaks}")
    if choices.keep_versions is not None and choices.keep_versions < 1:
        raise ConfigError(f"keep_versions is a number of versions, 1 or more, found {choices.keep_versions}")


def _sources(
    images: str, annotations: str, images_sha256: str | None, annotations_sha256: str | None
) -> dict[str, Source]:
    """Both archives; the originals with their known digests and mirrors."""
    sources = {"images": Source(images, images_sha256), "annotations": Source(annotations, annotations_sha256)}
    if images == oxford_pets.IMAGES_URL:
        digest = images_sha256 or oxford_pets.IMAGES_SHA256
        sources["images"] = Source(images, digest, oxford_pets.IMAGES_MIRRORS)
    if annotations == oxford_pets.ANNOTATIONS_URL:
        digest = annotations_sha256 or oxford_pets.ANNOTATIONS_SHA256
        sources["annotations"] = Source(annotations, digest, oxford_pets.ANNOTATIONS_MIRRORS)
    return sources


def _download(sources: Mapping[str, Source]) -> dict[str, Fetched]:
    """Both archives, on the main thread: a signal interrupts nothing that waits in another.

    The small one goes first, a fortieth of the bytes: what is wrong with it is found out before the large one.
    """
    fetch = patient_download()
    return {what: fetch(what, sources[what]) for what in ("annotations", "images")}
