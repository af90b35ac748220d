"""Resumable, checksummed download of one URL into a cache folder.

    local path, file:// ── hashed where it lies, never copied
    http, https ── lock ─┬─ the right file is there already ── cached
                         └─ <name>.part, begun or continued ── hashed while it streams ── fsync, rename to <name>

Beside the file lies `<name>.json` with its origin, validators and digest; beside a part `<name>.part.json`.

Two processes that want the same file take turns (`<name>.lock`, flock) instead of writing parts of different names: a
part needs a stable name to be resumed by a later process, and the process that waited finds the finished file and
downloads nothing. The kernel drops the lock of a process that dies, so none goes stale.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import requests
import urllib3.exceptions

from imageshards.errors import ConfigError, ImageShardsError, SourceError, StoreError, TransientError

_CHUNK_BYTES = 1 << 20
_MAX_BASENAME_CHARACTERS = 80
_URL_ID_DIGITS = 12
"""Of a SHA-256: 48 bits tell the URLs of one cache folder apart."""

_PLAIN_HOST = re.compile(r"([^:\[\]]*|\[[0-9A-Fa-f:.]*\])(:\d*)?")

_RETRIED_4XX = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)

Status = Literal["downloaded", "resumed", "cached", "local"]
OnProgress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True, repr=False)
class Source:
    """Where a file comes from, and its digest where that is known.

    Attributes:
        url: http, https or file:// URL, or a local path.
        sha256: Expected digest as 64 hexadecimal digits; without it the server's validators decide what is current.
        mirrors: Further places of the same bytes, tried in order when the ones before them failed.
    """

    url: str
    sha256: str | None = None
    mirrors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.sha256 is not None:
            if not re.fullmatch("[0-9a-fA-F]{64}", self.sha256):
                raise ConfigError(f"sha256 of {redact_url(self.url)} must be 64 hexadecimal digits: {self.sha256!r}")
            object.__setattr__(self, "sha256", self.sha256.lower())

    def __repr__(self) -> str:
        mirrors = tuple(redact_url(mirror) for mirror in self.mirrors)
        return f"Source(url={redact_url(self.url)!r}, sha256={self.sha256!r}, mirrors={mirrors!r})"


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """How long to try. Waits grow exponentially with full jitter: anything from 0 to base·2ⁿ, at most the maximum.

    Attributes:
        attempts: Requests for each URL.
        base_delay_seconds: Upper bound of the first wait.
        max_delay_seconds: Upper bound of every wait.
        max_retry_after_seconds: Longest `Retry-After` of a server that is honoured.
        connect_timeout_seconds: For the connection.
        read_timeout_seconds: For the gap between two pieces of the answer, not for the whole.
    """

    attempts: int = 5
    base_delay_seconds: float = 1.0
    max_delay_seconds: float = 60.0
    max_retry_after_seconds: float = 300.0
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.connect_timeout_seconds, self.read_timeout_seconds) <= 0:
            raise ConfigError(f"attempts must be at least 1, timeouts positive: {self}")
        if min(self.base_delay_seconds, self.max_delay_seconds, self.max_retry_after_seconds) < 0:
            raise ConfigError(f"delays must not be negative: {self}")


DEFAULT_POLICY = FetchPolicy()


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is there, whole, and has the expected digest.

    Attributes:
        path: The file: in the cache folder, or where the local path leads.
        sha256: Its digest, computed in this call.
        size_bytes: Its size.
        url: The URL that it came from, without its secrets.
        status: `resumed` if bytes of an interrupted download were kept, `cached` if nothing was transferred.
    """

    path: Path
    sha256: str
    size_bytes: int
    url: str
    status: Status


def fetch(
    source: Source, directory: Path, *, policy: FetchPolicy = DEFAULT_POLICY, on_progress: OnProgress | None = None
) -> Fetched:
    """Bring the file of a source to this machine. Idempotent, atomic, safe to run in several processes at once.

    Args:
        source: What to fetch.
        directory: Cache folder for downloads; made if absent. Local files stay where they are.
        policy: How often and how long to try.
        on_progress: Called with the bytes there are and the bytes there will be (None if the server does not say). An
            error of its own ends the call; the part stays for the next one.

    Raises:
        SourceError: No URL can ever work: refused, missing, wrong digest, unsupported scheme.
        TransientError: At least one URL may work later.
        StoreError: The cache folder cannot be used: disk full, no permission.
    """
    failures: list[_Failure] = []
    for url in (source.url, *source.mirrors):
        try:
            local = _local_path(url)
            if local is not None:
                return _use_local(url, local, source.sha256)
            slot = _Slot(Path(directory) / _cache_name(source.url))
            with slot.locked():
                return _Download(url, source.sha256, slot, policy, on_progress).run()
        except _Failure as failure:
            failures.append(failure)
    raise _verdict(source, failures)


def redact_url(url: str) -> str:
    """The URL fit for messages and logs: without user, password, fragment, and the values of its query."""
    if not _is_url(url):
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


class _Failure(Exception):  # noqa: N818  # never leaves this module
    """Why one URL, or one attempt at it, did not work; its text holds no secret."""

    def __init__(self, url: str, reason: str, *, transient: bool = False, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.url = redact_url(url)
        self.reason = reason
        self.transient = transient
        self.wait_seconds = wait_seconds


def _verdict(source: Source, failures: list[_Failure]) -> ImageShardsError:
    transient = any(failure.transient for failure in failures)
    error = TransientError if transient else SourceError
    advice = "try again later, or name a mirror" if transient else "check the URL and the expected sha256"
    reasons = "; ".join(f"{failure.url}: {failure.reason}" for failure in failures)
    urls = [failure.url for failure in failures]
    return error(f"cannot fetch {reasons} ({advice})", urls=urls, expected_sha256=source.sha256)


def _wrong_checksum(expected: str | None, found: str | None, size_bytes: int | None) -> str | None:
    if expected in (None, found):
        return None
    return f"wrong checksum: expected sha256 {expected}, found {found} in {size_bytes:,} bytes"


def _is_url(text: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def _local_path(url: str) -> Path | None:
    """The path that a URL means on this machine; None for one to download."""
    if not _is_url(url):
        try:
            return Path(url).expanduser().absolute()
        except RuntimeError as error:
            raise _Failure(url, str(error)) from error
    scheme, _, rest = url.partition("://")
    if scheme.lower() in ("http", "https"):
        return None
    host, slash, path = rest.partition("/")
    if scheme.lower() != "file" or host not in ("", "localhost"):
        raise _Failure(url, "unsupported URL; give http://, https://, file:///path or a path")
    return Path(unquote(slash + path))


def _use_local(url: str, path: Path, expected_sha256: str | None) -> Fetched:
    try:
        if path.exists() and not path.is_file():  # a fifo would block
            raise _Failure(url, "not a file")
        sha256, size_bytes = _hash_file(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _Failure(url, getattr(error, "strerror", None) or str(error)) from error
    wrong = _wrong_checksum(expected_sha256, sha256, size_bytes)
    if wrong:
        raise _Failure(url, wrong)
    return Fetched(path, sha256, size_bytes, redact_url(url), "local")


def _hash_file(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def _url_id(url: str) -> str:
    """Tells URLs apart whose redacted forms are the same; user and password do not enter it."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    plain = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return hashlib.sha256(plain.encode()).hexdigest()[:_URL_ID_DIGITS]


def _cache_name(url: str) -> str:
    """`<hash of the URL>-<its last part>`: readable, and two URLs that end alike do not collide."""
    last_part = unquote(re.split("[?#]", url, maxsplit=1)[0]).rpartition("/")[2]
    readable = re.sub("[^A-Za-z0-9._-]", "_", last_part)[-_MAX_BASENAME_CHARACTERS:]
    return f"{_url_id(url)}-{readable or 'download'}"


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
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


@dataclass(frozen=True, slots=True)
class _Record:
    """What is known of a cached file or a part: the JSON beside it."""

    url: str
    url_id: str
    etag: str | None = None
    last_modified: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str]) -> _Record:
        return cls(redact_url(url), _url_id(url), headers.get("ETag"), headers.get("Last-Modified"))

    @classmethod
    def read_beside(cls, path: Path) -> _Record | None:
        """The record beside a file; None if either is missing or the record makes no sense."""
        try:
            return cls(**json.loads(_record_path(path).read_text("utf-8"))) if path.is_file() else None
        except (OSError, ValueError, TypeError):
            return None

    def write_beside(self, path: Path) -> None:
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


class _Slot:
    """The files that make up one cached file: itself, its part, their records, the lock."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.part = target.with_name(f"{target.name}.part")

    @contextmanager
    def locked(self) -> Iterator[None]:
        with _disk_errors(self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            lock = self.target.with_name(f"{self.target.name}.lock").open("w")
        with lock:
            with _disk_errors(self.target):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def discard_part(self) -> None:
        with _disk_errors(self.part):
            self.part.unlink(missing_ok=True)
            _record_path(self.part).unlink(missing_ok=True)

    def publish(self, record: _Record) -> None:
        """Turn the part, which is on the disk already, into the file. A crash in between costs one more download."""
        with _disk_errors(self.target):
            self.part.replace(self.target)
            record.write_beside(self.target)
        self.discard_part()


@dataclass(frozen=True, slots=True)
class _Download:
    """One URL into one slot, whose lock is held."""

    url: str
    sha256: str | None
    slot: _Slot
    policy: FetchPolicy
    on_progress: OnProgress | None

    def run(self) -> Fetched:
        kept = self._kept()
        if kept is not None and kept.sha256 == self.sha256:
            return self._fetched(kept, "cached")
        for attempt in range(1, self.policy.attempts + 1):
            try:
                return self._attempt(kept)
            except _Failure as failure:
                if not failure.transient or attempt == self.policy.attempts:
                    raise
                ceiling = min(self.policy.max_delay_seconds, self.policy.base_delay_seconds * 2.0 ** (attempt - 1))
                jitter = random.uniform(0.0, ceiling)  # noqa: S311  # spreads load, guards nothing
                time.sleep(max(jitter, failure.wait_seconds))
        raise AssertionError("the last attempt returns or raises")

    def _kept(self) -> _Record | None:
        """The file of an earlier download if its bytes can be trusted: by the expected digest, else by its record."""
        if not self.slot.target.is_file():
            return None
        with _disk_errors(self.slot.target):
            sha256, size_bytes = _hash_file(self.slot.target)
        record = _Record.read_beside(self.slot.target)
        if self.sha256 is not None:
            record = record or _Record.of(self.url, {})
            return replace(record, sha256=sha256, size_bytes=size_bytes) if sha256 == self.sha256 else None
        if record is None or record.url_id != _url_id(self.url):
            return None
        return record if (record.sha256, record.size_bytes) == (sha256, size_bytes) else None

    def _attempt(self, kept: _Record | None) -> Fetched:
        part, offset = self._part()
        headers = {"Accept-Encoding": "identity"}
        if part is not None:
            headers |= {"Range": f"bytes={offset}-", "If-Range": part.range_validator or ""}
        elif kept is not None:
            headers |= kept.conditions()
        with self._get(headers) as response:
            match response.status_code:
                case HTTPStatus.OK:
                    fresh = _Record.of(self.url, response.headers)
                    total = _total_bytes(response)
                    return self._save(fresh, 0, total, self._body(response, 0, total))
                case HTTPStatus.NOT_MODIFIED if kept is not None and part is None:
                    return self._fetched(kept, "cached")
                case HTTPStatus.PARTIAL_CONTENT if part is not None:
                    start, total = _content_range(response)
                    self._check_continues(start == offset, part, response)
                    return self._save(part, offset, total, self._body(response, offset, total))
                case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE if part is not None:
                    _, total = _content_range(response)  # nothing is left to send if the part is whole
                    self._check_continues(total == offset, part, response)
                    return self._save(part, offset, total, iter(()))
                case _:
                    raise self._refused(response)

    def _part(self) -> tuple[_Record | None, int]:
        """What an interrupted download left, if it is of this URL and the server can tell whether it is current."""
        record = _Record.read_beside(self.slot.part)
        if record is None or record.url_id != _url_id(self.url) or not record.range_validator:
            return None, 0
        size_bytes = self.slot.part.stat().st_size
        return (record, size_bytes) if size_bytes else (None, 0)

    def _check_continues(self, fits: bool, part: _Record, response: requests.Response) -> None:
        if not fits or not part.is_version_of(response.headers):
            self.slot.discard_part()
            raise self._failure("the answer does not continue the interrupted download", transient=True)

    def _get(self, headers: dict[str, str]) -> requests.Response:
        timeout = (self.policy.connect_timeout_seconds, self.policy.read_timeout_seconds)
        try:
            return requests.get(self.url, headers=headers, stream=True, timeout=timeout)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            reason, transient = _network_reason(error)
            raise self._failure(reason, transient=transient) from None  # its text may hold the whole URL

    def _body(self, response: requests.Response, offset: int, total_bytes: int | None) -> Iterator[bytes]:
        """The bytes as they are sent: a `Content-Encoding` is part of the file here, not of its transport."""
        received = offset
        try:
            for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                received += len(chunk)
                yield chunk
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason, _ = _network_reason(error)
            expected = f" of {total_bytes:,}" if total_bytes is not None else ""
            message = f"interrupted after {received:,}{expected} bytes: {reason}"
            raise self._failure(message, transient=True) from None

    def _save(self, record: _Record, offset: int, total_bytes: int | None, chunks: Iterator[bytes]) -> Fetched:
        """Write the chunks behind the first `offset` bytes of the part; check and publish the whole."""
        part = self.slot.part
        with _disk_errors(part), part.open("r+b" if offset else "w+b") as file:
            record.write_beside(part)  # before the first byte, after the old ones are gone
            digest = hashlib.file_digest(file, "sha256")
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                if self.on_progress is not None:
                    self.on_progress(file.tell(), total_bytes)
            file.flush()
            os.fsync(file.fileno())
            size_bytes = file.tell()
        if total_bytes not in (None, size_bytes):
            raise self._failure(f"stopped after {size_bytes:,} of {total_bytes:,} bytes", transient=True)
        record = replace(record, sha256=digest.hexdigest(), size_bytes=size_bytes)
        self._check_content(record, resumed=offset > 0)
        self.slot.publish(record)
        return self._fetched(record, "resumed" if offset else "downloaded")

    def _check_content(self, record: _Record, *, resumed: bool) -> None:
        wrong = _wrong_checksum(self.sha256, record.sha256, record.size_bytes)
        if record.size_bytes == 0 and self.sha256 is None:
            wrong = "the server sent an empty file"
        if wrong:
            self.slot.discard_part()
            raise self._failure(f"{wrong}; it was removed", transient=resumed)  # once more, from the first byte

    def _refused(self, response: requests.Response) -> _Failure:
        code = response.status_code
        seconds = _retry_after_seconds(response.headers.get("Retry-After", ""))
        return self._failure(
            f"HTTP {code} {response.reason}",
            transient=code in _RETRIED_4XX or code >= HTTPStatus.INTERNAL_SERVER_ERROR,
            wait_seconds=min(seconds, self.policy.max_retry_after_seconds),
        )

    def _failure(self, reason: str, *, transient: bool = False, wait_seconds: float = 0.0) -> _Failure:
        return _Failure(self.url, reason, transient=transient, wait_seconds=wait_seconds)

    def _fetched(self, record: _Record, status: Status) -> Fetched:
        return Fetched(self.slot.target, record.sha256 or "", record.size_bytes or 0, record.url, status)


def _total_bytes(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and "Transfer-Encoding" not in response.headers else None


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """First byte and total size out of `bytes 5-9/10` or `bytes */10`; None for what it does not say."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    start, total = found.groups() if found else (None, None)
    return int(start) if start else None, int(total) if total and total != "*" else None


def _retry_after_seconds(value: str) -> float:
    """Seconds out of a `Retry-After`, which is a number or a date; 0 for what makes no sense."""
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _network_reason(error: Exception) -> tuple[str, bool]:
    """What went wrong on the way, without the URL that the libraries put into their messages; whether it may pass."""
    if isinstance(error, requests.TooManyRedirects):
        return "redirects without end", False
    if isinstance(error, requests.exceptions.InvalidSchema):
        return "redirects to what is neither http nor https", False
    cause = _system_error(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {cause.verify_message}", False
    passing = requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError
    return str(cause or type(error).__name__), isinstance(error, passing)


def _system_error(error: BaseException | None) -> OSError | None:
    """The system's own error among the causes of one of requests or urllib3."""
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
            return error
        error = error.__cause__ or error.__context__
    return None
