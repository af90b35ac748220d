"""A flow run is the only writer of its dataset: among runs of any kind, and by Prefect's limit where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.concurrency.sync import concurrency
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed, Running
from prefect_aws import AwsCredentials
from pydantic import SecretStr

from blocks.dataset_store import DatasetStore
from imageshards.errors import ConfigError, ImageShardsError, StoreError
from imageshards.store import Store, open_store
from imageshards.writer_lock import Holder, newest_lease, writer_lock
from tasks.writer import LIMIT, writing
from tests.conftest import S3Server
from tests.flows.runs import last_run

DATASET = "pets"
LOCAL_RUN = Holder(run_id="local", name="sly-fox")


@flow
def write(store: str, raw_store: str | None = None, **options: Any) -> dict[str, Any]:
    """A flow that writes nothing, and says what it saw while it might."""
    with writing(store, DATASET, raw_store=raw_store, **options) as allowed:
        allowed.check()
        return {
            "run_id": allowed.run_id,
            "name": flow_run.name,
            "locks": [newest_lease(open_store(each), DATASET) for each in (store, raw_store) if each],
            "slots": active_slots(),
        }


@contextmanager
def limit(slots: int) -> Iterator[None]:
    """Prefect's limit, for a block."""
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=LIMIT, limit=slots))
        try:
            yield
        finally:
            client.delete_global_concurrency_limit_by_name(LIMIT)


@flow(name="pets")
def other() -> None:
    """A flow that writes, by its name."""


@contextmanager
def another_writer() -> Iterator[None]:
    """A run that the server takes for one that writes, for a block."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(other, state=Running())
        try:
            yield
        finally:
            client.set_flow_run_state(run.id, Completed(), force=True)


def end_all_writers() -> None:
    """Killed runs of other tests still count as running: nobody told the server."""
    running = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=running):
            client.set_flow_run_state(run.id, Crashed(), force=True)


def active_slots() -> int | None:
    """How many slots of the limit are taken; None where it does not exist."""
    with get_client(sync_client=True) as client:
        found = [each for each in client.read_global_concurrency_limits() if each.name == LIMIT]
    return found[0].active_slots if found else None


def is_free(store: Store) -> bool:
    _, lease = newest_lease(store, DATASET)
    return lease is None or lease.released


def test_a_run_holds_the_lock_under_its_own_name_and_gives_it_back(prefect_api: str, folder_store: Store) -> None:
    saw = write(folder_store.url)
    assert saw["run_id"] == str(last_run().run.id)
    [(number, lease)] = saw["locks"]
    assert (number, lease.holder.run_id, lease.holder.name) == (1, saw["run_id"], saw["name"])
    assert not lease.released
    assert saw["slots"] is None
    assert is_free(folder_store)
    assert not any("do not exist" in message for message in last_run().messages()), "no limit is no reason to warn"


def test_a_run_waits_for_one_of_no_server_and_its_log_says_for_whom(prefect_api: str, folder_store: Store) -> None:
    refused = pytest.raises(StoreError, match=r"run sly-fox .* is still writing pets")
    with writer_lock(folder_store, DATASET, holder=LOCAL_RUN), refused:
        write(folder_store.url, wait_seconds=1)
    assert any(message.startswith("waiting for run sly-fox (process") for message in last_run().messages())


def test_both_stores_are_locked_each_once_whatever_they_are_called(prefect_api: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    saw = write(str(tmp_path / "link"), f"file://{tmp_path}/data")
    assert [number for number, _ in saw["locks"]] == [1, 1]
    saw = write(str(tmp_path / "data"), str(tmp_path / "raw"))
    assert [number for number, _ in saw["locks"]] == [2, 1]
    raw = open_store(str(tmp_path / "raw"))
    with writer_lock(raw, DATASET, holder=LOCAL_RUN), pytest.raises(StoreError, match="still writing"):
        write(str(tmp_path / "data"), str(tmp_path / "raw"), wait_seconds=0)
    assert is_free(open_store(str(tmp_path / "data")))


def test_a_run_takes_a_slot_of_the_limit_and_gives_it_back(prefect_api: str, folder_store: Store) -> None:
    with limit(1):
        assert write(folder_store.url)["slots"] == 1
        assert active_slots() == 0


def test_a_run_that_gets_no_slot_says_so_and_gives_the_lock_back(prefect_api: str, folder_store: Store) -> None:
    with limit(1), concurrency(LIMIT), another_writer():
        with pytest.raises(ImageShardsError, match=r"1 of 1 slots.*prefect gcl"):
            write(folder_store.url, wait_seconds=1)
        assert is_free(folder_store)
        assert any(message.startswith("waiting: 1 of 1 slots") for message in last_run().messages())


def test_a_slot_of_a_run_that_is_gone_holds_nobody_up(prefect_api: str, folder_store: Store) -> None:
    with another_writer():
        pass
    end_all_writers()
    with limit(1), concurrency(LIMIT):
        assert write(folder_store.url, wait_seconds=0)["slots"] == 1
    assert any("runs that are gone" in message for message in last_run().messages())


def test_at_a_limit_of_zero_runs_wait(prefect_api: str, folder_store: Store) -> None:
    with limit(0), pytest.raises(ImageShardsError, match=r"0 of 0 slots .* at a limit of 0 all runs wait"):
        write(folder_store.url, wait_seconds=0)


def test_an_error_in_the_block_gives_all_back(prefect_api: str, folder_store: Store) -> None:
    @flow
    def fail() -> None:
        with writing(folder_store.url, DATASET):
            raise StoreError("denied")

    with limit(1):
        with pytest.raises(StoreError, match="denied"):
            fail()
        assert active_slots() == 0
    assert is_free(folder_store)


def test_one_store_under_two_names_is_found_before_any_work(prefect_api: str, moto: S3Server) -> None:
    url, port = f"s3://{moto.new_bucket()}/prefix", moto.endpoint_url.rpartition(":")[2]
    keys = AwsCredentials(aws_access_key_id="key", aws_secret_access_key=SecretStr("secret"))
    for host in ("127.0.0.1", "localhost"):
        block = DatasetStore(url=url, endpoint_url=f"http://{host}:{port}", credentials=keys)
        block.save(f"by-{host.replace('.', '-')}", overwrite=True)
    with pytest.raises(ConfigError, match="two names of one place"):
        write("block:by-127-0-0-1", "block:by-localhost")
    assert is_free(moto.store(url.split("/")[2], "prefix"))
