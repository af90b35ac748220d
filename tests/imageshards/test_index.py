"""The index: what is written is read back, its digest follows from its content alone."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageshards import index, index_row
from imageshards.errors import ObjectMissingError, StoreError
from imageshards.index import (
    IndexInfo,
    IndexRow,
    content_digest,
    index_key,
    index_rows,
    read_index,
    read_index_info,
    row_digest,
    sample_hash,
    write_index,
)
from imageshards.store import Store, open_store

KEY = index_key("pets", "a" * 64, "b" * 64)

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
coordinates = st.floats(0, 1e6)


def optional(strategy):
    return st.none() | strategy


row_fields = {
    "member": texts,
    "source_key": texts,
    "source_sha256": texts,
    "source_size_bytes": st.integers(0, 2**62),
    "label": optional(st.integers(0, 2**15 - 1)),
    "class_name": optional(texts),
    "species": optional(st.sampled_from(["cat", "dog"])),
    "split": optional(st.sampled_from(["trainval", "test"])),
    "head_box": optional(st.tuples(*[coordinates] * 4)),
    "head_box_frame": optional(st.tuples(*[st.integers(1, 2**31 - 1)] * 2)),
    "trimap_key": optional(texts),
    "trimap_sha256": optional(texts),
    "left_out": optional(texts),
}
rows_strategy = st.lists(
    st.builds(IndexRow, image_id=texts, **row_fields), max_size=12, unique_by=lambda row: row.image_id
)

ROW = IndexRow(
    image_id="beagle_1",
    member="images/beagle_1.jpg",
    source_key="raw/pets/images/beagle_1.jpg",
    source_sha256="c" * 64,
    source_size_bytes=123,
    label=1,
    class_name="beagle",
    species="dog",
    split="trainval",
    head_box=(0.1, 2.0, 30.0, 40.0),
    head_box_frame=(50, 60),
    trimap_key="raw/pets/annotations/trimaps/beagle_1.png",
    trimap_sha256="d" * 64,
)


def info_of(rows: list[IndexRow]) -> IndexInfo:
    names = ("Abyssinian", "beagle")
    return IndexInfo(KEY, content_digest(rows, names), "pets", len(rows), names, {"image": 3}, "a" * 64, "b" * 64)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("index")))


def some_rows(count: int) -> list[IndexRow]:
    splits = ("trainval", "test", None)
    return [dataclasses.replace(ROW, image_id=f"beagle_{n}", split=splits[n % 3]) for n in range(count)]


@settings(deadline=None, max_examples=50)
@given(rows=rows_strategy)
def test_what_is_written_is_read_back(scratch, rows):
    write_index(scratch, rows, info=info_of(rows))
    found = index_rows(read_index(scratch, KEY))
    assert sorted(found, key=lambda row: row.image_id) == sorted(rows, key=lambda row: row.image_id)
    assert read_index_info(scratch, KEY) == info_of(rows)
    assert content_digest(found, info_of(rows).class_names) == info_of(rows).digest


@settings(deadline=None, max_examples=30)
@given(data=st.data(), rows=rows_strategy)
def test_the_order_of_the_rows_changes_neither_index_nor_digest(scratch, data, rows):
    write_index(scratch, rows, info=info_of(rows))
    before = scratch.get(KEY)
    shuffled = data.draw(st.permutations(rows))
    write_index(scratch, shuffled, info=info_of(shuffled))
    assert scratch.get(KEY) == before


def test_rows_are_sorted_by_split_then_by_hash(scratch):
    rows = some_rows(60)
    write_index(scratch, rows, info=info_of(rows))
    found = [(row.split or "", row.sample_hash) for row in index_rows(read_index(scratch, KEY))]
    assert found == sorted(found)
    assert read_index(scratch, KEY, columns=["sample_hash"]).column(0).to_pylist() == [hash_ for _, hash_ in found]


def test_some_columns_can_be_read_in_any_order(scratch):
    rows = some_rows(5)
    write_index(scratch, rows, info=info_of(rows))
    assert read_index(scratch, KEY, columns=["split", "image_id"]).column_names == ["split", "image_id"]
    assert read_index(scratch, KEY, columns=["split"], hash_range=(0, 2**64 - 1)).column_names == ["split"]


@settings(deadline=None, max_examples=30)
@given(bits=st.integers(0, 4))
def test_equal_ranges_of_hashes_hold_each_row_once_whatever_the_row_groups(scratch, bits):
    rows = some_rows(100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "ROW_GROUP_ROWS", 7)
        write_index(scratch, rows, info=info_of(rows))
    path = scratch.local_path(KEY)
    assert path is not None
    assert pq.read_metadata(path).num_row_groups == 15
    width = 2**64 >> bits
    found = [
        row
        for bucket in range(1 << bits)
        for row in index_rows(read_index(scratch, KEY, hash_range=(bucket * width, (bucket + 1) * width - 1)))
    ]
    assert sorted(row.image_id for row in found) == sorted(row.image_id for row in rows)


def test_the_ends_of_a_range_of_hashes_belong_to_it(scratch):
    rows = some_rows(20)
    write_index(scratch, rows, info=info_of(rows))
    for row in rows:
        assert index_rows(read_index(scratch, KEY, hash_range=(row.sample_hash, row.sample_hash))) == [row]


def test_the_hash_of_an_image_is_pinned():
    """Another one would put every sample into another shard."""
    assert sample_hash("Abyssinian_1") == int("d8242fc1ae273947", 16)


CHANGED = {
    "image_id": "beagle_3",
    "source_sha256": "e" * 64,
    "source_key": "raw/pets/images/beagle_1.png",
    "label": 2,
    "class_name": "pug",
    "species": "cat",
    "split": None,
    "head_box": None,
    "head_box_frame": (60, 50),
    "trimap_sha256": None,
    "left_out": "member-too-large",
}


@pytest.mark.parametrize("field", CHANGED)
def test_whatever_a_row_can_depend_on_changes_the_digest(field):
    changed = dataclasses.replace(ROW, **{field: CHANGED[field]})
    assert row_digest(changed) != row_digest(ROW)
    assert content_digest([changed], ()) != content_digest([ROW], ())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("member", "pets/beagle_1.jpg"),
        ("source_key", "raw/other/images/beagle_1.jpg"),
        ("trimap_key", "raw/other/trimaps/x.png"),
    ],
)
def test_where_things_lie_does_not_change_the_digest(field, value):
    assert row_digest(dataclasses.replace(ROW, **{field: value})) == row_digest(ROW)


def test_class_names_change_the_digest():
    assert content_digest([ROW], ("a", "b")) != content_digest([ROW], ("b", "a"))


def test_the_place_of_an_index_follows_from_both_archives():
    assert index_key("pets", "a", "b") == index_key("pets", "a", "b")
    assert len({index_key("pets", "a", "b"), index_key("pets", "b", "a"), index_key("pets", "a", "c")}) == 3
    assert KEY.startswith("raw/pets/index/")
    assert KEY.endswith(".parquet")


def test_a_missing_index_is_a_missing_object(folder_store):
    with pytest.raises(ObjectMissingError):
        read_index(folder_store, KEY)
    with pytest.raises(ObjectMissingError):
        read_index_info(folder_store, KEY)


def damaged(data: bytes) -> dict[str, bytes]:
    (footer_size,) = struct.unpack("<I", data[-8:-4])
    footer = len(data) - 8 - footer_size
    return {
        "empty": b"",
        "garbage": b"no parquet at all",
        "cut off": data[:-20],
        "only its marks": b"PAR1PAR1",
        "footer overwritten": data[:footer] + b"\xff" * footer_size + data[-8:],
        "footer of the wrong size": data[:-8] + b"\xff\xff\xff\x00PAR1",
    }


@pytest.mark.parametrize("damage", damaged(b"\0" * 8))
def test_a_damaged_index_is_told_from_a_missing_one(folder_store, damage):
    write_index(folder_store, some_rows(9), info=info_of(some_rows(9)))
    folder_store.put(KEY, damaged(folder_store.get(KEY))[damage])
    for read in (read_index, read_index_info):
        with pytest.raises(StoreError, match="delete it and run again") as caught:
            read(folder_store, KEY)
        assert not isinstance(caught.value, ObjectMissingError)


def test_damaged_rows_under_a_whole_footer_are_noticed(folder_store):
    rows = some_rows(200)
    write_index(folder_store, rows, info=info_of(rows))
    data = folder_store.get(KEY)
    folder_store.put(KEY, data[:4] + b"\xff" * 2000 + data[2004:])
    with pytest.raises(StoreError, match="delete it and run again"):
        read_index(folder_store, KEY)


def test_an_index_without_a_column_that_is_asked_for_is_damaged(folder_store):
    rows = some_rows(9)
    write_index(folder_store, rows, info=info_of(rows))
    name = b"source_sha256"
    folder_store.put(KEY, folder_store.get(KEY).replace(name, b"source_sha257"))
    for columns in (None, ["image_id", name.decode()]):
        with pytest.raises(StoreError, match="it lacks source_sha256; delete it and run again"):
            read_index(folder_store, KEY, columns=columns)
    assert read_index(folder_store, KEY, columns=["image_id"]).num_rows == len(rows)


def test_parquet_that_is_no_index_is_refused(folder_store, drawn):
    table = read_index(drawn.store, drawn.info.key)
    folder_store.put(KEY, b"x")
    path = folder_store.local_path(KEY)
    assert isinstance(path, Path)
    pq.write_table(table, path)
    with pytest.raises(StoreError, match="expected index version 2, found None"):
        read_index_info(folder_store, KEY)


def test_an_index_of_another_version_is_refused(folder_store, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(index_row, "INDEX_VERSION", 3)
        write_index(folder_store, [ROW], info=info_of([ROW]))
    with pytest.raises(StoreError, match="expected index version 2, found 3"):
        read_index_info(folder_store, KEY)
