"""`block:NAME`: found, missing, of another kind, out of date; and that the two kinds are registered."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from pydantic import SecretStr

from blocks.dataset_store import DatasetStore, store_access
from blocks.ray_cluster import RayCluster, cluster_access
from blocks.references import load_block
from imageshards.errors import ConfigError
from tests.blocks.saved import SECRET, new_name, overwrite_data

REGISTER_SECONDS = 60


def test_prefect_block_register_registers_exactly_the_two_kinds(prefect_api: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("prefect"), "block", "register", "-m", "blocks"],
        cwd=tmp_path,  # nothing of the repository on the path: the installed package alone
        capture_output=True,
        text=True,
        timeout=REGISTER_SECONDS,
        check=True,
    )
    cells = [line.strip("│┃ ").strip() for line in done.stdout.splitlines() if line.startswith(("│", "┃"))]
    assert cells == ["Registered Blocks", "Dataset Store", "Ray Cluster"]
    with get_client(sync_client=True) as client:
        for kind in (DatasetStore, RayCluster):
            found = client.request("GET", f"/block_types/slug/{kind.get_block_type_slug()}").json()
            assert found["name"] == kind.get_block_type_name()
            assert found["description"]


@pytest.mark.parametrize("reference", ["local", "data", "s3://bucket", "/block:x", "BLOCK:x", ""])
def test_a_plain_value_names_no_block(reference: str) -> None:
    assert load_block(RayCluster, reference) is None


@pytest.mark.parametrize("name", ["no-such-block", "", "a/b", "ä ö", "../x", "x?y"])
def test_a_missing_block_is_a_configuration_error_that_says_what_to_do(prefect_api: str, name: str) -> None:
    for access, slug in ((store_access, "dataset-store"), (cluster_access, "ray-cluster")):
        with pytest.raises(ConfigError, match="from_environment") as caught:
            access(f"block:{name}")
        assert slug in str(caught.value)
        assert repr(name) in str(caught.value)


def test_a_block_of_the_other_kind_does_not_count(prefect_api: str) -> None:
    name = new_name()
    RayCluster(address="local").save(name)
    with pytest.raises(ConfigError, match="no dataset-store block"):
        store_access(f"block:{name}")


def test_a_block_that_does_not_fit_any_more_is_a_configuration_error_without_secrets(prefect_api: str) -> None:
    name = new_name()
    document_id = RayCluster(address="local", token=SecretStr(SECRET)).save(name)
    overwrite_data(document_id, {"token": SECRET, "driver_cpus": -1})
    with pytest.raises(ConfigError, match="does not fit") as caught:
        cluster_access(f"block:{name}")
    assert SECRET not in str(caught.value)


def test_a_block_can_be_loaded_within_an_event_loop(prefect_api: str) -> None:
    """A hook of a flow run may be called there."""
    name = new_name()
    RayCluster(address="local").save(name)

    async def load() -> bool:
        return cluster_access(f"block:{name}").is_local

    assert asyncio.run(load())
