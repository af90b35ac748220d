"""Read a published dataset back, through its manifest: `open_dataset("data", resolution=224)`.

Pixels come as (N, H, W, C) arrays over the buffers that Parquet was read into, without a copy. Nothing here is needed
to read the shards: they are plain Parquet.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from imageshards.errors import ConfigError, StoreError
from imageshards.manifest import Manifest, read_manifest
from imageshards.oxford_pets import DATASET
from imageshards.pointer import read_latest
from imageshards.store import Store, open_store


@dataclass(frozen=True, slots=True)
class Dataset:
    """One published version of one resolution.

    Attributes:
        manifest: What it consists of.
        store: Where it lies.
    """

    manifest: Manifest
    store: Store

    def batches(self, split: str, *, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows of a split, a row group (8 to 32 MB) at a time, in the order they are stored: classes are mixed.

        Args:
            split: `trainval`, `test` or `unlisted`.
            columns: Which columns; all of them by default.

        Raises:
            ConfigError: There is no such split.
            StoreError: A shard is missing or damaged.
        """
        if split not in self.manifest.splits:
            raise ConfigError(f"there is no split {split!r}, only {', '.join(sorted(self.manifest.splits))}")
        for shard in self.manifest.shards:
            if shard.split == split:
                yield from self._row_groups(shard.path, columns)

    def images(self, table: pa.Table) -> npt.NDArray[np.generic]:
        """The image column of a batch as an (N, H, W, C) array over its own buffer.

        Raises:
            ConfigError: The images are encoded; `table["image"]` holds the bytes of image files.
        """
        if self.manifest.encoding != "raw":
            raise ConfigError(f"images are stored as {self.manifest.encoding} files: decode the bytes of each")
        side = self.manifest.resolution
        return fixed_size_array(table.column("image"), self.manifest.dtype, (side, side, self.manifest.channels))

    def _row_groups(self, key: str, columns: list[str] | None) -> Iterator[pa.Table]:
        try:
            with pq.ParquetFile(_source(self.store, key)) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group, columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise StoreError(f"{self.store.uri(key)} cannot be read: {error}", key=key) from error


def open_dataset(
    uri: str | Store, *, resolution: int, dataset: str = DATASET, fingerprint: str | None = None
) -> Dataset:
    """Open the current version of a dataset, or a certain one.

    Args:
        uri: The store: a folder or s3://bucket/prefix, or one that is open already.
        resolution: Side of the square in px.
        dataset: Name of the dataset.
        fingerprint: A version; the current one by default.

    Raises:
        StoreError: Nothing was published there.
    """
    store = open_store(uri) if isinstance(uri, str) else uri
    version = fingerprint or read_latest(store, dataset, resolution)
    manifest = read_manifest(store, dataset, resolution, version) if version else None
    if manifest is None:
        raise StoreError(f"{store.url} holds no published version of {dataset} at {resolution} px; run the flow first")
    return Dataset(manifest, store)


def fixed_size_array(column: pa.ChunkedArray, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    """A fixed-size binary column as one array, without a copy where the column is one chunk.

    Args:
        column: Fixed-size binary values; null ones come as whatever lies in the buffer.
        dtype: Of one value.
        shape: Of one row's values.

    Returns:
        (N, *shape), read-only.
    """
    array = (
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
    )
    width = array.type.byte_width
    start = array.offset * width
    data = np.frombuffer(array.buffers()[1], np.uint8)[start : start + len(array) * width]
    return data.view(dtype).reshape(len(array), *shape)


def _source(store: Store, key: str) -> Path | io.BytesIO:
    path = store.local_path(key)
    return path if path is not None else io.BytesIO(store.get(key))
