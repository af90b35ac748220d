"""rejects.parquet: every reject of every shard in their order, in row groups of a bounded size."""

from __future__ import annotations

from dataclasses import asdict

import pyarrow.parquet as pq
import pytest

from imageshards import rejects
from imageshards.rejects import write_rejects
from imageshards.schema import REJECTS_SCHEMA
from imageshards.shard_file import Reject, ShardResult


def shard(number: int, count: int) -> ShardResult:
    refused = tuple(
        Reject(
            f"beagle_{number}_{each}", "raw/k.jpg", "a" * 64, "test", "beagle" if each else None, "truncated", "\u2026"
        )
        for each in range(count)
    )
    return ShardResult(224, f"test-{number:05d}.parquet", "test", 6, 6, 999, "b" * 64, "c" * 64, refused, {})


@pytest.mark.parametrize("counts", [[], [0, 0], [1], [0, 3, 0, 2], [5, 5, 5]])
def test_every_reject_is_in_the_table_in_the_order_of_the_shards(folder_store, monkeypatch, counts):
    monkeypatch.setattr(rejects, "_ROW_GROUP_ROWS", 4)
    shards = [shard(number, count) for number, count in enumerate(counts)]
    write_rejects(folder_store, "v/rejects.parquet", iter(shards))
    with pq.ParquetFile(folder_store.local_path("v/rejects.parquet")) as file:
        table = file.read()
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert table.schema.equals(REJECTS_SCHEMA)
    assert table.to_pylist() == [asdict(reject) for each in shards for reject in each.rejects]
    assert all(size <= 4 for size in sizes)


def test_the_same_shards_give_the_same_bytes(folder_store):
    for key in ("one/rejects.parquet", "two/rejects.parquet"):
        write_rejects(folder_store, key, [shard(0, 7), shard(1, 2)])
    assert folder_store.get("one/rejects.parquet") == folder_store.get("two/rejects.parquet")
