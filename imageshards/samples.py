"""From rows of the index to decoded samples: fetched ahead, checked, decoded once, made upright with their labels."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from imageshards.decode import decode, decode_trimap, suffix_disagrees, upright, upright_box
from imageshards.decoded import Decoded, DecodePolicy, Repair
from imageshards.duplicates import perceptual_hash
from imageshards.errors import ObjectMissingError, RejectReason, SampleError, StoreError
from imageshards.index import IndexRow
from imageshards.oxford_pets import Box
from imageshards.recipe import Recipe
from imageshards.store import Store
from imageshards.transform import Picture

_FETCH_THREADS = 8


_IMAGES_AHEAD = 32


_BYTES_AHEAD = 32 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """A decoded image, its annotation in upright coordinates, and what is told of it in every row."""

    picture: Picture
    columns: Mapping[str, Any]


@contextmanager
def fetchers() -> Iterator[ThreadPoolExecutor]:
    """Threads that fetch; to be entered by a function, never within a generator that hands out samples.

    The garbage collector may finish such a generator in whatever thread it runs in just then, under whatever lock:
    there, waiting for the threads' end was seen to wait for ever.
    """
    pool = ThreadPoolExecutor(_FETCH_THREADS, thread_name_prefix="fetch")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def read_samples(
    rows: Sequence[IndexRow],
    split: str,
    recipe: Recipe,
    *,
    poison: Mapping[str, str],
    store: Store,
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[IndexRow, Sample | SampleError]]:
    """Fetch and decode images, each once, in the order of the rows; fetching runs ahead of decoding.

    Args:
        rows: The images.
        split: What to tell of all of them.
        recipe: Its decoding policy.
        poison: Image ids that are rejected unseen, with what is known of them.
        store: The raw store.
        pool: Threads that fetch, see `fetchers`.

    Yields:
        Each row with its sample, or with the reason why there is none.

    Raises:
        StoreError: A raw object is missing, or is not what the index says.
        TransientError: The store is out of reach.
    """
    healthy = [row for row in rows if row.image_id not in poison]
    fetched = _fetch_ahead(healthy, store, pool)
    for row in rows:
        if row.image_id in poison:
            yield row, SampleError(poison[row.image_id], reason=RejectReason.WORKER_CRASH)
            continue
        image, trimap = next(fetched)
        sample: Sample | SampleError
        try:
            sample = _decode(row, split, image, trimap, recipe)
        except SampleError as error:
            sample = error.with_traceback(None)  # which holds the pixels of every frame it went through
        yield row, sample


def _fetch_ahead(
    rows: Sequence[IndexRow], store: Store, pool: ThreadPoolExecutor
) -> Iterator[tuple[bytes, bytes | None]]:
    """The bytes of image and trimap of each row, in order, read before they are asked for."""
    ahead: deque[tuple[int, Future[bytes], Future[bytes] | None]] = deque()
    waiting = deque(rows)
    ahead_bytes = 0
    while waiting or ahead:
        while waiting and len(ahead) < _IMAGES_AHEAD and (ahead_bytes < _BYTES_AHEAD or not ahead):
            row = waiting.popleft()
            image = pool.submit(_get, store, row.source_key, row.source_sha256)
            trimap = pool.submit(_get, store, row.trimap_key, row.trimap_sha256 or "") if row.trimap_key else None
            ahead.append((row.source_size_bytes, image, trimap))
            ahead_bytes += row.source_size_bytes
        size_bytes, image, trimap = ahead.popleft()
        yield image.result(), trimap.result() if trimap else None
        ahead_bytes -= size_bytes


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


def _decode(row: IndexRow, split: str, image: bytes, trimap: bytes | None, recipe: Recipe) -> Sample:
    decoded = decode(image, DecodePolicy.from_recipe(recipe))
    repairs = list(decoded.repairs)
    if suffix_disagrees(PurePosixPath(row.member).name, decoded.source_format):
        repairs.append(Repair.MISNAMED)
    head_box, box_repairs = _upright_head_box(row, decoded)
    repairs.extend(box_repairs)
    picture = Picture(decoded.pixels, head_box, None if trimap is None else _upright_trimap(trimap, decoded, recipe))
    columns = {
        "image_id": row.image_id,
        "label": row.label,
        "class_name": row.class_name,
        "species": row.species,
        "split": split,
        "source_key": row.source_key,
        "source_sha256": row.source_sha256,
        "source_width": decoded.source_width,
        "source_height": decoded.source_height,
        "source_format": decoded.source_format,
        "source_mode": decoded.source_mode,
        "exif_orientation": decoded.exif_orientation,
        "perceptual_hash": perceptual_hash(decoded.pixels),
        "repairs": [str(repair) for repair in repairs],
    }
    return Sample(picture, columns)


def _upright_trimap(data: bytes, decoded: Decoded, recipe: Recipe) -> Any:
    """The trimap in upright coordinates; one drawn on the picture as stored is turned with it."""
    trimap = decode_trimap(data, max_pixels=recipe.max_pixels)
    frame = decoded.pixels.shape[:2]
    stored = (decoded.source_height, decoded.source_width)
    if trimap.shape != frame and trimap.shape == stored:
        trimap = upright(trimap, decoded.exif_orientation)
    if trimap.shape != frame:
        raise SampleError(
            f"the trimap is {trimap.shape[1]} x {trimap.shape[0]} px, the image {frame[1]} x {frame[0]} px",
            reason=RejectReason.BAD_ANNOTATION,
        )
    return trimap


def _upright_head_box(row: IndexRow, decoded: Decoded) -> tuple[Box | None, list[str]]:
    """The head box in upright coordinates and inside the picture, and the repairs that this took.

    A box drawn on the picture as stored is turned with it; one that reaches out is clipped.
    """
    if row.head_box is None:
        return None, []
    height, width = decoded.pixels.shape[:2]
    stored = (decoded.source_width, decoded.source_height)
    box = row.head_box
    if row.head_box_frame is not None and row.head_box_frame != (width, height) and row.head_box_frame == stored:
        box = upright_box(box, decoded.exif_orientation, *stored)
    xmin, ymin, xmax, ymax = box
    clipped = (xmin, ymin, min(xmax, width), min(ymax, height))
    if xmin >= width or ymin >= height:
        raise SampleError(
            f"the head box {tuple(box)} lies outside of the image of {width} x {height} px",
            reason=RejectReason.BAD_ANNOTATION,
        )
    return clipped, [] if clipped == box else [Repair.HEAD_BOX_CLIPPED]
