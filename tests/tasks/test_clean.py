"""clean: what went is in the log and in an artifact, and a failure after publishing is seen and does no harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from imageshards.errors import StoreError
from imageshards.oxford_pets import DATASET
from imageshards.pointer import latest_key
from imageshards.retention import RetentionPolicy
from imageshards.store import Store
from tasks.clean import clean, clean_after_publishing, find_datasets
from tests.conftest import S3Server
from tests.flows.runs import last_run
from tests.imageshards.built_version import RESOLUTION, BuiltVersion, build_version, uploaded_sample
from tests.imageshards.published_versions import contents, prefix_of, publish_copies

KEEP_ONE = RetentionPolicy(keep_versions=1)
ARTIFACT = f"housekeeping-{DATASET}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltVersion:
    return build_version(*uploaded_sample(tmp_path_factory.mktemp("built")))


@flow
def cleaning(store: str, **options: Any) -> Any:
    """A flow that does nothing else."""
    return clean(store, DATASET, KEEP_ONE, **options).to_dict()


@flow
def publishing(store: str) -> Any:
    """What a flow does at its end."""
    return clean_after_publishing(store, DATASET, KEEP_ONE)


@flow
def finding(store: str) -> list[str]:
    """A flow that does nothing else."""
    return find_datasets(store)


def rows_of(artifacts: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["outcome"], row["where"]) for row in json.loads(artifacts[ARTIFACT].data)]


def test_what_goes_and_what_stays_is_told(prefect_api: str, folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, [0, 10, 20])
    before = contents(folder_store)
    assert cleaning(folder_store.url, dry_run=True)["objects"] > 0
    assert contents(folder_store) == before
    dry = last_run()
    expected = [(prefix_of(0), "replaced"), (prefix_of(1), "replaced"), (prefix_of(2), "latest.json")]
    assert rows_of(dry.artifacts()) == [(("would go", "would go", "kept")[n], expected[n][0]) for n in range(3)]
    assert "would be deleted" in dry.artifacts()[ARTIFACT].description

    assert cleaning(folder_store.url)["problems"] == []
    done = last_run()
    assert rows_of(done.artifacts()) == [(("deleted", "deleted", "kept")[n], expected[n][0]) for n in range(3)]
    messages = done.messages()
    assert [f"deleted version {prefix_of(number)}" in "\n".join(messages) for number in range(3)] == [True, True, False]
    assert any(line.startswith("stage=clean outcome=done") and "problems=0" in line for line in messages)


def test_where_nothing_is_to_be_done_there_is_no_artifact(
    prefect_api: str, folder_store: Store, built: BuiltVersion
) -> None:
    publish_copies(built, folder_store, [0])
    assert publishing(folder_store.url) == {"objects": 0, "bytes": 0, "problems": []}
    assert last_run().artifacts() == {}


def test_a_problem_is_a_warning_and_the_first_row(prefect_api: str, folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, [0, 10])
    folder_store.put(latest_key(DATASET, RESOLUTION), b"{")
    [problem] = publishing(folder_store.url)["problems"]
    run = last_run()
    assert "latest.json" in problem
    assert problem in run.messages()
    assert rows_of(run.artifacts())[0] == ("PROBLEM", "")
    assert "1 problem" in run.artifacts()[ARTIFACT].description


def test_a_failure_after_publishing_is_seen_and_the_run_goes_on(
    prefect_api: str, moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in moto.environment.items():
        monkeypatch.setenv(variable, value)
    [problem] = publishing("s3://no-such-bucket-here/prefix")["problems"]
    assert "no-such-bucket-here" in problem
    run = last_run()
    assert run.run.state is not None
    assert run.run.state.is_completed()
    messages = run.messages()
    assert any(line.startswith("published, but not cleaned: ") for line in messages)
    assert any(line.startswith("stage=clean outcome=failed") for line in messages)


def test_the_datasets_of_a_store_are_found(prefect_api: str, folder_store: Store) -> None:
    assert finding(folder_store.url) == []
    assert any("holds no dataset" in line for line in last_run().messages())
    for key in ("shards/a/224/latest.json", f"shards/b/224/{'0' * 32}/x", "shards/stray", "raw/c/index/x"):
        folder_store.put(key, b"x")
    assert finding(folder_store.url) == ["a", "b"]


def test_a_store_that_cannot_be_used_is_told(prefect_api: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="not a folder"):
        finding(str(tmp_path / "file"))
