"""validate: reads back what was written, before anything is published; wraps `imageshards.validate`."""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact

from blocks.dataset_store import store_access
from imageshards.errors import Check, ValidationError
from imageshards.validate import Findings, Subject, validate_version
from tasks.policies import TASK_OPTIONS
from tasks.progress import step_progress


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
    logger = get_run_logger()
    with step_progress(f"validate {resolution}", "rows", logger) as progress:
        findings = validate_version(
            subject,
            raw_store=store_access(raw_store).open(),
            store=store_access(store).open(),
            on_progress=progress,
        )
    checks_artifact(resolution, findings.checks)
    if not findings.passed:
        raise ValidationError.of(f"{subject.dataset} at {resolution} px", findings.checks, resolution=resolution)
    logger.info("%d px: %d checks passed, %d rows", resolution, len(findings.checks), findings.rows)
    return findings


def checks_artifact(resolution: int, checks: tuple[Check, ...]) -> None:
    """Put the checks of a resolution into a table artifact."""
    table = [
        {
            "check": check.name,
            "passed": "yes" if check.passed else "NO",
            "expected": check.expected,
            "found": check.found,
            "examples": ", ".join(check.examples),
        }
        for check in checks
    ]
    create_table_artifact(table, key=f"checks-{resolution}", description=f"Validation at {resolution} px")
