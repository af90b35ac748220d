"""A file from a URL, its mirrors, or a local path, with the digest that it must have.

A local path or file:// URL is hashed where it lies and never copied; http and https go through `download.Download`,
one address after the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from imageshards.download import (
    DEFAULT_POLICY,
    Download,
    Fetched,
    FetchFailure,
    FetchPolicy,
    OnProgress,
    wrong_checksum,
)
from imageshards.download_cache import Slot, cache_name, hash_file, is_url, redact_url
from imageshards.errors import ConfigError, ImageShardsError, SourceError, TransientError

__all__ = ["FetchPolicy", "Fetched", "Source", "fetch", "redact_url"]


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
    failures: list[FetchFailure] = []
    for url in (source.url, *source.mirrors):
        try:
            local = local_path(url)
            if local is not None:
                return use_local(url, local, source.sha256)
            slot = Slot(Path(directory) / cache_name(source.url))
            with slot.locked():
                return Download(url, source.sha256, slot, policy, on_progress).run()
        except FetchFailure as failure:
            failures.append(failure)
    raise _verdict(source, failures)


def _verdict(source: Source, failures: list[FetchFailure]) -> ImageShardsError:
    transient = any(failure.transient for failure in failures)
    error = TransientError if transient else SourceError
    advice = "try again later, or name a mirror" if transient else "check the URL and the expected sha256"
    reasons = "; ".join(f"{failure.url}: {failure.reason}" for failure in failures)
    urls = [failure.url for failure in failures]
    return error(f"cannot fetch {reasons} ({advice})", urls=urls, expected_sha256=source.sha256)


def local_path(url: str) -> Path | None:
    """The path that a URL means on this machine; None for one to download.

    Raises:
        FetchFailure: It is neither.
    """
    if not is_url(url):
        try:
            return Path(url).expanduser().absolute()
        except RuntimeError as error:
            raise FetchFailure(url, str(error)) from error
    scheme, _, rest = url.partition("://")
    if scheme.lower() in ("http", "https"):
        return None
    host, slash, path = rest.partition("/")
    if scheme.lower() != "file" or host not in ("", "localhost"):
        raise FetchFailure(url, "unsupported URL; give http://, https://, file:///path or a path")
    return Path(unquote(slash + path))


def use_local(url: str, path: Path, expected_sha256: str | None) -> Fetched:
    """Hash a file where it lies.

    Raises:
        FetchFailure: It cannot be read, or has another digest.
    """
    try:
        if path.exists() and not path.is_file():  # a fifo would block
            raise FetchFailure(url, "not a file")
        sha256, size_bytes = hash_file(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise FetchFailure(url, getattr(error, "strerror", None) or str(error)) from error
    wrong = wrong_checksum(expected_sha256, sha256, size_bytes)
    if wrong:
        raise FetchFailure(url, wrong)
    return Fetched(path, sha256, size_bytes, redact_url(url), "local")
