"""EXIF orientation: read from bytes, applied to arrays and boxes."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
"""(xmin, ymin, xmax, ymax) in continuous coordinates: pixel i covers [i, i + 1)."""

ORIENTATION_TAG = 0x0112
"""Exif 2.3, section 4.6.4: how stored rows and columns lie in the upright image, 1 to 8."""

_EXIF_PREFIX = b"Exif\0\0"
_SHORT = 3


def exif_orientation(data: bytes, start: int = 0, end: int | None = None) -> int:
    """Read the orientation out of an Exif block, without a copy and without the rest of its tags.

    Args:
        data: Any bytes that hold the block: a TIFF structure, with or without `Exif` and two zeros before it.
        start: Where the block begins.
        end: Where it ends, by default with the data.

    Returns:
        1 to 8; 1 where the block is malformed, or states no orientation or an undefined one: a broken block must not
        cost the image.
    """
    end = len(data) if end is None else min(end, len(data))
    if data.startswith(_EXIF_PREFIX, start, end):
        start += len(_EXIF_PREFIX)
    byte_order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[start : start + 4])
    if byte_order is None or end - start < 10:  # a header of 8 bytes, a count of 2
        return 1
    position = start + int(struct.unpack_from(byte_order + "I", data, start + 4)[0])
    if position + 2 > end:
        return 1
    (count,) = struct.unpack_from(byte_order + "H", data, position)
    last = min(position + 2 + 12 * count, end - 11)
    for entry in range(position + 2, last, 12):
        tag, kind, _, value = struct.unpack_from(byte_order + "HHIH", data, entry)
        if tag == ORIENTATION_TAG:
            return value if kind == _SHORT and 1 <= value <= 8 else 1
    return 1


def upright(array: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Apply an EXIF orientation to an array.

    Args:
        array: (H, W) or (H, W, C), any dtype, as stored.
        orientation: 1 to 8 (Exif 2.3, tag 0x0112): how the stored rows and columns lie in the upright image.

    Returns:
        The upright array, C-contiguous; the array itself where it is upright and contiguous already.
    """
    if array.ndim == 3 and array.flags.c_contiguous:  # a pixel as one item copies twice as fast as its channels
        channels, dtype = array.shape[2], array.dtype
        turned = _turned(array.view(f"V{channels * dtype.itemsize}")[..., 0], orientation)
        return turned.view(dtype).reshape(*turned.shape, channels)
    return _turned(array, orientation)


def _turned(array: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    if orientation >= 5:  # 5 to 8: stored rows are upright columns
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def upright_box(box: Box, orientation: int, stored_width: int, stored_height: int) -> Box:
    """Apply an EXIF orientation to a box.

    Args:
        box: In coordinates of the stored image.
        orientation: 1 to 8, as in `upright`.
        stored_width: Width of the image as stored.
        stored_height: Height of the image as stored.

    Returns:
        The box in coordinates of the upright image.
    """
    xmin, ymin, xmax, ymax = box
    width, height = stored_width, stored_height
    if orientation >= 5:
        xmin, ymin, xmax, ymax = ymin, xmin, ymax, xmax
        width, height = height, width
    if orientation in (3, 4, 7, 8):
        ymin, ymax = height - ymax, height - ymin
    if orientation in (2, 3, 6, 7):
        xmin, xmax = width - xmax, width - xmin
    return xmin, ymin, xmax, ymax
