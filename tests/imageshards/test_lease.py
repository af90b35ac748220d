"""Whether the holder of a lock still lives: judged from what he wrote, without a store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imageshards.errors import StoreError
from imageshards.lease import Holder, Lease, LeasePolicy, Stillness, may_take

POLICY = LeasePolicy(lease_seconds=60)
ELSEWHERE = Holder(run_id="other", name="clever-bear", deployment="nightly", host="h", machine="another one")

needs_proc = pytest.mark.skipif(Holder(run_id="r", name="n").machine is None, reason="no /proc")


@pytest.mark.parametrize(
    ("lease", "still_seconds", "expected"),
    [
        (None, 0, True),
        (Lease(holder=ELSEWHERE), 0, False),
        (Lease(holder=ELSEWHERE), 59, False),
        (Lease(holder=ELSEWHERE), 60, True),
        (Lease(holder=ELSEWHERE, released=True), 0, True),
        (Lease(holder=ELSEWHERE.model_copy(update={"run_id": "mine"})), 0, True),
    ],
)
def test_a_lock_may_be_taken_where_it_is_free_or_still_or_of_the_same_run(
    lease: Lease | None, still_seconds: float, expected: bool
) -> None:
    assert may_take(lease, "mine", still_seconds=still_seconds, policy=POLICY) is expected


def process_that_ended() -> dict[str, Any]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = start_of(process.pid)
    process.communicate()
    return {"pid": process.pid, "process_start": start}


def start_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]


@needs_proc
def test_a_holder_of_this_machine_whose_process_has_ended_is_gone_at_once() -> None:
    ended = Holder(run_id="other", name="n", **process_that_ended())
    assert ended.is_gone()
    assert may_take(Lease(holder=ended), "mine", still_seconds=0, policy=POLICY)


@needs_proc
def test_a_process_that_got_the_number_of_the_holders_is_not_the_holder() -> None:
    assert not Holder(run_id="r", name="n").is_gone()
    assert Holder(run_id="r", name="n", process_start="1").is_gone()


@needs_proc
def test_a_dead_process_that_its_parent_has_not_noticed_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        holder = Holder(run_id="r", name="n", pid=process.pid, process_start=start_of(process.pid))
        assert not holder.is_gone()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert holder.is_gone()
    finally:
        process.communicate()


@needs_proc
@pytest.mark.parametrize(
    "other", [{"machine": "another one"}, {"machine": None}, {"host": "h"}, {"process_start": None}]
)
def test_of_a_process_elsewhere_nothing_is_known(other: dict[str, Any]) -> None:
    assert not Holder(run_id="r", name="n", **{**process_that_ended(), **other}).is_gone()


def test_a_heartbeat_stands_still_only_for_as_long_as_it_was_looked_at() -> None:
    still = Stillness(longest_step_seconds=4)
    lease = Lease(holder=ELSEWHERE)
    assert still.look(lease, 1000) == 0
    assert still.look(lease, 1002) == 2
    assert still.look(lease, 9000) == 6, "one who slept for hours saw nothing meanwhile"
    assert still.look(lease.model_copy(update={"beat": 1}), 9001) == 0
    assert still.look(Lease(holder=ELSEWHERE, beat=1), 9002) == 0, "another run, with the same count"
    assert still.look(None, 9003) == 0
    assert still.look(None, 9004) == 1


def test_a_lease_says_who_where_and_since_when() -> None:
    lease = Lease(holder=ELSEWHERE.model_copy(update={"pid": 77}))
    assert lease.describe() == (
        f"run clever-bear of nightly (process 77 on h, since {lease.since:%Y-%m-%d %H:%M:%S} UTC)"
    )
    assert Lease.from_json(lease.to_json(), uri="s3://b/k") == lease


@pytest.mark.parametrize("data", [b"", b"{}", b"not JSON", b"\xff"])
def test_what_is_no_lease_is_refused_with_its_address_and_what_to_do(data: bytes) -> None:
    with pytest.raises(StoreError, match=r"s3://b/k is no writer lock.*delete it"):
        Lease.from_json(data, uri="s3://b/k")
