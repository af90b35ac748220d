"""One writer for each dataset of a store, wherever its runs are started: a lock that lies in the store itself.

The lock of a dataset is its object of the highest number, `locks/<dataset>/<number>.json`. To take it is to create the
next number, which the store lets one contender do. The holder writes a growing count into his object; one who finds
that it stands still takes the next number, too. So a holder who slept finds a higher number than his own, and knows.

It needs nothing of the store but create-if-absent: an update that depends on an ETag fails on Ceph 16.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from imageshards.errors import ImageShardsError, ObjectExistsError, ObjectMissingError, StoreError, TransientError
from imageshards.lease import Holder, Lease, LeasePolicy, Stillness, may_take
from imageshards.store import Store

__all__ = ["Holder", "Lease", "LeasePolicy", "WriterLock", "newest_lease", "writer_lock"]

_NUMBER = re.compile(r"(\d{12})\.json")
_TRIES = 10
_NAP_SECONDS = 0.5
"""A signal interrupts a sleep of the main thread; to cancel another thread, Prefect waits for its call to end."""


@contextmanager
def writer_lock(
    store: Store,
    dataset: str,
    *,
    holder: Holder,
    wait_seconds: float | None = None,
    on_wait: Callable[[str], None] | None = None,
    policy: LeasePolicy = LeasePolicy(),  # noqa: B008 (frozen)
) -> Iterator[WriterLock]:
    """Hold the lock of a dataset for a block; wait for it, as long as another run that lives holds it.

    A run that is tried again takes over from its earlier attempt at once; so does whoever finds, on the machine of the
    holder, that the holder's process is gone. Not for a block within a block of another run: that waits for itself.

    Args:
        store: Where the dataset is written.
        dataset: Its name.
        holder: This run.
        wait_seconds: How long to wait at most; None for as long as it takes, 0 for not at all.
        on_wait: Gets a sentence about the run that is waited for, at once and then every `policy.report_seconds`.
        policy: The times of the lease.

    Raises:
        StoreError: Another run still writes after `wait_seconds`, or the store refuses.
        TransientError: The store is out of reach.
    """
    lock = WriterLock(store, dataset, holder, policy)
    try:
        lock._acquire(wait_seconds, on_wait or (lambda _: None))
        yield lock
    finally:
        lock._release()


class WriterLock:
    """A lock that is held; made by `writer_lock`. A thread keeps its heartbeat going.

    Attributes:
        holder: Who holds it.
    """

    def __init__(self, store: Store, dataset: str, holder: Holder, policy: LeasePolicy) -> None:
        self.holder = holder
        self._store = store
        self._dataset = dataset
        self._policy = policy
        self._number = 0
        self._lease = Lease(holder=holder)
        self._held = False
        self._ended = threading.Event()
        self._lost = False
        self._beating = threading.Lock()

    @property
    def run_id(self) -> str:
        """Id of the run that holds it."""
        return self.holder.run_id

    @property
    def key(self) -> str:
        """Its object in the store."""
        return _key(self._dataset, self._number)

    def check(self) -> None:
        """Make sure, with two requests, that the lock is still held; to be called before anything is published.

        Raises:
            StoreError: Another run has it now; the message says which.
            TransientError: The store is out of reach.
        """
        self._beat()
        if self._ended.is_set():
            raise StoreError(f"run {self.holder.name} has given back the writer lock of {self._dataset} already")
        if not self._lost:
            return
        _, lease = newest_lease(self._store, self._dataset)
        by = f"{lease.describe()} has" if lease else "another run has"
        raise StoreError(
            f"run {self.holder.name} has lost the writer lock of {self._dataset} in {self._store.url}: {by} taken it, "
            f"after no sign of life for {self._policy.lease_seconds:.0f} s (a machine that slept, a network that was "
            "down) or as a new attempt of the same run. This run publishes nothing; start it again when the other has "
            "ended: what is finished is kept",
            uri=self._store.uri(self.key),
        )

    def _acquire(self, wait_seconds: float | None, on_wait: Callable[[str], None]) -> None:
        waiting = _Waiting(f"{self._dataset} in {self._store.url}", wait_seconds, on_wait, self._policy)
        still = Stillness(2 * self._policy.poll_seconds)
        while True:
            try:
                number, lease = newest_lease(self._store, self._dataset)
                waiting.answered = time.monotonic()
                still_seconds = still.look(lease, waiting.answered)
                if lease is None or may_take(lease, self.run_id, still_seconds=still_seconds, policy=self._policy):
                    if self._take(number + 1):
                        return
                    continue
            except TransientError as error:
                waiting.bear(error)
            else:
                waiting.tell(lease)
            _sleep(self._policy.poll_seconds)

    def _take(self, number: int) -> bool:
        """Try to become the holder of a number; whether that came about."""
        self._number, self._lease = number, Lease(holder=self.holder)  # first: an interruption may come right after
        try:
            self._store.put(self.key, self._lease.to_json(), create=True)
        except ObjectExistsError:
            if not self._is_mine():  # else the answer to a first try was lost
                return False
        numbers = _numbers(self._store, self._dataset)
        if numbers[-1:] != [number]:  # this process slept before its attempt, and the number had been free again
            self._store.delete(self.key)
            return False
        self._held = True
        threading.Thread(target=self._keep, name="writer-lock", daemon=True).start()
        with suppress(ImageShardsError):  # tidiness; nobody looks at them any more
            for old in numbers[:-1]:
                self._store.delete(_key(self._dataset, old))
        return True

    def _is_mine(self) -> bool:
        try:
            return self._read().token == self._lease.token
        except ObjectMissingError:
            return False

    def _read(self) -> Lease:
        return Lease.from_json(self._store.get(self.key), uri=self._store.uri(self.key))

    def _keep(self) -> None:
        """Keep the heartbeat going, until the lock is released or lost; a store that fails is tried again."""
        while not self._lost and not self._ended.wait(self._policy.renew_seconds):
            with suppress(ImageShardsError):
                self._beat()

    def _beat(self) -> None:
        """Show that the holder lives, then look whether another has taken the lock all the same."""
        with self._beating:
            if self._lost or self._ended.is_set():
                return
            self._lease = self._lease.model_copy(update={"beat": self._lease.beat + 1})
            self._store.put(self.key, self._lease.to_json())
            self._lost = _numbers(self._store, self._dataset)[-1:] != [self._number]
            if self._lost:
                with suppress(ImageShardsError):
                    self._store.delete(self.key)

    def _release(self) -> None:
        """Give the lock back. Where the store does not let it, the lease runs out by itself."""
        self._ended.set()
        with self._beating, suppress(ImageShardsError):
            if self._number and not self._lost and (self._held or self._is_mine()):
                self._store.put(self.key, self._lease.model_copy(update={"released": True}).to_json())


class _Waiting:
    """How one waits for a lock: says so from time to time, and gives up in the end.

    Attributes:
        answered: When the store answered last; None before the first time.
    """

    def __init__(
        self, what: str, wait_seconds: float | None, on_wait: Callable[[str], None], policy: LeasePolicy
    ) -> None:
        self.answered: float | None = None
        self._what = what
        self._wait_seconds = math.inf if wait_seconds is None else wait_seconds
        self._on_wait = on_wait
        self._policy = policy
        self._started = time.monotonic()
        self._next_report = self._started

    def tell(self, lease: Lease) -> None:
        """Say who is waited for, or that it took too long."""
        now = time.monotonic()
        if now - self._started >= self._wait_seconds:
            raise StoreError(
                f"{lease.describe()} is still writing {self._what}, after {self._wait_seconds:.0f} s of waiting: only "
                "one run at a time writes a dataset. Wait for its end or cancel it, and start this run again"
            )
        if now >= self._next_report:
            self._next_report = now + self._policy.report_seconds
            self._on_wait(f"waiting for {lease.describe()} to finish writing {self._what}")

    def bear(self, error: TransientError) -> None:
        """Bear with a store that had answered before, for a while."""
        if self.answered is None or time.monotonic() - self.answered > self._policy.outage_seconds:
            raise error


def newest_lease(store: Store, dataset: str) -> tuple[int, Lease | None]:
    """The number and the content of a dataset's lock; 0 and None where nobody ever held it.

    Raises:
        StoreError: The store refuses, or what lies there is no lock.
        TransientError: The store is out of reach.
    """
    for _ in range(_TRIES):
        numbers = _numbers(store, dataset)
        if not numbers:
            return 0, None
        key = _key(dataset, numbers[-1])
        try:
            return numbers[-1], Lease.from_json(store.get(key), uri=store.uri(key))
        except ObjectMissingError:  # taken over and tidied away since
            continue
    raise TransientError(f"the writer locks in {store.uri(_folder(dataset))} change faster than they can be read")


def _folder(dataset: str) -> str:
    return f"locks/{dataset}"


def _key(dataset: str, number: int) -> str:
    return f"{_folder(dataset)}/{number:012d}.json"


def _numbers(store: Store, dataset: str) -> list[int]:
    """The numbers that there are, in order."""
    names = (info.key.rpartition("/")[2] for info in store.list(_folder(dataset)))
    return [int(match[1]) for match in map(_NUMBER.fullmatch, names) if match]


def _sleep(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _NAP_SECONDS))
