"""rejects.parquet: every sample that a version refuses, with its reason, in the order of the shards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from imageshards.schema import REJECTS_SCHEMA
from imageshards.shard_file import Reject, ShardResult
from imageshards.store import Store

_ROW_GROUP_ROWS = 8192


def write_rejects(store: Store, key: str, shards: Iterable[ShardResult]) -> None:
    """Write the rejects of a version, a row group at a time; the same shards in the same order give the same bytes.

    Args:
        store: Where to.
        key: The object.
        shards: All shards of the version, ordered by name.
    """
    rejects = (reject for shard in shards for reject in shard.rejects)
    with tempfile.TemporaryDirectory(prefix="imageshards-") as folder:
        path = Path(folder) / "rejects.parquet"
        with pq.ParquetWriter(path, REJECTS_SCHEMA, compression="zstd") as writer:
            for table in _tables(rejects):
                writer.write_table(table)
        store.put_file(key, path)


def _tables(rejects: Iterator[Reject]) -> Iterator[pa.Table]:
    while rows := [asdict(reject) for reject in islice(rejects, _ROW_GROUP_ROWS)]:
        yield pa.Table.from_pylist(rows, schema=REJECTS_SCHEMA)
