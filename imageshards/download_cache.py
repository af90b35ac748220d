"""What lies in the cache folder: a file, the record of its origin, the part of one that is not complete, a lock.

Beside the file lies `<name>.json` with its origin, validators and digest; beside a part `<name>.part.json`.

Two processes that want the same file take turns (`<name>.lock`, flock) instead of writing parts of different names: a
part needs a stable name to be resumed by a later process, and the process that waited finds the finished file and
downloads nothing. The kernel drops the lock of a process that dies, so none goes stale.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote

from imageshards.errors import StoreError

_MAX_BASENAME_CHARACTERS = 80


_URL_ID_DIGITS = 12
"""Of a SHA-256: 48 bits tell the URLs of one cache folder apart."""


_PLAIN_HOST = re.compile(r"([^:\[\]]*|\[[0-9A-Fa-f:.]*\])(:\d*)?")


def is_url(text: str) -> bool:
    """Whether a text has a scheme, and is no path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def redact_url(url: str) -> str:
    """The URL fit for messages and logs: without user, password, fragment, and the values of its query."""
    if not is_url(url):
        return url
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("#")[0].partition("?")
    host, slash, path = rest.partition("/")
    if "@" in host:
        host = f"***@{host.rpartition('@')[2]}"
    elif not _PLAIN_HOST.fullmatch(host):
        return f"{scheme}://***"  # a password with a raw `/`, `?` or `#`: what belongs to it cannot be told
    hidden = "&".join(f"{pair.partition('=')[0]}=***" if "=" in pair else "***" for pair in query.split("&"))
    return f"{scheme}://{host}{slash}{path}{'?' if query else ''}{hidden if query else ''}"


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 in hexadecimal digits, and size in bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def url_id(url: str) -> str:
    """Tells URLs apart whose redacted forms are the same; user and password do not enter it."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    plain = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return hashlib.sha256(plain.encode()).hexdigest()[:_URL_ID_DIGITS]


def cache_name(url: str) -> str:
    """`<hash of the URL>-<its last part>`: readable, and two URLs that end alike do not collide."""
    last_part = unquote(re.split("[?#]", url, maxsplit=1)[0]).rpartition("/")[2]
    readable = re.sub("[^A-Za-z0-9._-]", "_", last_part)[-_MAX_BASENAME_CHARACTERS:]
    return f"{url_id(url)}-{readable or 'download'}"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of the cache folder into a StoreError that names the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StoreError(
            f"cannot use cache file {path}: {reason}; free space, fix permissions or choose another cache folder",
            path=str(path),
        ) from error


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _is_over(headers: Mapping[str, str]) -> bool:
    """Whether the second of `Last-Modified` was over when an answer was sent.

    If not, a later version may have the same time, and it tells nothing by itself (RFC 9110, 8.8.2.2).
    """
    try:
        sent, modified = (parsedate_to_datetime(headers[name]) for name in ("Date", "Last-Modified"))
        return (sent - modified).total_seconds() >= 1
    except (KeyError, ValueError, TypeError):  # one is missing, or makes no sense
        return True


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a cached file or a part: the JSON beside it."""

    url: str
    url_id: str
    etag: str | None = None
    last_modified: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str]) -> Record:
        """The record of an answer that is about to be saved."""
        etag = headers.get("ETag")
        modified = headers.get("Last-Modified") if etag or _is_over(headers) else None
        return cls(redact_url(url), url_id(url), etag, modified)

    @classmethod
    def read_beside(cls, path: Path) -> Record | None:
        """The record beside a file; None if either is missing or the record makes no sense."""
        try:
            return cls(**json.loads(_record_path(path).read_text("utf-8"))) if path.is_file() else None
        except (OSError, ValueError, TypeError):
            return None

    def write_beside(self, path: Path) -> None:
        """Write the record of the file at a path."""
        _record_path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")

    @property
    def range_validator(self) -> str | None:
        """What `If-Range` may carry: a weak ETag may not (RFC 9110, 13.1.5)."""
        strong = self.etag is not None and not self.etag.startswith("W/")
        return self.etag if strong else self.last_modified

    def conditions(self) -> dict[str, str]:
        """Headers that ask for the file only if it has changed; empty without validators."""
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in headers.items() if value}

    def is_version_of(self, headers: Mapping[str, str]) -> bool:
        """Whether an answer may be of the same version: for servers that do not honour `If-Range`."""
        pairs = ((self.etag, headers.get("ETag")), (self.last_modified, headers.get("Last-Modified")))
        return all(mine == theirs for mine, theirs in pairs if mine and theirs)


class Slot:
    """The files that make up one cached file: itself, its part, their records, the lock."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.part = target.with_name(f"{target.name}.part")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the slot, once other processes have let it go."""
        with disk_errors(self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            lock = self.target.with_name(f"{self.target.name}.lock").open("w")
        with lock:
            with disk_errors(self.target):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def discard_part(self) -> None:
        """Remove the part and its record."""
        with disk_errors(self.part):
            self.part.unlink(missing_ok=True)
            _record_path(self.part).unlink(missing_ok=True)

    def publish(self, record: Record) -> None:
        """Turn the part, which is on the disk already, into the file. A crash in between costs one more download."""
        with disk_errors(self.target):
            self.part.replace(self.target)
            record.write_beside(self.target)
        self.discard_part()
