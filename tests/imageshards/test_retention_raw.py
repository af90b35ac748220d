"""Raw objects and indexes: what a kept index refers to stays, whatever else goes; without being told, nothing goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imageshards.housekeeping import clean_dataset
from imageshards.index import index_key, index_rows, read_index
from imageshards.manifest import Manifest
from imageshards.oxford_pets import DATASET
from imageshards.retention import Kind, RetentionPolicy
from imageshards.retention_raw import plan_indexes
from imageshards.store import ObjectInfo, Store, open_store
from tests.imageshards.built_version import BuiltVersion
from tests.imageshards.published_versions import (
    DELETE_RAW,
    NIGHTS,
    Dying,
    age_folder,
    clean,
    fingerprint_of,
    later,
    publish_copies,
    write_other_index,
)


def raw_keys(store: Store) -> set[str]:
    return {info.key for info in store.list(f"raw/{DATASET}")}


def referred(store: Store, index: str) -> set[str]:
    rows = index_rows(read_index(store, index))
    return {index, *(row.source_key for row in rows), *(row.trimap_key for row in rows if row.trimap_key)} - {""}


def other_index(store: Store, built: BuiltVersion, name: str) -> str:
    """An index of a later source: one image is gone, with its trimap, another one has changed."""
    key = index_key(DATASET, name, name)
    write_other_index(store, built.manifest.index, key)
    return key


def test_raw_objects_stay_unless_told_so(store: Store, built: BuiltVersion) -> None:
    publish_copies(built, store, NIGHTS)
    store.put(f"raw/{DATASET}/images/unknown.jpg", b"x")
    before = raw_keys(store)
    clean(store)
    assert raw_keys(store) == before


def test_raw_objects_that_no_kept_index_refers_to_go_when_told_so(store: Store, built: BuiltVersion) -> None:
    later_index: list[str] = []

    def with_new_index(manifest: Manifest) -> Manifest:
        if not later_index:
            later_index.append(other_index(store, built, "new"))
        is_first = manifest.fingerprint == fingerprint_of(0)
        return manifest if is_first else manifest.model_copy(update={"index": later_index[0]})

    publish_copies(built, store, [0.0, 10.0], images=5, change=with_new_index)
    old, new = built.manifest.index, later_index[0]
    only_old = referred(store, old) - referred(store, new)
    assert len(only_old) == 4  # the index, an image and its trimap, the changed image as it was
    lists = {key for key in raw_keys(store) if key not in referred(store, old) | referred(store, new)}
    assert lists
    expected = raw_keys(store) - only_old

    both = clean(store, RetentionPolicy(keep_versions=2, delete_raw=True))
    assert both.removals == []
    cleaning = clean(store, DELETE_RAW)
    assert cleaning.problems == []
    assert raw_keys(store) == expected
    counted = {removal.kind: removal.objects for removal in cleaning.removals}
    assert counted == {Kind.VERSION: counted[Kind.VERSION], Kind.INDEX: 1, Kind.RAW: 3}


def test_young_raw_objects_and_the_newest_index_stay(folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, [0.0])
    age_folder(folder_store, 50)
    newest = other_index(folder_store, built, "newest")  # of a run that failed later
    folder_store.put(f"raw/{DATASET}/images/young.jpg", b"x")
    before = raw_keys(folder_store)
    assert clean(folder_store, DELETE_RAW, now=later(6)).removals == []
    cleaning = clean(folder_store, DELETE_RAW, now=later(8))
    assert [(removal.kind, removal.objects) for removal in cleaning.removals] == [(Kind.RAW, 1)]
    assert before - raw_keys(folder_store) == {f"raw/{DATASET}/images/young.jpg"}
    assert folder_store.exists(newest)


def test_what_a_young_index_refers_to_stays_though_it_is_old_itself(folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, [0.0], images=5)
    young = other_index(folder_store, built, "young")
    age_folder(folder_store, 50)
    newest = f"raw/{DATASET}/index/{'f' * 32}.parquet"
    for key, source in ((young, young), (newest, built.manifest.index)):
        folder_store.put(key, folder_store.get(source))
    before = raw_keys(folder_store)
    assert clean(folder_store, DELETE_RAW, now=later(1)).removals == []
    assert raw_keys(folder_store) == before


def test_an_old_index_goes_with_its_parts_and_its_own_object_first(folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, [0.0])
    stale = f"raw/{DATASET}/index/{'0' * 32}"
    for key in (f"{stale}.parquet", f"{stale}/00000.parquet", f"raw/{DATASET}/index/{'1' * 32}/00000.parquet"):
        folder_store.put(key, b"x")
    age_folder(folder_store, 50)
    newest = other_index(folder_store, built, "newest")
    dying: Any = Dying(folder_store, 1)
    with pytest.raises(KeyboardInterrupt):
        clean_dataset(folder_store, dying, DATASET, DELETE_RAW, dry_run=False, now=later(1))
    assert not folder_store.exists(f"{stale}.parquet")
    assert folder_store.exists(f"{stale}/00000.parquet")
    clean(folder_store, DELETE_RAW, now=later(1))
    left = {info.key for info in folder_store.list(f"raw/{DATASET}/index")}
    assert left == {built.manifest.index, newest}


def test_no_raw_object_goes_where_a_kept_index_is_missing_or_damaged(folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, [0.0])
    folder_store.put(f"raw/{DATASET}/images/unknown.jpg", b"x")
    folder_store.put(built.manifest.index, b"no index")
    damaged = clean(folder_store, DELETE_RAW)
    folder_store.delete(built.manifest.index)
    missing = clean(folder_store, DELETE_RAW)
    assert [each.removals for each in (damaged, missing)] == [[], []]
    assert "is no index" in damaged.problems[0]
    assert "which is missing" in missing.problems[0]
    assert folder_store.exists(f"raw/{DATASET}/images/unknown.jpg")


def test_no_raw_object_goes_from_a_store_that_no_version_refers_to(
    folder_store: Store, built: BuiltVersion, tmp_path: Path
) -> None:
    publish_copies(built, folder_store, [0.0])
    foreign = open_store(str(tmp_path / "foreign"))
    foreign.put(f"raw/{DATASET}/images/a.jpg", b"x")
    cleaning = clean_dataset(folder_store, foreign, DATASET, DELETE_RAW, dry_run=False, now=later())
    assert cleaning.removals == []
    assert "belong together" in cleaning.problems[0]
    assert foreign.exists(f"raw/{DATASET}/images/a.jpg")


def test_objects_without_a_date_count_as_new() -> None:
    objects = [ObjectInfo(f"raw/pets/index/{name}.parquet", 1, None) for name in "ab"]
    assert plan_indexes(objects, frozenset(), not_before=later()).stale == ()
