"""Tables that a task leaves as artifacts of its run, also where the run fails later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prefect.artifacts import create_table_artifact

from imageshards.errors import Check
from imageshards.job import JobResult
from imageshards.shard_file import Reject
from tasks.artifacts import artifact_or_warning

REJECTS_SHOWN = 100
"""`rejects.parquet` beside each version names all."""

DETAIL_CHARACTERS = 300


def checks_artifact(resolution: int, checks: Iterable[Check]) -> None:
    """Leave the checks of a resolution, those that did not pass first."""
    table = [
        {
            "check": check.name,
            "passed": "yes" if check.passed else "NO",
            "expected": check.expected,
            "found": check.found,
            "examples": ", ".join(check.examples),
        }
        for check in sorted(checks, key=lambda check: check.passed)
    ]
    key = f"checks-{resolution}"
    with artifact_or_warning(f"artifact {key}"):
        create_table_artifact(table, key=key, description=f"Validation at {resolution} px")


def rejects_artifact(built: JobResult) -> None:
    """Leave the rejected images: which, why, and at which resolutions."""
    table = rejects_table(built)
    shown = table[:REJECTS_SHOWN] or [{"image": "none", "reason": "", "detail": "", "resolutions": ""}]
    description = f"{len(table):,} rejected {'image' if len(table) == 1 else 'images'}"
    if len(table) > REJECTS_SHOWN:
        description += f", the first {REJECTS_SHOWN}; rejects.parquet beside each version names all"
    with artifact_or_warning("artifact rejects"):
        create_table_artifact(shown, key="rejects", description=description)


def rejects_table(built: JobResult) -> list[dict[str, Any]]:
    """One row for each image and reason, by reason and name."""
    resolutions: dict[tuple[str, str], list[int]] = {}
    details: dict[tuple[str, str], Reject] = {}
    for version in built.versions:
        for shard in version.shards:
            for reject in shard.rejects:
                key = (reject.reason, reject.image_id)
                resolutions.setdefault(key, []).append(version.resolution)
                details.setdefault(key, reject)
    return [
        {
            "image": image_id,
            "reason": reason,
            "detail": details[reason, image_id].detail[:DETAIL_CHARACTERS],
            "resolutions": ", ".join(map(str, sorted(found))),
        }
        for (reason, image_id), found in sorted(resolutions.items())
    ]
