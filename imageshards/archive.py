"""Members of a tar or zip archive as one forward stream; unsafe and damaged archives are refused.

    file ── kind sniffed from its first bytes ──┬─ tar, plain or in gzip, bzip2, xz ── tarfile, one pass
                                                └─ zip ── zipfile, in the order of its directory

Nothing is unpacked to disk. An archive either hands out all of its regular files or ends in a `SourceError`; what was
handed out before the error counts for nothing, so a caller commits only after the last member.
"""

from __future__ import annotations

import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from imageshards.archive_reading import DEFAULT_LIMITS, ArchiveLimits, Member, Reading
from imageshards.archive_tar import tar_members
from imageshards.archive_zip import zip_members
from imageshards.errors import SourceError

__all__ = ["DEFAULT_LIMITS", "ArchiveLimits", "Member", "junk_rule", "members"]

_JUNK_FOLDER = "__MACOSX"

_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
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
    reading = Reading(path, limits, _packed_bytes(path))
    try:
        with path.open("rb") as file:
            kind = _sniff(file)
            if kind == "zip":
                yield from zip_members(file, reading)
            else:
                yield from tar_members(file, kind, reading)
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
