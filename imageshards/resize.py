"""Bilinear resizing of a part of a picture, antialiased: Pillow's filter and order of passes at three times its speed.

By fast_image_resize (the Rust library behind cykooz-resizer), in whole numbers, with the same bytes on every processor.
Measured on 219 photographs at 224 px, one core: 0.26 ms, Pillow 0.85 ms; the largest difference from torchvision's
Resize + CenterCrop is 1 level (2 at 299 and 600), 0.002 on average (docs/differences.md).
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache

import numpy as np
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from numpy.typing import NDArray

from imageshards.picture import Box

_BILINEAR = ResizeAlg.convolution(FilterType.bilinear)

_TARGETS_KEPT = 16
_LARGEST_KEPT_PX = 1 << 19
"""1.5 MB, hence 24 MB in all: how high a picture is while it is made narrower, the source decides."""


class _Scratch(threading.local):
    """What is kept between calls, by each thread for itself: the resizer with its buffers, and pictures to resize into.

    A new picture is filled with zeros first, which takes as long as a tenth of resizing.
    """

    def __init__(self) -> None:
        self.resizer = Resizer()
        self._targets: dict[tuple[int, int], ImageData] = {}

    def target(self, size: tuple[int, int]) -> ImageData:
        """A picture of (width, height), with whatever was in it last."""
        if size[0] * size[1] > _LARGEST_KEPT_PX:
            return ImageData(*size, PixelType.U8x3)
        found = self._targets.pop(size, None)
        if found is None:
            found = ImageData(*size, PixelType.U8x3)
            if len(self._targets) >= _TARGETS_KEPT:
                del self._targets[next(iter(self._targets))]
        self._targets[size] = found  # at the end: the first is the one not used for longest
        return found


_scratch = _Scratch()


def resize_bilinear(pixels: NDArray[np.uint8], box: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a part of a picture.

    First along x, then along y, as torchvision and Pillow do it: the other way round is as good a picture, but differs
    from theirs by 1 level in a fifth of all values.

    Args:
        pixels: (H, W, 3) uint8.
        box: The part, within the picture, in continuous pixel coordinates.
        size: (width, height) of the result.

    Returns:
        (height, width, 3) uint8, read-only.
    """
    left, top, right, bottom = box
    width, height = size
    x_start, x_stop = reach(left, right, width, pixels.shape[1])
    y_start, y_stop = reach(top, bottom, height, pixels.shape[0])
    columns, rows = x_stop - x_start, y_stop - y_start
    source = ImageData(columns, rows, PixelType.U8x3, pixels[y_start:y_stop, x_start:x_stop].tobytes())
    narrowed, resized = _scratch.target((width, rows)), _scratch.target(size)
    across, down = _cut(left - x_start, right - left, columns), _cut(top - y_start, bottom - top, rows)
    if narrowed is resized:  # as many rows as are wanted: one picture cannot be both
        narrowed = ImageData(width, rows, PixelType.U8x3)
    _scratch.resizer.resize(source, narrowed, _options(across[0], 0.0, across[1], float(rows)))
    _scratch.resizer.resize(narrowed, resized, _options(0.0, down[0], float(width), down[1]))
    return np.frombuffer(resized.get_buffer(), np.uint8).reshape(height, width, 3)


def reach(start: float, stop: float, length_px: int, limit_px: int, *, support_px: float = 1.0) -> tuple[int, int]:
    """The pixels that a filter reads which takes `start` to `stop` to `length_px` pixels.

    Args:
        start: First edge, in source pixels.
        stop: Last edge.
        length_px: Size of the result.
        limit_px: Size of the source.
        support_px: How far the filter reaches from the centre of an output pixel, in source pixels or, if larger,
            output pixels; 1 for bilinear.
    """
    support = support_px * max((stop - start) / length_px, 1.0)
    return max(0, math.floor(start - support)), min(limit_px, math.ceil(stop + support))


def _cut(start: float, length: float, limit_px: int) -> tuple[float, float]:
    """Start and length, shortened where rounding makes them reach out."""
    return start, min(length, limit_px - start)


@lru_cache(maxsize=1024)
def _options(left: float, top: float, width: float, height: float) -> ResizeOptions:
    return ResizeOptions(_BILINEAR, use_alpha=False, crop_box=CropBox(left, top, width, height))
