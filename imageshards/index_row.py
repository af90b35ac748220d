"""What a row of the index is, what is known of a whole index, and the hashes of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from imageshards.oxford_pets import Box

INDEX_VERSION = 2

ROW_GROUP_ROWS = 4096
"""About 400 KB, of which a work unit reads one or two."""

METADATA_KEY = b"imageshards.index"

TOO_LARGE_RULE = "member-too-large"
"""An image file larger than the archive reader's limit: counted, not stored."""

NO_SPLIT_RULE = "no-split"
"""An image that neither split lists."""

UNLISTED_SPLIT = "unlisted"
"""The split of images in no split, where they are kept."""

SCHEMA = pa.schema(
    [  # what is counted and planned by stands first and side by side: such a part is read by one range
        pa.field("split", pa.string()),
        pa.field("left_out", pa.string()),
        pa.field("label", pa.int16()),
        pa.field("class_name", pa.string()),
        pa.field("species", pa.string()),
        pa.field("sample_hash", pa.uint64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("source_key", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("source_size_bytes", pa.int64(), nullable=False),
        pa.field("head_box", pa.list_(pa.float64(), 4)),
        pa.field("head_box_frame", pa.list_(pa.int32(), 2)),
        pa.field("trimap_key", pa.string()),
        pa.field("trimap_sha256", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One source image.

    Attributes:
        image_id: File name without its suffix; unique.
        member: Name in the archive.
        source_key: Object in the raw store.
        source_sha256: Digest of the file's bytes.
        source_size_bytes: Size of the file.
        label: 0-based class id, None where the image has no class.
        class_name: Name of that class.
        species: `cat` or `dog`.
        split: `trainval`, `test`, or None.
        head_box: xmin, ymin, xmax, ymax in pixels of the frame.
        head_box_frame: Width and height of the picture that the box speaks of, where known.
        trimap_key: Object in the raw store, None where there is none.
        trimap_sha256: Digest of the trimap's bytes.
        left_out: Name of the rule by which the image can never become a row, None where it can.
    """

    image_id: str
    member: str
    source_key: str
    source_sha256: str
    source_size_bytes: int
    label: int | None = None
    class_name: str | None = None
    species: str | None = None
    split: str | None = None
    head_box: Box | None = None
    head_box_frame: tuple[int, int] | None = None
    trimap_key: str | None = None
    trimap_sha256: str | None = None
    left_out: str | None = None

    @property
    def sample_hash(self) -> int:
        """Where the image stands in its split: the first 8 bytes of the SHA-256 of its id, big-endian."""
        return sample_hash(self.image_id)


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What is known of an index without reading its rows.

    Attributes:
        key: The index object in the raw store.
        digest: Hash of the index's content (ids, digests, annotations), 64 hexadecimal digits.
        dataset: Name of the dataset.
        images: Number of rows.
        class_names: By class id.
        members: Members of both archives by kind, e.g. `image`, `trimap`, `appledouble`, `not-an-image`.
        images_sha256: Digest of the images archive.
        annotations_sha256: Digest of the annotations archive.
    """

    key: str
    digest: str
    dataset: str
    images: int
    class_names: tuple[str, ...]
    members: Mapping[str, int]
    images_sha256: str
    annotations_sha256: str

    def to_metadata(self) -> bytes:
        """Everything but the key, as it stands in the file's metadata."""
        content = {
            "version": INDEX_VERSION,
            "digest": self.digest,
            "dataset": self.dataset,
            "images": self.images,
            "class_names": list(self.class_names),
            "members": dict(sorted(self.members.items())),
            "images_sha256": self.images_sha256,
            "annotations_sha256": self.annotations_sha256,
        }
        return json.dumps(content).encode()

    @classmethod
    def from_metadata(cls, key: str, metadata: Mapping[bytes, bytes] | None) -> IndexInfo:
        """Read back what `to_metadata` gave.

        Raises:
            ValueError: It is not of this version.
            KeyError: Something is missing.
        """
        raw = (metadata or {}).get(METADATA_KEY)
        content = json.loads(raw) if raw else {}
        if content.get("version") != INDEX_VERSION:
            raise ValueError(f"expected index version {INDEX_VERSION}, found {content.get('version')}")
        return cls(
            key=key,
            digest=content["digest"],
            dataset=content["dataset"],
            images=content["images"],
            class_names=tuple(content["class_names"]),
            members=content["members"],
            images_sha256=content["images_sha256"],
            annotations_sha256=content["annotations_sha256"],
        )


@lru_cache(maxsize=4096)  # a work unit asks thrice for each of its images
def sample_hash(image_id: str) -> int:
    """An even spread of image ids over 0 … 2^64 - 1, the same on every machine."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big")


def index_order(row: IndexRow) -> tuple[str, int, str]:
    """What rows are sorted by: split (none first), hash of the image id, image id."""
    return row.split or "", row.sample_hash, row.image_id


class ContentDigest:
    """Hash of what a dataset is made from: ids, digests and annotations, whatever the archives or keys were called.

    Args:
        class_names: By class id.
    """

    def __init__(self, class_names: Iterable[str]) -> None:
        self._digest = hashlib.sha256(json.dumps([INDEX_VERSION, *class_names]).encode())

    def update(self, columns: Mapping[str, Iterable[Any]]) -> None:
        """Take in the next rows, in the order of the index, as columns of Python values."""
        digested = {**columns, "source_key": map(_suffix, columns["source_key"])}
        rows = zip(*(digested[name] for name in _DIGESTED), strict=True)
        self._digest.update("".join(map(json.dumps, rows)).encode())

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return self._digest.hexdigest()


def content_digest(rows: Iterable[IndexRow], class_names: Iterable[str]) -> str:
    """The content digest of rows in any order."""
    digest = ContentDigest(class_names)
    digest.update(columns_of(sorted(rows, key=index_order), _DIGESTED))
    return digest.hexdigest()


def row_digest(row: IndexRow) -> bytes:
    """Hash of everything about one image that a row of a shard can depend on, 32 bytes."""
    content = tuple(_suffix(row.source_key) if name == "source_key" else getattr(row, name) for name in _DIGESTED)
    return hashlib.sha256(json.dumps(content).encode()).digest()


_DIGESTED = (
    "image_id",
    "source_sha256",
    "source_key",
    "label",
    "class_name",
    "species",
    "split",
    "head_box",
    "head_box_frame",
    "trimap_sha256",
    "left_out",
)
"""What a row of a shard can depend on; of the key its suffix alone."""


def columns_of(rows: Iterable[IndexRow], names: Iterable[str] = SCHEMA.names) -> dict[str, list[Any]]:
    """Rows as columns of Python values."""
    rows = list(rows)
    return {name: [getattr(row, name) for row in rows] for name in names}


def _suffix(key: str) -> str:
    return key.rpartition(".")[2]
