"""WebP and BMP: little to look at."""

from __future__ import annotations

import struct

from imageshards.errors import RejectReason, SampleError
from imageshards.formats.container import Container

_RLE8, _RLE4 = 1, 2
_RLE_BYTES_PER_PIXEL = 4
"""Two for a run of one pixel, the worst encoding that makes sense, and two more for the end of a line of one pixel."""
_PALETTE_BYTES = 65536
_RLE_WEIGHT = 16
"""Up to 0.5 µs a pixel: a loop in Python."""
_WEBP_WEIGHT = 2
"""22 bytes a pixel: libwebp's animation decoder, the only one that Pillow uses, keeps two canvases."""


def inspect_webp(data: bytes) -> Container:
    """Read the size of the canvas before libwebp allocates it.

    Raises:
        SampleError: The file ends early, of which libwebp leaves no pixels; or no size is stated.
    """
    stated = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < stated:
        raise SampleError(
            f"the WebP has {len(data)} bytes, expected {stated} by its header", reason=RejectReason.TRUNCATED
        )
    kind, head = data[12:16], data[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        size = int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    elif kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        size = int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    else:
        raise SampleError(f"the WebP begins with an unknown chunk {kind!r}")
    return Container(data, size=size, weight=_WEBP_WEIGHT)


def inspect_bmp(data: bytes) -> Container:
    """Bound the run-length encoded ones, which Pillow decodes in Python.

    Raises:
        SampleError: There are more bytes of run lengths than the pixels can need.
    """
    weight = 1
    if len(data) >= 34 and struct.unpack_from("<I", data, 30)[0] in (_RLE8, _RLE4):
        width, height = struct.unpack_from("<Ii", data, 18)
        if len(data) > _RLE_BYTES_PER_PIXEL * width * abs(height) + _PALETTE_BYTES:
            raise SampleError(f"the BMP has {len(data)} bytes of run lengths for {width} x {abs(height)} pixels")
        weight = _RLE_WEIGHT
    return Container(data, orientation=1, weight=weight)
