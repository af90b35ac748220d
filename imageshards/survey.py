"""A look over finished shards: the small columns of every row, and the pictures of a chosen few.

Pixels and trimaps are read for chosen rows only, one row group at a time; shards in S3 are read by ranges. So memory
stays the same however large the dataset is.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imageshards.index import sample_hash
from imageshards.manifest import Manifest, ShardEntry
from imageshards.picture import Box
from imageshards.store import Store

T = TypeVar("T")

_SHARDS_AT_ONCE = 4

_FIRST_GROUPS = 8
_FIRST_ROWS = 256
"""Rows to choose a contact sheet from, per split: its first row groups. They hold 11 rows at 600 px and 84 at 224 px,
and rows lie in the order of a hash, so that they are a random draw."""

_KEPT_PER_REPAIR = 12

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


@dataclass(slots=True)
class Survey:
    """What the small columns of plain rows say, augmented copies left aside.

    Attributes:
        samples: How many rows.
        widths: Rows by source width in px.
        heights: Rows by source height in px.
        formats: Rows by source format.
        modes: Rows by source mode.
        upscaled: Rows whose source was enlarged.
        boxes: Rows whose source has a head box, by split.
        boxes_cut: Head boxes of which a part lies outside of the frame.
        boxes_halved: Of these, those of which less than half is left.
        boxes_gone: Of these, those of which nothing is left.
        first: Rows at the beginning of each split.
        repaired: Some rows for each repair, those of the smallest hash.
    """

    samples: int = 0
    widths: Counter[int] = field(default_factory=Counter)
    heights: Counter[int] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    upscaled: int = 0
    boxes: Counter[str] = field(default_factory=Counter)
    boxes_cut: int = 0
    boxes_halved: int = 0
    boxes_gone: int = 0
    first: dict[str, list[StoredRow]] = field(default_factory=dict)
    repaired: dict[str, list[StoredRow]] = field(default_factory=dict)

    def add(self, other: Survey) -> None:
        """Take in the survey of the shard that follows."""
        self.samples += other.samples
        self.upscaled += other.upscaled
        self.boxes_cut += other.boxes_cut
        self.boxes_halved += other.boxes_halved
        self.boxes_gone += other.boxes_gone
        for name in ("widths", "heights", "formats", "modes", "boxes"):
            getattr(self, name).update(getattr(other, name))
        for split, rows in other.first.items():
            known = self.first.setdefault(split, [])
            groups = {(row.shard, row.group) for row in known}
            for row in rows:
                groups.add((row.shard, row.group))
                if len(groups) <= _FIRST_GROUPS and len(known) < _FIRST_ROWS:
                    known.append(row)
        for repair, rows in other.repaired.items():
            both = [*self.repaired.get(repair, []), *rows]
            self.repaired[repair] = sorted(both, key=_hash_of)[:_KEPT_PER_REPAIR]


def survey_version(manifest: Manifest, store: Store) -> Survey:
    """Read the small columns of every shard."""
    total = Survey()
    with ThreadPoolExecutor(_SHARDS_AT_ONCE, thread_name_prefix="survey") as pool:
        for found in pool.map(lambda shard: _survey_shard(shard, store), manifest.shards):
            total.add(found)
    return total


def spread(groups: Mapping[str, Sequence[T]], count: int) -> list[T]:
    """Take from each group in turn, the first ones first, until there are `count` different ones."""
    chosen: dict[T, None] = {}
    for items in zip_longest(*(groups[name] for name in sorted(groups))):
        chosen.update((item, None) for item in items if item is not None)
    return list(chosen)[:count]


def find_copies(manifest: Manifest, rows: Iterable[StoredRow], *, copies: int, store: Store) -> list[StoredRow]:
    """The augmented copies of some rows, the first few of each."""
    wanted = {row.image_id for row in rows}
    shards = {row.shard for row in rows}
    found = []
    for shard in manifest.shards:
        if shard.path in shards and copies:
            for group, table in _small_tables(shard, store):
                mask = pc.and_(
                    pc.is_in(table["image_id"], pa.array(sorted(wanted))),
                    pc.and_(pc.greater(table["copy"], 0), pc.less_equal(table["copy"], copies)),
                )
                found += _rows(table, np.flatnonzero(mask), shard.path, group)
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


def _survey_shard(shard: ShardEntry, store: Store) -> Survey:
    survey = Survey()
    for group, table in _small_tables(shard, store):
        _add_table(survey, table, shard, group)
    return survey


def _add_table(survey: Survey, whole: pa.Table, shard: ShardEntry, group: int) -> None:
    plain = np.flatnonzero(pc.equal(whole["copy"], 0))
    table = whole.take(pa.array(plain))
    survey.samples += table.num_rows
    survey.upscaled += pc.sum(table["upscaled"]).as_py() or 0
    for name, column in (("widths", "source_width"), ("heights", "source_height")):
        getattr(survey, name).update(_counts(table[column]))
    for name, column in (("formats", "source_format"), ("modes", "source_mode")):
        getattr(survey, name).update(_counts(table[column]))
    visible = table["head_box_visible"].drop_null().to_numpy()
    if len(visible):
        survey.boxes[shard.split] += len(visible)
    survey.boxes_cut += int((visible < 1).sum())
    survey.boxes_halved += int((visible < 0.5).sum())
    survey.boxes_gone += int((visible <= 0).sum())
    if group < _FIRST_GROUPS:
        first = survey.first.setdefault(shard.split, [])
        first += _rows(whole, plain[: _FIRST_ROWS - len(first)], shard.path, group)
    repaired = plain[np.asarray(pc.greater(pc.list_value_length(table["repairs"]), 0))]
    for row in sorted(_rows(whole, repaired, shard.path, group), key=_hash_of):
        for repair in row.repairs:
            kept = survey.repaired.setdefault(repair, [])
            kept.append(row)
            kept.sort(key=_hash_of)
            del kept[_KEPT_PER_REPAIR:]


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}


def _rows(table: pa.Table, positions: Sequence[int] | NDArray[Any], shard: str, group: int) -> list[StoredRow]:
    names = [name for name in _COLUMNS if name not in ("head_box_visible", "upscaled")]
    taken = table.select(names).take(pa.array(positions, pa.int64())).to_pylist()
    return [
        StoredRow(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()},
            shard=shard,
            group=group,
            position=int(position),
        )
        for position, values in zip(positions, taken, strict=True)
    ]


def _hash_of(row: StoredRow) -> tuple[int, str]:
    return sample_hash(row.image_id), row.image_id


def _small_tables(shard: ShardEntry, store: Store) -> Iterator[tuple[int, pa.Table]]:
    with _opened(shard, store) as file:
        for group in range(file.num_row_groups):
            yield group, file.read_row_group(group, columns=_COLUMNS, use_threads=False)


@contextmanager
def _opened(shard: ShardEntry, store: Store) -> Iterator[pq.ParquetFile]:
    path = store.local_path(shard.path)
    source = path if path is not None else pa.PythonFile(_Ranges(store, shard), mode="r")
    with pq.ParquetFile(source, pre_buffer=path is None) as file:  # pre_buffer joins ranges that lie side by side
        yield file


class _Ranges(io.RawIOBase):
    """A shard in a store, read by ranges."""

    def __init__(self, store: Store, shard: ShardEntry) -> None:
        super().__init__()
        self._store = store
        self._shard = shard
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._shard.size_bytes}[whence]
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._shard.size_bytes - self._position)
        length = left if size is None or size < 0 else min(size, left)
        data = self._store.get_range(self._shard.path, self._position, length) if length else b""
        self._position += len(data)
        return data
