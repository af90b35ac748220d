"""Checks on the rows of a shard, a row group at a time: pixels, head boxes, trimaps."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import simplejpeg
from PIL import Image

from imageshards.dataset import fixed_size_array
from imageshards.recipe import Recipe
from imageshards.statistics import PixelSums

_TRIMAP_VALUES = (1, 3)
_BACKGROUND = 2
_FRAME_TOLERANCE_PX = 1e-3
"""Boxes are stored as float32."""


class RowChecker:
    """Checks row groups and adds up their pixels.

    Attributes:
        sums: Over the pixels of plain rows.
        problems: Offending image ids, by check.
        empty_trimaps: Plain rows whose trimap is background alone.

    Args:
        recipe: What was to be done to pixels.
        resolution: Side of the square in px.
        index: Columns of the index by image id; tells who has a box and a trimap.
    """

    EXPECTATIONS: ClassVar[Mapping[str, str]] = {
        "images": "every image decodable, of the right size, with finite values",
        "head-boxes": "a box where the index has one (unless it left the frame), inside the frame, none elsewhere",
        "trimaps": "a trimap where the index has one, with values 1, 2, 3 (0 where filled), none elsewhere",
    }

    def __init__(self, recipe: Recipe, resolution: int, index: Mapping[str, Mapping[str, Any]]) -> None:
        self._recipe = recipe
        self._resolution = resolution
        self._index = index
        self.sums = PixelSums.zero(recipe.channels)
        self.empty_trimaps: list[str] = []
        self.problems: dict[str, list[str]] = {name: [] for name in self.EXPECTATIONS}

    def check(self, rows: pa.Table) -> None:
        """Check one row group, with all its columns."""
        ids = rows.column("image_id").to_pylist()
        plain = np.array(rows.column("copy").to_pylist()) == 0
        self._check_images(rows.column("image"), ids, plain)
        self._check_boxes(rows, ids)
        self._check_trimaps(rows.column("trimap"), ids, plain)

    def _check_images(self, column: pa.ChunkedArray, ids: Sequence[str], plain: np.ndarray) -> None:
        if self._recipe.encoding == "raw":
            shape = (self._resolution, self._resolution, self._recipe.channels)
            pixels = fixed_size_array(column, self._recipe.dtype, shape)
            if self._recipe.dtype != "uint8":
                finite = np.isfinite(pixels).all(axis=(1, 2, 3))
                self.problems["images"] += [image_id for image_id, good in zip(ids, finite, strict=True) if not good]
            self.sums += PixelSums.of(pixels if plain.all() else pixels[plain])
            return
        for image_id, data, is_plain in zip(ids, column, plain, strict=True):
            decoded = self._decoded(data.as_py())
            if decoded is None:
                self.problems["images"].append(image_id)
            elif is_plain:
                self.sums += PixelSums.of(decoded)

    def _decoded(self, data: bytes) -> np.ndarray | None:
        """(H, W, C) pixels; None where the data is not the image that it should be."""
        gray = self._recipe.channels == 1
        try:
            if self._recipe.encoding == "jpeg":
                pixels = simplejpeg.decode_jpeg(data, colorspace="GRAY" if gray else "RGB", strict=True)
            else:
                with Image.open(io.BytesIO(data), formats=[self._recipe.encoding.upper()]) as image:
                    pixels = np.atleast_3d(np.asarray(image.convert("L" if gray else "RGB")))
        except (ValueError, OSError, SyntaxError, Image.DecompressionBombError):
            return None
        return pixels if pixels.shape == (self._resolution, self._resolution, self._recipe.channels) else None

    def _check_boxes(self, rows: pa.Table, ids: Sequence[str]) -> None:
        columns = (rows.column(name).to_pylist() for name in ("head_box", "head_box_visible"))
        for image_id, box, visible in zip(ids, *columns, strict=True):
            expected = self._index.get(image_id, {}).get("head_box") is not None
            if not self._box_holds(box, visible, expected=expected):
                self.problems["head-boxes"].append(image_id)

    def _box_holds(self, box: list[float] | None, visible: float | None, *, expected: bool) -> bool:
        if not expected or visible is None:
            return not expected and box is None and visible is None
        if box is None:
            return visible == 0
        edge = self._resolution + _FRAME_TOLERANCE_PX
        xmin, ymin, xmax, ymax = box
        inside = -_FRAME_TOLERANCE_PX <= xmin < xmax <= edge and -_FRAME_TOLERANCE_PX <= ymin < ymax <= edge
        return inside and 0 < visible <= 1 + _FRAME_TOLERANCE_PX

    def _check_trimaps(self, column: pa.ChunkedArray, ids: Sequence[str], plain: np.ndarray) -> None:
        present = np.array(column.is_valid())
        values = fixed_size_array(column, "uint8", (self._resolution * self._resolution,))
        low, high = values.min(axis=1), values.max(axis=1)
        filled_allowed = ~plain | (self._recipe.fit == "letterbox")
        # A copy may be pushed out of the frame as a whole, a letterboxed picture never is.
        good = (high <= _TRIMAP_VALUES[1]) & ((low >= _TRIMAP_VALUES[0]) | filled_allowed) & ((high > 0) | ~plain)
        for position, image_id in enumerate(ids):
            expected = self._index.get(image_id, {}).get("trimap_key") is not None
            if present[position] and plain[position] and low[position] == high[position] == _BACKGROUND:
                self.empty_trimaps.append(image_id)
            if present[position] != expected or (expected and not good[position]):
                self.problems["trimaps"].append(image_id)
