"""Raw objects, read and checked before they are asked for, so that decoding never waits for a disk or a server."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from imageshards.errors import ObjectMissingError, StoreError
from imageshards.index import IndexRow
from imageshards.store import Store

_THREADS = 96
"""A decoder of 500 images/s needs 1,000 objects/s; at 90 ms each that is as many requests at once."""

_LOCAL_THREADS = 2

_BYTES_AHEAD = 32 << 20

_LOCAL_BYTES_AHEAD = 8 << 20
"""A disk answers sooner than a server; what is held costs memory, and more so what was not held before."""

_LOCAL_BATCH_BYTES = 2 << 20
"""Files of a folder are read by the batch: handing each one over between threads costs more than reading it."""

_LOCAL_BATCH_IMAGES = 16

Objects = tuple[bytes, bytes | None]
"""The bytes of an image, and of its trimap where there is one."""


@contextmanager
def fetchers(store: Store) -> Iterator[ThreadPoolExecutor]:
    """Threads that read from a store; to be entered by a function, never within a generator that hands out samples.

    The garbage collector may finish such a generator in whatever thread it runs in just then, under whatever lock:
    there, waiting for the threads' end was seen to wait for ever.
    """
    pool = ThreadPoolExecutor(_LOCAL_THREADS if store.is_folder else _THREADS, thread_name_prefix="fetch")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def fetch_ahead(rows: Sequence[IndexRow], store: Store, pool: ThreadPoolExecutor) -> Iterator[Objects]:
    """The objects of each row, in order, read ahead by a bounded number of bytes, or one batch.

    Raises:
        StoreError: An object is missing, or is not what the index says.
        TransientError: The store is out of reach.
    """
    ahead: deque[tuple[int, Future[list[Objects]]]] = deque()
    batches = _batches(rows, 1, 1) if not store.is_folder else _batches(rows, _LOCAL_BATCH_IMAGES, _LOCAL_BATCH_BYTES)
    limit_bytes = _LOCAL_BYTES_AHEAD if store.is_folder else _BYTES_AHEAD
    ahead_bytes = 0
    batch = next(batches, None)
    while batch or ahead:
        while batch and len(ahead) < _THREADS and (ahead_bytes < limit_bytes or not ahead):
            size_bytes = sum(row.source_size_bytes for row in batch)
            ahead.append((size_bytes, pool.submit(_read, batch, store)))
            ahead_bytes += size_bytes
            batch = next(batches, None)
        size_bytes, future = ahead.popleft()
        yield from future.result()
        ahead_bytes -= size_bytes


def _batches(rows: Sequence[IndexRow], images: int, size_bytes: int) -> Iterator[list[IndexRow]]:
    """Runs of rows, each of at most so many images, and closed by the one that reaches the size."""
    batch: list[IndexRow] = []
    held = 0
    for row in rows:
        batch.append(row)
        held += row.source_size_bytes
        if len(batch) >= images or held >= size_bytes:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _read(batch: Sequence[IndexRow], store: Store) -> list[Objects]:
    return [
        (
            _get(store, row.source_key, row.source_sha256),
            _get(store, row.trimap_key, row.trimap_sha256 or "") if row.trimap_key else None,
        )
        for row in batch
    ]


def _get(store: Store, key: str, sha256: str) -> bytes:
    try:
        data = store.get(key)
    except ObjectMissingError as error:
        raise ObjectMissingError(
            f"{store.uri(key)}, which the index refers to, is gone; "
            "delete the index object and run again to upload it anew",
            key=key,
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise StoreError(
            f"{store.uri(key)} is not what the index says: expected sha256 {sha256}, found {found}; "
            "delete it together with the index object and run again to upload it anew",
            key=key,
        )
    return data
