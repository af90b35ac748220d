"""The index: one row per source image, so that preprocessing lists nothing.

Rows are sorted by split, then by a hash of the image id: the images of one work unit lie side by side, and a worker
reads only their row groups.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imageshards.errors import StoreError
from imageshards.oxford_pets import Box
from imageshards.store import Store

INDEX_VERSION = 1

_ROW_GROUP_ROWS = 8192
_METADATA_KEY = b"imageshards.index"

TOO_LARGE_RULE = "member-too-large"
"""An image file larger than the archive reader's limit: counted, not stored."""

NO_SPLIT_RULE = "no-split"
"""An image that neither split lists."""

UNLISTED_SPLIT = "unlisted"
"""The split of images in no split, where they are kept."""

_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("source_key", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("source_size_bytes", pa.int64(), nullable=False),
        pa.field("label", pa.int16()),
        pa.field("class_name", pa.string()),
        pa.field("species", pa.string()),
        pa.field("split", pa.string()),
        pa.field("head_box", pa.list_(pa.float64(), 4)),
        pa.field("head_box_frame", pa.list_(pa.int32(), 2)),
        pa.field("trimap_key", pa.string()),
        pa.field("trimap_sha256", pa.string()),
        pa.field("left_out", pa.string()),
        pa.field("sample_hash", pa.uint64(), nullable=False),
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


def sample_hash(image_id: str) -> int:
    """An even spread of image ids over 0 … 2^64 - 1, the same on every machine."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big")


def index_key(dataset: str, images_sha256: str, annotations_sha256: str) -> str:
    """Where the index of a pair of archives lies in the raw store."""
    source = f"{INDEX_VERSION}:{images_sha256}:{annotations_sha256}"
    return f"raw/{dataset}/index/{hashlib.sha256(source.encode()).hexdigest()[:32]}.parquet"


def content_digest(rows: Iterable[IndexRow], class_names: Iterable[str]) -> str:
    """Hash of what a dataset is made from: ids, digests and annotations, whatever the archives or keys were called."""
    digest = hashlib.sha256(json.dumps([INDEX_VERSION, *class_names]).encode())
    for row in sorted(rows, key=lambda row: row.image_id):
        digest.update(row_digest(row))
    return digest.hexdigest()


def row_digest(row: IndexRow) -> bytes:
    """Hash of everything about one image that a row of a shard can depend on, 32 bytes."""
    content = (
        row.image_id,
        row.source_sha256,
        _suffix(row.source_key),
        row.label,
        row.class_name,
        row.species,
        row.split,
        row.head_box,
        row.head_box_frame,
        row.trimap_sha256,
        row.left_out,
    )
    return hashlib.sha256(json.dumps(content).encode()).digest()


def _suffix(key: str) -> str:
    return key.rpartition(".")[2]


def write_index(store: Store, rows: Iterable[IndexRow], *, info: IndexInfo) -> None:
    """Write the index in one atomic write; writing the same index again changes nothing."""
    ordered = sorted(rows, key=lambda row: (row.split or "", row.sample_hash, row.image_id))
    columns = {name: [getattr(row, name) for row in ordered] for name in _SCHEMA.names}
    metadata = {
        "version": INDEX_VERSION,
        "digest": info.digest,
        "dataset": info.dataset,
        "images": info.images,
        "class_names": list(info.class_names),
        "members": dict(sorted(info.members.items())),
        "images_sha256": info.images_sha256,
        "annotations_sha256": info.annotations_sha256,
    }
    schema = _SCHEMA.with_metadata({_METADATA_KEY: json.dumps(metadata).encode()})
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer, row_group_size=_ROW_GROUP_ROWS, compression="zstd")
    store.put(info.key, buffer.getbuffer())


def read_index_info(store: Store, key: str) -> IndexInfo:
    """Read what an index is, without its rows.

    Raises:
        ObjectMissingError: There is no such index.
        StoreError: The object is no index of this version.
    """
    try:
        return _info(key, pq.read_schema(_input(store, key)))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise _damaged(store, key, str(error).strip()) from error


def read_index(
    store: Store, key: str, *, columns: Sequence[str] | None = None, hash_range: tuple[int, int] | None = None
) -> pa.Table:
    """Read rows of the index, sorted by split, then by hash of the image id.

    Args:
        store: The raw store.
        key: The index object.
        columns: Which columns; all of them by default.
        hash_range: First and last sample hash wanted; row groups outside of it are not decoded.

    Raises:
        ObjectMissingError: There is no such index.
        StoreError: The object is no Parquet file, or a damaged one.
    """
    try:
        # Not pq.read_table: it imports pyarrow.dataset, 60 MB in each worker.
        with pq.ParquetFile(_input(store, key)) as file:
            groups = [group for group in range(file.num_row_groups) if _overlaps(file.metadata, group, hash_range)]
            wanted = None if columns is None else list(dict.fromkeys([*columns, "sample_hash"]))
            table = file.read_row_groups(groups, columns=wanted, use_threads=False).replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(store, key, str(error).strip()) from error
    if hash_range is not None:
        first, last = (pa.scalar(value, pa.uint64()) for value in hash_range)
        hashes = table.column("sample_hash")
        table = table.filter(pc.and_(pc.greater_equal(hashes, first), pc.less_equal(hashes, last)))
    return table if columns is None else table.select(list(columns))


def _overlaps(metadata: pq.FileMetaData, group: int, hash_range: tuple[int, int] | None) -> bool:
    if hash_range is None:
        return True
    statistics = metadata.row_group(group).column(_SCHEMA.get_field_index("sample_hash")).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min <= hash_range[1] and statistics.max >= hash_range[0])


def index_rows(table: pa.Table) -> list[IndexRow]:
    """The rows of a whole-width table that `read_index` gave."""
    names = [field.name for field in fields(IndexRow)]
    return [IndexRow(**{name: _frozen(row[name]) for name in names}) for row in table.select(names).to_pylist()]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _input(store: Store, key: str) -> pa.NativeFile:
    path = store.local_path(key)
    return pa.OSFile(str(path)) if path is not None and path.is_file() else pa.BufferReader(store.get(key))


def _info(key: str, schema: pa.Schema) -> IndexInfo:
    raw = (schema.metadata or {}).get(_METADATA_KEY)
    metadata = json.loads(raw) if raw else {}
    if metadata.get("version") != INDEX_VERSION:
        raise ValueError(f"expected index version {INDEX_VERSION}, found {metadata.get('version')}")
    return IndexInfo(
        key=key,
        digest=metadata["digest"],
        dataset=metadata["dataset"],
        images=metadata["images"],
        class_names=tuple(metadata["class_names"]),
        members=metadata["members"],
        images_sha256=metadata["images_sha256"],
        annotations_sha256=metadata["annotations_sha256"],
    )


def _damaged(store: Store, key: str, problem: str) -> StoreError:
    return StoreError(
        f"{store.uri(key)} is no index that this version reads: {problem}; delete it and run again", key=key
    )
