"""The index by buckets, one after another: what is read of it at once serves all buckets that lie in it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from imageshards.columns import numbers
from imageshards.index import UNLISTED_SPLIT, read_index
from imageshards.plan import Unit
from imageshards.store import Store

_ROWS_AT_ONCE = 8192
"""A row group: no part of an index is read faster. A shard of large images has some hundred."""

_PARTS_KEPT = 2

_NO_HASH = (1, 0)
"""A range that no hash lies in."""


class IndexBuckets:
    """Rows of an index by bucket. Safe to use from several threads; quick for those that go on side by side.

    Args:
        store: The raw store.
        key: The index object.
        columns: Which columns; `sample_hash` among them.
        split_sizes: Images of each split, about.
        rows_at_once: At most, about; a row group or two are read for them.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        *,
        columns: Sequence[str],
        split_sizes: Mapping[str, int],
        rows_at_once: int = _ROWS_AT_ONCE,
    ) -> None:
        self._store = store
        self._key = key
        self._columns = list(columns)
        self._split_sizes = split_sizes
        self._rows_at_once = rows_at_once
        self._parts: OrderedDict[Unit, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def rows(self, unit: Unit | None) -> pa.Table:
        """The rows of a bucket, by hash; none of None.

        Raises:
            TransientError: The store is out of reach.
            StoreError: The index is missing or damaged.
        """
        if unit is None:
            return self._read(None, _NO_HASH)
        part = self._part(unit)
        hashes = numbers(part.column("sample_hash"), "uint64")
        first, last = (np.uint64(value) for value in unit.hash_range)
        start = int(np.searchsorted(hashes, first))
        return part.slice(start, int(np.searchsorted(hashes, last, side="right")) - start)

    def _part(self, unit: Unit) -> pa.Table:
        """The rows of the bucket that is read at once, in which another one lies."""
        wanted = 1 << (self._split_sizes.get(unit.split, 0) // self._rows_at_once).bit_length()
        buckets = min(unit.buckets, wanted) if unit.split in self._split_sizes else unit.buckets
        whole = Unit(unit.split, unit.bucket * buckets // unit.buckets, buckets, ())
        with self._lock:
            if whole not in self._parts:
                split = None if unit.split == UNLISTED_SPLIT else unit.split
                self._parts[whole] = self._read(split, whole.hash_range).combine_chunks()
                while len(self._parts) > _PARTS_KEPT:
                    self._parts.popitem(last=False)
                # Else what Arrow's pool keeps for later grows to 45 MB while duplicates are told who they are.
                pa.default_memory_pool().release_unused()
            return self._parts[whole]

    def _read(self, split: str | None, hash_range: tuple[int, int]) -> pa.Table:
        return read_index(self._store, self._key, columns=self._columns, split=split, hash_range=hash_range)
