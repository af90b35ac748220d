"""One URL over HTTP into one file of the cache folder: resumed, hashed while it streams, checked, renamed into place.

lock ─┬─ the right file is there already ── cached
└─ <name>.part, begun or continued ── fsync, rename to <name>
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Literal

import requests
import urllib3.exceptions

from imageshards.download_cache import Record, Slot, disk_errors, hash_file, redact_url, url_id
from imageshards.errors import ConfigError

_CHUNK_BYTES = 1 << 20


_RETRIED_4XX = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


Status = Literal["downloaded", "resumed", "cached", "local"]


OnProgress = Callable[[int, int | None], None]


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
        url_id: Tells that URL from others, see `download_cache.url_id`; None for a local file, as for what follows.
        etag: The server's tag of this version, where it gave one.
        last_modified: The server's time of this version, likewise.
    """

    path: Path
    sha256: str
    size_bytes: int
    url: str
    status: Status
    url_id: str | None = None
    etag: str | None = None
    last_modified: str | None = None


class FetchFailure(Exception):  # noqa: N818  # none leaves `fetch` and `sources`
    """Why one URL, or one attempt at it, did not work; its text holds no secret."""

    def __init__(self, url: str, reason: str, *, transient: bool = False, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.url = redact_url(url)
        self.reason = reason
        self.transient = transient
        self.wait_seconds = wait_seconds


def open_url(url: str, headers: Mapping[str, str], policy: FetchPolicy) -> requests.Response:
    """Ask for a URL once; the body of the answer is not read yet.

    Raises:
        FetchFailure: No answer came.
    """
    timeout = (policy.connect_timeout_seconds, policy.read_timeout_seconds)
    as_it_is = {"Accept-Encoding": "identity"}
    try:
        return requests.get(url, headers={**as_it_is, **headers}, stream=True, timeout=timeout)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        reason, transient = _network_reason(error)
        raise FetchFailure(url, reason, transient=transient) from None  # its text may hold the whole URL


def wrong_checksum(expected: str | None, found: str | None, size_bytes: int | None) -> str | None:
    """What is wrong with a digest; None where it is the expected one, or none is expected."""
    if expected in (None, found):
        return None
    return f"wrong checksum: expected sha256 {expected}, found {found} in {size_bytes:,} bytes"


@dataclass(frozen=True, slots=True)
class Download:
    """One URL into one slot, whose lock is held."""

    url: str
    sha256: str | None
    slot: Slot
    policy: FetchPolicy
    on_progress: OnProgress | None

    def run(self) -> Fetched:
        """Try until the file is there, or the policy is used up.

        Raises:
            FetchFailure: This address does not give the file.
        """
        kept = self._kept()
        if kept is not None and kept.sha256 == self.sha256:
            return self._fetched(kept, "cached")
        for attempt in range(1, self.policy.attempts + 1):
            try:
                return self._attempt(kept)
            except FetchFailure as failure:
                if not failure.transient or attempt == self.policy.attempts:
                    raise
                ceiling = min(self.policy.max_delay_seconds, self.policy.base_delay_seconds * 2.0 ** (attempt - 1))
                jitter = random.uniform(0.0, ceiling)  # noqa: S311  # spreads load, guards nothing
                time.sleep(max(jitter, failure.wait_seconds))
        raise AssertionError("the last attempt returns or raises")

    def _kept(self) -> Record | None:
        """The file of an earlier download if its bytes can be trusted: by the expected digest, else by its record."""
        if not self.slot.target.is_file():
            return None
        with disk_errors(self.slot.target):
            sha256, size_bytes = hash_file(self.slot.target)
        record = Record.read_beside(self.slot.target)
        if self.sha256 is not None:
            if (
                record is None or record.sha256 != sha256
            ):  # of the file before: a crash came between this one and its own
                record = Record.of(self.url, {})
            return replace(record, sha256=sha256, size_bytes=size_bytes) if sha256 == self.sha256 else None
        if record is None or record.url_id != url_id(self.url):
            return None
        return record if (record.sha256, record.size_bytes) == (sha256, size_bytes) else None

    def _attempt(self, kept: Record | None) -> Fetched:
        part, offset = self._part()
        headers: dict[str, str] = {}
        if part is not None:
            headers = {"Range": f"bytes={offset}-", "If-Range": part.range_validator or ""}
        elif kept is not None:
            headers = kept.conditions()
        with open_url(self.url, headers, self.policy) as response:
            match response.status_code:
                case HTTPStatus.OK:
                    fresh = Record.of(self.url, response.headers)
                    total = total_bytes(response)
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

    def _part(self) -> tuple[Record | None, int]:
        """What an interrupted download left, if it is of this URL and the server can tell whether it is current."""
        record = Record.read_beside(self.slot.part)
        if record is None or record.url_id != url_id(self.url) or not record.range_validator:
            return None, 0
        size_bytes = self.slot.part.stat().st_size
        return (record, size_bytes) if size_bytes else (None, 0)

    def _check_continues(self, fits: bool, part: Record, response: requests.Response) -> None:
        if not fits or not part.is_version_of(response.headers):
            self.slot.discard_part()
            raise self._failure("the answer does not continue the interrupted download", transient=True)

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

    def _save(self, record: Record, offset: int, total_bytes: int | None, chunks: Iterator[bytes]) -> Fetched:
        """Write the chunks behind the first `offset` bytes of the part; check and publish the whole."""
        part = self.slot.part
        with disk_errors(part), part.open("r+b" if offset else "w+b") as file:
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

    def _check_content(self, record: Record, *, resumed: bool) -> None:
        wrong = wrong_checksum(self.sha256, record.sha256, record.size_bytes)
        if record.size_bytes == 0 and self.sha256 is None:
            wrong = "the server sent an empty file"
        if wrong:
            self.slot.discard_part()
            raise self._failure(f"{wrong}; it was removed", transient=resumed)  # once more, from the first byte

    def _refused(self, response: requests.Response) -> FetchFailure:
        code = response.status_code
        seconds = _retry_after_seconds(response.headers.get("Retry-After", ""))
        return self._failure(
            f"HTTP {code} {response.reason}",
            transient=code in _RETRIED_4XX or code >= HTTPStatus.INTERNAL_SERVER_ERROR,
            wait_seconds=min(seconds, self.policy.max_retry_after_seconds),
        )

    def _failure(self, reason: str, *, transient: bool = False, wait_seconds: float = 0.0) -> FetchFailure:
        return FetchFailure(self.url, reason, transient=transient, wait_seconds=wait_seconds)

    def _fetched(self, record: Record, status: Status) -> Fetched:
        return Fetched(
            self.slot.target,
            record.sha256 or "",
            record.size_bytes or 0,
            record.url,
            status,
            url_id=record.url_id,
            etag=record.etag,
            last_modified=record.last_modified,
        )


def total_bytes(response: requests.Response) -> int | None:
    """Size of the body that an answer announces; None where it does not."""
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
