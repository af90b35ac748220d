"""An index is read in pieces: the rows asked for and no others, with few requests, in one file or in several parts."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import uuid
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageshards import index, index_file, index_writer
from imageshards.errors import ObjectMissingError, StoreError
from imageshards.index import (
    ALL_SPLITS,
    IndexInfo,
    IndexRow,
    content_digest,
    index_rows,
    iter_index,
    read_index,
    read_index_info,
    write_index,
)
from imageshards.index_parts import part_key
from imageshards.index_row import index_order
from imageshards.store import Store, open_store

GROUP_ROWS = 10
FULL = (0, 2**64 - 1)
SPLITS = ("trainval", "test", None)


def some_rows(count: int) -> list[IndexRow]:
    rows = [
        IndexRow(f"beagle_{number}", f"{number}.jpg", f"raw/{number}.jpg", "c" * 64, number, split=SPLITS[number % 3])
        for number in range(count)
    ]
    return sorted(rows, key=index_order)


def write(store: Store, rows: list[IndexRow], *, part_rows: int = 1 << 20) -> str:
    """Write an index of small row groups under a key of its own."""
    key = f"raw/pets/index/{uuid.uuid4().hex}.parquet"
    info = IndexInfo(key, content_digest(rows, ()), "pets", len(rows), (), {"image": len(rows)}, "a" * 64, "b" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "ROW_GROUP_ROWS", GROUP_ROWS)
        patch.setattr(index_writer, "PART_ROWS", part_rows)
        write_index(store, rows, info=info)
    return key


class Counted:
    """A real store whose requests for bytes are counted."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.requests: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, key: str) -> bytes:
        raise AssertionError(f"{key} was read whole")

    def head(self, key: str) -> Any:
        self.requests.append(("head", 0))
        return self._store.head(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.requests.append(("get", length))
        return self._store.get_range(key, start, length)


@pytest.fixture
def counted(moto) -> Any:
    return Counted(moto.store(moto.bucket, f"index/{uuid.uuid4().hex[:12]}"))


PARTS = [pytest.param(1 << 20, id="one file"), pytest.param(30, id="parts")]


@pytest.mark.parametrize("part_rows", PARTS)
@pytest.mark.parametrize("split", [*SPLITS, ALL_SPLITS])
@pytest.mark.parametrize("hash_range", [None, FULL, (0, 2**62), (2**63, 2**64 - 1), (5, 5)])
def test_rows_of_a_split_and_a_range_of_hashes_are_read_and_no_others(new_store, part_rows, split, hash_range):
    rows = some_rows(100)
    store = new_store()
    key = write(store, rows, part_rows=part_rows)
    first, last = hash_range or FULL
    expected = [row for row in rows if split in (ALL_SPLITS, row.split) and first <= row.sample_hash <= last]
    assert index_rows(read_index(store, key, split=split, hash_range=hash_range)) == expected
    ids = read_index(store, key, columns=["image_id"], split=split, hash_range=hash_range)
    assert ids.to_pydict() == {"image_id": [row.image_id for row in expected]}


def test_a_split_that_is_not_there_has_no_rows_but_the_columns(folder_store):
    key = write(folder_store, some_rows(30), part_rows=10)
    found = read_index(folder_store, key, columns=["image_id", "label"], split="unknown")
    assert found.num_rows == 0
    assert found.schema == pa.schema([pa.field("image_id", pa.string(), nullable=False), pa.field("label", pa.int16())])
    assert index_rows(read_index(folder_store, key, split="unknown")) == []


@settings(deadline=None, max_examples=20)
@given(count=st.integers(0, 60), part_rows=st.integers(10, 70))
def test_the_number_of_parts_changes_nothing_that_is_read(tmp_path_factory, count, part_rows):
    store = open_store(str(tmp_path_factory.mktemp("parts")))
    rows = some_rows(count)
    key = write(store, rows, part_rows=part_rows)
    assert index_rows(read_index(store, key)) == rows
    assert [row for table in iter_index(store, key) for row in index_rows(table)] == rows
    assert read_index_info(store, key).images == count
    parts = [pq.read_metadata(store.local_path(part.key)).num_rows for part in store.list(key.removesuffix(".parquet"))]
    assert sum(parts) == (count if count > part_rows else 0)
    assert max(parts, default=0) <= part_rows


def test_pieces_are_a_part_of_the_index_each(folder_store, monkeypatch):
    rows = some_rows(100)
    key = write(folder_store, rows)
    monkeypatch.setattr(index, "_PIECE_GROUPS", 3)
    pieces = list(iter_index(folder_store, key, columns=["split", "image_id"]))
    assert [piece.num_rows for piece in pieces] == [30, 30, 30, 10]
    assert pieces[0].column_names == ["split", "image_id"]
    assert pa.concat_tables(pieces)["image_id"].to_pylist() == [row.image_id for row in rows]


def test_a_work_unit_reads_its_row_groups_with_one_request(counted, monkeypatch):
    monkeypatch.setattr(index_file, "_GROUPS_KEPT", 0)
    rows = some_rows(500)
    key = write(counted, rows)
    wanted = [row for row in rows if row.split == "test"][100:112]
    hash_range = wanted[0].sample_hash, wanted[-1].sample_hash
    counted.requests.clear()
    for footer_requests in (2, 0):  # the footer is kept
        assert index_rows(read_index(counted, key, split="test", hash_range=hash_range)) == wanted
        assert len(counted.requests) == footer_requests + 1
        counted.requests.clear()
    read_index(counted, key, split="test", hash_range=hash_range)
    ((_, read_bytes),) = counted.requests
    assert read_bytes < counted.head(key).size_bytes / 4  # of 50 row groups 3, and what lies between their columns


def test_the_next_work_unit_of_the_same_row_group_asks_for_nothing(counted):
    rows = some_rows(500)
    key = write(counted, rows)
    group = rows[20:30]
    assert {row.split for row in group} == {None}
    for wanted, requests in (
        (group[:4], 3),  # two for the footer
        (group[4:9], 0),
        (rows[28:32], 1),  # reaches into the next group
        (rows[32:36], 0),
        (rows[40:44], 1),
        (group[:4], 1),
    ):
        counted.requests.clear()
        hash_range = wanted[0].sample_hash, wanted[-1].sample_hash
        assert index_rows(read_index(counted, key, split=None, hash_range=hash_range)) == wanted
        assert len(counted.requests) == requests


def test_a_work_unit_of_a_long_index_opens_one_part(counted):
    rows = some_rows(300)
    key = write(counted, rows, part_rows=50)
    wanted = [row for row in rows if row.split == "test"][40:45]
    hash_range = wanted[0].sample_hash, wanted[-1].sample_hash
    read_index_info(counted, key)
    counted.requests.clear()
    assert index_rows(read_index(counted, key, split="test", hash_range=hash_range)) == wanted
    assert [kind for kind, _ in counted.requests] == ["get", "get"]  # the part's footer, its row groups


def test_few_columns_of_everything_take_few_bytes_and_requests(counted):
    rows = [dataclasses.replace(row, source_sha256=os.urandom(32).hex()) for row in some_rows(2000)]
    key = write(counted, rows)
    read_index_info(counted, key)
    counted.requests.clear()
    found = pa.concat_tables(iter_index(counted, key, columns=["split", "left_out", "label"]))
    assert found.num_rows == 2000
    assert len(counted.requests) <= 2000 / GROUP_ROWS


def test_footers_are_kept_for_a_few_files_only(folder_store, monkeypatch):
    monkeypatch.setattr(index_file, "_FOOTERS_KEPT", 2)
    keys = [write(folder_store, some_rows(5)) for _ in range(4)]
    for key in [*keys, *keys]:
        assert read_index(folder_store, key).num_rows == 5
    assert len(index_file._footers) == 2


def test_a_local_index_that_was_written_anew_is_read_anew(folder_store):
    key = write(folder_store, some_rows(5))
    assert read_index(folder_store, key).num_rows == 5
    other = write(folder_store, some_rows(9))
    folder_store.put(key, folder_store.get(other))
    assert read_index(folder_store, key).num_rows == 9


def test_a_missing_part_is_named_and_a_damaged_one_tells_which_index_to_delete(folder_store):
    key = write(folder_store, some_rows(60), part_rows=20)
    folder_store.put(part_key(key, 1), b"no parquet")
    with pytest.raises(StoreError, match=rf"{key} is no index .* delete it"):
        read_index(folder_store, key)
    folder_store.delete(part_key(key, 1))
    with pytest.raises(ObjectMissingError, match="00001"):
        list(iter_index(folder_store, key))


def test_rows_damaged_in_one_part_are_noticed(folder_store):
    key = write(folder_store, some_rows(60), part_rows=20)
    data = folder_store.get(part_key(key, 2))
    folder_store.put(part_key(key, 2), data[:4] + b"\xff" * 1500 + data[1504:])
    with pytest.raises(StoreError, match="delete it and run again"):
        list(iter_index(folder_store, key))


def test_reading_imports_nothing_that_takes_long(folder_store):
    key = write(folder_store, some_rows(60), part_rows=20)
    program = f"""
import sys
from imageshards.index import read_index, iter_index
from imageshards.store import open_store
store = open_store({folder_store.url!r})
read_index(store, {key!r}, split=None, hash_range=(0, 2**63))
list(iter_index(store, {key!r}, columns=["split"]))
slow = ("pyarrow.dataset", "pyarrow.acero", "pyarrow.compute", "pandas")
sys.exit(" ".join(name for name in slow if name in sys.modules) or None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
