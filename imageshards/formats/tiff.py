"""TIFF: its first directory and those below it, checked before Pillow and libtiff believe them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from imageshards.errors import SampleError
from imageshards.formats.container import Container
from imageshards.orientation import ORIENTATION_TAG

MAX_VALUES = 2**18
"""Of one tag: 64 million pixels in strips of one row and in tiles of 16 x 16 px have fewer strips or tiles."""

MAX_ENTRIES = 65_535
"""What a directory of classic TIFF can hold; BigTIFF could state 2^64."""

_WIDTH, _HEIGHT, _PHOTOMETRIC, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 262, 322, 323
_SUBDIRECTORIES = (34665, 34853, 40965)
"""Exif, GPS, Interoperability: Pillow reads them when it has loaded the pixels."""
_WHITE_IS_ZERO = 0
_SHORT, _LONG, _LONG8 = 3, 4, 16
_BYTES = frozenset({1, 2, 7})
"""Types that Pillow keeps as they are; all others it turns into a Python number each."""


@dataclass(frozen=True, slots=True)
class _Entry:
    position: int
    tag: int
    kind: int
    count: int
    value: int | None
    """Where it is one unsigned number that fits into the entry."""


@dataclass(frozen=True, slots=True)
class _Layout:
    order: str
    big: bool

    @property
    def entry_bytes(self) -> int:
        return 20 if self.big else 12


def inspect_tiff(data: bytes) -> Container:
    """Check the tables' sizes; hide the orientation from Pillow, which would turn the image when it loads it.

    Raises:
        SampleError: `undecodable` where a directory or a tag is larger than any image needs.
    """
    layout = _Layout(order="<" if data.startswith(b"II") else ">", big=data[2:4] in (b"+\0", b"\0+"))
    first = _unsigned(data, 8 if layout.big else 4, _LONG8 if layout.big else _LONG, layout)
    entries = list(_entries(data, first, layout))
    values = {entry.tag: entry.value for entry in reversed(entries)}  # of one tag twice, the first counts, as in Pillow
    pending = [values.get(tag) for tag in _SUBDIRECTORIES]
    for offset in pending[:2]:
        pending.extend(entry.value for entry in _entries(data, offset, layout) if entry.tag == _SUBDIRECTORIES[2])
    for offset in pending[2:]:
        list(_entries(data, offset, layout))
    orientation = values.get(ORIENTATION_TAG)
    width, height = values.get(_WIDTH), values.get(_HEIGHT)
    tile = values.get(_TILE_WIDTH) or 0, values.get(_TILE_HEIGHT) or 0
    return Container(
        data=_without_orientation(data, entries, layout),
        size=(max(width, tile[0]), max(height, tile[1])) if width and height else None,
        orientation=orientation if orientation in range(1, 9) else 1,
        black_is_max=values.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
    )


def _entries(data: bytes, offset: int | None, layout: _Layout) -> Iterator[_Entry]:
    """The entries of a directory, as far as the data reach."""
    if offset is None:
        return
    count = _unsigned(data, offset, _LONG8 if layout.big else _SHORT, layout) or 0
    if count > MAX_ENTRIES:
        raise SampleError(f"a directory of the TIFF has {count} entries, expected at most {MAX_ENTRIES}")
    begin = offset + (8 if layout.big else 2)
    for position in range(begin, begin + count * layout.entry_bytes, layout.entry_bytes):
        if position + layout.entry_bytes > len(data):
            return
        tag, kind = struct.unpack_from(layout.order + "HH", data, position)
        values = _unsigned(data, position + 4, _LONG8 if layout.big else _LONG, layout) or 0
        if kind not in _BYTES and values > MAX_VALUES:
            raise SampleError(f"tag {tag} of the TIFF has {values} values, expected at most {MAX_VALUES}")
        value = _unsigned(data, position + (12 if layout.big else 8), kind, layout) if values == 1 else None
        yield _Entry(position, tag, kind, values, value)


def _unsigned(data: bytes, position: int, kind: int, layout: _Layout) -> int | None:
    code = {_SHORT: "H", _LONG: "I", 13: "I"}.get(kind) or ({_LONG8: "Q", 18: "Q"}.get(kind) if layout.big else None)
    if code is None or position + struct.calcsize(code) > len(data):
        return None
    return int(struct.unpack_from(layout.order + code, data, position)[0])


def _without_orientation(data: bytes, entries: list[_Entry], layout: _Layout) -> bytes:
    turned = [entry for entry in entries if entry.tag == ORIENTATION_TAG and entry.value != 1]
    if not turned:
        return data
    patched = bytearray(data)
    count = "QH6x" if layout.big else "IH2x"
    for entry in turned:
        struct.pack_into(layout.order + "HH" + count, patched, entry.position, ORIENTATION_TAG, _SHORT, 1, 1)
    return bytes(patched)
