import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from imageshards.orientation import exif_orientation, upright, upright_box

ORIENTATIONS = range(1, 9)
STORED = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def exif(orientation: int, order: str = "<", kind: int = 3, offset: int = 8, count: int = 1) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(f"{order}HHIHH", 0x0112, kind, 1, orientation, 0)
    return mark + struct.pack(f"{order}IH", offset, count) + entries + bytes(4)


def as_pillow_turns(orientation: int) -> Any:
    image = Image.fromarray(STORED)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_upright_turns_pixels_as_pillow_does(orientation: int) -> None:
    turned = upright(STORED, orientation)
    assert np.array_equal(turned, as_pillow_turns(orientation))
    assert turned.flags.c_contiguous


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_upright_takes_any_array(orientation: int, dtype: type) -> None:
    expected = as_pillow_turns(orientation)
    for stored in (STORED, np.asfortranarray(STORED), STORED[..., :1]):
        turned = upright(stored.astype(dtype, order="K"), orientation)
        assert np.array_equal(turned, expected[..., : stored.shape[2]].astype(dtype))
        assert turned.flags.c_contiguous
    plane = upright(STORED[..., 1].astype(dtype), orientation)
    assert np.array_equal(plane, expected[..., 1].astype(dtype))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_box_turns_with_its_pixels(orientation: int) -> None:
    mask = np.zeros((20, 30), bool)
    mask[3:7, 5:14] = True
    rows, columns = np.nonzero(upright(mask, orientation))
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert upright_box((5, 3, 14, 7), orientation, 30, 20) == expected


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_the_orientation_is_read_in_either_byte_order(orientation: int, order: str, prefix: bytes) -> None:
    assert exif_orientation(prefix + exif(orientation, order)) == orientation


def test_the_orientation_is_read_inside_of_other_bytes() -> None:
    block = exif(6)
    assert exif_orientation(b"before" + block + exif(3), 6, 6 + len(block)) == 6


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\0\0",
        b"II*\0",
        b"XX*\0" + exif(6)[4:],
        exif(0),
        exif(9),
        exif(6, kind=4),
        exif(6, offset=0xFFFFFFF0),
        exif(6, offset=len(exif(6)) - 1),
        exif(6, count=0),
        exif(6)[:15],
    ],
)
def test_a_malformed_block_states_nothing(block: bytes) -> None:
    assert exif_orientation(block) == 1


def test_a_count_beyond_the_end_of_the_block_does_not_matter() -> None:
    assert exif_orientation(exif(6, count=0xFFFF)) == 6
