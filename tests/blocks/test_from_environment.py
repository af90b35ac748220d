"""`python -m blocks.from_environment`: both blocks out of variables, and not a secret printed."""

from __future__ import annotations

import os

import pytest

from blocks.dataset_store import store_access
from blocks.from_environment import cluster_block, main, store_block
from blocks.ray_cluster import ClusterAccess, cluster_access
from imageshards.errors import ConfigError
from imageshards.store import StoreSpec
from tests.blocks.saved import SECRET, new_name, what_the_server_shows

STORE = {
    "IMAGESHARDS_STORE_URL": "s3://bucket/prefix",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
    "AWS_REGION": "eu-central-1",
}
CLUSTER = {"IMAGESHARDS_RAY_ADDRESS": "http://head:8265", "RAY_AUTH_TOKEN": SECRET}


def test_the_command_creates_both_blocks_and_prints_no_secret(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store, ray = new_name(), new_name()
    for name, value in {**STORE, **CLUSTER}.items():
        monkeypatch.setenv(name, value)

    assert main(["--store-block", store, "--ray-block", ray]) == 0

    said = capfd.readouterr()
    assert said.out.splitlines() == [f"block:{store} (dataset-store)", f"block:{ray} (ray-cluster)"]
    assert SECRET not in said.out + said.err
    assert SECRET not in what_the_server_shows()
    access = store_access(f"block:{store}")
    assert access.spec == StoreSpec(
        url="s3://bucket/prefix", endpoint_url="http://127.0.0.1:9000", region="eu-central-1"
    )
    assert access.credentials is not None
    assert (access.credentials.access_key_id, access.credentials.secret_access_key) == ("key", SECRET)
    assert cluster_access(f"block:{ray}") == ClusterAccess("http://head:8265", SECRET)


def test_a_second_time_overwrites(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = new_name()
    for address in ("http://first:8265", "http://second:8265"):
        monkeypatch.setenv("IMAGESHARDS_RAY_ADDRESS", address)
        assert main(["--ray-block", name]) == 0
        assert cluster_access(f"block:{name}").address == address
    assert capsys.readouterr().out.splitlines() == [f"block:{name} (ray-cluster)"] * 2


def test_its_default_names_are_those_of_the_deployments(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGESHARDS_STORE_URL", "data")
    monkeypatch.setenv("IMAGESHARDS_RAY_ADDRESS", "local")
    assert main([]) == 0
    assert store_access("block:pets").spec.url == "data"
    assert cluster_access("block:ray").is_local


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"IMAGESHARDS_STORE_URL": "gs://bucket"},
        {"IMAGESHARDS_STORE_URL": "data", "IMAGESHARDS_RAY_ADDRESS": "head:8265"},
        {name: value for name, value in STORE.items() if name != "AWS_SECRET_ACCESS_KEY"},
        {name: value for name, value in STORE.items() if name != "AWS_ACCESS_KEY_ID"},
        {**STORE, "AWS_SESSION_TOKEN": SECRET},
        {"IMAGESHARDS_RAY_ADDRESS": "http://head:8265", "IMAGESHARDS_RAY_CODE": "flies"},
        {"IMAGESHARDS_RAY_ADDRESS": f"http://user:{SECRET}@head:8265"},
        {"IMAGESHARDS_STORE_URL": f"s3://user:{SECRET}@bucket"},
    ],
    ids=lambda environment: ",".join(environment) or "nothing",
)
def test_nothing_or_nothing_possible_is_wrong_usage_and_creates_no_block(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(os.environ):
        if name.startswith(("IMAGESHARDS_STORE", "IMAGESHARDS_RAY", "RAY_", "AWS_")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("prefect.blocks.core.Block.save", lambda *_, **__: pytest.fail("a block was created"))

    assert main([]) == 2

    said = capsys.readouterr()
    assert said.err.strip()
    assert said.out == ""
    assert SECRET not in said.err


def test_an_endpoint_for_s3_alone_wins() -> None:
    block = store_block({**STORE, "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9001"})
    assert block is not None
    assert block.access().spec.endpoint_url == "http://127.0.0.1:9001"


def test_without_keys_the_block_leaves_them_to_the_machine() -> None:
    block = store_block({"IMAGESHARDS_STORE_URL": "s3://bucket", "AWS_DEFAULT_REGION": "eu-west-1"})
    assert block is not None
    assert block.credentials is None
    assert block.access().spec.region == "eu-west-1"


def test_without_a_token_the_cluster_is_asked_without() -> None:
    block = cluster_block({"IMAGESHARDS_RAY_ADDRESS": "local", "RAY_AUTH_TOKEN": ""})
    assert block is not None
    assert block.access() == ClusterAccess("local")


def test_the_environment_may_say_that_the_image_has_the_code() -> None:
    block = cluster_block({"IMAGESHARDS_RAY_ADDRESS": "http://head:8265", "IMAGESHARDS_RAY_CODE": "installed"})
    assert block is not None
    assert block.access() == ClusterAccess("http://head:8265", code="installed")


def test_an_environment_that_names_neither_gives_neither() -> None:
    assert store_block({"AWS_ACCESS_KEY_ID": "key"}) is None
    assert cluster_block({"RAY_AUTH_TOKEN": "token"}) is None


def test_keys_that_expire_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="expire"):
        store_block({**STORE, "AWS_SESSION_TOKEN": SECRET})
