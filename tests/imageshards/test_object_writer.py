"""Objects are stored by threads: each once, nothing overwritten, what is there not sent again, on every backend."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import pytest

from imageshards import object_writer
from imageshards.catalog import Catalog
from imageshards.errors import SourceError, TransientError
from imageshards.object_writer import ObjectWriter
from imageshards.store import Store

OBJECTS = {f"images/{number}.jpg": f"image {number}".encode() for number in range(40)} | {
    f"annotations/xmls/{number}.xml": b"box" * number for number in range(20)
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write(store: Any, objects: dict[str, bytes]) -> tuple[ObjectWriter, dict[str, str]]:
    """Store objects; the writer, and where those lie that could not have their own names."""
    with Catalog() as catalog:
        with ObjectWriter(store, "raw/pets/", catalog) as writer:
            for name, data in objects.items():
                writer.put(name, sha256(data), data)
        moved = catalog._db.execute("SELECT name, stored_name FROM moved").fetchall()
    return writer, dict(moved)


def contents(store: Store) -> dict[str, bytes]:
    return {info.key.removeprefix("raw/pets/"): store.get(info.key) for info in store.list("raw/pets")}


class Watched:
    """A real store whose writes are counted."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.tried: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: Any, *, create: bool = False) -> None:
        self.tried.append(key)
        self._store.put(key, data, create=create)


def test_every_object_is_stored_once_and_counted(new_store):
    store = new_store()
    writer, moved = write(store, OBJECTS)
    assert contents(store) == OBJECTS
    assert (writer.written, writer.skipped) == (60, 0)
    assert writer.written_bytes == sum(map(len, OBJECTS.values()))
    assert moved == {}


def test_what_is_there_is_not_sent_again(new_store):
    store = new_store()
    write(store, OBJECTS)
    watched = Watched(store)
    writer, moved = write(watched, OBJECTS | {"images/new.jpg": b"new"})
    assert watched.tried == ["raw/pets/images/new.jpg"]
    assert (writer.written, writer.skipped, writer.written_bytes) == (1, 60, 3)
    assert moved == {}


def test_other_content_goes_beside_and_is_found_there_the_next_time(new_store):
    store = new_store()
    write(store, OBJECTS)
    changed = OBJECTS | {"images/7.jpg": b"another"}
    beside = f"images/7.{sha256(b'another')[:16]}.jpg"
    for written in (1, 0):
        writer, moved = write(store, changed)
        assert (writer.written, writer.skipped) == (written, 60 - written)
        assert moved == {"images/7.jpg": beside}
    assert contents(store) == OBJECTS | {beside: b"another"}


def test_another_object_where_the_digest_should_be_is_refused(new_store):
    store = new_store()
    store.put("raw/pets/images/7.jpg", b"one")
    store.put(f"raw/pets/images/7.{sha256(b'two')[:16]}.jpg", b"three")
    with pytest.raises(SourceError, match="another object lies where its digest should be"):
        write(store, {"images/7.jpg": b"two"})


def test_no_thread_is_left_behind_by_success_error_or_interrupt(folder_store):
    class Broken(Watched):
        def put(self, key: str, data: Any, *, create: bool = False) -> None:
            raise TransientError("gone for now")

    def interrupt() -> None:
        with Catalog() as catalog, ObjectWriter(folder_store, "raw/pets/", catalog) as writer:
            writer.put("images/x.jpg", sha256(b"x"), b"x")
            raise KeyboardInterrupt

    write(folder_store, OBJECTS)
    with pytest.raises(TransientError):
        write(Broken(folder_store), {"images/y.jpg": b"y"})
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("upload-")]


def test_batches_are_bounded_in_objects_and_bytes(folder_store, monkeypatch):
    batches: list[list[int]] = []
    store_all = ObjectWriter._store_all

    def watched(self: ObjectWriter, orders: Any) -> Any:
        batches.append([len(order.data) for order in orders])
        return store_all(self, orders)

    monkeypatch.setattr(ObjectWriter, "_store_all", watched)
    monkeypatch.setattr(object_writer, "_BATCH_BYTES", 100)
    sizes = [1] * 20 + [60, 60, 500, 30, 30]
    write(folder_store, {f"images/{number}.jpg": b"x" * size for number, size in enumerate(sizes)})
    assert sum(map(len, batches)) == len(sizes)
    assert max(map(len, batches)) == object_writer._BATCH_OBJECTS
    assert all(sum(batch) <= 100 or len(batch) == 1 for batch in batches)
