"""The plainest PNG there is, read in half the time: gray, 8 bits, not interlaced, nothing in it but pixels.

So are trimaps, as a rule: of each there is one beside each image, and reading it is the dearest step after decoding and
resizing the image. What is not that plain, or not whole, is left to the reader that says what is wrong with it.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image

_HEADER = struct.Struct(">8sI4sIIBBBBBI")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PLAIN = (8, 0, 0, 0, 0)
"""Bit depth 8, color type gray, deflate, adaptive filters, not interlaced (PNG 11.2.1)."""
_CHUNK = struct.Struct(">I4s")
_FRAME_BYTES = 12
"""Of a chunk: length, type, checksum."""
_END = b"\0\0\0\0IEND\xaeB`\x82"


def read_gray_png(data: bytes, max_pixels: int) -> npt.NDArray[np.uint8] | None:
    """Read a PNG of one gray channel of 8 bits.

    Args:
        data: The file.
        max_pixels: Largest picture to read.

    Returns:
        (H, W) uint8; None for any other file, for one with a chunk beside IHDR, IDAT and IEND, for a damaged or
        a larger one.
    """
    if len(data) < _HEADER.size or not data.endswith(_END):
        return None
    signature, length, kind, width, height, *form, checksum = _HEADER.unpack_from(data)
    if signature != _SIGNATURE or length != 13 or kind != b"IHDR" or tuple(form) != _PLAIN:
        return None
    if not 0 < width * height <= max_pixels or zlib.crc32(data[12:29]) != checksum:
        return None
    deflated = _image_data(data)
    if deflated is None:
        return None
    try:
        return np.asarray(Image.frombytes("L", (width, height), deflated, "zip", "L", 0))
    except (ValueError, OSError):
        return None


def _image_data(data: bytes) -> bytes | None:
    """The bodies of all chunks between header and end; None unless they are IDAT, each with the right checksum."""
    parts = []
    position, stop = _HEADER.size, len(data) - len(_END)
    while position < stop:
        length, kind = _CHUNK.unpack_from(data, position)
        body, end = position + _CHUNK.size, position + _FRAME_BYTES + length
        if kind != b"IDAT" or end > stop:
            return None
        if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return None
        parts.append(data[body : end - 4])
        position = end
    return b"".join(parts)
