"""Writes an index row group by row group, part by part: memory stays the same however many rows it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imageshards.index_parts import PART_ROWS, PARTS_KEY, IndexPart, RowRange, part_key, parts_to_metadata
from imageshards.index_row import (
    METADATA_KEY,
    SCHEMA,
    ContentDigest,
    IndexInfo,
)
from imageshards.store import Store

_PLANNED_BY = ["split", "sample_hash"]
"""The columns with statistics: what a reader chooses row groups by."""

_REPEATED = ["split", "left_out", "class_name", "species"]
"""The columns worth a dictionary."""

Columns = Mapping[str, Sequence[Any]]


class IndexWriter:
    """An index that is being written: one Parquet file, or an empty one that names its parts where there are many rows.

    Args:
        store: The raw store.
        key: The index object.
        folder: A local folder for the part that is being written.
        class_names: By class id.
    """

    def __init__(self, store: Store, key: str, *, folder: Path, class_names: Sequence[str]) -> None:
        self._store = store
        self._key = key
        self._path = folder / "index.parquet"
        self._digest = ContentDigest(class_names)
        self._images = 0
        self._parts: list[IndexPart] = []
        self._part_rows = 0
        self._range: RowRange | None = None
        self._writer = self._new_file()

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def write(self, columns: Columns) -> None:
        """Write the next rows, sorted as the index is, as one row group.

        Args:
            columns: Python values, by the names of the schema.
        """
        rows = len(columns["image_id"])
        if self._part_rows and self._part_rows + rows > PART_ROWS:
            self._store_part()
        self._digest.update(columns)
        self._images += rows
        self._part_rows += rows
        self._range = RowRange.of(columns["split"], columns["sample_hash"]).joined(self._range)
        self._writer.write_table(pa.table([_array(field, columns[field.name]) for field in SCHEMA], schema=SCHEMA))

    def finish(self, info: IndexInfo) -> IndexInfo:
        """Put the index into the store; its own object comes last, in one atomic write.

        Args:
            info: What it is; without a digest and a number of images these are what was written.

        Returns:
            What it is, digest and number of images included.
        """
        info = replace(info, digest=info.digest or self._digest.hexdigest(), images=info.images or self._images)
        metadata = {METADATA_KEY: info.to_metadata()}
        if self._parts:
            self._store_part()
            metadata[PARTS_KEY] = parts_to_metadata(self._parts)
        self._writer.add_key_value_metadata(metadata)
        self._writer.close()
        self._store.put_file(self._key, self._path)
        return info

    def _new_file(self) -> pq.ParquetWriter:
        return pq.ParquetWriter(
            self._path, SCHEMA, compression="zstd", use_dictionary=_REPEATED, write_statistics=_PLANNED_BY
        )

    def _store_part(self) -> None:
        """Put what was written into the store as a part, and begin the next file."""
        self._writer.close()
        key = part_key(self._key, len(self._parts))
        self._store.put_file(key, self._path)
        if self._range is not None:
            self._parts.append(IndexPart(key, self._path.stat().st_size, self._part_rows, self._range))
        self._part_rows, self._range = 0, None
        self._writer = self._new_file()


def _array(field: pa.Field, values: Sequence[Any]) -> pa.Array:
    if not pa.types.is_fixed_size_list(field.type):
        return pa.array(values, field.type)
    nothing = (None,) * field.type.list_size  # ten times as fast as a list of tuples
    flat = pa.array(chain.from_iterable(value or nothing for value in values), field.type.value_type)
    missing = pa.array([value is None for value in values], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(flat, type=field.type, mask=missing)
