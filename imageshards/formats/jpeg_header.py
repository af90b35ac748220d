"""JPEG: its marker segments, read without touching a pixel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from imageshards.errors import RejectReason, SampleError
from imageshards.orientation import exif_orientation

MAX_SEGMENTS = 4096
"""Marker segments on either side of the first scan. The longest profile takes 255; real files hold 5 to 60."""

SOS, EOI, APP0, APP14 = 0xDA, 0xD9, 0xE0, 0xEE
_APP1, _APP2, _APP15, _COM = 0xE1, 0xE2, 0xEF, 0xFE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_NOTHING = frozenset({0x00, 0x01, 0xFF, *range(0xD0, 0xD8)})
"""Second bytes that begin no segment: stuffing, TEM, fill, RST0 to RST7."""
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
_EXIF, _ADOBE, _ICC = b"Exif\0\0", b"Adobe", b"ICC_PROFILE\0"

Segment = tuple[int, int, int]
"""(marker, start, end): the marker's second byte, and where the segment lies, its marker included."""


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What stands before the first scan.

    Attributes:
        width: In pixels, as stored.
        height: In pixels, as stored.
        components: 1 gray, 3 color, 4 CMYK or YCCK.
        single_scan: Whether one scan holds everything: sequential, all components interleaved.
        adobe_transform: Of the Adobe segment; None without one.
        orientation: EXIF orientation, 1 to 8.
        segments: All segments, in the order of the file; the last is the header of the first scan.
    """

    width: int
    height: int
    components: int
    single_scan: bool
    adobe_transform: int | None
    orientation: int
    segments: tuple[Segment, ...]

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) once the orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)

    @property
    def scan_start(self) -> int:
        """Where the data of the first scan begin."""
        return self.segments[-1][2]


def walk_segments(data: bytes, position: int) -> Iterator[Segment]:
    """Find the segments from a position on as libjpeg does: it skips whatever lies between them.

    The segment of a scan is its header; its data are among what is skipped. The walk stops after
    an end marker, or where the data end.
    """
    size = len(data)
    while position + 1 < size:
        if data[position] != 0xFF or data[position + 1] in _NOTHING:
            found = _SEGMENT.search(data, position)
            if found is None:
                return
            position = found.start()
        marker = data[position + 1]
        if marker == EOI:
            yield marker, position, position + 2
            return
        if position + 3 >= size:
            return
        end = position + 2 + (data[position + 2] << 8 | data[position + 3])
        yield marker, position, end
        position = end


def read_header(data: bytes) -> JpegHeader:
    """Read the segments up to the first scan.

    Raises:
        SampleError: `truncated` where the data end before the first scan; `undecodable` where there is no image in
            them, or more than `MAX_SEGMENTS` segments.
    """
    segments: list[Segment] = []
    frame: Segment | None = None
    adobe: int | None = None
    orientation: int | None = None
    for segment in walk_segments(data, 2):
        marker, start, end = segment
        segments.append(segment)
        if marker in (SOS, EOI) or len(segments) > MAX_SEGMENTS:
            break
        if marker in _FRAMES:
            frame = segment
        elif marker == _APP1 and orientation is None and data.startswith(_EXIF, start + 4):
            orientation = exif_orientation(data, start + 4, end)
        elif marker == APP14 and is_adobe(data, segment):
            adobe = data[start + 15]
    frame = _check_complete(data, segments, frame)
    at, scan = frame[1], segments[-1][1]
    components = data[at + 9]
    return JpegHeader(
        width=data[at + 7] << 8 | data[at + 8],
        height=data[at + 5] << 8 | data[at + 6],
        components=components,
        single_scan=frame[0] not in _PROGRESSIVE and data[scan + 4] == components,
        adobe_transform=adobe,
        orientation=orientation or 1,
        segments=tuple(segments),
    )


def _check_complete(data: bytes, segments: list[Segment], frame: Segment | None) -> Segment:
    """The frame's segment, if it and the first scan's header are there."""
    if len(segments) > MAX_SEGMENTS:
        raise SampleError(f"the JPEG has more than {MAX_SEGMENTS} segments before its first scan")
    last, start, end = segments[-1] if segments else (0, 0, 0)
    if last not in (SOS, EOI) or end > len(data):
        raise SampleError(
            f"the JPEG ends after {len(data)} bytes, before its first scan", reason=RejectReason.TRUNCATED
        )
    if last == EOI or frame is None or frame[2] - frame[1] < 10 or end - start < 5:
        raise SampleError("there is no image in the JPEG")
    return frame


def is_adobe(data: bytes, segment: Segment) -> bool:
    """Whether an APP14 segment is Adobe's, whole, with the color transform as its last byte."""
    _, start, end = segment
    return end - start >= 16 and end <= len(data) and data.startswith(_ADOBE, start + 4)


def read_icc_profile(data: bytes, header: JpegHeader) -> bytes | None:
    """Put the ICC profile together from its segments (ICC.1, annex B.4).

    Returns:
        The profile; None without one, and b"" where parts of it are missing.
    """
    parts: dict[int, tuple[int, bytes]] = {}
    for marker, start, end in header.segments:
        if marker == _APP2 and data.startswith(_ICC, start + 4) and end - start >= 18:
            parts[data[start + 16]] = (data[start + 17], data[start + 18 : end])
    if not parts:
        return None
    whole = all(count == len(parts) for count, _ in parts.values())
    return b"".join(part for _, (_, part) in sorted(parts.items())) if whole else b""


def without_metadata(data: bytes, header: JpegHeader) -> bytes:
    """The file without comments and application segments, but for JFIF's and Adobe's: those state the color space."""
    kept = [
        data[start:end]
        for marker, start, end in header.segments
        if marker == APP14 or not (APP0 < marker <= _APP15 or marker == _COM)
    ]
    return b"".join([data[:2], *kept, data[header.scan_start :]])
