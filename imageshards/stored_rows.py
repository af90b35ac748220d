"""Rows of finished shards: where they lie, their small columns, and image and trimap of a chosen few.

One row group is held at a time; shards in S3 are read by ranges. So memory stays the same however large a dataset is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imageshards.manifest import Manifest, ShardEntry
from imageshards.picture import Box
from imageshards.ranged_file import RangedFile
from imageshards.store import Store

_COLUMNS = [
    "image_id",
    "copy",
    "class_name",
    "split",
    "head_box",
    "head_box_visible",
    "source_key",
    "source_width",
    "source_height",
    "source_format",
    "source_mode",
    "exif_orientation",
    "upscaled",
    "repairs",
]


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One row of a shard without its pixels, and where it lies.

    Attributes:
        image_id: See `schema.shard_schema`, as for all that follow.
        copy: 0 for the plain image.
        class_name: None where the image has no class.
        split: The split it belongs to.
        head_box: In output pixels.
        source_key: The image in the raw store.
        source_width: In px, as stored.
        source_height: In px, as stored.
        source_format: By content.
        source_mode: Pillow's mode.
        exif_orientation: 1 to 8.
        repairs: Names.
        shard: Key of the shard.
        group: Number of the row group.
        position: Place in the row group.
    """

    image_id: str
    copy: int
    class_name: str | None
    split: str
    head_box: Box | None
    source_key: str
    source_width: int
    source_height: int
    source_format: str
    source_mode: str
    exif_orientation: int
    repairs: tuple[str, ...]
    shard: str
    group: int
    position: int


def small_tables(shard: ShardEntry, store: Store) -> Iterator[tuple[int, pa.Table]]:
    """Number of each row group of a shard, and its columns other than image and trimap."""
    with _opened(shard, store) as file:
        for group in range(file.num_row_groups):
            yield group, file.read_row_group(group, columns=_COLUMNS, use_threads=False)


def rows_at(table: pa.Table, positions: Sequence[int], *, shard: str, group: int) -> list[StoredRow]:
    """The rows at some positions of a table that `small_tables` gave."""
    names = [name for name in _COLUMNS if name not in ("head_box_visible", "upscaled")]
    taken = table.select(names).take(pa.array(positions, pa.int64())).to_pylist()
    rows = []
    for position, values in zip(positions, taken, strict=True):
        frozen: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        rows.append(StoredRow(**frozen, shard=shard, group=group, position=position))
    return rows


def positions_of(mask: pa.ChunkedArray) -> list[int]:
    """Where a mask holds. By a list, as pyarrow's way to numpy imports pandas: 1 s and 60 MB."""
    return [number for number, holds in enumerate(mask.to_pylist()) if holds]


def find_copies(manifest: Manifest, rows: Iterable[StoredRow], *, copies: int, store: Store) -> list[StoredRow]:
    """The augmented copies of some rows, the first few of each."""
    wanted = {row.image_id for row in rows}
    shards = {row.shard for row in rows}
    found = []
    for shard in manifest.shards:
        if shard.path in shards and copies:
            for group, table in small_tables(shard, store):
                mask = pc.and_(
                    pc.is_in(table["image_id"], pa.array(sorted(wanted))),
                    pc.and_(pc.greater(table["copy"], 0), pc.less_equal(table["copy"], copies)),
                )
                found += rows_at(table, positions_of(mask), shard=shard.path, group=group)
    return sorted(found, key=lambda row: (row.image_id, row.copy))


def read_pixels(
    manifest: Manifest, rows: Iterable[StoredRow], store: Store
) -> Iterator[tuple[StoredRow, bytes, NDArray[np.uint8] | None]]:
    """Read image and trimap of some rows, in the order of the shards.

    Yields:
        The row; the bytes of its image column; its trimap as (R, R) uint8, or None. A row group is held until the next
        row is asked for.
    """
    side = manifest.resolution
    sizes = {shard.path: shard for shard in manifest.shards}
    ordered = sorted(set(rows), key=lambda row: (row.shard, row.group, row.position))
    for path, in_shard in groupby(ordered, key=lambda row: row.shard):
        with _opened(sizes[path], store) as file:
            for group, in_group in groupby(in_shard, key=lambda row: row.group):
                table = file.read_row_group(group, columns=["image", "trimap"], use_threads=False)
                for row in in_group:
                    image, trimap = (table.column(name)[row.position].as_py() for name in ("image", "trimap"))
                    yield row, image, None if trimap is None else np.frombuffer(trimap, np.uint8).reshape(side, side)
                del table


@contextmanager
def _opened(shard: ShardEntry, store: Store) -> Iterator[pq.ParquetFile]:
    path = store.local_path(shard.path)
    source = path if path is not None else pa.PythonFile(RangedFile(store, shard.path, shard.size_bytes), mode="r")
    with pq.ParquetFile(source, pre_buffer=path is None) as file:  # pre_buffer joins ranges that lie side by side
        yield file
