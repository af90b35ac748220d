"""Members of a zip archive, in the order of its directory."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from typing import IO

from imageshards.archive_reading import MIB, Member, Reading

_READ_BYTES = MIB
_SLOW_READ_BYTES = 4 << 10
"""For bzip2 and LZMA entries: zipfile unpacks all it has read at once, and 4 KiB of bzip2 can hold 80 MiB."""

_ZIP_END = struct.Struct("<4s6xH10x")
_ZIP64_END = struct.Struct("<4s28xQ16x")
_ZIP64_LOCATOR_BYTES = 20
_ZIP64_MARK = 0xFFFF
"""End of a zip's directory, with the number of entries (APPNOTE.TXT 4.3.14 to 4.3.16)."""

_UNIX_KINDS = {
    stat.S_IFLNK: "symbolic link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def zip_members(file: IO[bytes], reading: Reading) -> Iterator[tuple[Member, bytes | None]]:
    """See `archive.members`."""
    with zipfile.ZipFile(file, metadata_encoding="utf-8") as archive:
        infos = archive.infolist()
        if len(infos) != _zip_entries(file, archive) or (infos and min(info.header_offset for info in infos) > 0):
            raise reading.failure(
                "holds more or less than its directory lists: damaged, or several zip archives in one file; repack it"
            )
        for info in infos:
            raw_name = info.orig_filename  # `filename` ends at a NUL
            name = reading.enter(raw_name)
            kind = _UNIX_KINDS.get(stat.S_IFMT(info.external_attr >> 16))
            if kind or info.flag_bits & 1:
                raise reading.refuse(raw_name, f"a {kind}" if kind else "encrypted")
            if not raw_name.endswith("/"):
                yield reading.hand_out(raw_name, Member(name, info.file_size), _zip_data(archive, info, reading))


def _zip_entries(file: IO[bytes], archive: zipfile.ZipFile) -> int | None:
    """The number of entries that the archive itself states: zipfile never compares it with those it found."""
    end = file.seek(-_ZIP_END.size - len(archive.comment), os.SEEK_END)
    signature, entries = _ZIP_END.unpack(file.read(_ZIP_END.size))
    if entries == _ZIP64_MARK and end >= _ZIP64_LOCATOR_BYTES + _ZIP64_END.size:
        file.seek(end - _ZIP64_LOCATOR_BYTES - _ZIP64_END.size)
        signature_64, entries_64 = _ZIP64_END.unpack(file.read(_ZIP64_END.size))
        entries = entries_64 if signature_64 == b"PK\x06\x06" else entries
    return int(entries) if signature == b"PK\x05\x06" else None


def _zip_data(archive: zipfile.ZipFile, info: zipfile.ZipInfo, reading: Reading) -> bytes | None:
    """The bytes, or None for too many of them; those are read all the same, for their CRC and true number."""
    fast = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    step = _READ_BYTES if fast else _SLOW_READ_BYTES
    wanted = info.file_size <= reading.limits.max_member_bytes
    data, size_bytes = io.BytesIO(), 0  # held once, not in pieces and as a whole
    with archive.open(info) as content:
        while chunk := content.read(step):
            reading.count_unpacked(len(chunk))
            size_bytes += len(chunk)
            if wanted:
                data.write(chunk)
    if size_bytes != info.file_size:
        raise EOFError(f"member {info.orig_filename!r} has {size_bytes} bytes instead of {info.file_size}")
    return data.getvalue() if wanted else None
