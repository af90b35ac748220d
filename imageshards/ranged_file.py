"""An object of a store as a file to read from, by ranges: what Parquet needs to read a part of an object."""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from imageshards.store import Store

_MAX_GAP_BYTES = 128 << 10
"""Ranges that lie closer together are read at once: a request costs more time than these bytes."""

_MAX_RANGE_BYTES = 8 << 20
_PARALLEL_READS = 8

Range = tuple[int, int]
"""Start and length, in bytes."""


class RangedFile(io.RawIOBase):
    """An object, read by ranges; those fetched ahead are kept until the next ones are.

    Args:
        store: Where the object lies.
        key: The object.
        size_bytes: Its size.
    """

    def __init__(self, store: Store, key: str, size_bytes: int) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._size_bytes = size_bytes
        self._position = 0
        self._fetched: dict[int, bytes] = {}

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next byte is read from."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to another place, without a request."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Read on from here; fewer bytes at the end of the object only."""
        left = max(0, self._size_bytes - self._position)
        length = left if size is None or size < 0 else min(size, left)
        data = self._read_range(self._position, length) if length else b""
        self._position += len(data)
        return data

    def fetch(self, ranges: Iterable[Range]) -> None:
        """Read ranges in as few requests as is sensible, several at once, and forget those fetched before."""
        joined = join_ranges(ranges)
        self._fetched.clear()
        if len(joined) == 1:
            ((start, length),) = joined
            self._fetched[start] = self._store.get_range(self._key, start, length)
        elif joined:
            with ThreadPoolExecutor(min(len(joined), _PARALLEL_READS), thread_name_prefix="ranges") as pool:
                parts = pool.map(lambda each: self._store.get_range(self._key, *each), joined)
                self._fetched.update({start: data for (start, _), data in zip(joined, parts, strict=True)})

    def _read_range(self, start: int, length: int) -> bytes:
        for first, data in self._fetched.items():
            if first <= start and start + length <= first + len(data):
                return data[start - first : start - first + length]
        return self._store.get_range(self._key, start, length)


def join_ranges(ranges: Iterable[Range]) -> list[Range]:
    """The ranges in order, those close together as one, as long as that does not get too long."""
    joined: list[Range] = []
    for start, length in sorted(ranges):
        if joined:
            first, before = joined[-1]
            end = max(first + before, start + length)
            if start - (first + before) <= _MAX_GAP_BYTES and end - first <= _MAX_RANGE_BYTES:
                joined[-1] = first, end - first
                continue
        joined.append((start, length))
    return joined
