"""Tables of checks and rejects: what went wrong comes first, and there is an end to them."""

from __future__ import annotations

import json

from prefect import flow

from imageshards.errors import Check
from imageshards.job import JobResult, VersionResult
from imageshards.shard_file import Reject, ShardResult
from tasks.tables import DETAIL_CHARACTERS, REJECTS_SHOWN, checks_artifact, rejects_artifact, rejects_table
from tests.flows.runs import last_run


def reject(name: str, reason: str = "truncated", detail: str = "cut off") -> Reject:
    return Reject(name, f"raw/{name}.jpg", "0" * 64, "test", "pug", reason, detail)


def built(**rejects: list[Reject]) -> JobResult:
    """What a driver might have built: rejects by resolution, given as `r224=[…]`."""
    versions = [
        VersionResult(
            int(name[1:]),
            "f",
            (ShardResult(int(name[1:]), "test-00000.parquet", "test", 1, 1, 10, "s", "i", tuple(found)),),
        )
        for name, found in rejects.items()
    ]
    return JobResult(tuple(versions), 1.0, {})


def test_an_image_is_named_once_with_its_resolutions_and_rejects_are_grouped_by_reason() -> None:
    result = built(r384=[reject("a"), reject("b", "too-small")], r224=[reject("a")])
    assert rejects_table(result) == [
        {"image": "b", "reason": "too-small", "detail": "cut off", "resolutions": "384"},
        {"image": "a", "reason": "truncated", "detail": "cut off", "resolutions": "224, 384"},
    ]


def test_many_rejects_are_shown_in_part_and_the_number_is_told(prefect_api: str) -> None:
    @flow
    def run() -> None:
        rejects_artifact(built(r224=[reject(f"{n:04}", detail="x" * 5000) for n in range(REJECTS_SHOWN + 5)]))

    run()
    artifact = last_run().artifacts()["rejects"]
    rows = json.loads(artifact.data)
    assert len(rows) == REJECTS_SHOWN
    assert len(rows[0]["detail"]) == DETAIL_CHARACTERS
    assert artifact.description.startswith("105 rejected images, the first 100;")


def test_no_rejects_is_said_too(prefect_api: str) -> None:
    @flow
    def run() -> None:
        rejects_artifact(built(r224=[]))

    run()
    artifact = last_run().artifacts()["rejects"]
    assert [row["image"] for row in json.loads(artifact.data)] == ["none"]
    assert artifact.description == "0 rejected images"


def test_checks_that_failed_come_first(prefect_api: str) -> None:
    @flow
    def run() -> None:
        checks_artifact(224, [Check("a", True, "1", "1"), Check("b", False, "1", "2", ("x", "y"))])

    run()
    first, second = json.loads(last_run().artifacts()["checks-224"].data)
    assert first == {"check": "b", "passed": "NO", "expected": "1", "found": "2", "examples": "x, y"}
    assert second["passed"] == "yes"
