"""What a file says of its first image, whatever its format; and which format it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

MAX_BLOCKS = 100_000
"""Chunks of a PNG, blocks of a GIF, tile-parts of a JPEG 2000: 800 MB in libpng's usual chunks of 8 KiB."""


MAX_PROFILE_BYTES = 4 * 2**20
"""The largest ICC profiles in use, of printers, take 3 MB."""


@dataclass(frozen=True, slots=True)
class Container:
    """What a file says of its first image.

    Attributes:
        data: The file for Pillow, cut down to the first image where that is easy.
        size: (width, height) that decoding allocates at least; None where only Pillow finds out.
        orientation: EXIF orientation, 1 to 8; None where only Pillow finds out.
        icc_profile: None without one, b"" where it is broken; Pillow may find one as well.
        several: Whether there are more frames or pages; Pillow may find some as well.
        weight: How often a pixel counts against `DecodePolicy.max_pixels`, by what its decoder takes for it: 1 stands
            for up to 15 bytes (measured at the peak, the result included) and 0.03 µs.
        bits: Of the deepest channel as stored; None where only Pillow finds out.
        black_is_max: Whether gray is stored inverted, in a way that Pillow does not undo.
        damage: Which data are missing or wrong; None where the structure is whole.
        oddity: What is wrong with the structure at no cost to the pixels.
    """

    data: bytes
    size: tuple[int, int] | None = None
    orientation: int | None = None
    icc_profile: bytes | None = None
    several: bool = False
    weight: int = 1
    bits: int | None = None
    black_is_max: bool = False
    damage: str | None = None
    oddity: str | None = None


def sniff(data: bytes) -> str | None:
    """The format by content: `jpeg`, `png`, `gif`, `webp`, `bmp`, `tiff`, `avif`, `jpeg2000`; None if none of these."""
    return next((name for name, accepts in _SIGNATURES.items() if accepts(data)), None)


def _is_avif(data: bytes) -> bool:
    """By brand (AV1 Image File Format 1.2, section 6): HEIC has the same container."""
    if data[4:8] != b"ftyp":
        return False
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 512)]
    return any(brands[at : at + 4] in (b"avif", b"avis") for at in range(0, len(brands), 4) if at != 4)


BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)

_SIGNATURES: dict[str, Callable[[bytes], bool]] = {
    "jpeg": lambda data: data.startswith(b"\xff\xd8\xff"),
    "png": lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"),
    "gif": lambda data: data.startswith((b"GIF87a", b"GIF89a")),
    "webp": lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP",
    # "BM" alone is too common a beginning: the size of the information header has to be one of those that exist
    "bmp": lambda data: data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in BMP_HEADER_SIZES,
    "tiff": lambda data: data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    "avif": _is_avif,
    "jpeg2000": lambda data: data.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")),
}


def walk_boxes(data: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """(kind, start, start of the content, end) of each top-level box of an ISO base media file (AVIF, JP2)."""
    position = 0
    for _ in range(_MAX_BOXES):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        content = position + 8
        if length == 1:  # the length follows in 64 bits
            length = int.from_bytes(data[content : content + 8], "big")
            content += 8
        end = position + length if length else len(data)
        if end < content or len(kind) < 4:
            return
        yield kind, position, content, end
        position = end


_MAX_BOXES = 256
