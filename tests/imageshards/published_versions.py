"""Several versions of one small dataset in a store, for tests of what is kept and what goes. Only one is built."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from imageshards.dataset import open_dataset
from imageshards.housekeeping import Cleaning, clean_dataset
from imageshards.index import index_rows, read_index, read_index_info, write_index
from imageshards.manifest import Manifest
from imageshards.oxford_pets import DATASET
from imageshards.plan import version_prefix
from imageshards.pointer import point_latest
from imageshards.retention import RetentionPolicy
from imageshards.store import Store
from tests.imageshards.built_version import RESOLUTION, BuiltVersion

START = datetime(2026, 1, 1, tzinfo=UTC)
KEEP_ONE = RetentionPolicy(keep_versions=1)
DELETE_RAW = RetentionPolicy(keep_versions=1, delete_raw=True)
NIGHTS = [0.0, 10.0, 20.0]


def fingerprint_of(number: int) -> str:
    return f"{number:032x}"


def prefix_of(number: int) -> str:
    return version_prefix(DATASET, RESOLUTION, fingerprint_of(number))


def publish_copies(
    built: BuiltVersion,
    store: Store,
    days: Sequence[float],
    *,
    images: int = 0,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> list[Manifest]:
    """Put the index and one version for each day into a store, each a copy, made by the store, of the one before.

    Args:
        built: What there is to copy.
        store: An empty store.
        days: When each version is published, in days after `START`.
        images: How many of the raw images are to be there, too, with their trimaps.
        change: Applied to each manifest.
    """
    rows = [row for row in index_rows(read_index(built.store, built.manifest.index)) if row.trimap_key][:images]
    keys = [row.source_key for row in rows] + [str(row.trimap_key) for row in rows] + [built.manifest.index]
    for key in [*keys, f"raw/{DATASET}/annotations/list.txt"]:
        store.put(key, built.store.get(key))
    manifests = []
    for number, day in enumerate(days):
        if number:
            copy_files(store, prefix_of(number - 1), prefix_of(number))
        else:
            for info in built.store.list(built.prefix):
                store.put(info.key.replace(built.prefix, prefix_of(0)), built.store.get(info.key))
        manifest = change(manifest_at(built, store, number, day))
        store.put(manifest.key, manifest.to_json())
        manifests.append(manifest)
    point_latest(store, manifests[-1])
    return manifests


def copy_files(store: Store, source: str, target: str) -> None:
    """Let the store copy a version's shards and rejects: in a folder, as hard links."""
    for info in store.list(source):
        name = info.key.removeprefix(source)
        if name.endswith(".parquet"):
            store.copy(info.key, target + name)


def manifest_at(built: BuiltVersion, store: Store, number: int, day: float) -> Manifest:
    shards = tuple(
        shard.model_copy(update={"path": prefix_of(number) + shard.path.rpartition("/")[2]})
        for shard in built.manifest.shards
    )
    update = {
        "fingerprint": fingerprint_of(number),
        "shards": shards,
        "created_at": (START + timedelta(days=day)).isoformat(),
        "raw_store": store.url,
    }
    return built.manifest.model_copy(update=update)


def rows_of(store: Store, number: int | None = None) -> pa.Table:
    """All rows of a version, read back; of the current one by default."""
    fingerprint = None if number is None else fingerprint_of(number)
    dataset = open_dataset(store, resolution=RESOLUTION, fingerprint=fingerprint)
    return pa.concat_tables(table for split in dataset.manifest.splits for table in dataset.batches(split))


def contents(store: Store) -> dict[str, bytes]:
    """Everything in a store: of a folder, what no listing shows, too."""
    found = {info.key: store.get(info.key) for info in store.list()}
    if store.is_folder:
        root = Path(store.url.removeprefix("file://"))
        found |= {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return found


def write_other_index(store: Store, key: str, other: str) -> None:
    """Write an index as of a later source: one image is gone, with its trimap, and another one has changed.

    Args:
        store: The raw store.
        key: The index that there is.
        other: Where the other goes.
    """
    rows = [row for row in index_rows(read_index(store, key)) if row.trimap_key]
    changed = replace(rows[1], source_key=rows[1].source_key.replace(".jpg", ".0123456789abcdef.jpg"))
    store.put(changed.source_key, b"new bytes")
    later = [row for row in index_rows(read_index(store, key)) if row not in rows[:2]] + [changed]
    info = replace(read_index_info(store, key), key=other, images=len(later), digest="d" * 64)
    write_index(store, later, info=info)


def age_folder(store: Store, days: float) -> None:
    """Let everything in a folder look as old as that."""
    root = Path(store.url.removeprefix("file://"))
    moment = datetime.now(UTC).timestamp() - days * 86400
    for path in [root, *root.rglob("*")]:
        os.utime(path, (moment, moment))


def later(days: float = 100) -> datetime:
    """So much later than now, as objects are of today."""
    return datetime.now(UTC) + timedelta(days=days)


def clean(store: Store, policy: RetentionPolicy = KEEP_ONE, **options: Any) -> Cleaning:
    options = {"dry_run": False, "now": later(), **options}
    return clean_dataset(store, store, DATASET, policy, **options)


class Dying:
    """A real store whose process ends after so many deletions."""

    def __init__(self, store: Store, deletions: int) -> None:
        self._store = store
        self._left = deletions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def delete(self, key: str) -> None:
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        self._store.delete(key)

    def delete_many(self, keys: Any) -> None:
        for key in keys:
            self.delete(key)
