"""Members of a tar archive, plain or in gzip, bzip2, xz, in one forward pass.

tarfile reads the headers. Unpacking and the bytes of members do not go through its stream, which copies them several
times over, nor through gzip's, which takes 8 KiB a step: both together cost as much as unpacking itself.
"""

from __future__ import annotations

import bz2
import io
import lzma
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
        while (info := tar.next()) is not None:
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
