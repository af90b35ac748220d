"""The index by buckets: the rows are those that `read_index` gives, and no part is read twice in passing by."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from imageshards import index_buckets
from imageshards.index import read_index
from imageshards.index_buckets import IndexBuckets
from imageshards.plan import Unit

COLUMNS = ["image_id", "split", "sample_hash"]


@pytest.fixture
def pieces(drawn) -> IndexBuckets:
    sizes = {"test": drawn.expected["test"], "trainval": drawn.expected["trainval"]}
    return IndexBuckets(drawn.store, drawn.info.key, columns=COLUMNS, split_sizes=sizes, rows_at_once=16)


@pytest.mark.parametrize("split", ["test", "trainval", "unlisted", "nothing"])
@pytest.mark.parametrize("buckets", [1, 2, 4, 64])
def test_buckets_are_those_of_the_index(drawn, pieces, split, buckets):
    units = [Unit(split, bucket, buckets, ()) for bucket in range(buckets)]
    named = None if split == "unlisted" else split
    for unit in units:
        expected = read_index(drawn.store, drawn.info.key, columns=COLUMNS, split=named, hash_range=unit.hash_range)
        assert pieces.rows(unit).to_pylist() == expected.to_pylist()
    found = sum(pieces.rows(unit).num_rows for unit in units)
    assert found == read_index(drawn.store, drawn.info.key, columns=COLUMNS, split=named).num_rows


def test_no_bucket_has_no_rows_but_all_columns(pieces):
    assert pieces.rows(None).num_rows == 0
    assert pieces.rows(None).column_names == COLUMNS


def test_what_is_read_serves_the_buckets_beside_even_from_several_threads(pieces, monkeypatch):
    ranges = []
    monkeypatch.setattr(
        index_buckets,
        "read_index",
        lambda *_, hash_range, **k: ranges.append(hash_range) or read_index(*_, hash_range=hash_range, **k),
    )
    units = [Unit("test", bucket, 64, ()) for bucket in range(64)]
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(units), 4):  # side by side, as shards are checked
            list(pool.map(pieces.rows, units[start : start + 4]))
    assert len(ranges) == 8
    assert len(set(ranges)) == 8
