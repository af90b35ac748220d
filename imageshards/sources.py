"""What a URL gave last, and whether it would give the same again: a night without news needs no download.

A small record of each URL lies in the raw store, so that a fresh container without any cache finds it. It is a hint,
overwritten in place and never the truth: nothing counts as unchanged unless the index of these very archives is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Literal

import requests
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imageshards.download import DEFAULT_POLICY, Fetched, FetchFailure, FetchPolicy, open_url, total_bytes
from imageshards.download_cache import Record, url_id
from imageshards.errors import ObjectMissingError, StoreError
from imageshards.fetch import Source, local_path, use_local
from imageshards.index import IndexInfo, index_key, read_index_info
from imageshards.manifest import ArchiveSource
from imageshards.store import Store

_HEADER_VALUE = "^[\\x20-\\x7e\\x80-\\xff]*$"
"""What a request may send back: http.client takes nothing else."""

_HeaderValue = Annotated[str, Field(pattern=_HEADER_VALUE)]

OnFinding = Callable[[str, str], None]


class SourceRecord(BaseModel):
    """What a URL gave when it was last downloaded: the JSON below `sources/` in the raw store.

    Attributes:
        format_version: Of this record.
        url: The URL, without its secrets.
        url_id: Tells it from others whose redacted form is the same.
        etag: The server's tag of that version, where it gave one.
        last_modified: The server's time of that version, likewise.
        sha256: Digest of the file.
        size_bytes: Its size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    url: str
    url_id: str
    etag: _HeaderValue | None = None
    last_modified: _HeaderValue | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0)]

    @property
    def archive(self) -> ArchiveSource:
        """The archive, as a manifest names it."""
        return ArchiveSource(url=self.url, sha256=self.sha256, size_bytes=self.size_bytes)

    def conditions(self) -> dict[str, str]:
        """Headers that ask for the file only if it has changed; empty without validators."""
        return Record(self.url, self.url_id, self.etag, self.last_modified).conditions()


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Both archives are what they were, and their index is there.

    Attributes:
        info: The index.
        sources: The archives, `images` and `annotations`, as the manifest names them.
    """

    info: IndexInfo
    sources: Mapping[str, ArchiveSource]


@dataclass(frozen=True, slots=True)
class _Finding:
    """What is known of one source without downloading it; no archive where it may have changed."""

    archive: ArchiveSource | None
    reason: str


def sources_of(archives: Mapping[str, Fetched]) -> dict[str, ArchiveSource]:
    """Archives that were fetched, as a manifest names them."""
    return {
        what: ArchiveSource(url=archive.url, sha256=archive.sha256, size_bytes=archive.size_bytes)
        for what, archive in archives.items()
    }


def record_key(dataset: str, url: str) -> str:
    """Where the record of a URL lies in the raw store."""
    return _key_of(dataset, url_id(url))


def remember_sources(store: Store, dataset: str, archives: Mapping[str, Fetched]) -> None:
    """Note what each URL gave, for `look`; to be called once the index of the archives is written.

    Idempotent; what is noted already is not written again. Local files are not noted, for `look` hashes them.

    Args:
        store: The raw store.
        dataset: Name of the dataset.
        archives: What `fetch` brought.

    Raises:
        StoreError: The store refuses.
        TransientError: The store is out of reach.
    """
    for archive in archives.values():
        if archive.url_id is None:
            continue
        key = _key_of(dataset, archive.url_id)
        record = SourceRecord(
            url=archive.url,
            url_id=archive.url_id,
            etag=_sendable(archive.etag),
            last_modified=_sendable(archive.last_modified),
            sha256=archive.sha256,
            size_bytes=archive.size_bytes,
        )
        known = _read_record(store, key, archive.url_id)
        # A file out of the cache may come without validators that another machine has noted.
        if known is None or not (known == record or (known.sha256 == record.sha256 and not record.conditions())):
            store.put(key, record.model_dump_json(indent=1).encode() + b"\n")


def look(
    images: Source,
    annotations: Source,
    store: Store,
    *,
    dataset: str,
    policy: FetchPolicy = DEFAULT_POLICY,
    on_finding: OnFinding | None = None,
) -> Unchanged | None:
    """Whether both archives are what they were, by one conditional request each at most, without their bytes.

    An address that is out of reach gives way to its mirrors, as in `fetch`; with none left the answer is None, and it
    is left to the download to try again and to say what is wrong.

    Args:
        images: The images archive.
        annotations: The annotations archive.
        store: The raw store.
        dataset: Name of the dataset.
        policy: How long to wait for a server; it is asked once.
        on_finding: Called with `images`, `annotations` or `index`, and what was found, for logs.

    Raises:
        TransientError: The raw store is out of reach.
    """
    told = on_finding or (lambda *_: None)
    sources = {}
    for what, source in (("images", images), ("annotations", annotations)):
        finding = _look_at(source, store, dataset, policy)
        told(what, finding.reason)
        if finding.archive is None:
            return None
        sources[what] = finding.archive
    try:
        info = read_index_info(store, index_key(dataset, sources["images"].sha256, sources["annotations"].sha256))
    except ObjectMissingError:
        told("index", "none of these archives yet")
        return None
    except StoreError as error:  # the upload meets it again, and says what to do
        told("index", str(error))
        return None
    return Unchanged(info, sources)


def _look_at(source: Source, store: Store, dataset: str, policy: FetchPolicy) -> _Finding:
    urls = (source.url, *source.mirrors)
    records = {url: _read_record(store, record_key(dataset, url), url_id(url)) for url in urls if _is_remote(url)}
    known = [record for record in records.values() if record is not None]
    for record in known:
        if record.sha256 == source.sha256:
            return _Finding(record.archive, "has the sha256 that is asked for, no request needed")
    failures = []
    for url in urls:
        try:
            path = local_path(url)
            if path is not None:
                local = use_local(url, path, source.sha256)
                return _Finding(sources_of({"": local})[""], f"local file, sha256 {local.sha256}")
            if not known:
                return _Finding(None, "not seen before")
            if source.sha256 is not None:
                return _Finding(None, f"sha256 {source.sha256} is asked for, was {known[0].sha256} last time")
            return _ask(url, records[url], policy)
        except FetchFailure as failure:
            failures.append(f"{failure.url}: {failure.reason}")
    return _Finding(None, "; ".join(failures))


def _ask(url: str, record: SourceRecord | None, policy: FetchPolicy) -> _Finding:
    """Ask a server whether it still has what is recorded; without a record of its own, whether it answers at all.

    Raises:
        FetchFailure: It is out of reach, or refuses.
    """
    conditions = record.conditions() if record else {}
    if record is not None and not conditions:
        return _Finding(None, "the server names no version by which to ask (ETag, Last-Modified)")
    with open_url(url, conditions, policy) as response:  # its body is never read
        code = response.status_code
        if record is not None and _is_same(record, response):
            since = f" since {record.last_modified}" if record.last_modified else ""
            return _Finding(record.archive, f"unchanged{since} (HTTP {code})")
        if code == HTTPStatus.OK or (record is not None and code == HTTPStatus.NOT_MODIFIED):
            return _Finding(None, f"changed (HTTP {code})" if record else "not downloaded from this address before")
        raise FetchFailure(url, f"HTTP {code} {response.reason}")


def _is_same(record: SourceRecord, response: requests.Response) -> bool:
    etag = response.headers.get("ETag")
    if response.status_code == HTTPStatus.NOT_MODIFIED:  # one of another version would be a cache's mistake
        return None in (etag, record.etag) or _opaque(etag) == _opaque(record.etag)
    # A server that knows no conditions. A time alone is not enough: two versions may share a second.
    if response.status_code != HTTPStatus.OK or etag is None or etag != record.etag:
        return False
    return not etag.startswith("W/") or total_bytes(response) == record.size_bytes


def _opaque(etag: str | None) -> str:
    """What a weak comparison looks at (RFC 9110, 8.8.3.2)."""
    return (etag or "").removeprefix("W/")


def _read_record(store: Store, key: str, expected_id: str) -> SourceRecord | None:
    """The record of a URL; None where there is none, or one that makes no sense."""
    try:
        record = SourceRecord.model_validate_json(store.get(key))
    except (StoreError, ValidationError):
        return None
    return record if record.url_id == expected_id else None


def _key_of(dataset: str, source_id: str) -> str:
    return f"raw/{dataset}/sources/{source_id}.json"


def _is_remote(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _sendable(value: str | None) -> str | None:
    return value if value is not None and re.fullmatch(_HEADER_VALUE, value) else None
