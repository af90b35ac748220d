"""The quick reader of plain PNGs takes nothing that the strict one would refuse, and gives the same."""

from __future__ import annotations

import io
import random
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from imageshards.decode import _decode_indices
from imageshards.errors import SampleError
from imageshards.formats.plain_png import read_color_png, read_gray_png

LIMIT = 10**6
RANDOM = random.Random(3)
TRIMAP = np.random.default_rng(3).integers(1, 4, (37, 53), dtype=np.uint8)


def png(pixels: NDArray[np.uint8] = TRIMAP, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def strictly(data: bytes) -> NDArray[np.uint8] | None:
    try:
        return _decode_indices(data, LIMIT)
    except SampleError:
        return None


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (37, 53), (600, 800)])
def test_a_plain_png_is_read(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    found = read_gray_png(png(pixels), LIMIT)
    assert found is not None
    assert np.array_equal(found, pixels)


def test_image_data_may_come_in_many_chunks() -> None:
    data = png()
    start = data.index(b"IDAT") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    body = data[start + 8 : start + 8 + length]
    parts = [body[:5], b"", body[5:40], body[40:]]
    chunks = [
        struct.pack(">I", len(part)) + b"IDAT" + part + struct.pack(">I", zlib.crc32(b"IDAT" + part)) for part in parts
    ]
    found = read_gray_png(data[:start] + b"".join(chunks) + data[start + 12 + length :], LIMIT)
    assert found is not None
    assert np.array_equal(found, TRIMAP)


def text_chunk() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "trimap")
    return info


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(png()[:60], id="cut"),
        pytest.param(png() + b"x", id="bytes behind the end"),
        pytest.param(png(pnginfo=text_chunk()), id="text"),
        pytest.param(png(np.dstack([TRIMAP] * 3)), id="color"),
        pytest.param(png(TRIMAP.astype(np.uint16)), id="16 bits"),
        pytest.param(png(np.ones((1001, 1000), np.uint8)), id="too large"),
    ],
)
def test_all_else_is_left_to_the_other_reader(data: bytes) -> None:
    assert read_gray_png(data, LIMIT) is None


def damaged_png() -> tuple[bytes, bool]:
    """A file with a few flipped bits, and whether the checksum of the image data was made to fit them."""
    damaged = bytearray(png())
    for _ in range(RANDOM.randint(1, 2)):
        damaged[RANDOM.randrange(len(damaged))] ^= 1 << RANDOM.randrange(8)
    start = damaged.index(b"IDAT") - 4 if b"IDAT" in damaged else 33
    end = start + 8 + int.from_bytes(damaged[start : start + 4], "big")
    mended = RANDOM.random() < 0.7 and end + 4 <= len(damaged)
    if mended:
        damaged[end : end + 4] = struct.pack(">I", zlib.crc32(damaged[start + 4 : end]))
    return bytes(damaged), mended


def test_damage_is_judged_as_by_the_strict_reader() -> None:
    accepted = refused = 0
    for _ in range(3000):
        data, mended = damaged_png()
        found, expected = read_gray_png(data, LIMIT), strictly(data)
        if found is None:
            refused += 1
        elif expected is not None:
            accepted += 1
            assert np.array_equal(found, expected)
        else:  # the strict reader also adds up what the checksum of the chunk stands for
            assert mended
    assert accepted > 50
    assert refused > 1000


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (37, 53), (600, 800)])
def test_a_plain_color_png_is_read(shape: tuple[int, int], channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, channels), dtype=np.uint8)
    found = read_color_png(png(pixels))
    assert found is not None
    assert np.array_equal(found, pixels)


def color_png(**options: object) -> bytes:
    return png(np.random.default_rng(1).integers(0, 256, (37, 53, 3), dtype=np.uint8), **options)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(color_png()[:400], id="cut"),
        pytest.param(color_png(transparency=(1, 2, 3)), id="a transparent color"),
        pytest.param(png(), id="gray"),
        pytest.param(png(np.zeros((4097, 4097, 3), np.uint8)), id="too large"),
    ],
)
def test_of_color_too_all_else_is_left_to_the_other_reader(data: bytes) -> None:
    assert read_color_png(data) is None
