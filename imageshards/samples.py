"""From rows of the index to decoded samples: fetched ahead, checked, decoded, made upright with their labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from imageshards.decode import decode, decode_trimap, suffix_disagrees, upright, upright_box
from imageshards.decoded import Decoded, DecodePolicy, Repair
from imageshards.duplicates import perceptual_hash
from imageshards.errors import RejectReason, SampleError
from imageshards.fetch_ahead import fetch_ahead
from imageshards.index import IndexRow
from imageshards.oxford_pets import Box
from imageshards.recipe import Recipe
from imageshards.reduction import Reductions
from imageshards.store import Store
from imageshards.transform import Picture


@dataclass(frozen=True, slots=True)
class Sample:
    """A decoded image, its annotation in upright coordinates, and what is told of it in every row."""

    picture: Picture
    columns: Mapping[str, Any]


Samples = Mapping[int, Sample]
"""One image by resolution: the same sample for all that are made from the same scale, see `imageshards.reduction`."""


def read_samples(
    rows: Sequence[IndexRow],
    split: str,
    recipe: Recipe,
    *,
    resolutions: Sequence[int],
    poison: Mapping[str, str],
    store: Store,
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[IndexRow, Samples | SampleError]]:
    """Fetch and decode images, in the order of the rows; fetching runs ahead of decoding.

    Each is fetched once, and decoded once for each scale that the resolutions need: one as a rule, two where some need
    the whole and others do not.

    Args:
        rows: The images.
        split: What to tell of all of them.
        recipe: Its decoding policy.
        resolutions: Those that samples are asked for, one or more.
        poison: Image ids that are rejected unseen, with what is known of them.
        store: The raw store.
        pool: Threads that fetch, see `fetch_ahead.fetchers`.

    Yields:
        Each row with its sample for each resolution, or with the reason why there is none.

    Raises:
        StoreError: A raw object is missing, or is not what the index says.
        TransientError: The store is out of reach.
    """
    healthy = [row for row in rows if row.image_id not in poison]
    fetched = fetch_ahead(healthy, store, pool)
    decoder = _Decoder(split, recipe, resolutions)
    for row in rows:
        if row.image_id in poison:
            yield row, SampleError(poison[row.image_id], reason=RejectReason.WORKER_CRASH)
            continue
        image, trimap = next(fetched)
        samples: Samples | SampleError
        try:
            samples = decoder.decode(row, image, trimap)
        except SampleError as error:
            samples = error.with_traceback(None)  # which holds the pixels of every frame it went through
        yield row, samples


class _Decoder:
    """Makes samples of bytes, as one recipe says."""

    def __init__(self, split: str, recipe: Recipe, resolutions: Sequence[int]) -> None:
        self._split = split
        self._policy = DecodePolicy.from_recipe(recipe)
        self._reductions = Reductions(recipe, resolutions)

    def decode(self, row: IndexRow, image: bytes, trimap: bytes | None) -> Samples:
        """The sample of an image for each resolution; bytes of its trimap, if it has one.

        Raises:
            SampleError: There is none.
        """
        decoded = decode(image, self._policy, reduction=self._reductions.largest)
        repairs = [str(repair) for repair in decoded.repairs]
        if suffix_disagrees(row.member, decoded.source_format):
            repairs.append(Repair.MISNAMED.value)
        head_box, box_repairs = _upright_head_box(row, decoded)
        repairs.extend(box_repairs)
        columns = {
            "image_id": row.image_id,
            "label": row.label,
            "class_name": row.class_name,
            "species": row.species,
            "split": self._split,
            "source_key": row.source_key,
            "source_sha256": row.source_sha256,
            "source_width": decoded.source_width,
            "source_height": decoded.source_height,
            "source_format": decoded.source_format,
            "source_mode": decoded.source_mode,
            "exif_orientation": decoded.exif_orientation,
            "repairs": repairs,
        }
        mask = None if trimap is None else _upright_trimap(trimap, decoded, self._policy.max_pixels)

        def sample_of(scaled: Decoded) -> Sample:
            columns["perceptual_hash"] = perceptual_hash(scaled.pixels)
            return Sample(Picture(scaled.pixels, head_box, mask, scaled.reduced), columns.copy())

        first = sample_of(decoded)
        if decoded.reduced is None:
            return dict.fromkeys(self._reductions.resolutions, first)
        wanted = self._reductions.of(decoded.size)
        by_factor = {decoded.reduced.factor: first}
        for factor in sorted(set(wanted.values()) - by_factor.keys()):
            by_factor[factor] = sample_of(self._decode_at(image, factor))
        return {resolution: by_factor[factor] for resolution, factor in wanted.items()}

    def _decode_at(self, image: bytes, factor: int) -> Decoded:
        return decode(image, self._policy, reduction=lambda _size: factor)


def _upright_trimap(data: bytes, decoded: Decoded, max_pixels: int) -> Any:
    """The trimap in upright coordinates; one drawn on the picture as stored is turned with it."""
    trimap = decode_trimap(data, max_pixels=max_pixels)
    frame = decoded.size[::-1]
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
    width, height = decoded.size
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
    return clipped, [] if clipped == box else [Repair.HEAD_BOX_CLIPPED.value]
