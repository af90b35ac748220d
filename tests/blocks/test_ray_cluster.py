"""The ray-cluster block: possible addresses, its token, the way there and back."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from blocks.ray_cluster import ClusterAccess, RayCluster, check_address, cluster_access
from imageshards.errors import ConfigError
from tests.blocks.saved import SECRET, new_name, overwrite_data, what_the_server_shows

ADDRESS = "http://head:8265"


def test_a_saved_block_comes_back_as_it_was(prefect_api: str) -> None:
    name = new_name()
    block = RayCluster(
        address=ADDRESS + "/",
        token=SecretStr(SECRET),
        driver_cpus=1.5,
        driver_memory_bytes=2**30,
        python="python3.12",
        code="installed",
        outage_seconds=600,
    )
    block.save(name)
    assert cluster_access(f"block:{name}") == ClusterAccess(ADDRESS, SECRET, 1.5, 2**30, "python3.12", "installed", 600)
    assert SECRET not in what_the_server_shows()


def test_local_is_possible_with_and_without_a_block(prefect_api: str) -> None:
    name = new_name()
    RayCluster(address="local").save(name)
    for reference in ("local", f"block:{name}"):
        assert cluster_access(reference).is_local
    assert not cluster_access(ADDRESS).is_local


def test_nothing_shows_the_token() -> None:
    block = RayCluster(address=ADDRESS, token=SecretStr(SECRET))
    access = block.access()
    assert access.token == SECRET
    shown = [repr(block), str(block), block.model_dump_json(), str(block.model_dump()), repr(access), str(access)]
    assert not [text for text in shown if SECRET in text]


def test_an_address_takes_its_token_from_the_environment_and_a_block_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    assert cluster_access(ADDRESS).token == SECRET
    assert RayCluster(address=ADDRESS).access().token is None
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    assert cluster_access(ADDRESS).token is None


@pytest.mark.parametrize(
    "address", ["local", ADDRESS, "https://ray.example.org", "https://proxy.example.org/ray", "http://[::1]:8265"]
)
def test_a_possible_address_is_taken_without_a_slash_at_its_end(address: str) -> None:
    assert check_address(address) == address
    if address != "local":
        assert check_address(address + "/") == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "auto",
        "Local",
        "head",
        "head:8265",
        "ftp://head",
        "http://",
        "http://:8265",
        "http://head:port",
        "http://head:99999",
        "http://head:0",
        "http://[::1",
        f"http://head:8265/?token={SECRET}",
        "http://head:8265/#jobs",
        f"http://user:{SECRET}@head:8265",
        f"http://{SECRET}@head:8265",
        f"//user:{SECRET}@[head",
    ],
)
def test_an_impossible_address_is_refused_without_showing_secrets(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_address(address)
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError):
        RayCluster(address=address).access()


def test_an_address_of_rays_client_protocol_is_told_what_to_use_instead() -> None:
    with pytest.raises(ConfigError, match="Jobs API"):
        check_address("ray://head:10001")


def test_a_block_saved_before_there_were_new_fields_means_what_it_meant(prefect_api: str) -> None:
    name = new_name()
    document = RayCluster(address=ADDRESS).save(name)
    overwrite_data(document, {"address": ADDRESS, "driver_cpus": 0, "driver_memory_bytes": None, "python": "python"})
    assert cluster_access(f"block:{name}") == ClusterAccess(ADDRESS)


def test_the_form_has_its_fields_in_the_order_of_use_each_with_title_and_help() -> None:
    fields = RayCluster.model_json_schema()["properties"]
    assert list(fields)[:3] == ["address", "token", "code"]
    assert fields["code"]["enum"] == ["travels", "installed"]
    assert all(field["title"] and field["description"].endswith(".") for field in fields.values())


def test_the_code_comes_in_one_of_two_ways() -> None:
    with pytest.raises(ValidationError, match="code"):
        RayCluster(address=ADDRESS, code="flies")


@pytest.mark.parametrize("field", ["driver_cpus", "driver_memory_bytes", "outage_seconds"])
def test_resources_are_not_negative(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        RayCluster(address=ADDRESS, **{field: -1})
