"""validate: reads back what was written, before anything is published; wraps `imageshards.validate`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect import get_run_logger, task

from blocks.dataset_store import store_access
from imageshards.errors import ValidationError
from imageshards.validate import Findings, Subject, validate_version
from tasks.policies import TASK_OPTIONS
from tasks.progress import step_progress
from tasks.progress_artifact import ProgressArtifact
from tasks.stages import stage
from tasks.tables import checks_artifact

PROGRESS_AFTER_SECONDS = 10.0
"""Validation that takes less leaves no progress artifact: 7,400 images take 2 s."""


@task(name="validate", task_run_name="validate {resolution}", **TASK_OPTIONS)
def validate(subject: Subject, *, resolution: int, store: str, raw_store: str) -> Findings:
    """Check one resolution against the index.

    Args:
        subject: What to validate, and against what.
        resolution: Side of the square in px, for names.
        store: Folder, URL or `block:NAME` of the finished data.
        raw_store: Likewise of the raw data.

    Raises:
        ValidationError: A check did not pass; all checks are in an artifact of the run.
    """
    with stage("validate", resolution=resolution) as report:
        with _progress(subject, resolution) as progress:
            findings = validate_version(
                subject,
                raw_store=store_access(raw_store).open(),
                store=store_access(store).open(),
                on_progress=progress,
            )
        report.count(
            images=findings.samples,
            rows=findings.rows,
            checks=len(findings.checks),
            failed=sum(not check.passed for check in findings.checks),
            bytes=sum(shard.size_bytes for shard in findings.shards),
        )
        checks_artifact(resolution, findings.checks)
        if not findings.passed:
            raise ValidationError.of(f"{subject.dataset} at {resolution} px", findings.checks, resolution=resolution)
    get_run_logger().info("%d px: %d checks passed, %d rows", resolution, len(findings.checks), findings.rows)
    return findings


@contextmanager
def _progress(subject: Subject, resolution: int) -> Iterator[Callable[[int], None]]:
    """Takes the number of rows read so far, to terminal, log, and artifact."""
    total = sum(shard.rows for shard in subject.version.shards)
    artifact = ProgressArtifact(f"validate-{resolution}-progress", unit="rows", after_seconds=PROGRESS_AFTER_SECONDS)
    started = time.monotonic()
    with step_progress(f"validate {resolution}", "rows", get_run_logger()) as progress:

        def show(rows: int) -> None:
            progress(rows, total)
            artifact.show(rows, total, seconds=time.monotonic() - started)

        yield show
