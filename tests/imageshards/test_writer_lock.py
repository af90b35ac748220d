"""One writer at a time, on every store, among real processes: killed, stopped and interrupted ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from imageshards.errors import ObjectExistsError, StoreError, TransientError
from imageshards.store import Store
from imageshards.writer_lock import Holder, Lease, LeasePolicy, WriterLock, newest_lease, writer_lock
from tests.conftest import BACKENDS, S3Server
from tests.imageshards.lock_program import COUNTER, DATASET, Wish
from tests.processes import wait_until

PROGRAM = Path(__file__).with_name("lock_program.py")
PROCESSES, INCREMENTS = 4, 4
END_SECONDS = 60
PATIENT = LeasePolicy(poll_seconds=0.02)
"""Nobody is found dead by his heartbeat in the time of a test."""
HASTY = LeasePolicy(lease_seconds=1.0, renew_seconds=0.1, poll_seconds=0.05, report_seconds=0.2)


@dataclass(frozen=True)
class Place:
    """An empty store, and the environment in which a process reaches it."""

    store: Store
    environment: dict[str, str] = field(repr=False)


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, folder_store: Store) -> Place:
    """An empty store, on each backend in turn."""
    if request.param == "folder":
        return Place(folder_store, {})
    server: S3Server = request.getfixturevalue(request.param)
    return Place(server.store(server.new_bucket(), "prefix"), server.environment)


@contextmanager
def started(place: Place, **wish: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of `lock_program.py`; it does not outlive the block."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.imageshards.lock_program",
            Wish(store=place.store.spec, **wish).model_dump_json(),
        ],
        env={**os.environ, **place.environment},
        cwd=PROGRAM.parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(process: subprocess.Popen[str]) -> str:
    """Have a process check its lock; what it says."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return line_of(process)


def me(name: str = "me") -> Holder:
    return Holder(run_id=name, name=name)


def take_once(store: Store, **options: Any) -> None:
    """Take the lock and give it back."""
    with writer_lock(store, DATASET, holder=me(), **options):
        pass


def foreign() -> Holder:
    """A run on another machine, of which only the heartbeat tells whether it lives."""
    return Holder(run_id="other", name="clever-bear", deployment="nightly", host="elsewhere", machine="another", pid=7)


def keys(store: Store) -> list[str]:
    return [info.key for info in store.list("locks")]


def key(number: int) -> str:
    return f"locks/{DATASET}/{number:012d}.json"


def put(store: Store, number: int, lease: Lease) -> None:
    store.put(key(number), lease.to_json())


def newest(store: Store) -> Lease:
    _, lease = newest_lease(store, DATASET)
    assert lease is not None
    return lease


def test_of_many_processes_one_at_a_time_has_the_lock(place: Place) -> None:
    place.store.put(COUNTER, b"0")
    with started(place) as dead:  # all of them find a holder that is gone, first
        assert line_of(dead) == "held"
        dead.kill()
    with ExitStack() as stack:
        wish = {"increments": INCREMENTS, "policy": PATIENT}
        processes = [stack.enter_context(started(place, **wish)) for _ in range(PROCESSES)]
        for process in processes:
            process.wait(END_SECONDS)
    assert [process.returncode for process in processes] == [0] * PROCESSES
    assert int(place.store.get(COUNTER)) == PROCESSES * INCREMENTS
    assert keys(place.store) == [key(PROCESSES * INCREMENTS + 1)]
    assert newest(place.store).released


def test_a_killed_holder_is_replaced_at_once_by_a_run_on_the_same_machine(place: Place) -> None:
    with started(place) as process:
        assert line_of(process) == "held"
        with pytest.raises(StoreError, match="still writing"):
            take_once(place.store, wait_seconds=0)
        process.kill()
        process.wait()
        with writer_lock(place.store, DATASET, holder=me(), wait_seconds=0) as lock:
            lock.check()
            assert keys(place.store) == [key(2)]


def test_a_holder_who_slept_too_long_is_replaced_and_finds_out(place: Place) -> None:
    with started(place, policy=HASTY) as process:
        assert line_of(process) == "held"
        assert ask(process) == "kept"
        process.send_signal(signal.SIGSTOP)
        with writer_lock(
            place.store, DATASET, holder=me("clever-bear"), wait_seconds=END_SECONDS, policy=HASTY
        ) as lock:
            process.send_signal(signal.SIGCONT)
            said = ask(process)
            assert said.startswith("lost: run holding has lost the writer lock of pets")
            assert "run clever-bear (process" in said
            lock.check()
            assert keys(place.store) == [lock.key]
        assert newest(place.store).holder.name == "clever-bear"
        assert newest(place.store).released


def test_a_foreign_holder_is_waited_for_as_long_as_his_heart_beats(folder_store: Store) -> None:
    lease = Lease(holder=foreign())
    put(folder_store, 5, lease)
    stop = threading.Event()

    def beat() -> None:
        count = 0
        while not stop.wait(0.1):
            count += 1
            put(folder_store, 5, lease.model_copy(update={"beat": count}))

    heart = threading.Thread(target=beat)
    heart.start()
    told: list[str] = []
    try:
        with pytest.raises(StoreError, match=r"run clever-bear of nightly \(process 7 on elsewhere, since .* is still"):
            take_once(folder_store, wait_seconds=2, on_wait=told.append, policy=HASTY)
    finally:
        stop.set()
        heart.join()
    assert len(told) > 1
    assert all(each.startswith("waiting for run clever-bear of nightly (process 7 on elsewhere") for each in told)
    assert keys(folder_store) == [key(5)]
    with writer_lock(folder_store, DATASET, holder=me(), wait_seconds=END_SECONDS, policy=HASTY):
        assert keys(folder_store) == [key(6)]


def test_a_run_that_is_tried_again_takes_over_from_its_earlier_attempt(store: Store) -> None:
    with writer_lock(store, DATASET, holder=me("same")) as first:
        with writer_lock(store, DATASET, holder=me("same"), wait_seconds=0) as second:
            with pytest.raises(StoreError, match="lost the writer lock"):
                first.check()
            second.check()
        assert newest(store).released


def test_datasets_do_not_wait_for_each_other(store: Store) -> None:
    with writer_lock(store, "pets", holder=me("a")), writer_lock(store, "cars", holder=me("b"), wait_seconds=0) as lock:
        lock.check()


def test_the_heart_beats_until_the_lock_is_released_and_no_more(store: Store) -> None:
    with writer_lock(store, DATASET, holder=me(), policy=HASTY) as lock:
        assert wait_until(lambda: newest(store).beat > 2, timeout_seconds=END_SECONDS)
    released = newest(store)
    assert released.released
    time.sleep(3 * HASTY.renew_seconds)
    with pytest.raises(StoreError, match="has given back"):
        lock.check()
    assert newest(store) == released


def test_a_wait_is_interrupted_and_leaves_the_lock_with_its_holder(place: Place) -> None:
    with writer_lock(place.store, DATASET, holder=me()) as lock, started(place) as process:
        assert line_of(process).startswith("waiting for run me (process")
        process.send_signal(signal.SIGINT)
        assert line_of(process) == "interrupted"
        assert process.wait(END_SECONDS) == 0
        lock.check()
        assert keys(place.store) == [key(1)]


def test_an_interruption_right_after_the_lock_was_taken_gives_it_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = store.put

    def interrupted(*arguments: Any, **options: Any) -> None:
        plain(*arguments, **options)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        take_once(store)
    assert newest(store).released


def test_a_lock_whose_first_answer_was_lost_is_known_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = store.put

    def lost(*arguments: Any, **options: Any) -> None:
        plain(*arguments, **options)
        monkeypatch.undo()
        raise ObjectExistsError("there is an object already")

    monkeypatch.setattr(store, "put", lost)
    with writer_lock(store, DATASET, holder=me(), wait_seconds=0) as lock:
        lock.check()
        assert keys(store) == [key(1)]


def test_one_who_slept_before_he_took_a_number_that_is_free_again_has_not_the_lock(store: Store) -> None:
    for _ in range(3):
        take_once(store)
    late = WriterLock(store, DATASET, foreign(), PATIENT)
    assert not late._take(2)
    assert keys(store) == [key(3)]


def test_a_store_that_fails_for_a_moment_is_borne_with_while_waiting(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 1, Lease(holder=foreign()))
    plain, failures = store.get, iter([False, True, True])

    def failing(name: str) -> bytes:
        if next(failures, False):
            raise TransientError("the server is busy")
        return plain(name)

    monkeypatch.setattr(store, "get", failing)
    with writer_lock(store, DATASET, holder=me(), policy=HASTY) as lock:
        assert next(failures, None) is None
        lock.check()


@pytest.mark.parametrize("written", [False, True])
def test_a_failure_to_take_a_free_lock_is_borne_with(
    store: Store, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    plain = store.put

    def failing(*arguments: Any, **options: Any) -> None:
        if written:
            plain(*arguments, **options)
        monkeypatch.undo()
        raise TransientError("the server is busy")

    monkeypatch.setattr(store, "put", failing)
    with writer_lock(store, DATASET, holder=me(), policy=HASTY) as lock:
        lock.check()
        assert keys(store) == [lock.key]


def test_a_store_that_never_answered_is_not_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: str) -> Any:
        raise TransientError("the server is busy")

    monkeypatch.setattr(store, "list", failing)
    with pytest.raises(TransientError, match="busy"):
        take_once(store)


def test_what_is_no_lock_is_not_taken_for_a_free_one(store: Store) -> None:
    store.put(f"locks/{DATASET}/notes.txt", b"not a lock's name")
    store.put(key(3), b"?")
    with pytest.raises(StoreError, match=r"000003\.json is no writer lock"):
        take_once(store)


def test_a_store_that_cannot_be_written_says_so(folder_store: Store) -> None:
    folder_store.put("locks", b"a file in the place of the folder")
    with pytest.raises(StoreError, match="a file is in the place of a folder"):
        take_once(folder_store)


def test_a_lock_costs_few_requests(folder_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: Counter[str] = Counter()
    for name in ("list", "get", "put", "delete"):
        monkeypatch.setattr(folder_store, name, counted(getattr(folder_store, name), name, requests))
    with writer_lock(folder_store, DATASET, holder=me()):
        assert requests == {"list": 2, "put": 1}
        requests.clear()
    assert requests == {"put": 1}
    requests.clear()
    with writer_lock(folder_store, DATASET, holder=me()) as lock:
        assert requests == {"list": 2, "get": 1, "put": 1, "delete": 1}
        requests.clear()
        lock.check()
        assert requests == {"list": 1, "put": 1}


def counted(method: Callable[..., Any], name: str, counts: Counter[str]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        counts[name] += 1
        return method(*arguments, **options)

    return call
