"""The manifest: written once, last, and read strictly; latest.json points at one that is there."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from imageshards.errors import ObjectMissingError, StoreError
from imageshards.manifest import Manifest, PixelStatistics, manifest_key, publish_manifest, read_manifest
from imageshards.plan import version_prefix
from imageshards.pointer import latest_key, point_latest, read_latest
from imageshards.store import Store, open_store
from tests.imageshards.manifests import manifest
from tests.imageshards.small_dataset import tree


def test_a_manifest_is_read_back_as_written():
    original = manifest(normalization=PixelStatistics(mean=(0.1, 0.2, 0.3), std=(1, 2, 3)))
    data = original.to_json()
    assert data.endswith(b"}\n")
    assert Manifest.from_json(data, uri="u") == original
    assert Manifest.from_json(data, uri="u").to_json() == data


def test_a_manifest_lies_in_the_folder_of_its_version():
    assert (
        manifest().key == manifest_key("pets", 224, "f" * 32) == version_prefix("pets", 224, "f" * 32) + "manifest.json"
    )
    assert latest_key("pets", 224) == "shards/pets/224/latest.json"


def test_publishing_writes_the_manifest_and_the_pointer(folder_store):
    assert publish_manifest(folder_store, manifest()) == manifest()
    assert set(tree(folder_store)) == {manifest().key, latest_key("pets", 224)}
    assert read_manifest(folder_store, "pets", 224, "f" * 32) == manifest()
    assert read_latest(folder_store, "pets", 224) == "f" * 32
    pointer = json.loads(folder_store.get(latest_key("pets", 224)))
    assert pointer == {"fingerprint": "f" * 32, "manifest": manifest().key, "format_version": 1}


def test_nothing_published_is_none(folder_store):
    assert read_manifest(folder_store, "pets", 224, "f" * 32) is None
    assert read_latest(folder_store, "pets", 224) is None


def test_what_was_published_stays_as_it_is(folder_store):
    publish_manifest(folder_store, manifest())
    before = tree(folder_store)
    later = manifest(created_at="2030-01-01T00:00:00+00:00")
    assert publish_manifest(folder_store, later) == manifest()
    assert tree(folder_store) == before


class _Counted:
    """A real store that tells which keys were written."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.written: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes, *, create: bool = False) -> None:
        self._store.put(key, data, create=create)
        self.written.append(key)


def test_the_manifest_comes_first_and_the_pointer_last(folder_store):
    counted = _Counted(folder_store)
    publish_manifest(counted, manifest())  # type: ignore[arg-type]
    assert counted.written == [manifest().key, latest_key("pets", 224)]


def test_publishing_again_writes_nothing(folder_store):
    publish_manifest(folder_store, manifest())
    counted = _Counted(folder_store)
    publish_manifest(counted, manifest())  # type: ignore[arg-type]
    assert point_latest(counted, manifest()) is False  # type: ignore[arg-type]
    assert counted.written == []


def test_a_run_that_died_between_manifest_and_pointer_is_finished_by_the_next(folder_store):
    folder_store.put(manifest().key, manifest().to_json())
    assert publish_manifest(folder_store, manifest(created_at="later")) == manifest()
    assert read_latest(folder_store, "pets", 224) == "f" * 32


def test_of_many_that_publish_at_once_one_counts_for_all(folder_store):
    start = threading.Barrier(8)

    def publish(number: int) -> Manifest:
        start.wait()
        return publish_manifest(folder_store, manifest(created_at=f"2026-01-0{number + 1}T00:00:00+00:00"))

    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(publish, range(8)))
    assert len({each.created_at for each in published}) == 1
    assert read_manifest(folder_store, "pets", 224, "f" * 32) == published[0]
    assert read_latest(folder_store, "pets", 224) == "f" * 32


def in_many_shards(count: int, **changes: Any) -> Manifest:
    entry = json.loads(manifest().to_json())["shards"][0]
    names = [f"shards/pets/224/f/trainval-{number:05d}.parquet" for number in range(count)]
    return manifest(shards=[entry | {"path": name, "rows": number} for number, name in enumerate(names)], **changes)


def parts_in(store: Store) -> list[str]:
    return sorted(key for key in tree(store) if "/shards-" in key)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_shards_are_listed_in_the_manifest_itself(folder_store, count):
    original = in_many_shards(count)
    publish_manifest(folder_store, original, shards_inline=3)
    assert set(tree(folder_store)) == {original.key, latest_key("pets", 224)}
    stored = json.loads(folder_store.get(original.key))
    assert len(stored["shards"]) == count
    assert "shard_parts" not in stored


@pytest.mark.parametrize(("count", "sizes"), [(4, [3, 1]), (6, [3, 3]), (10, [3, 3, 3, 1])])
def test_many_shards_are_listed_in_parts_and_read_as_one(folder_store, count, sizes):
    original = in_many_shards(count)
    assert publish_manifest(folder_store, original, shards_inline=3) == original
    stored = json.loads(folder_store.get(original.key))
    assert stored["shards"] == []
    assert [part["shards"] for part in stored["shard_parts"]] == sizes
    assert [part["path"] for part in stored["shard_parts"]] == parts_in(folder_store)
    found = read_manifest(folder_store, "pets", 224, "f" * 32)
    assert found == original
    assert found.to_json() == original.to_json()


def test_parts_have_the_same_names_and_bytes_whenever_they_are_written(tmp_path):
    stores = [open_store(str(tmp_path / name)) for name in ("one", "two")]
    for store, created_at in zip(stores, ("2026-01-01T00:00:00+00:00", "2030-01-01T00:00:00+00:00"), strict=True):
        publish_manifest(store, in_many_shards(7, created_at=created_at), shards_inline=3)
    parts = [{key: store.get(key) for key in parts_in(store)} for store in stores]
    assert len(parts[0]) == 3
    assert parts[0] == parts[1]


def test_parts_come_before_the_manifest(folder_store):
    counted = _Counted(folder_store)
    publish_manifest(counted, in_many_shards(4), shards_inline=3)  # type: ignore[arg-type]
    assert counted.written == [*parts_in(folder_store), manifest().key, latest_key("pets", 224)]


def test_a_run_that_comes_second_with_other_shards_changes_nothing_that_was_published(folder_store):
    first = in_many_shards(4)
    publish_manifest(folder_store, first, shards_inline=3)
    entries = [entry.model_copy(update={"sha256": "0" * 64}) for entry in first.shards]
    second = first.model_copy(update={"shards": tuple(entries)})
    assert publish_manifest(folder_store, second, shards_inline=3) == first
    assert read_manifest(folder_store, "pets", 224, "f" * 32) == first


def damage_parts(store: Store, change: Callable[[bytes], bytes]) -> str:
    key = parts_in(store)[1]
    store.put(key, change(store.get(key)))
    return key


@pytest.mark.parametrize(
    "change",
    [lambda _: b"", lambda data: data[:-9], lambda _: b"<html>503</html>", lambda data: data.replace(b"99", b"98")],
)
def test_a_damaged_part_is_an_error_that_names_it_and_says_what_to_do(folder_store, change):
    publish_manifest(folder_store, in_many_shards(10), shards_inline=3)
    key = damage_parts(folder_store, change)
    with pytest.raises(StoreError, match=rf"{key}.*expected sha256 .*delete that manifest and run again"):
        read_manifest(folder_store, "pets", 224, "f" * 32)


def test_a_missing_part_is_an_error_that_is_not_taken_for_nothing_published(folder_store):
    publish_manifest(folder_store, in_many_shards(10), shards_inline=3)
    folder_store.delete(parts_in(folder_store)[1])
    with pytest.raises(StoreError, match=r"shards-00001-.*delete that manifest") as caught:
        read_manifest(folder_store, "pets", 224, "f" * 32)
    assert not isinstance(caught.value, ObjectMissingError)


def test_a_part_with_another_number_of_shards_than_the_manifest_says_is_an_error(folder_store):
    publish_manifest(folder_store, in_many_shards(4), shards_inline=3)
    stored = folder_store.get(manifest().key).replace(b'"shards": 3', b'"shards": 2')
    folder_store.put(manifest().key, stored)
    with pytest.raises(StoreError, match="expected 2 shards, found 3"):
        read_manifest(folder_store, "pets", 224, "f" * 32)


DAMAGED = {
    "empty": b"",
    "cut off": manifest().to_json()[:-40],
    "no object": b"[1, 2]",
    "null": b"null",
    "no json": b"<html>503</html>",
    "no text": b"\xff\xfe\x00",
    "an unknown key": json.dumps(json.loads(manifest().to_json()) | {"extra": 1}).encode(),
    "a missing key": json.dumps({"format_version": 1, "dataset": "pets"}).encode(),
    "a wrong type": json.dumps(json.loads(manifest().to_json()) | {"rows": "many"}).encode(),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_manifest_is_an_error_that_names_it(folder_store, damage):
    folder_store.put(manifest().key, DAMAGED[damage])
    with pytest.raises(StoreError, match=r"manifest\.json"):
        read_manifest(folder_store, "pets", 224, "f" * 32)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_manifest_of_another_format_is_an_error_that_says_which(version):
    data = json.dumps(json.loads(manifest().to_json()) | {"format_version": version}).encode()
    with pytest.raises(StoreError, match=f"expected format version 1, found {version}"):
        Manifest.from_json(data, uri="u")


def test_publishing_onto_a_damaged_manifest_is_refused_and_moves_no_pointer(folder_store):
    folder_store.put(manifest().key, b"{")
    with pytest.raises(StoreError, match="is no manifest"):
        publish_manifest(folder_store, manifest())
    assert read_latest(folder_store, "pets", 224) is None


def test_a_manifest_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        manifest().rows = 3
    assert not dataclasses.is_dataclass(manifest())
