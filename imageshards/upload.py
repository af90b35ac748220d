"""One streaming pass over the two archives into the raw store; ends with the index.

This thread reads the archives and hashes their members, others write objects, and what has to be remembered of each
goes to a scratch database. So neither memory nor the time for an image grows with their number.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imageshards.annotations import AnnotationsReader
from imageshards.archive import junk_rule, members
from imageshards.catalog import Catalog, index_columns
from imageshards.errors import ObjectMissingError, SourceError
from imageshards.fetch import Fetched
from imageshards.index import IndexInfo, index_key, read_index_info
from imageshards.index_row import ROW_GROUP_ROWS
from imageshards.index_writer import IndexWriter
from imageshards.object_writer import ObjectWriter
from imageshards.oxford_pets import Classes, is_annotation
from imageshards.store import Store

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".jp2"})

_MAX_NAMES_SHOWN = 5
_PROGRESS_IMAGES = 64

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
    prefix = f"raw/{dataset}/"
    with Catalog() as catalog:
        with ObjectWriter(store, prefix, catalog) as writer:
            classes, counts = _upload_annotations(annotations.path, catalog, writer)
            counts += _upload_images(images.path, catalog, writer, on_progress)
        _check_annotations_belong(catalog, images.path, annotations.path)
        info = IndexInfo(
            key=key,
            digest="",
            dataset=dataset,
            images=0,
            class_names=classes.names,
            members=dict(sorted(counts.items())),
            images_sha256=images.sha256,
            annotations_sha256=annotations.sha256,
        )
        info = _write_index(catalog, classes, prefix, store, info)
    return Uploaded(info, writer.written, writer.skipped, writer.written_bytes)


def _write_index(catalog: Catalog, classes: Classes, prefix: str, store: Store, info: IndexInfo) -> IndexInfo:
    with IndexWriter(store, info.key, folder=catalog.folder, class_names=classes.names) as writer:
        for rows in catalog.rows(ROW_GROUP_ROWS):
            writer.write(index_columns(rows, classes, prefix))
        return writer.finish(info)


def _upload_annotations(path: Path, catalog: Catalog, writer: ObjectWriter) -> tuple[Classes, Counter[str]]:
    reader = AnnotationsReader(catalog)
    counts: Counter[str] = Counter()
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
        top, _, below = member.name.partition("/")
        inside = below if top == "annotations" else member.name
        if not inside:
            raise SourceError(f"{path}: a file named {member.name} where a folder was expected", member=member.name)
        name, digest = f"annotations/{inside}", hashlib.sha256(data)
        if not catalog.add_annotation(name, digest.digest()):
            if catalog.annotation_digest(name) != digest.digest():
                raise SourceError(f"{path} holds {member.name} twice, with different content", member=member.name)
            counts[DUPLICATE_RULE] += 1
            continue
        reader.add(member.name, data)
        folder, file = _folder_and_file(member.name)
        stem, suffix = _stem_and_suffix(file)
        if suffix == ".png" and _folder_and_file(folder)[1] == "trimaps":
            if not catalog.add_trimap(stem, name, digest.digest()):
                raise SourceError(f"{path} holds a second {file}, {member.name}", member=member.name)
            counts["trimap"] += 1
        else:
            counts["annotation"] += 1
        writer.put(name, digest.hexdigest(), data)
        del data  # else it is in memory while the next one is read
    return reader.finish(), counts


def _upload_images(path: Path, catalog: Catalog, writer: ObjectWriter, on_progress: Progress | None) -> Counter[str]:
    counts: Counter[str] = Counter()
    for member, data in members(path):
        if is_annotation(member.name):
            raise SourceError(
                f"{path} holds {member.name}: this is an annotations archive, expected images; check that --images and "
                "--annotations name the right ones",
                member=member.name,
            )
        kind = _kind(member.name)
        if kind == "image":
            file = _folder_and_file(member.name)[1]
            image_id = _stem_and_suffix(file)[0]
            digest = None if data is None else hashlib.sha256(data)
            name = None if data is None else f"images/{file}"
            if not catalog.add_image(
                image_id,
                member.name,
                name=name,
                sha256=digest.digest() if digest else None,
                size_bytes=member.size_bytes,
            ):
                _check_same_content(path, catalog, image_id, member.name, digest.digest() if digest else None)
                kind = DUPLICATE_RULE
            elif data is not None and digest is not None and name is not None:
                writer.put(name, digest.hexdigest(), data)
        del data  # else it is in memory while the next one is read
        counts[kind] += 1
        if on_progress and kind == "image" and counts[kind] % _PROGRESS_IMAGES == 0:
            on_progress(counts[kind])
    if not counts["image"]:
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()) if count) or "no files"
        raise SourceError(f"{path} holds no images: expected {', '.join(sorted(IMAGE_SUFFIXES))} files, found {found}")
    if on_progress:
        on_progress(counts["image"])
    return counts


def _kind(name: str) -> str:
    if rule := junk_rule(name):
        return rule
    suffix = _stem_and_suffix(_folder_and_file(name)[1])[1]
    return "image" if suffix.lower() in IMAGE_SUFFIXES else NOT_AN_IMAGE_RULE


def _folder_and_file(name: str) -> tuple[str, str]:
    """A member's name in two; pathlib takes 4 µs for each of several questions a member."""
    folder, _, file = name.rpartition("/")
    return folder, file


def _stem_and_suffix(file: str) -> tuple[str, str]:
    """As pathlib has them: `.jpg` and `name.` have no suffix."""
    dot = file.rfind(".")
    return (file[:dot], file[dot:]) if 0 < dot < len(file) - 1 else (file, "")


def _check_same_content(path: Path, catalog: Catalog, image_id: str, name: str, sha256: bytes | None) -> None:
    first_name, first_sha256 = catalog.image(image_id)
    if sha256 is None or sha256 != first_sha256:
        raise SourceError(
            f"{path} holds two images named {image_id} with different content ({first_name} and {name}): "
            "which one is meant cannot be told; remove one of them from the archive",
            member=name,
        )


def _check_annotations_belong(catalog: Catalog, images: Path, labels: Path) -> None:
    listed, missing, names = catalog.missing_images(_MAX_NAMES_SHOWN)
    if missing:
        raise SourceError(
            f"{labels} lists {listed} images, but {images} holds {missing} of them not: "
            f"{', '.join(names)}{' …' if missing > len(names) else ''}; "
            "check that both archives belong to the same dataset",
            missing=missing,
        )
