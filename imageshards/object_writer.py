"""Writes the objects of an upload from several threads, with a bounded number of bytes in flight.

One thread reads, hands over what is to be stored, and keeps the accounts; the others store. So there is no lock, and
nothing is kept of an object once it lies in the store.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import PurePosixPath
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import NamedTuple

from imageshards.catalog import Catalog
from imageshards.errors import ObjectExistsError, SourceError
from imageshards.store import Data, ObjectInfo, Store

_PARALLEL_WRITES = 64
"""A write is mostly a wait, for the network or for the server's disk: of answers that take 20 ms, 16 threads got 730 a
second, 64 got 2,360, for the same CPU time. An idle thread costs next to nothing."""
_BYTES_IN_FLIGHT = 16 << 20
_OBJECTS_IN_FLIGHT = 1024
_BATCH_BYTES = 256 << 10
_BATCH_OBJECTS = 8
"""Handed to a thread at once: each hand-over takes the interpreter's lock from the thread that reads."""

_DIGEST_CHARACTERS = 16
"""Of its digest in the name of an object that could not have its own."""


class _Order(NamedTuple):
    """One object to store; `present` is what the store is known to hold under its name."""

    name: str
    sha256: str
    data: Data
    present: ObjectInfo | None


class _Stored(NamedTuple):
    """One object that lies in the store now."""

    name: str
    stored_name: str
    size_bytes: int
    written: bool


class ObjectWriter:
    """Stores objects, soon; to be entered, and used by one thread. The first error ends the pass.

    An object that is there already with the same content is not written again. One that is there with other content is
    left alone: the new one goes beside it, under a name with its digest in it, which the catalog is told.

    Args:
        store: The raw store.
        prefix: Comes before every name.
        catalog: Holds what the store holds, and is told what lies under another name.

    Attributes:
        written: Objects written.
        skipped: Objects that were there already.
        written_bytes: Bytes of the objects written.
    """

    def __init__(self, store: Store, prefix: str, catalog: Catalog) -> None:
        self._store = store
        self._prefix = prefix
        self._catalog = catalog
        self._any_present = self._look_first = False
        self._batch: list[_Order] = []
        self._batch_bytes = 0
        self._orders: SimpleQueue[list[_Order] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[list[_Stored] | BaseException] = SimpleQueue()
        self._stopped = False
        self._threads: list[threading.Thread] = []
        self._objects_in_flight = 0
        self._bytes_in_flight = 0
        self.written = 0
        self.skipped = 0
        self.written_bytes = 0

    def __enter__(self) -> ObjectWriter:
        # A listing spares a request for each object; a folder is asked object by object, where anything is there.
        folder = self._store.local_path(self._prefix.rstrip("/"))
        if folder is not None:
            self._look_first = folder.is_dir()
        else:
            for kind in ("images", "annotations"):
                self._any_present |= self._catalog.add_present(self._store.list(self._prefix + kind))
        self._threads = [
            threading.Thread(target=self._work, name=f"upload-{number}", daemon=True)
            for number in range(_PARALLEL_WRITES)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._hand_over()
                while self._objects_in_flight:
                    self._settle(self._outcomes.get())
        finally:
            self._stopped = True
            for _ in self._threads:
                self._orders.put(None)
            for thread in self._threads:
                thread.join()

    def put(self, name: str, sha256: str, data: Data) -> None:
        """Store one object, soon; waits while too much is in flight."""
        if self._batch_bytes + len(data) > _BATCH_BYTES or len(self._batch) == _BATCH_OBJECTS:
            self._hand_over()
        present = self._catalog.present(self._prefix + name) if self._any_present else None
        self._batch.append(_Order(name, sha256, data, present))
        self._batch_bytes += len(data)
        if self._batch_bytes > _BYTES_IN_FLIGHT:  # nothing else is to be read while this one is in memory
            self._hand_over()
            while self._objects_in_flight:
                self._settle(self._outcomes.get())

    def _hand_over(self) -> None:
        while self._objects_in_flight and (
            self._bytes_in_flight + self._batch_bytes > _BYTES_IN_FLIGHT
            or self._objects_in_flight + len(self._batch) > _OBJECTS_IN_FLIGHT
        ):
            self._settle(self._outcomes.get())
        self._settle_finished()
        if self._batch:
            self._objects_in_flight += len(self._batch)
            self._bytes_in_flight += self._batch_bytes
            self._orders.put(self._batch)
            self._batch, self._batch_bytes = [], 0

    def _settle_finished(self) -> None:
        while True:
            try:
                self._settle(self._outcomes.get_nowait())
            except Empty:
                return

    def _settle(self, outcome: list[_Stored] | BaseException) -> None:
        if isinstance(outcome, BaseException):
            raise outcome
        for stored in outcome:
            self._objects_in_flight -= 1
            self._bytes_in_flight -= stored.size_bytes
            if stored.stored_name != stored.name:
                self._catalog.move(stored.name, stored.stored_name)
            if stored.written:
                self.written += 1
                self.written_bytes += stored.size_bytes
            else:
                self.skipped += 1

    def _work(self) -> None:
        while (orders := self._orders.get()) is not None:
            if self._stopped:
                continue
            try:
                self._outcomes.put(self._store_all(orders))
            except BaseException as error:  # noqa: BLE001 (raised again by the thread that reads)
                self._stopped = True
                self._outcomes.put(error)
            del orders  # else the thread holds their bytes while it waits

    def _store_all(self, orders: list[_Order]) -> list[_Stored]:
        stored: list[_Stored] = []
        for order in orders:
            if self._stopped:  # the pass ends anyway
                break
            stored.append(self._store_one(order))
        return stored

    def _store_one(self, order: _Order) -> _Stored:
        for name, present in zip(_names(order), (order.present, None), strict=True):
            written = self._put_or_compare(self._prefix + name, order.data, present)
            if written is not None:
                return _Stored(order.name, name, len(order.data), written)
        raise SourceError(
            f"{self._store.uri(self._prefix + order.name)}: another object lies where its digest should be"
        )

    def _put_or_compare(self, key: str, data: Data, present: ObjectInfo | None) -> bool | None:
        """Whether the object was written (True) or there already (False); None where another one is."""
        if present is None:
            try:
                if not (self._look_first and self._store.exists(key)):
                    self._store.put(key, data, create=True)
                    return True
            except ObjectExistsError:  # another run's, or our own, whose answer was lost
                pass
            present = self._store.head(key)
        return False if self._store.content_matches(present, data) else None


def _names(order: _Order) -> Iterator[str]:
    yield order.name
    path = PurePosixPath(order.name)
    yield str(path.with_name(f"{path.stem}.{order.sha256[:_DIGEST_CHARACTERS]}{path.suffix}"))
