"""GIF: the first image cut out, so that the others cost nothing."""

from __future__ import annotations

from imageshards.errors import RejectReason, SampleError
from imageshards.formats.container import MAX_BLOCKS, Container

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL = b"\xf9"
_HEADER_BYTES = 13
_SHORT_BLOCK_BYTES = 16
"""Encoders fill each block but the last, to 255 bytes. A large file of shorter blocks is there to cost time."""


class _Walk:
    """A position in the file that moves over chains of blocks, a bounded number of them."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data = data
        self.position = position
        self.cut = False
        self._left = max(MAX_BLOCKS, len(data) // _SHORT_BLOCK_BYTES)

    def byte(self) -> int | None:
        """The next byte; None where the data end."""
        return self.data[self.position] if self.position < len(self.data) else None

    def count(self) -> None:
        """Spend one block."""
        self._left -= 1
        if self._left < 0:
            raise SampleError("the GIF is made of too many blocks of a few bytes")

    def skip_blocks(self) -> None:
        """Move behind a chain of blocks: each a length and as many bytes, the last of length 0."""
        while length := self.byte():
            self.count()
            self.position += 1 + length
        self.cut = length is None
        self.position += 1


def inspect_gif(data: bytes) -> Container:
    """Walk to the second image, if there is one; what Pillow gets ends behind the first.

    Raises:
        SampleError: There is no image, or too many blocks for the size of the file.
    """
    if len(data) < _HEADER_BYTES:
        raise SampleError(f"the GIF ends after {len(data)} bytes", reason=RejectReason.TRUNCATED)
    walk = _Walk(data, _HEADER_BYTES + _palette_bytes(data[10]))
    head = data[: walk.position]
    frame = _take_first_image(walk)
    if frame is None:
        reason = RejectReason.TRUNCATED if walk.byte() is None else RejectReason.UNDECODABLE
        raise SampleError("there is no image in the GIF", reason=reason)
    if walk.cut:
        return Container(head + frame, orientation=1, damage="the data end inside of the first image")
    following = _next_image_or_end(walk)
    return Container(
        head + frame + bytes([_TRAILER]),
        orientation=1,
        several=following == _IMAGE,
        oddity="the data end before the trailer" if following is None else None,
    )


def _take_first_image(walk: _Walk) -> bytes | None:
    """The last graphic control extension before the image, with the image's transparent color; and the image."""
    control = b""
    while (kind := walk.byte()) not in (None, _TRAILER):
        start = walk.position
        if kind == _IMAGE:
            flags = walk.data[start + 9] if start + 9 < len(walk.data) else 0
            walk.position += 10 + _palette_bytes(flags) + 1  # 1: the size of the LZW codes
            walk.skip_blocks()
            return control + walk.data[start : walk.position]
        _skip_other(walk, kind)
        if kind == _EXTENSION and walk.data[start + 1 : start + 2] == _GRAPHIC_CONTROL:
            control = walk.data[start : walk.position]
    return None


def _next_image_or_end(walk: _Walk) -> int | None:
    while (kind := walk.byte()) not in (None, _TRAILER, _IMAGE):
        _skip_other(walk, kind)
    return kind


def _skip_other(walk: _Walk, kind: int | None) -> None:
    """Move over an extension, or over one byte that begins nothing, as Pillow does."""
    if kind == _EXTENSION:
        walk.position += 2
        walk.skip_blocks()
    else:
        walk.count()
        walk.position += 1


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
