"""The Parquet schema of a shard, explicit and versioned, and how a prepared image lies in it.

Plain Arrow types only: pixels are fixed-size binary (raw) or binary (encoded), so that pyarrow, pandas, Polars, DuckDB,
Hugging Face datasets and Ray Data read them without this package. List or tensor columns of bytes are stored as INT32
and cost 4 times the space.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from imageshards.recipe import Recipe

FORMAT_VERSION = 1

METADATA_KEY = b"imageshards"
"""File metadata of every shard: JSON with format_version, dataset, resolution, layout, dtype, channels, encoding,
class_names, recipe, recipe_fingerprint, shard, inputs."""

OUTCOME_KEY = b"imageshards.outcome"
"""File metadata of every shard: JSON with the rejects of its bucket and its repairs, so that a shard found on a restart
tells what became of each of its images."""

BINARY_COLUMNS = ("image", "trimap")


def image_type(recipe: Recipe, resolution: int) -> pa.DataType:
    """Arrow type of the image column: (H, W, C) bytes in a row for raw pixels, a file's bytes else."""
    return pa.binary(image_size_bytes(recipe, resolution)) if recipe.encoding == "raw" else pa.binary()


def image_size_bytes(recipe: Recipe, resolution: int) -> int:
    """Bytes of one raw image: height x width x channels x bytes per value."""
    return resolution * resolution * recipe.channels * np.dtype(recipe.dtype).itemsize


def shard_schema(recipe: Recipe, resolution: int) -> pa.Schema:
    """Columns of a shard, in order, without file metadata."""
    required = {"nullable": False}
    return pa.schema(
        [
            pa.field("image_id", pa.string(), **required),
            pa.field("copy", pa.int16(), **required),
            pa.field("image", image_type(recipe, resolution), **required),
            pa.field("label", pa.int16()),
            pa.field("class_name", pa.string()),
            pa.field("species", pa.string()),
            pa.field("split", pa.string(), **required),
            pa.field("head_box", pa.list_(pa.float32(), 4)),
            pa.field("head_box_visible", pa.float32()),
            pa.field("trimap", pa.binary(resolution * resolution)),
            pa.field("source_key", pa.string(), **required),
            pa.field("source_sha256", pa.string(), **required),
            pa.field("source_width", pa.int32(), **required),
            pa.field("source_height", pa.int32(), **required),
            pa.field("source_format", pa.string(), **required),
            pa.field("source_mode", pa.string(), **required),
            pa.field("exif_orientation", pa.int8(), **required),
            pa.field("perceptual_hash", pa.uint64(), **required),
            pa.field("upscaled", pa.bool_(), **required),
            pa.field("repairs", pa.list_(pa.string()), **required),
        ]
    )


def shard_metadata(
    *, dataset: str, recipe: Recipe, resolution: int, class_names: Iterable[str], shard: str, inputs: str
) -> dict[bytes, bytes]:
    """File metadata of a shard. Depends on what is in the shard alone: no time, no machine, no run, no other shard.

    Args:
        dataset: Name of the dataset.
        recipe: What was done to the pixels.
        resolution: Side of the square in px.
        class_names: By class id.
        shard: File name of the shard.
        inputs: Hash of all that its bytes follow from.
    """
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "dataset": dataset,
        "resolution": resolution,
        "layout": "HWC",
        "dtype": recipe.dtype,
        "channels": recipe.channels,
        "encoding": recipe.encoding,
        "class_names": list(class_names),
        "recipe": json.loads(recipe.canonical()),
        "recipe_fingerprint": recipe.fingerprint(),
        "shard": shard,
        "inputs": inputs,
    }
    return {METADATA_KEY: json.dumps(content, sort_keys=True).encode()}


REJECTS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("source_key", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("class_name", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
"""Columns of rejects.parquet."""
