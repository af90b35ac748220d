"""Members of a tar or zip archive as one forward stream; unsafe and damaged archives are refused.

    file ── kind sniffed from its first bytes ──┬─ tar, plain or in gzip, bzip2, xz ── tarfile, one pass
                                                └─ zip ── zipfile, in the order of its directory

Nothing is unpacked to disk. An archive either hands out all of its regular files or ends in a `SourceError`; what was
handed out before the error counts for nothing, so a caller commits only after the last member.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Protocol, Self, cast

from imageshards.errors import ConfigError, SourceError

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40

_MAX_TAR_HEADER_BYTES = MIB
"""For one member's header with its PAX records, GNU long name and sparse map, which tarfile holds in memory."""

_RATIO_FREE_BYTES = 64 * MIB
"""Unpacked bytes below which the ratio is not looked at: a small archive of blank images is no bomb."""

_TAR_READ_BYTES = 64 * KIB
_ZIP_READ_BYTES = MIB
_ZIP_SLOW_READ_BYTES = 4 * KIB
"""For bzip2 and LZMA entries: zipfile unpacks all it has read at once, and 4 KiB of bzip2 can hold 80 MiB."""

_JUNK_FOLDER = "__MACOSX"

_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}

_ZIP_END = struct.Struct("<4s6xH10x")
_ZIP64_END = struct.Struct("<4s28xQ16x")
_ZIP64_LOCATOR_BYTES = 20
_ZIP64_MARK = 0xFFFF
"""End of a zip's directory, with the number of entries (APPNOTE.TXT 4.3.14 to 4.3.16)."""

_END_MARKER: type[Exception] = tarfile.EOFHeaderError  # type: ignore[attr-defined]  # typeshed does not list it

_TAR_KINDS = {
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "fifo",
}
_UNIX_KINDS = {
    stat.S_IFLNK: "symbolic link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,  # numbers that are none, and UnicodeDecodeError
    LookupError,  # tarfile indexes into headers that are too short
    ArithmeticError,
    RuntimeError,  # zipfile on passwords; NotImplementedError, RecursionError on headers nested without end
    MemoryError,  # sizes made up by a damaged header
)
"""What the readers of the standard library raise on damaged input."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may ask of the machine.

    Attributes:
        max_member_bytes: A larger member is handed out without its bytes.
        max_members: Entries of any kind, folders included.
        max_total_bytes: Unpacked bytes of the whole archive.
        max_ratio: Unpacked over packed bytes, looked at from 64 MiB unpacked. gzip reaches 1,032 on zeros; photographs
            stay near 1.
    """

    max_member_bytes: int = 256 * MIB
    max_members: int = 10_000_000
    max_total_bytes: int = TIB
    max_ratio: float = 200.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ConfigError(f"ArchiveLimits.{field.name} must be positive, not {getattr(self, field.name)}")


DEFAULT_LIMITS = ArchiveLimits()


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file of an archive.

    Attributes:
        name: Relative path with forward slashes, without `.` parts, as UTF-8 text.
        size_bytes: Unpacked size.
    """

    name: str
    size_bytes: int


def members(path: Path, *, limits: ArchiveLimits = DEFAULT_LIMITS) -> Iterator[tuple[Member, bytes | None]]:
    """Each regular file of the archive with its bytes, in the archive's order, one at a time in memory.

    Folders are skipped, junk is not (see `junk_rule`). The same name may come twice, as the archive has it.

    Args:
        path: A tar, tar.gz, tar.bz2, tar.xz or zip file; its name does not matter.
        limits: What the archive may ask of the machine.

    Yields:
        The member and its bytes; None for the bytes of a member larger than `limits.max_member_bytes`, which is
        streamed over, so that the caller can count it as left out.

    Raises:
        SourceError: On the first step that meets it: not an archive, damaged, truncated, beyond a limit, or an unsafe
            member (absolute or climbing path, link, device, control character, name that is not UTF-8, encryption).
    """
    reading = _Reading(path, limits, _packed_bytes(path))
    try:
        with path.open("rb") as file:
            kind = _sniff(file)
            if kind == "zip":
                yield from _zip_members(file, reading)
            else:
                yield from _tar_members(file, kind, reading)
    except _DAMAGE as error:
        raise reading.failure(_diagnosis(error)) from error


def _diagnosis(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:  # of the system; bz2 and gzip raise it without a number
        return f"cannot be read: {error.strerror}"
    found = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"is damaged or truncated ({found}); fetch it again and compare its checksum"


def junk_rule(name: str) -> str | None:
    """The rule by which a member is no data, or None: macOS adds its own files to archives."""
    parts = name.split("/")
    if parts[-1].startswith("._") or parts[-1] == ".DS_Store" or _JUNK_FOLDER in parts[:-1]:
        return "appledouble"
    return None


class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


class _Reading:
    """How far one pass over an archive has come, and what it may still unpack."""

    def __init__(self, path: Path, limits: ArchiveLimits, packed_bytes: int) -> None:
        self.limits = limits
        self.entries = 0
        self._path = path
        self._packed_bytes = packed_bytes
        self._last_name: str | None = None
        self._unpacked_bytes = 0

    def failure(self, what: str) -> SourceError:
        where = "before its first member" if self._last_name is None else f"after member {self._last_name!r}"
        return SourceError(
            f"archive {self._path} {what} [{where}, {self.entries} entries read]",
            archive=str(self._path),
            after_member=self._last_name,
            entries=self.entries,
        )

    def enter(self, raw_name: str) -> str:
        """Count an entry and return its name in normal form; empty for the archive's own top folder."""
        danger = _danger(raw_name)
        if danger:
            raise self.failure(f"holds an unsafe member: {raw_name!r} {danger}")
        self.entries += 1
        if self.entries > self.limits.max_members:
            raise self.failure(f"holds more than {self.limits.max_members:,} members (max_members)")
        return "/".join(part for part in raw_name.split("/") if part not in ("", "."))

    def refuse(self, raw_name: str, kind: str) -> SourceError:
        return self.failure(f"holds an unsafe member: {raw_name!r} is {kind}; only files and folders are taken")

    def hand_out(self, raw_name: str, member: Member, data: bytes | None) -> tuple[Member, bytes | None]:
        if not member.name:
            raise self.refuse(raw_name, "a file without a name")
        self._last_name = member.name
        return member, data

    def count_unpacked(self, size_bytes: int) -> None:
        """Stop a bomb: an archive that unpacks to more than its limits."""
        self._unpacked_bytes += size_bytes
        if self._unpacked_bytes > self.limits.max_total_bytes:
            raise self.failure(f"unpacks to more than {self.limits.max_total_bytes:,} bytes (max_total_bytes)")
        if self._unpacked_bytes > max(_RATIO_FREE_BYTES, self._packed_bytes * self.limits.max_ratio):
            raise self.failure(
                f"unpacks to over {self.limits.max_ratio:g} times its {self._packed_bytes:,} bytes (max_ratio), "
                "like a bomb"
            )


def _danger(name: str) -> str | None:
    """Why a name must not be used as a path, or None."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "is not UTF-8"
    if any(unicodedata.category(character) == "Cc" for character in name):
        return "has a control character in its name"
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "is an absolute path"
    if "\\" in name:
        return "has a backslash in its name, which is a path on Windows"
    if ".." in name.split("/"):
        return "climbs out of its folder"
    return None


def _packed_bytes(path: Path) -> int:
    try:
        found = path.stat()
    except OSError as error:
        raise SourceError(f"archive {path} cannot be read: {error.strerror}", archive=str(path)) from error
    if not stat.S_ISREG(found.st_mode):
        raise SourceError(f"archive {path} is not a file; name the archive itself", archive=str(path))
    if found.st_size == 0:
        raise SourceError(f"archive {path} is empty (0 bytes); fetch it again", archive=str(path))
    return found.st_size


def _sniff(file: IO[bytes]) -> str:
    head = file.read(max(map(len, _MAGICS)))
    file.seek(0)
    return next((kind for magic, kind in _MAGICS.items() if head.startswith(magic)), "tar")


class _StrictTarInfo(tarfile.TarInfo):
    """A header that must be whole: tarfile takes a broken one after the first member for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except _END_MARKER:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"broken or missing header: {error}") from error


class _Unpacked:
    """The unpacked bytes of a tar, counted; no header may take more of them than it should."""

    def __init__(self, raw: _Readable, reading: _Reading) -> None:
        self.readable_to: int | None = _MAX_TAR_HEADER_BYTES
        self._raw = raw
        self._reading = reading
        self._position = 0

    def read(self, size: int = _TAR_READ_BYTES, /) -> bytes:
        chunk = self._raw.read(size)
        self._position += len(chunk)
        self._reading.count_unpacked(len(chunk))
        if self.readable_to is not None and self._position > self.readable_to + _TAR_READ_BYTES:
            raise tarfile.ReadError(f"a member header of more than {_MAX_TAR_HEADER_BYTES:,} bytes")
        return chunk


def _tar_members(file: IO[bytes], kind: str, reading: _Reading) -> Iterator[tuple[Member, bytes | None]]:
    unpacked = _Unpacked(_decompressed(file, kind), reading)
    with _open_tar(unpacked, kind, reading) as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header; typeshed hides the list
            unpacked.readable_to = tar.offset + _MAX_TAR_HEADER_BYTES
            name = reading.enter(info.name)
            if info.size < 0:
                raise tarfile.ReadError(f"a member of {info.size} bytes")
            if info.issparse():
                reading.count_unpacked(info.size)  # holes cost the archive nothing
            if info.isreg():
                yield reading.hand_out(info.name, Member(name, info.size), _tar_data(tar, info, reading.limits))
            elif not info.isdir():
                raise reading.refuse(info.name, f"a {_TAR_KINDS.get(info.type, f'tar entry of type {info.type!r}')}")
        unpacked.readable_to = None
        _check_tar_end(tar, reading)


def _decompressed(file: IO[bytes], kind: str) -> _Readable:
    """The tar inside: the classes of the standard library check its CRC and read several streams in a row as one."""
    match kind:
        case "gzip":
            return gzip.GzipFile(fileobj=file)
        case "bzip2":
            return bz2.BZ2File(file)
        case "xz":
            return lzma.LZMAFile(file)
        case _:
            return file


def _open_tar(unpacked: _Unpacked, kind: str, reading: _Reading) -> tarfile.TarFile:
    try:
        return tarfile.open(
            fileobj=cast("IO[bytes]", unpacked),  # of a stream nothing but `read` is used
            mode="r|",
            bufsize=_TAR_READ_BYTES,
            tarinfo=_StrictTarInfo,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except tarfile.ReadError as error:
        found = "is neither a tar nor a zip archive" if kind == "tar" else f"is a {kind} file that holds no tar archive"
        raise reading.failure(f"{found} ({error}); tar, tar.gz, tar.bz2, tar.xz and zip are read") from error


def _tar_data(tar: tarfile.TarFile, info: tarfile.TarInfo, limits: ArchiveLimits) -> bytes | None:
    if info.size > limits.max_member_bytes:
        return None  # tarfile reads over it, block by block, on its way to the next header
    content = tar.extractfile(info)
    return content.read() if content is not None else None


def _check_tar_end(tar: tarfile.TarFile, reading: _Reading) -> None:
    """Read to the very end: for the CRC of the compression, and because only zeros may follow the end marker."""
    rest = tar.fileobj
    while rest is not None and (chunk := rest.read(_TAR_READ_BYTES)):
        if chunk.strip(b"\0"):
            raise reading.failure(
                "goes on after its end marker: damaged, or several tar archives in one file; split or repack it"
            )


def _zip_members(file: IO[bytes], reading: _Reading) -> Iterator[tuple[Member, bytes | None]]:
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


def _zip_data(archive: zipfile.ZipFile, info: zipfile.ZipInfo, reading: _Reading) -> bytes | None:
    """The bytes, or None for too many of them; those are read all the same, for their CRC and true number."""
    fast = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    step = _ZIP_READ_BYTES if fast else _ZIP_SLOW_READ_BYTES
    wanted = info.file_size <= reading.limits.max_member_bytes
    chunks, size_bytes = [], 0
    with archive.open(info) as content:
        while chunk := content.read(step):
            reading.count_unpacked(len(chunk))
            size_bytes += len(chunk)
            if wanted:
                chunks.append(chunk)
    if size_bytes != info.file_size:
        raise EOFError(f"member {info.orig_filename!r} has {size_bytes} bytes instead of {info.file_size}")
    return b"".join(chunks) if wanted else None
