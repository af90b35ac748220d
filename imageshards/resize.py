"""Bilinear resizing of a part of a picture, antialiased: Pillow's filter and order of passes at three times its speed.

By fast_image_resize (the Rust library behind cykooz-resizer), in whole numbers, with the same bytes on every processor.
Measured on 219 photographs at 224 px, one core: 0.26 ms, Pillow 0.85 ms; the largest difference from torchvision's
Resize + CenterCrop is 1 level (2 at 299 and 600), 0.002 on average (docs/differences.md).
"""

from __future__ import annotations

import math
import threading

import numpy as np
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from numpy.typing import NDArray

from imageshards.picture import Box

_BILINEAR = ResizeAlg.convolution(FilterType.bilinear)


class _Scratch(threading.local):
    """A resizer keeps buffers between calls, so each thread has its own."""

    def __init__(self) -> None:
        self.resizer = Resizer()


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
    rows = y_stop - y_start
    part = pixels[y_start:y_stop, x_start:x_stop].tobytes()
    source = ImageData(x_stop - x_start, rows, PixelType.U8x3, part)
    narrowed = _resize(source, (left - x_start, 0.0, right - left, float(rows)), (width, rows))
    resized = _resize(narrowed, (0.0, top - y_start, float(width), bottom - top), size)
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


def _resize(source: ImageData, box: Box, size: tuple[int, int]) -> ImageData:
    """`box` is (left, top, width, height), as the library wants it; cut off where rounding makes it reach out."""
    left, top, width, height = box
    crop = CropBox(left, top, min(width, source.width - left), min(height, source.height - top))
    target = ImageData(*size, PixelType.U8x3)
    _scratch.resizer.resize(source, target, ResizeOptions(_BILINEAR, use_alpha=False, crop_box=crop))
    return target
