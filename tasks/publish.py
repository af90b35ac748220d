"""publish: the report, the manifest last, then the pointer to it; wraps `imageshards.report` and `manifest`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from prefect import get_run_logger, task

from blocks.dataset_store import store_access
from imageshards.draft import draft_manifest
from imageshards.fetch import Fetched
from imageshards.job import JobResult
from imageshards.manifest import Manifest, point_latest, publish_manifest, read_manifest
from imageshards.report import write_report
from imageshards.validate import Findings, Subject
from tasks.policies import TASK_OPTIONS


@task(name="publish", task_run_name="publish {resolution}", **TASK_OPTIONS)
def publish(
    subject: Subject,
    findings: Findings,
    built: JobResult,
    archives: Mapping[str, Fetched],
    *,
    resolution: int,  # noqa: ARG001 (for the name of the task run)
    store: str,
    raw_store: str,
) -> Manifest:
    """Commit one validated resolution; returns the manifest that counts.

    Args:
        subject: What was validated.
        findings: What validation found.
        built: What the driver said.
        archives: The source archives, `images` and `annotations`.
        resolution: Side of the square in px, for names.
        store: Folder, URL or `block:NAME` of the finished data.
        raw_store: Likewise of the raw data.
    """
    opened, raw = store_access(store).open(), store_access(raw_store).open()
    draft = draft_manifest(
        subject,
        findings,
        archives=archives,
        raw_store_url=raw.url,
        built=built,
        created_at=datetime.now(UTC),
    )
    files = write_report(draft, raw_store=raw, store=opened)
    manifest = publish_manifest(opened, draft)
    get_run_logger().info("published %s, report at %s", opened.uri(manifest.key), opened.uri(files.report))
    return manifest


@task(name="find published", **TASK_OPTIONS)
def find_published(dataset: str, fingerprints: Mapping[int, str], store: str) -> dict[int, Manifest]:
    """Which versions were published before; makes each of them the current one again, where it is not.

    Args:
        dataset: Name of the dataset.
        fingerprints: The version that is wanted of each resolution.
        store: Folder, URL or `block:NAME` of the finished data.
    """
    opened = store_access(store).open()
    published = {}
    for resolution, version in fingerprints.items():
        manifest = read_manifest(opened, dataset, resolution, version)
        if manifest is not None:
            point_latest(opened, manifest)
            published[resolution] = manifest
    return published
