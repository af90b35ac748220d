"""An index as Parquet files of which no more is read than asked for, whether they lie in a folder or in S3."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imageshards.errors import StoreError
from imageshards.index_parts import AnySplit, HashRange, IndexPart, RowRange, parts_from_metadata
from imageshards.index_row import ROW_GROUP_ROWS, SCHEMA
from imageshards.ranged_file import Range, RangedFile
from imageshards.store import Store, StoreSpec

_FOOTER_BYTES = 64 << 10
"""Read at once from the end of a file: more than the footer of 200,000 rows. A longer one takes a second request."""
_FOOTER_GROUP_BYTES = 1200
"""Likewise of a part, for each row group: a footer has 920 bytes for one."""

_FOOTERS_KEPT = 4
"""Of 4 MB each at most: a part has 256 row groups."""

_GROUPS_KEPT = 4
"""A work unit reads one or two, and those at either end of its split, which hold rows of another, too; 2 MB each as a
table. As a rule its worker's next unit reads the same."""

_EVERYTHING = RowRange(("", "\U0010ffff"), without_split=True, hashes=(0, (1 << 64) - 1))
"""Of a row group without statistics."""


@dataclass(frozen=True)
class _Footer:
    """The end of a file, and what tells whether the file is still the same.

    Attributes:
        size_bytes: Size of the file.
        identity: Of a local file: its inode and time. None in S3, where what lies under the key of an index never
            changes.
        metadata: The parsed footer.
    """

    size_bytes: int
    identity: tuple[int, int] | None
    metadata: pq.FileMetaData

    @cached_property
    def ranges(self) -> list[RowRange]:
        """What the statistics say of each row group."""
        names = [self.metadata.schema.column(number).path for number in range(self.metadata.num_columns)]
        if "split" not in names or "sample_hash" not in names:
            return [_EVERYTHING] * self.metadata.num_row_groups
        split, sample_hash = names.index("split"), names.index("sample_hash")
        return [
            _range_of(self.metadata.row_group(group), split, sample_hash)
            for group in range(self.metadata.num_row_groups)
        ]


_footers: OrderedDict[tuple[StoreSpec, str], _Footer] = OrderedDict()
_footers_lock = threading.Lock()


class _LastRead:
    """The row groups of whole rows that were read last, of one file, where they were few. For all threads."""

    def __init__(self) -> None:
        self._found: tuple[_Footer | None, Mapping[int, pa.Table]] = None, {}

    def of(self, footer: _Footer) -> Mapping[int, pa.Table]:
        """Tables by row group, if they are of this file."""
        known, tables = self._found
        return tables if known is footer else {}

    def keep(self, footer: _Footer, tables: Mapping[int, pa.Table]) -> None:
        """Forget all others."""
        self._found = footer, tables


_last_read = _LastRead()


class IndexFile:
    """One file of an index, opened; made by `opened_index`."""

    def __init__(
        self, store: Store, index_key: str, footer: _Footer, file: pq.ParquetFile, ranged: RangedFile | None
    ) -> None:
        self._store = store
        self._index_key = index_key
        self._footer = footer
        self._file = file
        self._ranged = ranged

    @property
    def metadata(self) -> pq.FileMetaData:
        """The parsed footer."""
        return self._footer.metadata

    def groups(self, split: str | AnySplit | None, hash_range: HashRange | None) -> list[int]:
        """The row groups that may hold rows of a split and a range of hashes."""
        if isinstance(split, AnySplit) and hash_range is None:
            return list(range(self.metadata.num_row_groups))
        return [number for number, each in enumerate(self._footer.ranges) if each.may_hold(split, hash_range)]

    def read(self, groups: Sequence[int], columns: Sequence[str] | None) -> pa.Table:
        """Rows of some row groups; all columns by default.

        Raises:
            StoreError: They are damaged, or lack a column.
        """
        if columns is not None or not 0 < len(groups) <= _GROUPS_KEPT:
            return self._read(groups, columns)
        known = _last_read.of(self._footer)
        missing = [group for group in groups if group not in known]
        read = self._read(missing, None) if missing else None
        tables, start = {}, 0
        for group in groups:
            if read is None or group in known:
                tables[group] = known[group]
            else:
                rows = self.metadata.row_group(group).num_rows
                tables[group] = read.slice(start, rows)
                start += rows
        _last_read.keep(self._footer, tables)
        return pa.concat_tables(tables.values())

    def _read(self, groups: Sequence[int], columns: Sequence[str] | None) -> pa.Table:
        names = None if columns is None else list(columns)
        try:
            if self._ranged is not None:
                self._ranged.fetch(self._byte_ranges(groups, columns))
            table = self._file.read_row_groups(list(groups), columns=names, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise damaged_index(self._store, self._index_key, error) from error
        if missing := set(names or SCHEMA.names).difference(table.column_names):
            raise damaged_index(self._store, self._index_key, ValueError(f"it lacks {', '.join(sorted(missing))}"))
        return table.replace_schema_metadata(None)

    def _byte_ranges(self, groups: Sequence[int], columns: Sequence[str] | None) -> Iterator[Range]:
        for group in groups:
            row_group = self.metadata.row_group(group)
            for number in range(row_group.num_columns):
                column = row_group.column(number)
                if columns is None or column.path_in_schema.partition(".")[0] in columns:
                    first = column.dictionary_page_offset or column.data_page_offset
                    yield min(first, column.data_page_offset), column.total_compressed_size


def index_files(
    store: Store, key: str, *, split: str | AnySplit | None, hash_range: HashRange | None
) -> Iterator[IndexFile]:
    """The files of an index that may hold rows of a split and a range of hashes, in order, opened one at a time.

    Raises:
        ObjectMissingError: There is no such index.
        StoreError: An object is no Parquet file, or a damaged one.
    """
    with opened_index(store, key) as head:
        parts = parts_from_metadata(head.metadata.metadata)
        if not parts:
            yield head
            return
    for part in parts:
        if part.range.may_hold(split, hash_range):
            with opened_index(store, key, part) as file:
                yield file


@contextmanager
def opened_index(store: Store, key: str, part: IndexPart | None = None) -> Iterator[IndexFile]:
    """Open an index, or one of its parts.

    Raises:
        ObjectMissingError: There is no such index.
        StoreError: The object is no Parquet file, or a damaged one.
    """
    # Not pq.read_table: it imports pyarrow.dataset, 60 MB in each worker.
    file_key = part.key if part else key
    try:
        path = store.local_path(file_key)
        footer = _footer_of(store, file_key, part)
        ranged = None if path is not None else RangedFile(store, file_key, footer.size_bytes)
        source: Any = pa.OSFile(str(path)) if ranged is None else pa.PythonFile(ranged, mode="r")
        file = pq.ParquetFile(source, metadata=footer.metadata, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise damaged_index(store, key, error) from error
    with source, file:
        yield IndexFile(store, key, footer, file, ranged)


def damaged_index(store: Store, key: str, error: Exception) -> StoreError:
    """What to raise for an index that cannot be read."""
    return StoreError(
        f"{store.uri(key)} is no index that this version reads: {str(error).strip()}; delete it and run again", key=key
    )


def _footer_of(store: Store, key: str, part: IndexPart | None) -> _Footer:
    path = store.local_path(key)
    identity = None
    if path is not None and path.is_file():
        found = path.stat()
        identity = found.st_ino, found.st_mtime_ns
    with _footers_lock:
        known = _footers.get((store.spec, key))
        if known is not None and known.identity == identity:
            _footers.move_to_end((store.spec, key))
            return known
    size_bytes = part.size_bytes if part else store.head(key).size_bytes
    guess_bytes = _FOOTER_BYTES + (_FOOTER_GROUP_BYTES * part.rows // ROW_GROUP_ROWS if part else 0)
    ranged = RangedFile(store, key, size_bytes)
    if size_bytes:
        start = max(0, size_bytes - guess_bytes)
        ranged.fetch([(start, size_bytes - start)])
    with pa.PythonFile(ranged, mode="r") as source:
        footer = _Footer(size_bytes, identity, pq.read_metadata(source))
    with _footers_lock:
        _footers[store.spec, key] = footer
        while len(_footers) > _FOOTERS_KEPT:
            _footers.popitem(last=False)
    return footer


def _range_of(group: pq.RowGroupMetaData, split_column: int, hash_column: int) -> RowRange:
    splits, hashes = group.column(split_column).statistics, group.column(hash_column).statistics
    if splits is None or hashes is None or not hashes.has_min_max or not splits.has_null_count:
        return _EVERYTHING
    named = (splits.min, splits.max) if splits.has_min_max else None
    if named is None and splits.null_count < group.num_rows:
        return _EVERYTHING
    return RowRange(named, splits.null_count > 0, (hashes.min, hashes.max))
