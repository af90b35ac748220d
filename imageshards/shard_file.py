"""One Parquet file: rows go straight into the buffer of the row group that is being filled, then to the store.

The footer also holds the outcome of the shard's bucket (its rejects and repairs), so a finished shard tells all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imageshards.errors import StoreError
from imageshards.plan import row_size_bytes
from imageshards.recipe import Recipe
from imageshards.schema import METADATA_KEY, OUTCOME_KEY, image_size_bytes, shard_schema
from imageshards.store_output import Output

REJECTS_NAME = "rejects.parquet"
"""Lies beside the shards of a version; one row for each sample refused."""

ROW_GROUP_BYTES = 12 << 20
"""Within the 8 to 32 MB that readers like; a writer holds one row group for each resolution."""

_PAGE_BYTES = 1 << 20
"""Parquet's own default; but left to itself, its writer looks at a page's size only after 1024 rows. A row group in one
page is copied six times over through memory that no cache holds: 3 % of a worker's time, and 30 MB."""

_ZSTD_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Reject:
    """A sample refused: which, and why."""

    image_id: str
    source_key: str
    source_sha256: str
    split: str
    class_name: str | None
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What became of the images of one shard.

    Attributes:
        resolution: Side of the square in px.
        name: File name.
        split: The split it belongs to.
        rows: Rows written, augmented copies included.
        samples: Rows without the augmented copies.
        size_bytes: Size of the file.
        sha256: Digest of the file.
        inputs: Hash of all that the file's bytes follow from; equal for shards that are equal.
        rejects: Samples refused.
        repairs: Samples accepted after each named repair.
        reused: Whether it was copied from the version before. Like `reuse_problem` it tells how the file came there and
            not what is in it, so that a comparison leaves it aside.
        reuse_problem: Why it was built although the version before seemed to have it; None where all went well.
    """

    resolution: int
    name: str
    split: str
    rows: int
    samples: int
    size_bytes: int
    sha256: str
    inputs: str
    rejects: tuple[Reject, ...] = ()
    repairs: Mapping[str, int] = field(default_factory=dict)
    reused: bool = field(default=False, compare=False)
    reuse_problem: str | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read back what `to_dict` wrote."""
        return cls(**{**data, "rejects": tuple(Reject(**reject) for reject in data["rejects"])})


def rows_per_group(recipe: Recipe, resolution: int) -> int:
    """Rows of a full row group."""
    return max(1, ROW_GROUP_BYTES // row_size_bytes(recipe, resolution))


def rows_per_page(recipe: Recipe, resolution: int) -> int:
    """Rows whose raw pixels fill a page. Of encoded images several such batches do."""
    return -(-_PAGE_BYTES // image_size_bytes(recipe, resolution))


class ShardWriter:
    """Writes one shard; the same rows in the same order give the same bytes.

    Args:
        output: Where to; discarded when the writer is left before it has finished, or cannot begin.
        name: File name of the shard.
        recipe: Says what a pixel is and how it is encoded.
        resolution: Side of the square in px.
        split: The split it belongs to.
        metadata: File metadata, see `schema.shard_metadata`.
    """

    def __init__(
        self,
        output: Output,
        *,
        name: str,
        recipe: Recipe,
        resolution: int,
        split: str,
        metadata: Mapping[bytes, bytes],
    ) -> None:
        self._output = output
        self._name = name
        self._resolution = resolution
        self._split = split
        self._inputs = str(json.loads(metadata[METADATA_KEY])["inputs"])
        self._group = _RowGroup(recipe, resolution)
        schema = shard_schema(recipe, resolution).with_metadata(dict(metadata))
        try:
            with output.guard():
                self._writer = _parquet_writer(output.target, schema, rows_per_page(recipe, resolution))
        except BaseException:
            output.discard()
            raise
        self._rows = 0
        self._samples = 0
        self._rejects: list[Reject] = []
        self._repairs: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._output.discard()
        with suppress(Exception):  # there may be nothing left to write to
            self._writer.close()

    def append(self, row: Mapping[str, Any], *, image: np.ndarray | bytes, trimap: np.ndarray | None) -> None:
        """Add one row.

        Args:
            row: The columns other than image and trimap.
            image: (H, W, C) pixels of the recipe's dtype, or the bytes of an encoded image.
            trimap: (H, W) uint8, or None.
        """
        self._group.append(row, image, trimap)
        self._rows += 1
        if row["copy"] == 0:
            self._samples += 1
            for repair in row["repairs"]:
                self._repairs[repair] = self._repairs.get(repair, 0) + 1
        if self._group.full:
            self._flush()

    def reject(self, reject: Reject) -> None:
        """Note a sample that gets no row."""
        self._rejects.append(reject)

    def finish(self) -> ShardResult:
        """Complete the object and say what is in it."""
        if len(self._group):
            self._flush()
        repairs = dict(sorted(self._repairs.items()))
        outcome = {
            "split": self._split,
            "samples": self._samples,
            "rejects": [asdict(reject) for reject in self._rejects],
            "repairs": repairs,
        }
        with self._output.guard():
            self._writer.add_key_value_metadata({OUTCOME_KEY: json.dumps(outcome, sort_keys=True).encode()})
            self._writer.close()
        self._group.end()
        size_bytes, sha256 = self._output.commit()
        return ShardResult(
            resolution=self._resolution,
            name=self._name,
            split=self._split,
            rows=self._rows,
            samples=self._samples,
            size_bytes=size_bytes,
            sha256=sha256,
            inputs=self._inputs,
            rejects=tuple(self._rejects),
            repairs=repairs,
        )

    def _flush(self) -> None:
        batch = self._group.take(self._writer.schema)
        with self._output.guard():
            self._writer.write_batch(batch)


def read_shard_result(path: Path, *, resolution: int, name: str, sha256: str | None = None) -> ShardResult:
    """What the footer of a local shard says became of its images, and the digest of the file.

    Args:
        path: The file.
        resolution: Side of the square in px.
        name: File name of the shard.
        sha256: Digest of the file where it is known, as after a download; else the file is read for it.

    Raises:
        StoreError: The file is missing, damaged, or no shard of ours.
    """
    try:
        metadata = pq.read_metadata(path)
        outcome = json.loads(metadata.metadata[OUTCOME_KEY])
        if sha256 is None:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return ShardResult(
            resolution=resolution,
            name=name,
            split=outcome["split"],
            rows=metadata.num_rows,
            samples=outcome["samples"],
            size_bytes=path.stat().st_size,
            sha256=sha256,
            inputs=json.loads(metadata.metadata[METADATA_KEY])["inputs"],
            rejects=tuple(Reject(**reject) for reject in outcome["rejects"]),
            repairs=outcome["repairs"],
        )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        problem = str(error).strip()
        raise StoreError(f"{name} is no finished shard: {problem}; delete it and run again", key=name) from error


def _parquet_writer(target: Any, schema: pa.Schema, page_rows: int) -> pq.ParquetWriter:
    """Pixels lie plain and uncompressed, to be read without a copy; statistics of them would bloat the footer."""
    leaves = [_leaf(field) for field in schema]
    plain = {"image"}
    small = [leaf for leaf in leaves if leaf not in {"image", "trimap"}]
    compression = {leaf: "NONE" if leaf in plain else "ZSTD" for leaf in leaves}
    return pq.ParquetWriter(
        target,
        schema,
        compression=compression,
        compression_level={leaf: _ZSTD_LEVEL for leaf in leaves if leaf not in plain},
        use_dictionary=[leaf for leaf in small if leaf not in {"image_id", "source_key", "source_sha256"}],
        write_statistics=small,
        data_page_size=_PAGE_BYTES,
        write_batch_size=page_rows,
        # A damaged shard that a restart finds looks finished, and plain pixels have no other checksum. 30 ms in 128 MB.
        write_page_checksum=True,
    )


def _leaf(field: pa.Field) -> str:
    return f"{field.name}.list.element" if isinstance(field.type, pa.ListType | pa.FixedSizeListType) else field.name


class _Buffers:
    """Arrays that are not used any more, one of each form."""

    def __init__(self) -> None:
        self._spare: dict[tuple[tuple[int, ...], str], np.ndarray] = {}

    def take(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """An array with whatever was in it last."""
        found = self._spare.pop((shape, dtype), None)
        return np.empty(shape, dtype) if found is None else found

    def give_back(self, array: np.ndarray) -> None:
        """Keep an array that nothing refers to any more."""
        self._spare[array.shape, array.dtype.name] = array


_buffers = _Buffers()


class _RowGroup:
    """Columns of the row group being filled; fixed-size pixels are copied once, into place.

    What they are copied into comes from the last shard that had rows of the same form and was completed, if there is
    one: the pages of new memory cost a tenth of resizing.
    """

    def __init__(self, recipe: Recipe, resolution: int) -> None:
        self._capacity = rows_per_group(recipe, resolution)
        shape = (self._capacity, resolution, resolution)
        self._pixels = _buffers.take((*shape, recipe.channels), recipe.dtype) if recipe.encoding == "raw" else None
        self._encoded: list[bytes] = []
        self._trimaps = _buffers.take(shape, "uint8")
        self._has_trimap = np.zeros(self._capacity, bool)
        self._rows: list[Mapping[str, Any]] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def full(self) -> bool:
        return len(self._rows) >= self._capacity

    def append(self, row: Mapping[str, Any], image: np.ndarray | bytes, trimap: np.ndarray | None) -> None:
        position = len(self._rows)
        if self._pixels is not None:
            self._pixels[position] = image
        else:
            self._encoded.append(bytes(image))
        self._has_trimap[position] = trimap is not None
        self._trimaps[position] = 0 if trimap is None else trimap
        self._rows.append(row)

    def take(self, schema: pa.Schema) -> pa.RecordBatch:
        """The rows so far as a batch over these buffers, which the next row overwrites."""
        columns = [self._column(field) for field in schema]
        batch = pa.RecordBatch.from_arrays(columns, schema=schema)
        self._rows, self._encoded = [], []
        return batch

    def end(self) -> None:
        """Give the buffers to whoever comes next; once no batch of them is in use."""
        for buffer in (self._pixels, self._trimaps):
            if buffer is not None:
                _buffers.give_back(buffer)

    def _column(self, field: pa.Field) -> pa.Array:
        if field.name == "image":
            return (
                pa.array(self._encoded, field.type)
                if self._pixels is None
                else self._fixed(field.type, self._pixels, None)
            )
        if field.name == "trimap":
            return self._fixed(field.type, self._trimaps, self._has_trimap)
        return pa.array([row[field.name] for row in self._rows], field.type)

    def _fixed(self, type_: pa.DataType, values: np.ndarray, valid: np.ndarray | None) -> pa.Array:
        count = len(self._rows)
        validity = None
        if valid is not None and not valid[:count].all():
            validity = pa.py_buffer(np.packbits(valid[:count], bitorder="little"))
        data = pa.py_buffer(values[:count].reshape(-1).view(np.uint8))
        return pa.Array.from_buffers(type_, count, [validity, data])


def concatenate_rejects(results: Sequence[ShardResult]) -> list[Reject]:
    """The rejects of many shards, in the order of the shards' names."""
    return [reject for result in sorted(results, key=lambda result: result.name) for reject in result.rejects]
