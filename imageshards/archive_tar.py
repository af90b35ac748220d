"""Members of a tar archive, plain or in gzip, bzip2, xz, in one forward pass.

tarfile reads the headers, apart from those of ordinary files, for which it takes 30 µs each. Unpacking and the bytes of
members do not go through its stream, which copies them several times over, nor through gzip's, which takes 8 KiB a
step: both together cost as much as unpacking itself.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Self, cast

from imageshards.archive_reading import MIB, ArchiveLimits, Member, Reading

_MAX_HEADER_BYTES = MIB
"""For one member's header with its PAX records, GNU long name and sparse map, which tarfile holds in memory."""

_READ_BYTES = 256 << 10
_MAX_CHUNK_BYTES = MIB
"""Unpacked at once at most: 256 KiB of gzip can hold 256 MiB of zeros."""

_GZIP = 16 + zlib.MAX_WBITS
"""For zlib: gzip's header and checksum."""

_END_MARKER: type[Exception] = tarfile.EOFHeaderError  # type: ignore[attr-defined]  # typeshed does not list it

_PLAIN_FILE = re.compile(
    rb"(?=([^\0]{1,100})).{100}"  # name, which may fill its field
    rb"(?:[0-7]{6}[0-7 ][ \0]){3}"  # mode, user, group
    rb"([0-7]{11})[ \0]"  # size
    rb"[0-7]{11}[ \0]"  # time
    rb"([0-7]{6})[ \0]{2}"  # checksum
    rb"0.{172}"  # an ordinary file; link, format, names of user and group
    rb"(?:[0-7]{7}\0|\0{8}){2}\0",  # device; no prefix of the name
    re.DOTALL,
)
"""A header as most tools write it for most files; whatever deviates is tarfile's."""

_CHECKSUM = slice(148, 156)
_CHECKSUM_AS_SPACES = 8 * ord(" ")
"""The checksum is that of a header with spaces in its place."""

_KINDS = {
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "fifo",
}


def tar_members(file: IO[bytes], kind: str, reading: Reading) -> Iterator[tuple[Member, bytes | None]]:
    """See `archive.members`.

    Args:
        file: The archive, at its start.
        kind: `tar`, `gzip`, `bzip2` or `xz`.
        reading: The account of this pass.
    """
    unpacked = _Unpacked(_chunks(file, kind), reading)
    with _open_tar(unpacked, kind, reading) as tar:
        while (info := _plain_file(tar, unpacked) or tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header; typeshed hides the list
            unpacked.readable_to = tar.offset + _MAX_HEADER_BYTES
            name = reading.enter(info.name)
            if info.size < 0:
                raise tarfile.ReadError(f"a member of {info.size} bytes")
            if info.issparse():
                reading.count_unpacked(info.size)  # holes cost the archive nothing
            if info.isreg():
                yield reading.hand_out(info.name, Member(name, info.size), _data(tar, info, unpacked, reading.limits))
            elif not info.isdir():
                raise reading.refuse(info.name, f"a {_KINDS.get(info.type, f'tar entry of type {info.type!r}')}")
    _check_end(unpacked, reading)


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
    """The unpacked bytes of a tar as the file that tarfile wants; it only goes forward.

    Attributes:
        readable_to: A position that no header may make it read beyond; None for no such limit.
    """

    def __init__(self, chunks: Iterator[bytes], reading: Reading) -> None:
        self.readable_to: int | None = _MAX_HEADER_BYTES
        self._chunks = chunks
        self._reading = reading
        self._chunk = b""
        self._used = 0
        self._position = 0

    def tell(self) -> int:
        """How many bytes were read."""
        return self._position

    def seek(self, position: int) -> int:
        """Pass over the bytes before a position; no further than the end."""
        if position < self._position:
            raise tarfile.StreamError("a header that points backward")
        while self._position < position and self._take(position - self._position):
            pass
        return self._position

    def peek(self, position: int, size: int) -> bytes:
        """Bytes ahead, none of which are read by that; empty where they are not all unpacked yet."""
        start = self._used + position - self._position
        piece = self._chunk[start : start + size] if start >= self._used else b""
        return piece if len(piece) == size else b""

    def read(self, size: int) -> bytes:
        """The next bytes; fewer at the end only."""
        if self._used + size <= len(self._chunk):
            return bytes(self._take(size))
        data = io.BytesIO()  # held once, not in pieces and as a whole
        while data.tell() < size and (piece := self._take(size - data.tell())):
            data.write(piece)
        return data.getvalue()

    def _take(self, size: int) -> memoryview:
        """Some of the next bytes, as many as one chunk holds; none at the end."""
        if self._used == len(self._chunk):
            if self.readable_to is not None and self._position > self.readable_to:
                raise tarfile.ReadError(f"a member header of more than {_MAX_HEADER_BYTES:,} bytes")
            self._chunk, self._used = next(self._chunks, b""), 0
            self._reading.count_unpacked(len(self._chunk))
        piece = memoryview(self._chunk)[self._used : self._used + size]
        self._used += len(piece)
        self._position += len(piece)
        return piece


def _chunks(file: IO[bytes], kind: str) -> Iterator[bytes]:
    """The tar inside, several compressed streams in a row as one; their checksums are checked."""
    match kind:
        case "gzip":
            return _gunzipped(file)
        case "bzip2":
            unpacked: IO[bytes] | lzma.LZMAFile = bz2.BZ2File(file)
        case "xz":
            unpacked = lzma.LZMAFile(file)  # noqa: SIM115 (closed with the archive's own file)
        case _:
            unpacked = file
    return iter(lambda: unpacked.read(_READ_BYTES), b"")


def _gunzipped(file: IO[bytes]) -> Iterator[bytes]:
    packed = file.read(_READ_BYTES)
    while packed:
        stream = zlib.decompressobj(_GZIP)
        while not stream.eof:
            chunk = stream.decompress(packed, _MAX_CHUNK_BYTES)
            if chunk:
                yield chunk
            packed = stream.unconsumed_tail
            if not packed and not stream.eof and len(chunk) < _MAX_CHUNK_BYTES:
                packed = file.read(_READ_BYTES)
                if not packed:
                    raise EOFError("the gzip stream has no end")
        packed = stream.unused_data
        while not packed.strip(b"\0") and (packed := file.read(_READ_BYTES)):
            pass  # gzip, too, passes over zeros behind a stream
        packed = packed.lstrip(b"\0")


def _open_tar(unpacked: _Unpacked, kind: str, reading: Reading) -> tarfile.TarFile:
    try:
        return tarfile.open(
            fileobj=cast("IO[bytes]", unpacked),  # nothing but read, seek and tell is used
            mode="r:",
            tarinfo=_StrictTarInfo,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except tarfile.ReadError as error:
        found = "is neither a tar nor a zip archive" if kind == "tar" else f"is a {kind} file that holds no tar archive"
        raise reading.failure(f"{found} ({error}); tar, tar.gz, tar.bz2, tar.xz and zip are read") from error


def _plain_file(tar: tarfile.TarFile, unpacked: _Unpacked) -> tarfile.TarInfo | None:
    """The next member as tarfile would find it, which has moved on then; None where it must be asked itself."""
    if tar.firstmember is not None or tar.pax_headers:  # type: ignore[attr-defined]  # typeshed does not list the first
        return None
    header = unpacked.peek(tar.offset, tarfile.BLOCKSIZE)
    found = _PLAIN_FILE.match(header)
    if not found or int(found[3], 8) != sum(header) - sum(header[_CHECKSUM]) + _CHECKSUM_AS_SPACES:
        return None
    info = tarfile.TarInfo(found[1].decode("utf-8", "surrogateescape"))
    info.size = int(found[2], 8)
    tar.offset += tarfile.BLOCKSIZE
    unpacked.seek(tar.offset)
    tar.offset += -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return info


def _data(tar: tarfile.TarFile, info: tarfile.TarInfo, unpacked: _Unpacked, limits: ArchiveLimits) -> bytes | None:
    unpacked.readable_to = None
    if info.size > limits.max_member_bytes:
        data = None
    elif info.issparse():
        content = tar.extractfile(info)
        data = content.read() if content is not None else None
    else:
        data = unpacked.read(info.size)
        if len(data) < info.size:
            raise tarfile.ReadError("unexpected end of data")
    if unpacked.tell() < tar.offset:
        unpacked.seek(tar.offset - 1)  # tarfile reads the byte before a header, to know that it is there
    unpacked.readable_to = tar.offset + _MAX_HEADER_BYTES
    return data


def _check_end(unpacked: _Unpacked, reading: Reading) -> None:
    """Read to the very end: for the CRC of the compression, and because only zeros may follow the end marker."""
    unpacked.readable_to = None
    while chunk := unpacked.read(_READ_BYTES):
        if chunk.strip(b"\0"):
            raise reading.failure(
                "goes on after its end marker: damaged, or several tar archives in one file; split or repack it"
            )
