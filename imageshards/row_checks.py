"""Checks on the rows of a shard: pixels and trimaps a row group at a time, the rest by columns of many rows."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from imageshards.columns import mask, numbers, one_chunk, present, same
from imageshards.dataset import fixed_size_array
from imageshards.index import UNLISTED_SPLIT
from imageshards.recipe import Recipe
from imageshards.statistics import PixelSums

EXPECTATIONS: Mapping[str, str] = {
    "annotations": "label, class, species, split and source of each row as the index has them",
    "images": "every image decodable, of the right size, with finite values",
    "head-boxes": "a box where the index has one (unless it left the frame), inside the frame, none elsewhere",
    "trimaps": "a trimap where the index has one, with values 1, 2, 3 (0 where filled), none elsewhere",
}
"""What `wrong_rows` looks for."""

ROW_COLUMNS = (
    *("image_id", "copy", "label", "class_name", "species", "split"),
    *("head_box", "head_box_visible", "source_key", "source_sha256"),
)
"""Columns of a shard that the checks look at, image and trimap apart."""

INDEX_COLUMNS = (
    *("image_id", "label", "class_name", "species", "split"),
    *("source_key", "source_sha256", "head_box", "trimap_key", "left_out", "sample_hash"),
)
"""Columns of the index that the checks look at."""

BACKGROUND = 2
_TRIMAP_VALUES = (1, 3)
_FRAME_TOLERANCE_PX = 1e-3
"""Boxes are stored as float32."""

_COPIED_COLUMNS = ("label", "class_name", "species", "source_key", "source_sha256")
"""Columns that a row takes over from the index as they are."""

_LOOKS_SCHEMA = pa.schema({"image_good": pa.bool_(), "trimap_low": pa.uint8(), "trimap_high": pa.uint8()})


def look_at_pixels(
    group: pa.Table, plain: NDArray[np.bool_], recipe: Recipe, resolution: int
) -> tuple[PixelSums, pa.Table]:
    """Look once at every byte of image and trimap.

    Args:
        group: The columns `image` and `trimap` of one row group.
        plain: (N,) whether a row is no augmented copy.
        recipe: What was to be done to pixels.
        resolution: Side of the square in px.

    Returns:
        Sums over the pixels of plain rows; and for each row `image_good`, and `trimap_low` and `trimap_high`, the least
        and the greatest value of its trimap, null where there is none.
    """
    looked = _raw_images if recipe.encoding == "raw" else _encoded_images
    sums, good = looked(group.column("image"), plain, recipe, resolution)
    trimaps = group.column("trimap")
    values = fixed_size_array(trimaps, "uint8", (resolution * resolution,))
    missing = ~present(trimaps)
    ranges = (pa.array(extreme, pa.uint8(), mask=missing) for extreme in (values.min(axis=1), values.max(axis=1)))
    return sums, pa.Table.from_arrays([pa.array(good), *ranges], schema=_LOOKS_SCHEMA)


def _raw_images(
    column: pa.ChunkedArray, plain: NDArray[np.bool_], recipe: Recipe, resolution: int
) -> tuple[PixelSums, NDArray[np.bool_]]:
    pixels = fixed_size_array(column, recipe.dtype, (resolution, resolution, recipe.channels))
    good = np.ones(len(pixels), bool) if recipe.dtype == "uint8" else np.isfinite(pixels).all(axis=(1, 2, 3))
    return PixelSums.of(pixels if plain.all() else pixels[plain]), good


def _encoded_images(
    column: pa.ChunkedArray, plain: NDArray[np.bool_], recipe: Recipe, resolution: int
) -> tuple[PixelSums, NDArray[np.bool_]]:
    sums, good = PixelSums.zero(recipe.channels), np.zeros(len(plain), bool)
    for position, data in enumerate(column):
        pixels = _decoded(data.as_py(), recipe, resolution)
        good[position] = pixels is not None
        if pixels is not None and plain[position]:
            sums += PixelSums.of(pixels)
    return sums, good


def _decoded(data: bytes, recipe: Recipe, resolution: int) -> np.ndarray | None:
    """(H, W, C) pixels; None where the data is not the image that it should be."""
    gray = recipe.channels == 1
    try:
        if recipe.encoding == "jpeg":
            pixels = simplejpeg.decode_jpeg(data, colorspace="GRAY" if gray else "RGB", strict=True)
        else:
            with Image.open(io.BytesIO(data), formats=[recipe.encoding.upper()]) as image:
                pixels = np.atleast_3d(np.asarray(image.convert("L" if gray else "RGB")))
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError):
        return None
    return pixels if pixels.shape == (resolution, resolution, recipe.channels) else None


def wrong_rows(rows: pa.Table, known: pa.Table, recipe: Recipe, resolution: int) -> dict[str, NDArray[np.bool_]]:
    """Which rows are not what the index and the recipe ask for, by check.

    Args:
        rows: `ROW_COLUMNS` and what `look_at_pixels` gave.
        known: `INDEX_COLUMNS` of the same images, row by row; null in all columns where the index has no such image.
        recipe: What was to be done to pixels.
        resolution: Side of the square in px.

    Returns:
        (N,) bool for each of `EXPECTATIONS`.
    """
    return {
        "annotations": _wrong_annotations(rows, known),
        "images": ~mask(rows.column("image_good")),
        "head-boxes": _wrong_boxes(rows, present(known.column("head_box")), resolution),
        "trimaps": _wrong_trimaps(rows, present(known.column("trimap_key")), recipe),
    }


def _wrong_annotations(rows: pa.Table, known: pa.Table) -> NDArray[np.bool_]:
    split = pc.fill_null(one_chunk(known.column("split")), UNLISTED_SPLIT)
    right = present(known.column("image_id")) & same(rows.column("split"), split)
    for name in _COPIED_COLUMNS:
        right &= same(rows.column(name), known.column(name))
    return ~right


def _wrong_boxes(rows: pa.Table, expected: NDArray[np.bool_], resolution: int) -> NDArray[np.bool_]:
    boxes = one_chunk(rows.column("head_box"))
    has_box, told = present(boxes), present(rows.column("head_box_visible"))
    xmin, ymin, xmax, ymax = (numbers(pc.list_element(boxes, side), "float64", missing=np.nan) for side in range(4))
    visible = numbers(rows.column("head_box_visible"), "float64", missing=np.nan)
    edge, tolerance = resolution + _FRAME_TOLERANCE_PX, _FRAME_TOLERANCE_PX
    inside = (-tolerance <= xmin) & (xmin < xmax) & (xmax <= edge)
    inside &= (-tolerance <= ymin) & (ymin < ymax) & (ymax <= edge)
    inside &= (visible > 0) & (visible <= 1 + tolerance)
    right_where_expected = told & np.where(has_box, inside, visible == 0)
    wrong: NDArray[np.bool_] = np.where(expected, ~right_where_expected, has_box | told)
    return wrong


def _wrong_trimaps(rows: pa.Table, expected: NDArray[np.bool_], recipe: Recipe) -> NDArray[np.bool_]:
    plain = numbers(rows.column("copy"), "int16") == 0
    low, high = (numbers(rows.column(name), "uint8") for name in ("trimap_low", "trimap_high"))
    filled_allowed = ~plain | (recipe.fit == "letterbox")
    # A copy may be pushed out of the frame as a whole, a letterboxed picture never is.
    good = (high <= _TRIMAP_VALUES[1]) & ((low >= _TRIMAP_VALUES[0]) | filled_allowed) & ((high > 0) | ~plain)
    wrong: NDArray[np.bool_] = (present(rows.column("trimap_low")) != expected) | (expected & ~good)
    return wrong


def empty_trimaps(rows: pa.Table) -> NDArray[np.bool_]:
    """Which plain rows have a trimap of background alone, (N,) bool."""
    plain = numbers(rows.column("copy"), "int16") == 0
    low, high = (numbers(rows.column(name), "uint8") for name in ("trimap_low", "trimap_high"))
    empty: NDArray[np.bool_] = plain & (low == BACKGROUND) & (high == BACKGROUND)
    return empty
