"""Which rows a stretch of an index may hold, and the parts that a long index is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

PART_ROWS = 1 << 20
"""Rows of one file. Parquet's footer takes 15 KB of memory for each row group, in every process that reads it."""

PARTS_KEY = b"imageshards.index.parts"


class AnySplit(Enum):
    """See `ALL_SPLITS`."""

    ALL = "all"


ALL_SPLITS = AnySplit.ALL
"""Rows of every split, and of none; a split of None means those of none alone."""

HashRange = tuple[int, int]
"""First and last."""


class RowRange(NamedTuple):
    """Between which values the rows of a stretch lie.

    Attributes:
        splits: First and last split by name; None where no row has one.
        without_split: Whether there are rows without a split.
        hashes: First and last sample hash.
    """

    splits: tuple[str, str] | None
    without_split: bool
    hashes: HashRange

    @classmethod
    def of(cls, splits: Sequence[str | None], hashes: Sequence[int]) -> RowRange:
        """The range of some rows."""
        named = [split for split in set(splits) if split is not None]
        return cls((min(named), max(named)) if named else None, None in splits, (min(hashes), max(hashes)))

    def joined(self, other: RowRange | None) -> RowRange:
        """The range of both."""
        if other is None:
            return self
        splits = [*(self.splits or ()), *(other.splits or ())]
        hashes = *self.hashes, *other.hashes
        return RowRange(
            (min(splits), max(splits)) if splits else None,
            self.without_split or other.without_split,
            (min(hashes), max(hashes)),
        )

    def may_hold(self, split: str | AnySplit | None, hash_range: HashRange | None) -> bool:
        """Whether rows of a split and a range of hashes can be there."""
        if split is None and not self.without_split:
            return False
        if isinstance(split, str) and (self.splits is None or not self.splits[0] <= split <= self.splits[1]):
            return False
        return hash_range is None or (self.hashes[0] <= hash_range[1] and hash_range[0] <= self.hashes[1])


class IndexPart(NamedTuple):
    """One file of an index that has several.

    Attributes:
        key: The object in the raw store.
        size_bytes: Its size.
        rows: Number of its rows.
        range: Between which values they lie.
    """

    key: str
    size_bytes: int
    rows: int
    range: RowRange


def part_key(index_key: str, number: int) -> str:
    """Where a part lies: beside the index."""
    return f"{index_key.removesuffix('.parquet')}/{number:05d}.parquet"


def parts_to_metadata(parts: Sequence[IndexPart]) -> bytes:
    """The parts as they stand in the metadata of the index."""
    return json.dumps(parts).encode()


def parts_from_metadata(metadata: Mapping[bytes, bytes] | None) -> list[IndexPart]:
    """Read back what `parts_to_metadata` gave; none for an index that is one file."""
    found = json.loads((metadata or {}).get(PARTS_KEY, b"[]"))
    return [
        IndexPart(key, size_bytes, rows, RowRange(tuple(splits) if splits else None, without_split, tuple(hashes)))
        for key, size_bytes, rows, (splits, without_split, hashes) in found
    ]
