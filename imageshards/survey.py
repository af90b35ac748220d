"""A look over finished shards: what their small columns say of all rows, and rows to choose pictures from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from imageshards.index import sample_hash
from imageshards.manifest import Manifest, ShardEntry
from imageshards.store import Store
from imageshards.stored_rows import StoredRow, positions_of, rows_at, small_tables

T = TypeVar("T")

_SHARDS_AT_ONCE = 4

_FIRST_GROUPS = 8
_FIRST_ROWS = 256
"""Rows to choose a contact sheet from, per split: its first row groups. They hold 11 rows at 600 px and 84 at 224 px,
and rows lie in the order of a hash, so that they are a random draw."""

_KEPT_PER_REPAIR = 12
_HALF = 0.5


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


def _survey_shard(shard: ShardEntry, store: Store) -> Survey:
    survey = Survey()
    for group, table in small_tables(shard, store):
        _add_table(survey, table, shard, group)
    return survey


def _add_table(survey: Survey, whole: pa.Table, shard: ShardEntry, group: int) -> None:
    plain = positions_of(pc.equal(whole["copy"], 0))
    table = whole.take(pa.array(plain, pa.int64()))
    survey.samples += table.num_rows
    survey.upscaled += pc.sum(table["upscaled"]).as_py() or 0
    for name, column in (("widths", "source_width"), ("heights", "source_height")):
        getattr(survey, name).update(_counts(table[column]))
    for name, column in (("formats", "source_format"), ("modes", "source_mode")):
        getattr(survey, name).update(_counts(table[column]))
    _add_boxes(survey, [share for share in table["head_box_visible"].to_pylist() if share is not None], shard.split)
    if group < _FIRST_GROUPS:
        first = survey.first.setdefault(shard.split, [])
        first += rows_at(whole, plain[: _FIRST_ROWS - len(first)], shard=shard.path, group=group)
    repaired = [plain[number] for number in positions_of(pc.greater(pc.list_value_length(table["repairs"]), 0))]
    for row in sorted(rows_at(whole, repaired, shard=shard.path, group=group), key=_hash_of):
        for repair in row.repairs:
            kept = survey.repaired.setdefault(repair, [])
            kept.append(row)
            kept.sort(key=_hash_of)
            del kept[_KEPT_PER_REPAIR:]


def _add_boxes(survey: Survey, visible: Sequence[float], split: str) -> None:
    if visible:
        survey.boxes[split] += len(visible)
    survey.boxes_cut += sum(share < 1 for share in visible)
    survey.boxes_halved += sum(share < _HALF for share in visible)
    survey.boxes_gone += sum(share <= 0 for share in visible)


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}


def _hash_of(row: StoredRow) -> tuple[int, str]:
    return sample_hash(row.image_id), row.image_id
