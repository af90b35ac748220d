"""What an archive may ask of the machine, and the account of one pass over it."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path

from imageshards.errors import ConfigError, SourceError

MIB, TIB = 1 << 20, 1 << 40

_RATIO_FREE_BYTES = 64 * MIB
"""Unpacked bytes below which the ratio is not looked at: a small archive of blank images is no bomb."""

_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f]")
"""Unicode's category Cc."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may ask of the machine.

    Attributes:
        max_member_bytes: A larger member is handed out without its bytes. One is held in memory, and an upload is to
            stay below 300 MB.
        max_members: Entries of any kind, folders included.
        max_total_bytes: Unpacked bytes of the whole archive.
        max_ratio: Unpacked over packed bytes, looked at from 64 MiB unpacked. gzip reaches 1,032 on zeros; photographs
            stay near 1.
    """

    max_member_bytes: int = 128 * MIB
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


class Reading:
    """How far one pass over an archive has come, and what it may still unpack."""

    def __init__(self, path: Path, limits: ArchiveLimits, packed_bytes: int) -> None:
        self.limits = limits
        self.entries = 0
        self._path = path
        self._packed_bytes = packed_bytes
        self._last_name: str | None = None
        self._unpacked_bytes = 0

    def failure(self, what: str) -> SourceError:
        """What to raise, with the place that was reached."""
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
        """What to raise for a member that is neither file nor folder."""
        return self.failure(f"holds an unsafe member: {raw_name!r} is {kind}; only files and folders are taken")

    def hand_out(self, raw_name: str, member: Member, data: bytes | None) -> tuple[Member, bytes | None]:
        """The member and its bytes, for the caller, who is now at this place."""
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
    if _CONTROL_CHARACTER.search(name):
        return "has a control character in its name"
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "is an absolute path"
    if "\\" in name:
        return "has a backslash in its name, which is a path on Windows"
    if ".." in name.split("/"):
        return "climbs out of its folder"
    return None
