"""What one upload has seen, in a scratch database: memory stays the same however many images an archive holds.

Images, lists, boxes and trimaps come in whatever order the archives have; `Catalog.rows` joins them in the order of the
index. The database is not kept: an upload that broke off starts anew and finds its objects in the store.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from imageshards.errors import StoreError
from imageshards.index_row import TOO_LARGE_RULE, sample_hash
from imageshards.oxford_pets import Classes, HeadBox, ListEntry
from imageshards.store import ObjectInfo

_CACHE_KIB = 16 << 10
"""For pages while images come in any order; what does not fit goes to the temporary folder."""

_SORT_KIB = 4 << 10
"""For pages, and again for sorting, once all is known: every table is then read in its own order. No slower."""

_PAGE_BYTES = 16 << 10
"""A quarter of the reads and writes that SQLite's own 4 KiB take for millions of images."""

_SIGNED = 1 << 63
"""SQLite's integers are signed; less this a hash keeps its order."""

_SET_UP = f"""
PRAGMA page_size = {_PAGE_BYTES};
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -{_CACHE_KIB};
CREATE TABLE images (
    image_id TEXT PRIMARY KEY, hash INTEGER, member TEXT, name TEXT, sha256 BLOB, size_bytes INTEGER) WITHOUT ROWID;
CREATE TABLE annotations (name TEXT PRIMARY KEY, sha256 BLOB) WITHOUT ROWID;
CREATE TABLE trimaps (image_id TEXT PRIMARY KEY, name TEXT, sha256 BLOB) WITHOUT ROWID;
CREATE TABLE boxes (
    image_id TEXT PRIMARY KEY, xmin REAL, ymin REAL, xmax REAL, ymax REAL, width INTEGER, height INTEGER) WITHOUT ROWID;
CREATE TABLE listed (image_id TEXT PRIMARY KEY, class_id INTEGER, species TEXT) WITHOUT ROWID;
CREATE TABLE splits (image_id TEXT PRIMARY KEY, split TEXT, class_id INTEGER, species TEXT) WITHOUT ROWID;
CREATE TABLE moved (name TEXT PRIMARY KEY, stored_name TEXT) WITHOUT ROWID;
CREATE TABLE present (key TEXT PRIMARY KEY, size_bytes INTEGER, etag TEXT) WITHOUT ROWID;
BEGIN;
"""

_JOIN = """
SELECT images.image_id, hash, member, coalesce(moved_image.stored_name, images.name), images.sha256, size_bytes,
       listed.class_id, split, xmin, ymin, xmax, ymax, width, height,
       coalesce(moved_trimap.stored_name, trimaps.name), trimaps.sha256
FROM images
LEFT JOIN listed ON listed.image_id = images.image_id
LEFT JOIN splits ON splits.image_id = images.image_id
LEFT JOIN boxes ON boxes.image_id = images.image_id
LEFT JOIN trimaps ON trimaps.image_id = images.image_id
LEFT JOIN moved AS moved_image ON moved_image.name = images.name
LEFT JOIN moved AS moved_trimap ON moved_trimap.name = trimaps.name
ORDER BY split, hash, images.image_id
"""


class JoinedRow(NamedTuple):
    """One image and all that was said of it; None for what was not.

    Attributes:
        image_id: File name without its suffix.
        sample_hash: Hash of the image id, less 2^63.
        member: Name in the archive.
        name: Name in the store; None for an image that was not stored.
        sha256: Digest of its bytes; None likewise.
        size_bytes: Their number.
        class_id: 0-based; of the list.
        split: Of the split lists.
        xmin: Of the head box, as all that follow.
        ymin: In pixels.
        xmax: In pixels.
        ymax: In pixels.
        width: Of the picture that the box speaks of.
        height: Of the picture that the box speaks of.
        trimap_name: Name in the store.
        trimap_sha256: Digest of its bytes.
    """

    image_id: str
    sample_hash: int
    member: str
    name: str | None
    sha256: bytes | None
    size_bytes: int
    class_id: int | None
    split: str | None
    xmin: float | None
    ymin: float | None
    xmax: float | None
    ymax: float | None
    width: int | None
    height: int | None
    trimap_name: str | None
    trimap_sha256: bytes | None


class Contradiction(NamedTuple):
    """An image that a split list and list.txt speak of differently."""

    image_id: str
    split: str
    split_class_id: int
    split_species: str
    list_class_id: int
    list_species: str


class Catalog:
    """The scratch database of one upload; to be entered, and used by one thread.

    What is added twice is left as it was, and told so by False.

    Attributes:
        folder: For other files of the upload; goes with the database.
    """

    def __enter__(self) -> Catalog:
        self._folder = tempfile.TemporaryDirectory(prefix="imageshards-")
        self.folder = Path(self._folder.name)
        # Without a name: on disk once it outgrows the cache, in a file that goes even if this process is killed.
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(_SET_UP)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._folder.cleanup()
        if isinstance(error, sqlite3.Error | OSError):
            raise StoreError(
                f"the scratch database and folder ({self.folder}) cannot be used: {error}; they take about 1 KB an "
                "image: let TMPDIR name a folder on a disk with more room"
            ) from error

    @property
    def size_bytes(self) -> int:
        """Of the database."""
        pages: int = self._one("PRAGMA page_count")[0]
        return pages * _PAGE_BYTES

    def add_image(self, image_id: str, member: str, *, name: str | None, sha256: bytes | None, size_bytes: int) -> bool:
        """Take in an image, by its names in the archive and in the store (None where it is not stored)."""
        return self._add(
            "INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?, ?, ?)",
            (image_id, sample_hash(image_id) - _SIGNED, member, name, sha256, size_bytes),
        )

    def image(self, image_id: str) -> tuple[str, bytes | None]:
        """Name in the archive, and digest, of an image that is known."""
        found = self._one("SELECT member, sha256 FROM images WHERE image_id = ?", image_id)
        return found[0], found[1]

    def add_annotation(self, name: str, sha256: bytes) -> bool:
        """Take in a file of the annotations archive, by its name in the store."""
        return self._add("INSERT OR IGNORE INTO annotations VALUES (?, ?)", (name, sha256))

    def annotation_digest(self, name: str) -> bytes:
        """Digest of an annotation that is known."""
        digest: bytes = self._one("SELECT sha256 FROM annotations WHERE name = ?", name)[0]
        return digest

    def add_trimap(self, image_id: str, name: str, sha256: bytes) -> bool:
        """Take in the trimap of an image, by its name in the store."""
        return self._add("INSERT OR IGNORE INTO trimaps VALUES (?, ?, ?)", (image_id, name, sha256))

    def add_box(self, image_id: str, head_box: HeadBox | None) -> bool:
        """Take in the head box of an image; None where its file holds none."""
        box = head_box.box if head_box else (None,) * 4
        frame = head_box.frame if head_box and head_box.frame else (None,) * 2
        return self._add("INSERT OR IGNORE INTO boxes VALUES (?, ?, ?, ?, ?, ?, ?)", (image_id, *box, *frame))

    def add_listed(self, entry: ListEntry) -> bool:
        """Take in a line of list.txt."""
        return self._add(
            "INSERT OR IGNORE INTO listed VALUES (?, ?, ?)", (entry.image_id, entry.class_id, entry.class_.species)
        )

    def add_to_split(self, split: str, entry: ListEntry) -> bool:
        """Take in a line of a split list."""
        return self._add(
            "INSERT OR IGNORE INTO splits VALUES (?, ?, ?, ?)",
            (entry.image_id, split, entry.class_id, entry.class_.species),
        )

    def split_of(self, image_id: str) -> str:
        """The split that an image is known to be in."""
        split: str = self._one("SELECT split FROM splits WHERE image_id = ?", image_id)[0]
        return split

    def contradiction(self) -> Contradiction | None:
        """An image that a split list and list.txt speak of differently, the first by name."""
        found = self._db.execute(
            "SELECT image_id, split, splits.class_id, splits.species, listed.class_id, listed.species "
            "FROM splits JOIN listed USING (image_id) "
            "WHERE splits.class_id != listed.class_id OR splits.species != listed.species ORDER BY image_id LIMIT 1"
        ).fetchone()
        return Contradiction(*found) if found else None

    def in_splits_alone(self) -> tuple[int, str | None]:
        """How many images split lists name that list.txt does not, and the first of them by name."""
        found = self._one(
            "SELECT count(*), min(image_id) FROM splits WHERE image_id NOT IN (SELECT image_id FROM listed)"
        )
        return found[0], found[1]

    def missing_images(self, limit: int) -> tuple[int, int, list[str]]:
        """How many images are listed, how many of them the archive holds not, and the first of those by name."""
        listed = self._one("SELECT count(*) FROM listed")[0]
        missing = "FROM listed WHERE image_id NOT IN (SELECT image_id FROM images)"
        number = self._one(f"SELECT count(*) {missing}")[0]
        names = self._db.execute(f"SELECT image_id {missing} ORDER BY image_id LIMIT ?", (limit,))
        return listed, number, [name for (name,) in names]

    def move(self, name: str, stored_name: str) -> None:
        """Note that what was to be stored under one name lies under another."""
        self._add("INSERT OR REPLACE INTO moved VALUES (?, ?)", (name, stored_name))

    def add_present(self, objects: Iterable[ObjectInfo]) -> bool:
        """Take in what the store holds; False where that is nothing."""
        rows = ((info.key, info.size_bytes, info.etag) for info in objects)
        return self._db.executemany("INSERT OR REPLACE INTO present VALUES (?, ?, ?)", rows).rowcount > 0

    def present(self, key: str) -> ObjectInfo | None:
        """What the store holds under a key."""
        found = self._db.execute("SELECT key, size_bytes, etag FROM present WHERE key = ?", (key,)).fetchone()
        return ObjectInfo(*found) if found else None

    def rows(self, count: int) -> Iterator[list[JoinedRow]]:
        """Every image with all that was said of it, in the order of the index, some rows at a time."""
        self._db.execute(f"PRAGMA cache_size = -{_SORT_KIB}")
        self._db.execute("PRAGMA shrink_memory")
        found = self._db.execute(_JOIN)
        while rows := found.fetchmany(count):
            yield [JoinedRow._make(row) for row in rows]

    def _add(self, statement: str, values: tuple[Any, ...]) -> bool:
        return self._db.execute(statement, values).rowcount > 0

    def _one(self, query: str, *values: Any) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._db.execute(query, values).fetchone()
        return row


def index_columns(rows: Sequence[JoinedRow], classes: Classes, prefix: str) -> dict[str, Sequence[Any]]:
    """Rows of the catalog as columns of the index.

    Args:
        rows: Some rows.
        classes: Of the dataset.
        prefix: What comes before the names of objects.
    """
    column = dict(zip(JoinedRow._fields, zip(*rows, strict=True), strict=True))
    labels = [
        classes.id_by_name(image_id) if class_id is None else class_id
        for image_id, class_id in zip(column["image_id"], column["class_id"], strict=True)
    ]
    boxes = zip(*(column[edge] for edge in ("xmin", "ymin", "xmax", "ymax")), strict=True)
    frames = zip(column["width"], column["height"], strict=True)
    return {
        "image_id": column["image_id"],
        "sample_hash": [value + _SIGNED for value in column["sample_hash"]],
        "member": column["member"],
        "source_key": ["" if name is None else prefix + name for name in column["name"]],
        "source_sha256": ["" if digest is None else digest.hex() for digest in column["sha256"]],
        "source_size_bytes": column["size_bytes"],
        "label": labels,
        "class_name": [None if label is None else classes.names[label] for label in labels],
        "species": [None if label is None else classes.species[label] for label in labels],
        "split": column["split"],
        "head_box": [None if box[0] is None else box for box in boxes],
        "head_box_frame": [None if frame[0] is None else frame for frame in frames],
        "trimap_key": [None if name is None else prefix + name for name in column["trimap_name"]],
        "trimap_sha256": [None if digest is None else digest.hex() for digest in column["trimap_sha256"]],
        "left_out": [TOO_LARGE_RULE if name is None else None for name in column["name"]],
    }
