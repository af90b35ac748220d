"""The index: one row per source image, so that preprocessing lists nothing.

Rows are sorted by split, then by a hash of the image id: the images of one work unit lie side by side, and a worker
reads only their row groups. Nothing here reads more of an index than it was asked for.
"""

from __future__ import annotations

import hashlib
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from imageshards.index_file import damaged_index, index_files, opened_index
from imageshards.index_parts import ALL_SPLITS, AnySplit, HashRange
from imageshards.index_row import (
    INDEX_VERSION,
    NO_SPLIT_RULE,
    ROW_GROUP_ROWS,
    SCHEMA,
    TOO_LARGE_RULE,
    UNLISTED_SPLIT,
    IndexInfo,
    IndexRow,
    columns_of,
    content_digest,
    index_order,
    row_digest,
    sample_hash,
)
from imageshards.index_writer import IndexWriter
from imageshards.store import Store

__all__ = [
    "ALL_SPLITS",
    "NO_SPLIT_RULE",
    "TOO_LARGE_RULE",
    "UNLISTED_SPLIT",
    "AnySplit",
    "IndexInfo",
    "IndexRow",
    "content_digest",
    "index_key",
    "index_rows",
    "iter_index",
    "read_index",
    "read_index_info",
    "row_digest",
    "sample_hash",
    "write_index",
]

_PIECE_GROUPS = 8


def index_key(dataset: str, images_sha256: str, annotations_sha256: str) -> str:
    """Where the index of a pair of archives lies in the raw store."""
    source = f"{INDEX_VERSION}:{images_sha256}:{annotations_sha256}"
    return f"raw/{dataset}/index/{hashlib.sha256(source.encode()).hexdigest()[:32]}.parquet"


def write_index(store: Store, rows: Iterable[IndexRow], *, info: IndexInfo) -> None:
    """Write rows that are at hand as an index, in one atomic write; the same rows give the same bytes in any order."""
    ordered = sorted(rows, key=index_order)
    with (
        tempfile.TemporaryDirectory(prefix="imageshards-") as folder,
        IndexWriter(store, info.key, folder=Path(folder), class_names=info.class_names) as writer,
    ):
        for start in range(0, len(ordered), ROW_GROUP_ROWS):
            writer.write(columns_of(ordered[start : start + ROW_GROUP_ROWS]))
        writer.finish(info)


def read_index_info(store: Store, key: str) -> IndexInfo:
    """Read what an index is, without its rows.

    Raises:
        ObjectMissingError: There is no such index.
        StoreError: The object is no index of this version.
    """
    try:
        with opened_index(store, key) as file:
            return IndexInfo.from_metadata(key, file.metadata.metadata)
    except (ValueError, KeyError) as error:
        raise damaged_index(store, key, error) from error


def read_index(
    store: Store,
    key: str,
    *,
    columns: Sequence[str] | None = None,
    split: str | AnySplit | None = ALL_SPLITS,
    hash_range: HashRange | None = None,
) -> pa.Table:
    """Read rows of the index, sorted by split, then by hash of the image id; other row groups are not read.

    Args:
        store: The raw store.
        key: The index object.
        columns: Which columns; all of them by default.
        split: Rows of this split only; None for those of no split, `ALL_SPLITS` for every row.
        hash_range: First and last sample hash wanted.

    Raises:
        ObjectMissingError: There is no such index.
        StoreError: The object is no Parquet file, or a damaged one.
    """
    wanted = None if columns is None else list(dict.fromkeys([*columns, "split", "sample_hash"]))
    tables = [
        file.read(file.groups(split, hash_range), wanted)
        for file in index_files(store, key, split=split, hash_range=hash_range)
    ]
    table = pa.concat_tables(tables) if tables else _no_rows(wanted)
    if not isinstance(split, AnySplit):
        table = _of_split(table, split)
    if hash_range is not None:
        table = _of_hashes(table, hash_range)
    return table if columns is None else table.select(list(columns))


def iter_index(store: Store, key: str, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Read the whole index piece by piece, sorted by split, then by hash of the image id; memory holds one piece.

    Args:
        store: The raw store.
        key: The index object.
        columns: Which columns; all of them by default.

    Yields:
        Some ten thousand rows at a time.

    Raises:
        ObjectMissingError: There is no such index.
        StoreError: The object is no Parquet file, or a damaged one.
    """
    for file in index_files(store, key, split=ALL_SPLITS, hash_range=None):
        for start in range(0, file.metadata.num_row_groups, _PIECE_GROUPS):
            table = file.read(file.groups(ALL_SPLITS, None)[start : start + _PIECE_GROUPS], columns)
            yield table if columns is None else table.select(list(columns))


def index_rows(table: pa.Table) -> list[IndexRow]:
    """The rows of a whole-width table that `read_index` gave."""
    columns = (_values(table.column(field.name)) for field in fields(IndexRow))
    return [IndexRow(*values) for values in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray) -> Iterable[Any]:
    values: list[Any] = column.to_pylist()
    if not isinstance(column.type, pa.FixedSizeListType):
        return values
    return (None if value is None else tuple(value) for value in values)


# Neither by pyarrow.compute, whose import takes each worker as long as building ten rows.
def _of_split(table: pa.Table, split: str | None) -> pa.Table:
    """Of rows that are sorted as `index_order` has it, where no split is an empty name."""
    splits = table.column("split")
    places = range(table.num_rows)
    first, end = (find(places, split or "", key=lambda place: splits[place].as_py() or "") for find in _BOUNDS)
    return table.slice(first, end - first)


_BOUNDS = (bisect_left, bisect_right)


def _of_hashes(table: pa.Table, hash_range: HashRange) -> pa.Table:
    hashes = table.column("sample_hash").to_numpy()
    wanted = (hashes >= np.uint64(hash_range[0])) & (hashes <= np.uint64(hash_range[1]))
    edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False)).reshape(-1, 2).tolist()  # one run in a split
    # Always several chunks: whoever combines them gets a copy, and lets go of the row groups.
    return pa.concat_tables([table.slice(0, 0), *(table.slice(first, end - first) for first, end in edges)])


def _no_rows(columns: Sequence[str] | None) -> pa.Table:
    names = SCHEMA.names if columns is None else columns
    return pa.schema([SCHEMA.field(name) for name in names]).empty_table()
