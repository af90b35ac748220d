"""AVIF and JPEG 2000: images in boxes."""

from __future__ import annotations

import struct

from imageshards.errors import RejectReason, SampleError
from imageshards.formats.container import MAX_BLOCKS, Container, walk_boxes

MAX_TILES = 16_384
"""OpenJPEG allocates 6 KB for each before it decodes; 64 million pixels in tiles of 64 x 64 px are 15,625."""

_AVIF_WEIGHT = 2
"""16 bytes a pixel, 20 with more than 8 bits."""
_JPEG2000_WEIGHT = 3
"""27 bytes a pixel: OpenJPEG decodes into 32-bit integers; and 0.2 µs."""

_MAX_COMPONENTS = 4
_SOC_SIZ, _SOT, _EOC = b"\xff\x4f\xff\x51", b"\xff\x90", b"\xff\xd9"
_SIZ_BYTES = 42
"""From the beginning of the codestream to the depth of the first component, which has three bytes."""


def inspect_avif(data: bytes) -> Container:
    """Hide the Exif item: AVIF states its orientation in boxes of its own, and a malformed item makes Pillow fail."""
    for kind, start, _, end in walk_boxes(data):
        if kind == b"meta":
            data = data[:start] + data[start:end].replace(b"Exif", b"none") + data[end:]
            break
    return Container(data, weight=_AVIF_WEIGHT)


def inspect_jpeg2000(data: bytes) -> Container:
    """Check what the codestream says of its size and length: Pillow believes the boxes around it.

    Raises:
        SampleError: The codestream is missing, or has no pixels, too many tiles or too many components.
    """
    start, end = _find_codestream(data)
    if len(data) < start + _SIZ_BYTES or data[start : start + 4] != _SOC_SIZ:
        raise SampleError("the JPEG 2000 has no codestream", reason=_truncated_if(len(data) < start + _SIZ_BYTES))
    x1, y1, x0, y0, tile_width, tile_height, tile_x, tile_y, components = struct.unpack_from(">8IH", data, start + 8)
    if not 1 <= components <= _MAX_COMPONENTS:
        raise SampleError(f"the JPEG 2000 has {components} components, expected 1 to {_MAX_COMPONENTS}")
    if min(x1 - x0, y1 - y0, tile_width, tile_height) < 1:
        raise SampleError("the JPEG 2000 has no pixels")
    tiles = -(-(x1 - tile_x) // tile_width) * -(-(y1 - tile_y) // tile_height)
    if tiles > MAX_TILES:
        raise SampleError(f"the JPEG 2000 has {tiles} tiles, expected at most {MAX_TILES}")
    depths = data[start + _SIZ_BYTES : start + _SIZ_BYTES + 3 * components : 3]
    return Container(
        data,
        size=(x1 - x0, y1 - y0),
        orientation=1,
        weight=_JPEG2000_WEIGHT,
        bits=max(((depth & 0x7F) + 1 for depth in depths), default=None),
        damage=None
        if end <= len(data) and _is_whole(data, start, end, tiles)
        else "the data end inside of the codestream",
    )


def _truncated_if(early_end: bool) -> RejectReason:
    return RejectReason.TRUNCATED if early_end else RejectReason.UNDECODABLE


def _find_codestream(data: bytes) -> tuple[int, int]:
    if data.startswith(_SOC_SIZ):
        return 0, len(data)
    return next(((content, end) for kind, _, content, end in walk_boxes(data) if kind == b"jp2c"), (len(data),) * 2)


def _is_whole(data: bytes, start: int, end: int, tiles: int) -> bool:
    """Whether marker segments and tile-parts, of all tiles, follow on each other up to the end marker.

    ISO/IEC 15444-1, annex A. OpenJPEG leaves black what is missing.
    """
    position, seen = start + 2, set[bytes]()
    for _ in range(MAX_BLOCKS):
        marker = data[position : position + 2]
        if marker == _EOC and position < end:
            return len(seen) == tiles
        if marker[:1] != b"\xff" or position + 12 > len(data):
            return False
        if marker != _SOT:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
            continue
        seen.add(data[position + 4 : position + 6])
        if length := int.from_bytes(data[position + 6 : position + 10], "big"):
            position += length
        else:  # 0: the last tile-part, which reaches up to the end marker
            return len(seen) == tiles and data[end - 2 : end] == _EOC
    return False
