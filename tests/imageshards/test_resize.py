"""Resizing is Pillow's, to a level, for whatever part of whatever picture, and the same on every processor."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cykooz_resizer import CpuExtensions
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from imageshards import resize
from imageshards.picture import Box
from imageshards.resize import reach, resize_bilinear

RANDOM = np.random.default_rng(7)


def noise(width: int, height: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_pillow(pixels: NDArray[np.uint8], box: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Along x, then along y, each a call of its own: Pillow alone chooses the order by the sizes."""
    height = pixels.shape[0]
    left, top, right, bottom = box
    rows = Image.fromarray(pixels).resize((size[0], height), Image.Resampling.BILINEAR, (left, 0, right, height))
    return np.asarray(rows.resize(size, Image.Resampling.BILINEAR, (0, top, size[0], bottom)))


def difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.int16]:
    return np.abs(first.astype(np.int16) - second)


@st.composite
def parts(draw: st.DrawFn) -> tuple[tuple[int, int], Box, tuple[int, int]]:
    """Size of a picture, a part of it, and the size that it gets."""
    side = st.integers(1, 60)
    source = draw(side), draw(side)
    box = []
    for length in source:
        start, stop = sorted(draw(st.tuples(*[st.floats(0, length, width=32)] * 2)))
        box.append((start, stop) if stop - start > 0.01 else (0.0, float(length)))
    (left, right), (top, bottom) = box
    return source, (left, top, right, bottom), (draw(side), draw(side))


@settings(max_examples=500, deadline=None)
@given(parts())
def test_noise_differs_from_pillows_by_a_level_at_most(part: tuple[tuple[int, int], Box, tuple[int, int]]) -> None:
    source, box, size = part
    pixels = noise(*source)
    assert difference(resize_bilinear(pixels, box, size), by_pillow(pixels, box, size)).max() <= 1


@pytest.mark.parametrize("source", [(4000, 3000), (3000, 4000), (20000, 40), (1, 1)])
def test_large_and_odd_pictures_too(source: tuple[int, int]) -> None:
    pixels = noise(*source)
    box = (source[0] * 0.1, source[1] * 0.1, source[0] * 0.9, source[1] * 0.9)
    found = difference(resize_bilinear(pixels, box, (224, 224)), by_pillow(pixels, box, (224, 224)))
    assert found.max() <= 1
    assert found.mean() <= 0.06


def test_a_part_at_its_own_size_stays_as_it_is() -> None:
    pixels = noise(40, 30)
    assert np.array_equal(resize_bilinear(pixels, (3, 4, 33, 24), (30, 20)), pixels[4:24, 3:33])


def test_the_picture_need_not_be_contiguous() -> None:
    pixels = noise(40, 30)
    mirrored = pixels[:, ::-1]
    box = (1.5, 2.5, 35.0, 28.0)
    assert np.array_equal(
        resize_bilinear(mirrored, box, (17, 13)), resize_bilinear(np.ascontiguousarray(mirrored), box, (17, 13))
    )


@pytest.mark.parametrize("extensions", [CpuExtensions.none, CpuExtensions.sse4_1, CpuExtensions.avx2])
def test_every_processor_gives_the_same_bytes(extensions: CpuExtensions) -> None:
    pixels, box, size = noise(500, 375), (60.3, 22.1, 430.9, 352.7), (224, 224)
    expected = resize_bilinear(pixels, box, size)
    resizer = resize._scratch.resizer
    before = resizer.cpu_extensions
    try:
        resizer.cpu_extensions = extensions
    except ValueError:
        pytest.skip(f"this processor has no {extensions.name}")
    try:
        found = resize_bilinear(pixels, box, size)
    finally:
        resizer.cpu_extensions = before
    assert np.array_equal(found, expected)


def test_threads_do_not_disturb_each_other() -> None:
    pictures = [noise(90 + number, 70) for number in range(40)]

    def small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return resize_bilinear(pixels, (5.5, 3.5, 80.0, 66.0), (32, 32))

    expected = [small(pixels) for pixels in pictures]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert all(map(np.array_equal, pool.map(small, pictures), expected))


def test_little_memory_is_kept_after_strips_as_high_as_they_like() -> None:
    for rows in range(100_000, 100_020):
        resize_bilinear(noise(2, rows), (0.0, 0.0, 2.0, float(rows)), (224, 224))
    assert sum(width * height for width, height in resize._scratch._targets) < 10_000_000


@pytest.mark.parametrize(
    ("start", "stop", "length_px", "limit_px", "expected"),
    [(10.0, 30.0, 10, 100, (8, 32)), (10.5, 20.5, 20, 100, (9, 22)), (0.0, 10.0, 2, 10, (0, 10))],
)
def test_a_filter_reaches_as_far_as_it_reads(
    start: float, stop: float, length_px: int, limit_px: int, expected: tuple[int, int]
) -> None:
    assert reach(start, stop, length_px, limit_px) == expected
