"""clean: old versions, and what runs that died left; wraps `imageshards.housekeeping`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact

from blocks.dataset_store import store_access
from imageshards.housekeeping import Cleaning, Removal, clean_dataset
from imageshards.report_view import readable_size
from imageshards.retention import RetentionPolicy
from imageshards.retention_survey import datasets_in
from tasks.artifacts import artifact_or_warning
from tasks.policies import TASK_OPTIONS
from tasks.stages import stage

ROWS_SHOWN = 200
"""Of the table; the log names all."""


@task(name="clean", task_run_name="clean {dataset}", **TASK_OPTIONS)
def clean(
    store: str,
    dataset: str,
    policy: RetentionPolicy,
    *,
    raw_store: str | None = None,
    dry_run: bool = False,
    check_writer: Callable[[], None] = lambda: None,
) -> Cleaning:
    """Delete what the policy lets go of one dataset; all of it is logged, and in a table artifact of the run.

    To be called by the run that has the right to write the dataset (`tasks.writer.writing`), unless it is a dry run.

    Args:
        store: Folder, URL or `block:NAME` of the finished data.
        dataset: Its name.
        policy: What to keep.
        raw_store: Likewise of the raw data; the same store unless given.
        dry_run: Only find out what would go.
        check_writer: Raises where this run has lost the right to write; called before anything is deleted.
    """
    logger = get_run_logger()
    opened, raw = store_access(store).open(), store_access(raw_store or store).open()

    def tell(removal: Removal) -> None:
        logger.info("%s %s: %s (%s)", "would delete" if dry_run else "deleted", *_named(removal))

    with stage("clean", dataset=dataset) as report:
        cleaning = clean_dataset(
            opened, raw, dataset, policy, dry_run=dry_run, on_removal=tell, check_writer=check_writer
        )
        report.count(objects=cleaning.objects, bytes=cleaning.size_bytes, problems=len(cleaning.problems))
        if dry_run:
            report.note(dry_run="yes")
    for problem in cleaning.problems:
        logger.warning("%s", problem)
    if cleaning.removals or cleaning.problems or dry_run:
        cleaning_artifact(cleaning)
    return cleaning


@task(name="find datasets", **TASK_OPTIONS)
def find_datasets(store: str) -> list[str]:
    """The datasets that a store of finished data holds anything of.

    Args:
        store: Folder, URL or `block:NAME`.
    """
    opened = store_access(store).open()
    opened.check_access()
    found = datasets_in(opened)
    if found:
        get_run_logger().info("%s holds %s", opened.url, ", ".join(found))
    else:
        get_run_logger().warning("%s holds no dataset: check that it is the right store", opened.url)
    return found


def clean_after_publishing(
    store: str,
    dataset: str,
    policy: RetentionPolicy,
    *,
    raw_store: str | None = None,
    check_writer: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Clean at the end of a run whose dataset is published: if that fails the run goes on, but does not hide it.

    The task run is shown as failed, the log has a warning, and what comes back says so.

    Args:
        store: See `clean`, as all others.
        dataset: Likewise.
        policy: Likewise.
        raw_store: Likewise.
        check_writer: Likewise.

    Returns:
        JSON-ready: `objects` and `bytes` deleted, and `problems`, which is empty where all went well.
    """
    state = clean(store, dataset, policy, raw_store=raw_store, check_writer=check_writer, return_state=True)
    if not state.is_completed():
        get_run_logger().warning("published, but not cleaned: %s", state.message)
        return {"objects": 0, "bytes": 0, "problems": [state.message or "not cleaned"]}
    cleaning = state.result()
    return {"objects": cleaning.objects, "bytes": cleaning.size_bytes, "problems": cleaning.problems}


def cleaning_artifact(cleaning: Cleaning) -> None:
    """Put what went, or would go, what stays, and what is wrong into a table."""
    rows = cleaning_table(cleaning)
    done = "would be deleted" if cleaning.dry_run else "deleted"
    description = f"{cleaning.dataset}: {cleaning.objects:,} objects, {readable_size(cleaning.size_bytes)}, {done}"
    if cleaning.problems:
        description += f"; {len(cleaning.problems)} problems"
    if len(rows) > ROWS_SHOWN:
        description += f"; the first {ROWS_SHOWN} of {len(rows):,} rows, the log names all"
    slug = re.sub("[^a-z0-9]+", "-", cleaning.dataset.lower()).strip("-")
    key = f"housekeeping-{slug}"
    with artifact_or_warning(f"artifact {key}"):
        create_table_artifact(rows[:ROWS_SHOWN], key=key, description=description)


def cleaning_table(cleaning: Cleaning) -> list[dict[str, Any]]:
    """One row for each thing: problems first, then what goes, then what stays."""
    goes = "would go" if cleaning.dry_run else "deleted"
    rows = [_row("PROBLEM", "", "", problem) for problem in cleaning.problems]
    for removal in cleaning.removals:
        kind, name, reason, size = removal.kind.value, removal.name, removal.reason, readable_size(removal.size_bytes)
        rows.append(_row(goes, kind, name, reason, f"{removal.objects:,}", size))
    rows += [_row("kept", "version", name, reason) for name, reason in cleaning.kept.items()]
    return rows or [_row("nothing to do", "", "", "")]


def _row(outcome: str, kind: str, name: str, reason: str, objects: str = "", size: str = "") -> dict[str, Any]:
    return {"outcome": outcome, "what": kind, "where": name, "why": reason, "objects": objects, "size": size}


def _named(removal: Removal) -> tuple[str, str, str]:
    size = f"{removal.objects:,} objects, {readable_size(removal.size_bytes)}"
    return f"{removal.kind.value} {removal.name}", removal.reason, size
