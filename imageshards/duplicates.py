"""Which images of a dataset are the same picture: to the pixel, or but for size, quality, light or a slight crop.

A 64-bit perceptual hash of every image names candidates; only these are read again, and a look at their pixels tells
exact duplicates from near ones, and near ones from chance. Mirrored and rotated pictures are not found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imageshards.hash_search import MAX_NEARLY_EQUAL, find_near

MAX_DISTANCE = 10
"""Bits in which the hashes of one picture may differ. The share of 221 photographs of Oxford-IIIT Pet whose hash lies
near that of what was made of them; of all within 10 bits, the look at the pixels then loses one.

    bits                                          4      6      8     10     12
    JPEG quality 50 to 95, gray, light -10 %   1.000  1.000  1.000  1.000  1.000
    60 % of the size, light +10 %              0.995  1.000  1.000  1.000  1.000
    2 % cropped all around                     0.919  0.977  0.995  1.000  1.000
    4 % cropped all around                     0.679  0.910  0.982  1.000  1.000
    2 % cropped off one corner                 0.588  0.882  0.977  1.000  1.000
    4 % cropped off one side                   0.452  0.787  0.941  0.982  1.000
    4 % cropped off one corner                 0.072  0.312  0.575  0.796  0.946
    mirrored                                   0      0      0      0      0

The photographs differ from each other in 14 bits and more. Of 14 million pairs of crops of different photographs, 0, 0,
1, 3 and 42 lie within these distances; the look at the pixels leaves 0, 0, 0, 0 and 1.
"""

_GRID = 96
"""Points a side at which an image is looked at, whatever its size: 0.06 ms, where averaging all pixels of 500 x 375
takes 0.3 ms and finds 0.3 % more (at 8 bits, of all derivatives above)."""

_LUMA = np.array([299, 587, 114], np.float32)
"""Thousandths, ITU-R BT.601. Sums of 8-bit values stay below 2^24, so that float32 holds them exactly."""

_FREQUENCIES = np.arange(8)[:, None]
_BASIS = np.round(1024 * np.cos(np.pi * _FREQUENCIES * (2 * np.arange(_GRID) + 1) / (2 * _GRID)))
"""(8, 96): a discrete cosine transform in whole numbers. Products with it stay below 2^53, so that float64 holds them
exactly and no order of additions, no machine, changes a bit of the hash."""

_THUMBNAIL_SIDE = 16
_LEAST_CORRELATION_PERCENT = 80
"""Of the thumbnails of one picture."""
_SAME_LEVELS = 2
"""Thumbnails that differ by no more on average show the same, if too flat a picture to correlate."""

_LOOKS_KEPT = 10_000
"""Of candidates, 0.5 kB each; more than `_PAIRS_AT_ONCE` pairs have."""
_PAIRS_AT_ONCE = 4096
"""Their images are described, and read, before they are compared."""
_READERS = 2
"""Each holds one image."""


@dataclass(frozen=True, slots=True)
class Hashed:
    """An image and its perceptual hash.

    Attributes:
        image_id: Its name.
        split: The split it belongs to.
        perceptual_hash: See `perceptual_hash`.
        source_key: Its raw object, by which its pixels can be read again.
        source_sha256: Digest of that object.
    """

    image_id: str
    split: str
    perceptual_hash: int
    source_key: str
    source_sha256: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two images that show the same picture.

    Attributes:
        first: The image id that sorts first.
        second: The other.
        first_split: Split of the first.
        second_split: Split of the second.
        kind: `exact` where the decoded pixels are equal, `near` otherwise.
        distance: Bits in which the perceptual hashes differ.
    """

    first: str
    second: str
    first_split: str
    second_split: str
    kind: Literal["exact", "near"]
    distance: int


@dataclass(frozen=True, slots=True)
class _Look:
    """What is kept of the pixels of a candidate: a digest of all, and a (16, 16) thumbnail in gray levels."""

    digest: bytes
    thumbnail: NDArray[np.uint8]


def perceptual_hash(pixels: NDArray[np.uint8]) -> int:
    """The DCT hash of an image: 64 bits, few of which change where the picture stays the same.

    A bit says whether one of the 8 x 8 lowest frequencies of the brightness lies above the median of them all (C.
    Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010; coefficients and median as in
    the ImageHash library). The same on every machine. 0.07 ms, whatever the size.

    Args:
        pixels: (H, W, 3) uint8, RGB, upright; 1 x 1 and more.

    Returns:
        0 to 2^64 - 1. For an image of one color, which has no frequencies, that color in unary: 21 bits a channel.
    """
    gray = _gray_grid(pixels)
    spectrum = (_BASIS @ gray @ _BASIS.T).ravel()
    if not spectrum[1:].any():
        red, green, blue = ((1 << int(value) * 21 // 255) - 1 for value in pixels[0, 0])
        return red << 42 | green << 21 | blue
    below, above = np.partition(spectrum, (31, 32))[31:33]
    return int.from_bytes(np.packbits(2 * spectrum > below + above).tobytes(), "big")


def _gray_grid(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(96, 96): the brightness, times 1000, at the middle of each cell of a grid laid over the image."""
    lines, values = _grid(*pixels.shape[:2])
    taken = pixels.take(lines, axis=0).reshape(_GRID, -1).take(values, axis=1, mode="wrap")  # which checks the least
    points = taken.reshape(-1, 3).astype(np.float32)
    gray: NDArray[np.float32] = points @ _LUMA
    return gray.reshape(_GRID, _GRID).astype(np.float64)


@lru_cache(maxsize=1024)
def _grid(height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The lines of the grid, (96,), and which values of such a line it takes, (288,): numpy takes pixels slower."""
    lines, columns = ((2 * np.arange(_GRID) + 1) * side // (2 * _GRID) for side in (height, width))
    return lines, (3 * columns[:, None] + np.arange(3)).ravel()


def reach(count: int) -> int:
    """Bits within which hashes are searched among so many: `MAX_DISTANCE`, or 0 above `MAX_NEARLY_EQUAL`."""
    return MAX_DISTANCE if count <= MAX_NEARLY_EQUAL else 0


def find_duplicates(
    hashes: NDArray[np.uint64],
    describe: Callable[[NDArray[np.int64]], Sequence[Hashed]],
    read_pixels: Callable[[str], NDArray[np.uint8] | None],
    *,
    max_distance: int = MAX_DISTANCE,
) -> Iterator[Duplicate]:
    """Find the images that show the same picture.

    Of more than 16 images with one hash, each is compared to the first alone, see `find_near`.

    Args:
        hashes: (N,) the perceptual hash of each image.
        describe: Gives the images at some positions among the hashes, ascending; called for candidates only.
        read_pixels: Gives the (H, W, 3) uint8 RGB upright pixels behind a `source_key`; called from two threads, for
            candidates whose files differ, and once for each unless they are very many. Where it gives None, the hash
            alone decides, and the pair is near.
        max_distance: Bits in which the hashes of near duplicates may differ, 0 to 16.

    Yields:
        The pairs, in the order of the hashes.

    Raises:
        ConfigError: `max_distance` is out of range, or too large for images so much alike, see `find_near`.
    """

    @lru_cache(_LOOKS_KEPT)
    def look(source_key: str) -> _Look | None:
        pixels = read_pixels(source_key)
        return None if pixels is None else _look(pixels)

    near = find_near(hashes, max_distance)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="duplicates") as pool:
        for start in range(0, len(near), _PAIRS_AT_ONCE):
            chosen = near[start : start + _PAIRS_AT_ONCE]
            positions = np.unique(chosen)
            images = describe(positions)
            places = np.searchsorted(positions, chosen).tolist()
            pairs = [_by_name(images[one], images[other]) for one, other in places]
            unlike = [pair for pair in pairs if pair[0].source_sha256 != pair[1].source_sha256]
            list(pool.map(look, dict.fromkeys(image.source_key for pair in unlike for image in pair)))
            for first, second in pairs:
                same_file = first.source_sha256 == second.source_sha256
                kind = "exact" if same_file else _kind(look(first.source_key), look(second.source_key))
                if kind:
                    distance = (first.perceptual_hash ^ second.perceptual_hash).bit_count()
                    yield Duplicate(first.image_id, second.image_id, first.split, second.split, kind, distance)


def _by_name(one: Hashed, other: Hashed) -> tuple[Hashed, Hashed]:
    return (one, other) if one.image_id <= other.image_id else (other, one)


def _look(pixels: NDArray[np.uint8]) -> _Look:
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    side = _GRID // _THUMBNAIL_SIDE
    cells = _gray_grid(pixels).reshape(_THUMBNAIL_SIDE, side, _THUMBNAIL_SIDE, side)
    levels = cells.sum(axis=(1, 3)).astype(np.int64) // (1000 * side * side)
    return _Look(digest.digest(), levels.astype(np.uint8))


def _kind(first: _Look | None, second: _Look | None) -> Literal["exact", "near"] | None:
    if first is None or second is None:
        return "near"
    if first.digest == second.digest:
        return "exact"
    return "near" if _shows_the_same(*(look.thumbnail.astype(np.int64) for look in (first, second))) else None


def _shows_the_same(first: NDArray[np.int64], second: NDArray[np.int64]) -> bool:
    """Whether two thumbnails correlate (which brightness and contrast leave alone), in whole numbers."""
    if np.abs(first - second).sum() <= _SAME_LEVELS * first.size:
        return True
    one, other = (values.size * values - values.sum() for values in (first, second))
    shared, of_one, of_other = (int((a * b).sum()) for a, b in ((one, other), (one, one), (other, other)))
    return shared > 0 and 100**2 * shared**2 >= _LEAST_CORRELATION_PERCENT**2 * of_one * of_other
