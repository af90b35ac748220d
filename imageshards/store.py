"""One interface over a folder and S3. Vendor errors become ours here and nowhere else.

`open_store` gives a `Store`; keys are posix relative paths below its URL. A store holds open connections and, for S3,
credentials, so it is never pickled: what travels between processes is its `StoreSpec`. Windows is not supported.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import obstore
from obstore.store import LocalStore, S3Store

from imageshards.errors import ConfigError, ObjectMissingError, StoreError, TransientError
from imageshards.store_calls import VendorCalls
from imageshards.store_folder import check_folder, read_file, remove_empty_folders
from imageshards.store_output import FolderOutput, Output, StreamOutput
from imageshards.store_s3 import Credentials, S3Access
from imageshards.store_spec import Location, StoreSpec, check_key
from imageshards.store_unfinished import Unfinished, abort_upload, remove_staged_file, staged_files, uploads

if TYPE_CHECKING:
    from obstore import ObjectMeta

__all__ = ["Credentials", "ObjectInfo", "Store", "StoreSpec", "Unfinished", "check_key", "open_store"]

Data = bytes | bytearray | memoryview

CHUNK_BYTES = 4 * 1024**2
PART_BYTES = 8 * 1024**2
MAX_PARTS = 10_000
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""
PARTS_IN_FLIGHT = 4
"""With PART_BYTES: an upload holds about 32 MiB."""
STREAM_PARTS_IN_FLIGHT = 2
"""Of an object that is being made: a worker has one for each resolution."""
LIST_CHUNK = 1000
DELETE_BATCH = 1000
"""Keys handed over at once; each is a request of its own, several of them at a time."""

_MD5_ETAG = re.compile(r'"?([0-9a-f]{32})"?')
_ACCESS_PROBE = ".imageshards-access-probe"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says about an object without reading it.

    Attributes:
        key: Its key.
        size_bytes: Its size.
        etag: The backend's version tag as it comes, quotes included; comparable only with another one of the same key.
        modified_at: When it was written; of a copy within a folder, when what was copied was written. No part of
            comparisons: S3 tells it to the second or finer, depending on the request.
    """

    key: str
    size_bytes: int
    etag: str | None
    modified_at: datetime | None = field(default=None, compare=False)


def open_store(spec: StoreSpec | str, *, credentials: Credentials | None = None) -> Store:
    """Open a folder or an S3 prefix; nothing is read, created or checked yet (`Store.check_access` does).

    Args:
        spec: The store, or just its URL.
        credentials: S3 keys; default: the spec's `credentials_env`, then AWS_ACCESS_KEY_ID and its companions, then
            boto3's chain (profile, SSO, web identity, role).

    Raises:
        ConfigError: The URL, the endpoint or the credentials cannot be right.
    """
    spec = StoreSpec(url=spec) if isinstance(spec, str) else spec
    location = Location.of(spec.url)
    if location.bucket is None:
        return Store(spec, location, LocalStore())
    access = S3Access.of(spec, location.bucket, credentials)
    spec = spec.model_copy(update={"endpoint_url": access.endpoint, "region": access.region})
    return Store(spec, location, access.client(), access=access)


class Store:
    """Objects below one URL; made by `open_store`.

    Safe to use from many threads. Every method checks its key (`ConfigError`) and raises `StoreError` for what will
    stay so (`ObjectMissingError` and `ObjectExistsError` among them) and `TransientError` for what may pass; requests
    to S3 are retried a few times within 30 s before that.

    Attributes:
        spec: What another process needs to open it, credentials apart: what it was opened from, with an absolute URL
            and the endpoint and region that were found.
        url: Canonical URL, absolute for folders, without credentials.
    """

    def __init__(
        self,
        spec: StoreSpec,
        location: Location,
        backend: LocalStore | S3Store,
        *,
        access: S3Access | None = None,
    ) -> None:
        self.spec = spec.model_copy(update={"url": location.url})
        self.url = location.url
        self._location = location
        self._backend = backend
        self._access = access
        calls = VendorCalls(location, spec.endpoint_url)
        self._calls, self._try, self._guard = calls, calls.run, calls.guard

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a store is not pickled: send store.spec and call open_store there")

    def uri(self, key: str) -> str:
        """The full URI of an object; for folders percent-encoded, as file URLs are."""
        return self._location.uri(check_key(key))

    def local_path(self, key: str) -> Path | None:
        """The file of an object of a folder, for direct reading; None for S3."""
        path = self._path(key)
        return Path("/", path) if self._location.bucket is None else None

    @property
    def is_folder(self) -> bool:
        """Whether objects are files of this machine."""
        return self._location.bucket is None

    def get(self, key: str) -> bytes:
        """The bytes of an object."""
        path = self._path(key)
        if self.is_folder:  # a third of the time that obstore takes
            return self._try("read", key, lambda: read_file(f"/{path}"))
        return self._try("read", key, lambda: obstore.get(self._backend, path).bytes().to_bytes())

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """The `length` bytes from `start` on, which must lie within the object; fewer where the object ends before."""
        if start < 0 or length < 1:
            raise ConfigError(f"cannot read {length} bytes from {start} on of {self.uri(key)}: not a range")
        path = self._path(key)
        return self._try(
            "read", key, lambda: obstore.get_range(self._backend, path, start=start, length=length).to_bytes()
        )

    def put(self, key: str, data: Data, *, create: bool = False) -> None:
        """Write an object; readers see the old bytes or the new ones, never a part.

        Args:
            key: Where.
            data: Contiguous bytes.
            create: Write only where no object is.

        Raises:
            ObjectExistsError: With `create`, an object is there. It may be one's own: when the answer to a first try
                is lost, the retry finds what that one wrote. Who must know compares the content (`content_matches`).
        """
        octets = memoryview(data).cast("B")
        self._write(key, octets, octets.nbytes, create=create)

    def put_file(self, key: str, source: Path, *, create: bool = False) -> None:
        """Write an object from a file, as atomic as `put`, without holding the file in memory.

        To S3 a large file goes in parts. Those of an upload that broke off stay in the bucket, unseen, until its
        lifecycle rule AbortIncompleteMultipartUpload removes them, or `unfinished` and `discard`.

        Args:
            key: Where.
            source: A local file, which must not change meanwhile.
            create: See `put`. To S3 this takes one request, which AWS limits to 5 GiB.
        """
        uri = self.uri(key)
        data: memoryview | Path = source
        try:
            with source.open("rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if create and size_bytes:
                    # One request needs one buffer; a mapped file is one without being in memory. It is left to the
                    # garbage collector, as obstore may hold on to it for a moment after a failure.
                    data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            reason = f"cannot read {source} to write it to {uri}: {error.strerror}"
            raise StoreError(reason, path=str(source), uri=uri) from error
        self._write(key, data if size_bytes else memoryview(b""), size_bytes, create=create)

    def open_output(self, key: str) -> Output:
        """Begin to write an object bit by bit; it appears, or replaces another, when the output is committed.

        To S3 it goes in parts of `PART_BYTES` while it is being made. What a killed process leaves is unseen: parts of
        an upload (see `put_file`), or a file named `<name>#<number>`.
        """
        path = self._path(key)

        def guard() -> AbstractContextManager[None]:
            return self._guard("write", key, writes=True)

        if self.is_folder:
            return FolderOutput(Path("/", path), secrets.randbits(32), guard)
        with guard():
            file = obstore.open_writer(
                self._backend, path, buffer_size=PART_BYTES, max_concurrency=STREAM_PARTS_IN_FLIGHT
            )
        return StreamOutput(file, guard)

    def download(self, key: str, target: Path) -> str:
        """Stream an object to a file, which appears when it is complete.

        Returns:
            The SHA-256 of its bytes, in hex.
        """
        chunks = self._chunks(key)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        digest = hashlib.sha256()
        try:
            with partial.open("xb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
            partial.replace(target)
        except OSError as error:
            reason = f"cannot write {target} while reading {self.uri(key)}: {error.strerror}"
            raise StoreError(reason, path=str(target), uri=self.uri(key)) from error
        finally:
            with contextlib.suppress(OSError):  # gone, as it was renamed; or never made
                partial.unlink()
        return digest.hexdigest()

    def head(self, key: str) -> ObjectInfo:
        """Size and tag of an object; S3 does not say here whether the object is missing or its bucket."""
        path = self._path(key)
        return self._info(self._try("look up", key, lambda: obstore.head(self._backend, path)))

    def exists(self, key: str) -> bool:
        """Whether there is an object."""
        try:
            self.head(key)
        except ObjectMissingError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """The objects below a path prefix, ordered by key; none where nothing is.

        Args:
            prefix: `raw/pets/` or, the same, `raw/pets`: whole segments, so `raw/pe` does not find `raw/pets/…`.

        Raises:
            StoreError: While iterating: the bucket is missing, access is denied; or an object there, written by others,
                has a key that no path can express (`a//b`).
        """
        key = check_key(prefix.removesuffix("/")) if prefix else ""
        path = self._location.path(key)
        if not self._location.bucket and not self._try("list", key, Path("/", path).is_dir):
            return iter(())
        stream = self._try("list", key, lambda: obstore.list(self._backend, path or None, chunk_size=LIST_CHUNK))
        batches = iter(lambda: self._try("list", key, lambda: next(stream, None)), None)
        # A folder marker, the empty object `prefix/` of some tools, comes under the name of the prefix itself.
        entries = (self._info(meta) for batch in batches for meta in batch if meta["path"] != path)
        # S3 lists in this order by itself, a folder in none.
        return entries if self._location.bucket else iter(sorted(entries, key=lambda entry: entry.key))

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the store, on the server, over whatever is at the target; a hard link in a folder."""
        from_path, to_path = self._path(source), self._path(target)
        if self._is_same_file(source, target):
            self.head(source)
            return
        self._try(f"copy to {self.uri(target)} from", source, lambda: obstore.copy(self._backend, from_path, to_path))

    def delete(self, key: str) -> None:
        """Delete an object, and the folders that it leaves empty; none there is fine."""
        path = self._path(key)
        try:
            self._try("delete", key, lambda: obstore.delete(self._backend, path))
        except ObjectMissingError:
            if self._location.bucket:  # then it is the bucket that is missing: deleting no object succeeds
                raise
        if self.is_folder:
            remove_empty_folders(Path("/", path), key)

    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete objects, in no order, as `delete` does; a failure leaves some of them. Memory holds a batch of keys.

        Args:
            keys: Which; S3 is asked for several at once.
        """
        if self.is_folder:
            for key in keys:
                self.delete(key)
            return
        remaining = iter(keys)
        while batch := [self._path(key) for key in islice(remaining, DELETE_BATCH)]:
            self._try("delete objects of", "", lambda batch=batch: obstore.delete(self._backend, batch))  # type: ignore[misc]

    def unfinished(self, prefix: str = "") -> Iterator[Unfinished]:
        """What writers began below a path prefix (see `list`) and did not finish, those at work included; in no order.

        Raises:
            StoreError: While iterating: access is denied, or the server does not tell.
        """
        key = check_key(prefix.removesuffix("/")) if prefix else ""
        if self._access is None:
            return staged_files(self._location, key, self._calls)
        return uploads(self._access, self._location, key, self._calls)

    def discard(self, unfinished: Unfinished) -> None:
        """Remove what a writer began; if it is still at work, its commit fails. None there is fine."""
        check_key(unfinished.key)
        if self._access is not None:
            abort_upload(self._access, self._location, unfinished, self._calls)
            return
        remove_staged_file(self._location, unfinished, self._calls)
        remove_empty_folders(Path("/", self._path(unfinished.key)), unfinished.key)

    def content_matches(self, info: ObjectInfo, data: Data) -> bool:
        """Whether an object holds exactly these bytes.

        S3 answers without being read where the ETag is the MD5 of the content. Everything else (folders, multipart
        uploads, encrypted objects, another content of the same size) is read and compared.
        """
        expected = memoryview(data).cast("B")
        if info.size_bytes != expected.nbytes:
            return False
        if self._location.bucket and _is_md5_of(info.etag, expected):
            return True
        start = 0
        for chunk in self._chunks(info.key):
            end = start + len(chunk)
            if bytes(expected[start:end]) != chunk:
                return False
            start = end
        return start == expected.nbytes

    def check_access(self) -> None:
        """Find out with one cheap request, before any work, whether the store can be read.

        Raises:
            ObjectMissingError: There is no such bucket.
            StoreError: Access is denied, the credentials are wrong; a folder is a file or cannot be created.
            TransientError: Nothing answers.
        """
        if self._location.bucket is None:
            check_folder(Path("/", self._location.root), self.url)
            return
        path = self._location.path(_ACCESS_PROBE)
        try:
            # GET, because the answer to HEAD does not tell a missing bucket from a missing object.
            self._try("access", "", lambda: obstore.get(self._backend, path))
        except ObjectMissingError as error:
            code = error.context.get("code")
            if code == "NoSuchBucket":
                raise
            if code is None:
                server = self.spec.endpoint_url or "what answers for AWS"
                raise StoreError(f"cannot access {self.url}: {server} is no S3 server: check endpoint_url") from None

    def _write(self, key: str, data: memoryview | Path, size_bytes: int, *, create: bool) -> None:
        path, backend = self._path(key), self._backend
        if create and size_bytes > PART_BYTES and self._access:
            backend = self._access.client(bulk=True)
        # An overwrite larger than chunk_size goes in parts and appears when the last one is there.
        part_bytes = max(PART_BYTES, -(-size_bytes // MAX_PARTS))
        self._try(
            "create" if create else "write",
            key,
            lambda: obstore.put(
                backend,
                path,
                data,
                mode="create" if create else "overwrite",
                chunk_size=part_bytes,
                max_concurrency=PARTS_IN_FLIGHT,
            ),
            writes=True,
        )

    def _chunks(self, key: str) -> Iterator[bytes]:
        """The object's bytes in pieces; TransientError when they end early."""
        path = self._path(key)
        result = self._try("read", key, lambda: obstore.get(self._backend, path))
        stream = iter(result.stream(min_chunk_size=CHUNK_BYTES))
        expected, found = result.meta["size"], 0
        while (chunk := self._try("read", key, lambda: next(stream, None))) is not None:
            found += len(chunk)
            yield bytes(chunk)
        if found != expected:
            uri = self.uri(key)
            raise TransientError(f"cannot read {uri}: it ended after {found} of {expected} bytes; try again", uri=uri)

    def _is_same_file(self, source: str, target: str) -> bool:
        """Whether both are one file, as after a copy: renaming a link over the other would leave its staging file."""
        first, second = self.local_path(source), self.local_path(target)
        if source == target or first is None or second is None:
            return source == target
        return first.is_file() and second.is_file() and first.samefile(second)

    def _path(self, key: str) -> str:
        return self._location.path(check_key(key))

    def _info(self, meta: ObjectMeta) -> ObjectInfo:
        root = self._location.root
        key = meta["path"][len(root) + 1 :] if root else meta["path"]
        return ObjectInfo(key, meta["size"], meta["e_tag"], meta["last_modified"])


def _is_md5_of(etag: str | None, data: memoryview) -> bool:
    match = _MD5_ETAG.fullmatch(etag or "")
    return match is not None and hashlib.md5(data, usedforsecurity=False).hexdigest() == match[1]
