"""publish: the report, the manifest last, then the pointer to it; wraps `imageshards.report` and `manifest`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect import get_run_logger, task

from blocks.dataset_store import store_access
from imageshards.changes import Changes, compare_versions
from imageshards.draft import draft_manifest
from imageshards.job import JobResult
from imageshards.manifest import ArchiveSource, Manifest, current_manifest, publish_manifest, read_manifest
from imageshards.pointer import is_current, point_latest
from imageshards.report import write_report
from imageshards.validate import Findings, Subject
from tasks.policies import TASK_OPTIONS
from tasks.stages import stage


@dataclass(frozen=True, slots=True)
class Published:
    """One resolution, published.

    Attributes:
        manifest: The manifest that counts.
        changes: How it differs from the version that was current before; None where that was this one.
    """

    manifest: Manifest
    changes: Changes | None


@task(name="publish", task_run_name="publish {resolution}", **TASK_OPTIONS)
def publish(  # noqa: PLR0913 (what the steps before it made)
    subject: Subject,
    findings: Findings,
    built: JobResult,
    archives: Mapping[str, ArchiveSource],
    *,
    resolution: int,
    store: str,
    raw_store: str,
    check_writer: Callable[[], None] = lambda: None,
) -> Published:
    """Commit one validated resolution; tells what changed since the version that was current before.

    Args:
        subject: What was validated.
        findings: What validation found.
        built: What the driver said.
        archives: The source archives, `images` and `annotations`.
        resolution: Side of the square in px.
        store: Folder, URL or `block:NAME` of the finished data.
        raw_store: Likewise of the raw data.
        check_writer: Raises where this run has lost the right to write; called right before the commit.
    """
    opened, raw = store_access(store).open(), store_access(raw_store).open()
    logger = get_run_logger()
    with stage("publish", resolution=resolution) as report:
        draft = draft_manifest(
            subject,
            findings,
            archives=archives,
            raw_store_url=raw.url,
            built=built,
            created_at=datetime.now(UTC),
        )
        before = current_manifest(opened, draft.dataset, resolution)
        changes = compare_versions(before, draft, raw_store=raw, store=opened)
        files = write_report(draft, raw_store=raw, store=opened)
        check_writer()
        manifest = publish_manifest(opened, draft)
        report.count(images=manifest.images, rows=manifest.rows)
    logger.info("published %s, report at %s", opened.uri(manifest.key), opened.uri(files.report))
    logger.info("%d px: %s", resolution, changes.gist())
    return Published(manifest, changes)


@task(name="find published", **TASK_OPTIONS)
def find_published(
    dataset: str,
    fingerprints: Mapping[int, str],
    store: str,
    *,
    raw_store: str,
    make_current: bool = True,
    check_writer: Callable[[], None] = lambda: None,
) -> dict[int, Published]:
    """Which versions were published before; tells what changes for readers where one becomes current again.

    Args:
        dataset: Name of the dataset.
        fingerprints: The version that is wanted of each resolution.
        store: Folder, URL or `block:NAME` of the finished data.
        raw_store: Likewise of the raw data.
        make_current: Point readers at each of them; else one that is not current is left out, and nothing is written.
        check_writer: Raises where this run has lost the right to write; called before readers are pointed elsewhere.
    """
    opened, raw = store_access(store).open(), store_access(raw_store).open()
    published = {}
    with stage("find-published") as report:
        for resolution, version in fingerprints.items():
            manifest = read_manifest(opened, dataset, resolution, version)
            if manifest is None:
                continue
            changes = None
            if not is_current(opened, manifest):
                if not make_current:
                    continue
                before = current_manifest(opened, dataset, resolution)
                changes = compare_versions(before, manifest, raw_store=raw, store=opened)
                check_writer()
                point_latest(opened, manifest)
                get_run_logger().warning(
                    "%d px: version %s was published before, and is current again: %s",
                    resolution,
                    version,
                    changes.gist(),
                )
            published[resolution] = Published(manifest, changes)
        report.count(wanted=len(fingerprints), found=len(published))
    return published
