"""A job ends itself when nobody holds the lock for it any more, and not before."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from imageshards.job import JobSpec, parse_driver_line
from imageshards.lease import Holder, Lease, LeasePolicy
from imageshards.lease_watch import WatchPolicy, why_end
from imageshards.sample import SampleArchives
from imageshards.store import Store, open_store
from imageshards.writer_lock import writer_lock
from tests.tasks.jobs import SPEC_KEY, write_endless_job

DATASET = "pets"
POLICY = WatchPolicy(look_seconds=15, patience_seconds=180)
QUICK = WatchPolicy(look_seconds=0.1, patience_seconds=1.0)
BEATING = LeasePolicy(renew_seconds=0.1, poll_seconds=0.05)
END_SECONDS = 60

WATCHED = """
import json, sys, time
from imageshards.lease_watch import WatchPolicy, watch_lease
from imageshards.store import StoreSpec, open_store

spec, run_id, policy = json.loads(sys.argv[1])
store = open_store(StoreSpec(**spec))
watch_lease(store, "pets", run_id, lambda error: print(error, flush=True), WatchPolicy(**policy))
print("watching", flush=True)
time.sleep(600)
"""
DRIVER = """
import functools, sys
from imageshards import ray_driver
from imageshards.lease_watch import WatchPolicy

ray_driver.watch_lease = functools.partial(ray_driver.watch_lease, policy=WatchPolicy(0.5, 5))
sys.exit(ray_driver.main(sys.argv[1:]))
"""


def held_by(run_id: str, **fields: Any) -> Lease:
    return Lease(holder=Holder(run_id=run_id, name="clever-bear"), **fields)


@pytest.mark.parametrize(
    ("lease", "still_seconds", "reason"),
    [
        (held_by("mine"), 0, None),
        (held_by("mine"), 179, None),
        (held_by("mine"), 180, "no sign of life for 180 s"),
        (held_by("mine", released=True), 179, None),
        (held_by("mine", released=True), 180, "gave its writer lock back"),
        (held_by("other"), 0, "run clever-bear .* has taken its writer lock"),
        (held_by("other", released=True), 0, "run clever-bear .* has taken its writer lock"),
        (None, 179, None),
        (None, 180, "has been gone for 180 s"),
    ],
)
def test_a_job_ends_when_its_run_does_not_hold_the_lock_and_is_not_tried_again(
    lease: Lease | None, still_seconds: float, reason: str | None
) -> None:
    found = why_end(lease, "mine", still_seconds=still_seconds, policy=POLICY)
    assert (found is None) == (reason is None)
    assert reason is None or re.search(reason, found or "")


@contextmanager
def watched(store: Store, run_id: str) -> Iterator[subprocess.Popen[str]]:
    """A process that does nothing but watch its lease."""
    told = json.dumps([store.spec.model_dump(), run_id, asdict(QUICK)])
    process = subprocess.Popen([sys.executable, "-c", WATCHED, told], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def assert_lives_on(process: subprocess.Popen[str]) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2 * QUICK.patience_seconds)


def end_of(process: subprocess.Popen[str]) -> str:
    """What a process said that ended by SIGTERM."""
    said, _ = process.communicate(timeout=END_SECONDS)
    assert process.returncode == -signal.SIGTERM
    return said


def test_a_process_lives_through_new_attempts_of_its_run_and_ends_when_another_takes_the_lock(
    folder_store: Store,
) -> None:
    mine = Holder(run_id="mine", name="sly-fox")
    with writer_lock(folder_store, DATASET, holder=mine, policy=BEATING), watched(folder_store, "mine") as process:
        assert_lives_on(process)
        with writer_lock(folder_store, DATASET, holder=mine, policy=BEATING):
            assert_lives_on(process)
        with writer_lock(folder_store, DATASET, holder=Holder(run_id="other", name="clever-bear")):
            assert "the job of run mine ends itself: run clever-bear" in end_of(process)


def test_a_process_ends_when_the_heart_of_its_run_stands_still(folder_store: Store) -> None:
    folder_store.put(f"locks/{DATASET}/000000000001.json", held_by("mine").to_json())
    with watched(folder_store, "mine") as process:
        assert "showed no sign of life for 1 s" in end_of(process)


def test_the_driver_of_a_run_that_has_lost_its_lock_ends_and_says_why(
    drawn_sample: SampleArchives, tmp_path: Path
) -> None:
    arguments = write_endless_job(tmp_path, drawn_sample)
    store = open_store(arguments[1].removesuffix(f"/{SPEC_KEY}"))
    spec = JobSpec.from_json(store.get(SPEC_KEY), uri="spec").model_copy(update={"lease": "mine"})
    store.put(SPEC_KEY, spec.model_dump_json().encode())
    token = tmp_path / "token"
    token.write_text("0" * 64)
    mine, other = Holder(run_id="mine", name="sly-fox"), Holder(run_id="other", name="clever-bear")
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, "--ray-address", "local", *arguments],
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        with writer_lock(store, spec.dataset, holder=mine, policy=BEATING):
            assert process.stdout is not None
            begun = parse_driver_line(process.stdout.readline())
            assert begun is not None
            assert begun["kind"] != "error"
        with writer_lock(store, spec.dataset, holder=other):
            said, _ = process.communicate(timeout=END_SECONDS)
    finally:
        with suppress(ProcessLookupError):  # as it should be: Ray's processes, of the same group, are gone, too
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    errors = [line["error"] for line in map(parse_driver_line, said.splitlines()) if line and line["kind"] == "error"]
    assert [error["type"] for error in errors] == ["StoreError"]
    assert "the job of run mine ends itself: run clever-bear" in errors[0]["message"]
    assert process.returncode != 0  # that of the signal, unless Ray aborts on a task that ends while it shuts down
