"""preprocess: what its line tells, and what no line of the driver may show."""

from __future__ import annotations

import pytest
from prefect import flow
from prefect_aws import AwsCredentials
from pydantic import SecretStr

from blocks.dataset_store import DatasetStore, store_access
from blocks.ray_cluster import ClusterAccess
from imageshards.job import JobResult, VersionResult
from imageshards.shard_file import Reject, ShardResult
from tasks.preprocess import _object, _secrets, counts
from tests.conftest import S3Server
from tests.flows.runs import last_run


def shard(resolution: int, name: str, *, rejects: int = 0, reused: bool = False) -> ShardResult:
    refused = Reject("a", "raw/a.jpg", "0" * 64, "test", "pug", "truncated", "cut off")
    return ShardResult(resolution, name, "test", 20, 10, 1000, "s", "i", (refused,) * rejects, reused=reused)


def test_images_and_rows_count_once_for_each_resolution() -> None:
    result = JobResult(
        (
            VersionResult(224, "f", (shard(224, "a", rejects=1), shard(224, "b", reused=True))),
            VersionResult(384, "g", (shard(384, "a", rejects=1),)),
        ),
        1.0,
        {},
    )
    assert counts(result) == {
        "resolutions": 2,
        "images": 32,
        "rows": 60,
        "rejects": 2,
        "shards": 3,
        "reused": 1,
        "bytes": 3000,
    }


def test_every_secret_that_the_flow_knows_is_hidden() -> None:
    def access(name: str) -> DatasetStore:
        return DatasetStore(
            url=f"s3://{name}",
            credentials=AwsCredentials(
                aws_access_key_id="key",
                aws_secret_access_key=SecretStr(f"{name}-secret-key"),
                aws_session_token=f"{name}-session-token",
            ),
        )

    hidden = _secrets(
        access("finished").access(), access("raw").access(), ClusterAccess("http://head:8265", token="the-token-of-ray")
    )
    said = "finished-secret-key finished-session-token raw-secret-key raw-session-token the-token-of-ray and no more"
    assert hidden.hide(said) == "*** *** *** *** *** and no more"
    assert _secrets(store_access("a"), store_access("b"), ClusterAccess("local")).hide(said) == said


def test_an_object_of_the_run_that_cannot_be_deleted_fails_no_work_that_is_done(
    prefect_api: str, moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in moto.environment.items():
        monkeypatch.setenv(variable, value)

    @flow
    def run() -> None:
        with _object(store_access("s3://no-such-bucket-here").open(), "runs/1/result.json", None):
            pass

    run()
    assert any("runs/1/result.json is left behind" in message for message in last_run().messages())
