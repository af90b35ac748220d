"""PNG: every chunk that makes pixels checked against its CRC, which Pillow does not do; all others left out."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from imageshards.errors import SampleError
from imageshards.formats.container import MAX_BLOCKS, MAX_PROFILE_BYTES, Container
from imageshards.orientation import exif_orientation

_SIGNATURE_BYTES = 8
_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


@dataclass
class _Found:
    kept: list[memoryview]
    position: int = _SIGNATURE_BYTES
    orientation: int = 1
    profile: bytes | None = None
    frames: int = 1
    damage: list[str] = field(default_factory=list)
    dropped: bool = False
    ended: bool = False


def inspect_png(data: bytes) -> Container:
    """Walk the chunks; what Pillow gets is the default image, without metadata and further frames."""
    view = memoryview(data)
    found = _Found(kept=[view[:_SIGNATURE_BYTES]])
    for _ in range(MAX_BLOCKS):
        if found.ended or found.position + 8 > len(data):
            break
        _take_chunk(data, view, found)
    else:
        raise SampleError(f"the PNG has more than {MAX_BLOCKS} chunks")
    header = data[16:26] if data[12:16] == b"IHDR" and len(data) >= 26 else None
    return Container(
        data=b"".join(found.kept) if found.dropped else data,
        size=struct.unpack_from(">II", header) if header else None,
        orientation=found.orientation,
        icc_profile=found.profile,
        several=found.frames > 1,
        bits=header[8] if header else None,
        damage=found.damage[0] if found.damage else None,
        oddity=None if found.ended else "the end chunk is missing",
    )


def _take_chunk(data: bytes, view: memoryview, found: _Found) -> None:
    start = found.position
    length, kind = struct.unpack_from(">I4s", data, start)
    body, end = start + 8, start + 12 + length
    found.position = end
    if kind in _PIXEL_CHUNKS:
        found.kept.append(view[start:end])
        found.ended = kind == b"IEND"
        if end > len(data):
            found.damage.append(f"the data end inside of chunk {kind.decode()}")
        elif zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            found.damage.append(f"chunk {kind.decode()} at byte {start} fails its checksum")
        return
    found.dropped = True
    if kind == b"eXIf":
        found.orientation = exif_orientation(data, body, end - 4)
    elif kind == b"iCCP":
        found.profile = _unpack_profile(data[body : end - 4])
    elif kind == b"acTL" and length >= 8:
        found.frames = int.from_bytes(data[body : body + 4], "big")


def _unpack_profile(chunk: bytes) -> bytes:
    """A name, a zero, the method 0, the profile deflated (PNG 11.3.2.3); b"" where it is not that, or too large."""
    _, _, deflated = chunk.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(deflated[1:], MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return b""
    return profile if len(profile) <= MAX_PROFILE_BYTES else b""
