"""One streaming pass over the two archives into the raw store; ends with the index.

Objects are written in parallel with a bounded number of bytes in flight. An object that is there already with the same
content is not written again. One that is there with other content is left alone, for yesterday's index refers to it:
the new bytes go beside it, under a name with their digest in it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from imageshards.archive import junk_rule, members
from imageshards.errors import ObjectExistsError, ObjectMissingError, SourceError
from imageshards.fetch import Fetched
from imageshards.index import (
    TOO_LARGE_RULE,
    IndexInfo,
    IndexRow,
    content_digest,
    index_key,
    read_index_info,
    write_index,
)
from imageshards.oxford_pets import Annotations, AnnotationsReader, is_annotation
from imageshards.store import ObjectInfo, Store

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".jp2"})

_PARALLEL_WRITES = 16
_BYTES_IN_FLIGHT = 16 << 20
_MAX_NAMES_SHOWN = 5

NOT_AN_IMAGE_RULE = "not-an-image"
DUPLICATE_RULE = "duplicate-member"

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What an upload did.

    Attributes:
        index: The index that preprocessing reads.
        written: Objects written, the index not counted.
        skipped: Objects that were there already with the same content.
        written_bytes: Bytes of the objects written.
    """

    index: IndexInfo
    written: int
    skipped: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class _Stored:
    key: str
    sha256: str
    size_bytes: int


def upload(
    images: Fetched, annotations: Fetched, store: Store, *, dataset: str, on_progress: Progress | None = None
) -> Uploaded:
    """Bring both archives into the raw store and write the index.

    Idempotent: with the index of these very archives in place nothing is read or written.

    Args:
        images: The images archive.
        annotations: The annotations archive.
        store: The raw store.
        dataset: Name of the dataset, the folder under `raw/`.
        on_progress: Called now and then with the number of images seen so far.

    Raises:
        SourceError: An archive is damaged, unsafe, or not what it should be; there is no index then.
        StoreError: The store refuses.
        TransientError: The store is out of reach.
    """
    key = index_key(dataset, images.sha256, annotations.sha256)
    try:
        return Uploaded(read_index_info(store, key), 0, 0, 0)
    except ObjectMissingError:
        pass
    with _Writer(store, f"raw/{dataset}/") as writer:
        joined = _upload_annotations(annotations.path, writer)
        rows, counts = _upload_images(images.path, writer, joined, on_progress)
        counts.update(joined.members)
    _check_annotations_belong(joined.annotations, rows, images.path, annotations.path)
    info = IndexInfo(
        key=key,
        digest=content_digest(rows, joined.annotations.class_names),
        dataset=dataset,
        images=len(rows),
        class_names=joined.annotations.class_names,
        members=dict(sorted(counts.items())),
        images_sha256=images.sha256,
        annotations_sha256=annotations.sha256,
    )
    write_index(store, rows, info=info)
    return Uploaded(info, writer.written, writer.skipped, writer.written_bytes)


@dataclass(frozen=True, slots=True)
class _UploadedAnnotations:
    annotations: Annotations
    trimaps: dict[str, Future[_Stored]]
    members: Counter[str]


def _upload_annotations(path: Path, writer: _Writer) -> _UploadedAnnotations:
    reader = AnnotationsReader()
    trimaps: dict[str, Future[_Stored]] = {}
    counts: Counter[str] = Counter()
    seen: dict[str, Future[_Stored]] = {}
    for member, data in members(path):
        if rule := junk_rule(member.name):
            counts[rule] += 1
            continue
        if data is None:
            raise SourceError(
                f"{path}: {member.name} has {member.size_bytes} bytes, too large for an annotation", member=member.name
            )
        if _kind(member.name) == "image" and not is_annotation(member.name):
            raise SourceError(
                f"{path} holds {member.name}: this is an images archive, expected annotations; check that --images and "
                "--annotations name the right ones",
                member=member.name,
            )
        relative = PurePosixPath(member.name)
        inside = "/".join(relative.parts[1:]) if relative.parts[0] == "annotations" else str(relative)
        if not inside:
            raise SourceError(f"{path}: a file named {member.name} where a folder was expected", member=member.name)
        if inside in seen:
            if seen[inside].result().sha256 != _sha256(data):
                raise SourceError(f"{path} holds {member.name} twice, with different content", member=member.name)
            counts[DUPLICATE_RULE] += 1
            continue
        reader.add(member.name, data)
        seen[inside] = stored = writer.put(f"annotations/{inside}", data)
        if relative.parent.name == "trimaps" and relative.suffix == ".png":
            if relative.stem in trimaps:
                raise SourceError(f"{path} holds a second {relative.name}, {member.name}", member=member.name)
            trimaps[relative.stem] = stored
            counts["trimap"] += 1
        else:
            counts["annotation"] += 1
    return _UploadedAnnotations(reader.finish(), trimaps, counts)


def _upload_images(
    path: Path, writer: _Writer, joined: _UploadedAnnotations, on_progress: Progress | None
) -> tuple[list[IndexRow], Counter[str]]:
    counts: Counter[str] = Counter()
    stored: dict[str, tuple[str, Future[_Stored] | int]] = {}
    for member, data in members(path):
        if is_annotation(member.name):
            raise SourceError(
                f"{path} holds {member.name}: this is an annotations archive, expected images; check that --images and "
                "--annotations name the right ones",
                member=member.name,
            )
        kind = _kind(member.name)
        if kind == "image":
            image_id = PurePosixPath(member.name).stem
            if image_id in stored:
                _check_same_content(path, image_id, stored[image_id], member.name, data)
                kind = DUPLICATE_RULE
            elif data is None:
                stored[image_id] = member.name, member.size_bytes
            else:
                stored[image_id] = member.name, writer.put(f"images/{PurePosixPath(member.name).name}", data)
            if on_progress and len(stored) % 64 == 0:
                on_progress(len(stored))
        counts[kind] += 1
    if not stored:
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "no files"
        raise SourceError(f"{path} holds no images: expected {', '.join(sorted(IMAGE_SUFFIXES))} files, found {found}")
    if on_progress:
        on_progress(len(stored))
    return [_row(image_id, name, outcome, joined) for image_id, (name, outcome) in stored.items()], counts


def _kind(name: str) -> str:
    if rule := junk_rule(name):
        return rule
    return "image" if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES else NOT_AN_IMAGE_RULE


def _check_same_content(
    path: Path, image_id: str, first: tuple[str, Future[_Stored] | int], name: str, data: bytes | None
) -> None:
    first_name, outcome = first
    same = not isinstance(outcome, int) and data is not None and outcome.result().sha256 == _sha256(data)
    if not same:
        raise SourceError(
            f"{path} holds two images named {image_id} with different content ({first_name} and {name}): "
            "which one is meant cannot be told; remove one of them from the archive",
            member=name,
        )


def _row(image_id: str, member: str, outcome: Future[_Stored] | int, joined: _UploadedAnnotations) -> IndexRow:
    label = joined.annotations.label_of(image_id)
    head_box = joined.annotations.head_boxes.get(image_id)
    trimap = joined.trimaps[image_id].result() if image_id in joined.trimaps else None
    stored = None if isinstance(outcome, int) else outcome.result()
    return IndexRow(
        image_id=image_id,
        member=member,
        source_key=stored.key if stored else "",
        source_sha256=stored.sha256 if stored else "",
        source_size_bytes=stored.size_bytes if stored else int(outcome) if isinstance(outcome, int) else 0,
        label=label.class_id if label else None,
        class_name=label.class_name if label else None,
        species=label.species if label else None,
        split=label.split if label else None,
        head_box=head_box.box if head_box else None,
        head_box_frame=(head_box.frame.width, head_box.frame.height) if head_box and head_box.frame else None,
        trimap_key=trimap.key if trimap else None,
        trimap_sha256=trimap.sha256 if trimap else None,
        left_out=None if stored else TOO_LARGE_RULE,
    )


def _check_annotations_belong(annotations: Annotations, rows: list[IndexRow], images: Path, labels: Path) -> None:
    missing = sorted(annotations.labels.keys() - {row.image_id for row in rows})
    if missing:
        raise SourceError(
            f"{labels} lists {len(annotations.labels)} images, but {images} holds {len(missing)} of them not: "
            f"{', '.join(missing[:_MAX_NAMES_SHOWN])}{' …' if len(missing) > _MAX_NAMES_SHOWN else ''}; "
            "check that both archives belong to the same dataset",
            missing=len(missing),
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Writer:
    """Writes objects in parallel, with a bounded number of bytes in flight; an error stops the pass.

    Args:
        store: The raw store.
        prefix: Comes before every key.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._present: dict[str, ObjectInfo] = {}
        self._pool = ThreadPoolExecutor(_PARALLEL_WRITES, thread_name_prefix="upload")
        self._budget = _ByteBudget(_BYTES_IN_FLIGHT)
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self.written = 0
        self.skipped = 0
        self.written_bytes = 0

    def __enter__(self) -> _Writer:
        for folder in ("images/", "annotations/"):
            self._present.update({info.key: info for info in self._store.list(self._prefix + folder)})
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self._error = self._error or InterruptedError("the pass over the archive ended early")
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None and self._error:
            raise self._error

    def put(self, name: str, data: bytes) -> Future[_Stored]:
        """Write one object, soon; blocks while too many bytes are in flight."""
        self._budget.take(len(data))
        if self._error:
            raise self._error
        return self._pool.submit(self._put, name, data)

    def _put(self, name: str, data: bytes) -> _Stored:
        try:
            if self._error:
                raise self._error
            digest = _sha256(data)
            for key in self._keys(name, digest):
                if self._put_or_skip(key, data):
                    return _Stored(key, digest, len(data))
            raise SourceError(f"{self._store.uri(self._prefix + name)}: another object lies where its digest should be")
        except BaseException as error:
            self._error = self._error or error
            raise
        finally:
            self._budget.give_back(len(data))

    def _keys(self, name: str, digest: str) -> Iterator[str]:
        yield self._prefix + name
        path = PurePosixPath(name)
        yield self._prefix + str(path.with_name(f"{path.stem}.{digest[:16]}{path.suffix}"))

    def _put_or_skip(self, key: str, data: bytes) -> bool:
        """Whether the object lies there with this content now."""
        if info := self._present.get(key):
            same = self._store.content_matches(info, data)
            self._count(skipped=int(same))
            return same
        try:
            self._store.put(key, data, create=True)
        except ObjectExistsError:  # another run, or our own write whose answer was lost
            same = self._store.content_matches(self._store.head(key), data)
            self._count(skipped=int(same))
            return same
        self._count(written=1, written_bytes=len(data))
        return True

    def _count(self, *, written: int = 0, skipped: int = 0, written_bytes: int = 0) -> None:
        with self._lock:
            self.written += written
            self.skipped += skipped
            self.written_bytes += written_bytes


class _ByteBudget:
    """A semaphore that counts bytes; one item larger than the whole budget passes alone."""

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._free = size_bytes
        self._changed = threading.Condition()

    def take(self, size_bytes: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= min(size_bytes, self._size))
            self._free -= size_bytes

    def give_back(self, size_bytes: int) -> None:
        with self._changed:
            self._free += size_bytes
            self._changed.notify_all()
