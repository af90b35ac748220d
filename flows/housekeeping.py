"""Keeps house in a store: old versions, and what runs that died left.

    find datasets → for each: [writer lock] clean

Run it here with `python -m flows.housekeeping --store URL`, which only tells what would go, and with `--delete` to have
it gone; or deploy it with `prefect deploy --all`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before the imports below, which take seconds: see there
    from flows.housekeeping_command import main

    sys.exit(main())

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from blocks.dataset_store import store_access
from flows import form
from imageshards.errors import StoreError
from imageshards.retention import RetentionPolicy
from tasks.clean import clean, find_datasets
from tasks.writer import writing

GraceDays = Annotated[float, Field(json_schema_extra={"title": "Days of grace", "minimum": 0})]
DeleteRaw = Annotated[bool, Field(json_schema_extra={"title": "Delete raw images, too"})]
DryRun = Annotated[bool, Field(json_schema_extra={"title": "Dry run"})]


@flow(name="housekeeping", log_prints=False, persist_result=False)
def housekeeping(
    store: form.StoreReference = "data",
    raw_store: form.RawStoreReference = None,
    keep_versions: form.VersionsKept = 3,
    grace_days: GraceDays = 7.0,
    delete_raw: DeleteRaw = False,
    dry_run: DryRun = True,
) -> dict[str, Any]:
    """Delete old versions that no manifest in use refers to, and what abandoned runs left; or tell what would go.

    Args:
        store: Where the finished shards lie: s3://bucket/prefix, a folder, or block:NAME of a dataset-store block.
        raw_store: Where the raw images lie, if not there.
        keep_versions: The newest of each resolution that stay; the current one always does. All: only what abandoned
            runs left goes.
        grace_days: So long a version stays after it was replaced, for those who read it.
        delete_raw: On: raw images and trimaps go that no version kept refers to. Only where no other store of finished
            shards relies on the same raw images, for nothing is known of it here. Off: raw images are never deleted.
        dry_run: On: nothing is deleted, the artifacts tell what would be.

    Returns:
        store, dry_run, and for each dataset what went, what stays, and what is wrong.
    """
    policy = RetentionPolicy(keep_versions=keep_versions, grace_days=grace_days, delete_raw=delete_raw)
    passes = []
    for dataset in find_datasets(store):
        if dry_run:
            passes.append(clean(store, dataset, policy, raw_store=raw_store, dry_run=True))
            continue
        with writing(store, dataset, raw_store=raw_store) as right:
            passes.append(clean(store, dataset, policy, raw_store=raw_store, check_writer=right.check))
    problems = [problem for each in passes for problem in each.problems]
    if problems and not dry_run:
        raise StoreError(
            f"housekeeping met {len(problems)} problems, and did all the rest; the first: {problems[0]}",
            problems=problems,
        )
    return {
        "store": store_access(store).open().url,
        "dry_run": dry_run,
        "objects": sum(each.objects for each in passes),
        "size_bytes": sum(each.size_bytes for each in passes),
        "datasets": [each.to_dict() for each in passes],
    }
