"""Geometry: which part of an image goes where, and pixels, trimap and head box taken there by one and the same map.

`place` decides, in whole numbers and without a pixel; the other functions obey its `Placement`. Sizes and offsets
follow torchvision (`Resize` and `CenterCrop`) and Pillow (`ImageOps.pad`), rounding included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imageshards.errors import RejectReason, SampleError
from imageshards.picture import Box, Reduced
from imageshards.recipe import Color, Recipe
from imageshards.resize import reach, resize_bilinear

MAX_SIDE_PX = 1 << 24
"""Pillow takes box coordinates in single precision, which counts whole pixels up to here."""

MAX_RESIZED_PX = 1 << 26
"""Largest whole picture (256 MB in Pillow) that is resized only to be cropped. Above it, which takes a strip about a
thousand times as long as it is wide, only the part that is kept gets resized, `exact` or not."""

FILTERS: Mapping[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_SUPPORT_PX: Mapping[Image.Resampling, float] = {
    Image.Resampling.NEAREST: 0.0,
    Image.Resampling.BILINEAR: 1.0,
    Image.Resampling.BICUBIC: 2.0,
    Image.Resampling.LANCZOS: 3.0,
}
"""How far a filter reaches from the centre of an output pixel, in source pixels or, if larger, output pixels."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Which part of the source goes to which part of the square output. Sizes are (width, height) in pixels.

    Attributes:
        source: Size of the source.
        resized: Size of the whole source at the scale of the output.
        kept: (left, top, width, height) of the part of the resized source that is kept.
        offset: (x, y) where that part lies in the output.
        resolution: Side of the output.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    kept: tuple[int, int, int, int]
    offset: tuple[int, int]
    resolution: int

    @property
    def source_box(self) -> Box:
        """The part of the source that is kept, in source pixels."""
        (width, height), (new_width, new_height) = self.source, self.resized
        left, top, kept_width, kept_height = self.kept
        return (
            left * width / new_width,
            top * height / new_height,
            (left + kept_width) * width / new_width,
            (top + kept_height) * height / new_height,
        )

    @property
    def upscales(self) -> bool:
        """Whether the source is enlarged along either side."""
        return self.resized[0] > self.source[0] or self.resized[1] > self.source[1]

    @property
    def crops(self) -> bool:
        """Whether a part of the source is left out."""
        return self.kept[2:] != self.resized

    @property
    def pads(self) -> bool:
        """Whether the source leaves a part of the output free."""
        return self.kept[2:] != (self.resolution, self.resolution)


def place(source: tuple[int, int], recipe: Recipe, resolution: int) -> Placement:
    """Decide where a source of (width, height) goes, by the recipe's `fit`.

    Raises:
        SampleError: The source must be enlarged and the recipe rejects that (too-small), or one side is longer than
            Pillow can address (too-large).
    """
    if max(source) > MAX_SIDE_PX:
        raise SampleError(
            f"the image is {source[0]} x {source[1]} pixels; no side may be longer than {MAX_SIDE_PX}",
            reason=RejectReason.TOO_LARGE,
        )
    placement = place_any(source, recipe, resolution)
    if placement.upscales and recipe.upscale == "reject":
        raise SampleError(
            f"the image is {source[0]} x {source[1]} pixels and would have to be enlarged to "
            f"{placement.resized[0]} x {placement.resized[1]}; upscale: allow would accept it",
            reason=RejectReason.TOO_SMALL,
        )
    return placement


def place_any(source: tuple[int, int], recipe: Recipe, resolution: int) -> Placement:
    """Where `place` would put a source, refused or not."""
    if recipe.fit == "center-crop":
        return _center_crop(source, round(resolution / recipe.crop_fraction), resolution)
    if recipe.fit == "letterbox":
        return _letterbox(source, resolution)
    return place_stretched(source, resolution)


def place_stretched(source: tuple[int, int], resolution: int) -> Placement:
    """Both sides to the resolution, whatever the aspect ratio."""
    square = (resolution, resolution)
    return Placement(source, resized=square, kept=(0, 0, *square), offset=(0, 0), resolution=resolution)


@lru_cache(maxsize=2048)
def _center_crop(source: tuple[int, int], short_side_px: int, resolution: int) -> Placement:
    width, height = source
    long_side_px = int(short_side_px * max(source) / min(source))  # torchvision truncates here, and rounds below
    resized = (short_side_px, long_side_px) if width <= height else (long_side_px, short_side_px)
    left, top = (round((side - resolution) / 2) for side in resized)
    return Placement(source, resized, kept=(left, top, resolution, resolution), offset=(0, 0), resolution=resolution)


def _letterbox(source: tuple[int, int], resolution: int) -> Placement:
    width, height = source
    if width > height:
        resized = (resolution, max(1, round(height / width * resolution)))
    else:
        resized = (max(1, round(width / height * resolution)), resolution)
    left, top = (round((resolution - side) * 0.5) for side in resized)
    return Placement(source, resized, kept=(0, 0, *resized), offset=(left, top), resolution=resolution)


def place_pixels(
    pixels: NDArray[np.uint8],
    placement: Placement,
    *,
    interpolation: str,
    exact: bool,
    fill: Color,
    reduced: Reduced | None = None,
) -> NDArray[np.uint8]:
    """Resize an image as its placement says: (H, W, 3) uint8 in, (R, R, 3) uint8 out.

    Equal to torchvision's and Pillow's, but for pixels at reduced scale, and for bilinear without `exact`, which
    `resize_bilinear` does to what is kept.
    """
    if interpolation == "bilinear" and not exact:
        box = reduced.box(placement.source_box) if reduced else placement.source_box
        return _padded(resize_bilinear(pixels, box, placement.kept[2:]), placement, fill)
    return np.asarray(_pad(_resize(pixels, placement, FILTERS[interpolation], reduced=reduced), placement, fill))


def place_trimap(trimap: NDArray[np.uint8], placement: Placement) -> NDArray[np.uint8]:
    """Take a trimap along with its image: (H, W) uint8 in, (R, R) uint8 out, 0 where the image leaves the output free.

    Each output pixel takes the value under its centre. (torchvision's resizing of masks takes the value under its upper
    left corner instead, half a pixel off the image.)
    """
    if math.prod(placement.resized) > MAX_RESIZED_PX:
        return np.asarray(_pad(_resize(trimap, placement, Image.Resampling.NEAREST), placement, 0))
    left, top, width, height = placement.kept
    columns = _nearest(placement.source[0], placement.resized[0], left, width)
    rows = _nearest(placement.source[1], placement.resized[1], top, height)
    kept: NDArray[np.uint8] = trimap.take(rows, axis=0).take(columns, axis=1, mode="wrap")  # which checks the least
    return _padded(kept, placement, 0)


@lru_cache(maxsize=2048)
def _nearest(length_px: int, resized_px: int, start: int, count: int) -> NDArray[np.intp]:
    """Which pixels of a line Pillow takes, when it resizes the line without interpolation and `count` are kept.

    Looking them up anew takes as long as taking them; the images of a dataset have few sizes.
    """
    line = Image.fromarray(np.arange(length_px, dtype=np.int32)[None]).resize((resized_px, 1), Image.Resampling.NEAREST)
    return np.asarray(line)[0, start : start + count].astype(np.intp)


def place_box(box: Box, placement: Placement) -> tuple[Box | None, float]:
    """Take a box in source pixels to output pixels, clipped; and the fraction of its area that is left."""
    kept, visible = clip_box(box, placement.source_box)
    if kept is None:
        return None, 0.0
    scale_x, scale_y = (new / old for new, old in zip(placement.resized, placement.source, strict=True))
    shift_x, shift_y = placement.offset[0] - placement.kept[0], placement.offset[1] - placement.kept[1]
    moved = (
        kept[0] * scale_x + shift_x,
        kept[1] * scale_y + shift_y,
        kept[2] * scale_x + shift_x,
        kept[3] * scale_y + shift_y,
    )
    inside, _ = clip_box(moved, (0.0, 0.0, float(placement.resolution), float(placement.resolution)))
    return inside, visible if inside else 0.0


def clip_box(box: Box, frame: Box) -> tuple[Box | None, float]:
    """The part of a box inside a frame, None where there is none, and its share of the box's area."""
    left, top = max(box[0], frame[0]), max(box[1], frame[1])
    right, bottom = min(box[2], frame[2]), min(box[3], frame[3])
    if left >= right or top >= bottom:
        return None, 0.0
    share = (right - left) / (box[2] - box[0]) * ((bottom - top) / (box[3] - box[1]))
    return (left, top, right, bottom), share


def _resize(
    pixels: NDArray[np.uint8],
    placement: Placement,
    resampling: Image.Resampling,
    *,
    reduced: Reduced | None = None,
) -> Image.Image:
    if reduced is not None:
        return _resize_kept(pixels, reduced.box(placement.source_box), placement.kept[2:], resampling)
    if not placement.crops:
        return Image.fromarray(pixels).resize(placement.resized, resampling)
    if math.prod(placement.resized) > MAX_RESIZED_PX:
        return _resize_kept(pixels, placement.source_box, placement.kept[2:], resampling)
    left, top, width, height = placement.kept
    resized = Image.fromarray(pixels).resize(placement.resized, resampling)
    return resized.crop((left, top, left + width, top + height))


def _resize_kept(
    pixels: NDArray[np.uint8], box: Box, size: tuple[int, int], resampling: Image.Resampling
) -> Image.Image:
    """Resize a box of fractional pixels to (width, height): the picture is cut down to what the filter reaches, first.

    Along x, then along y, as Pillow does it with a whole picture that is no more than twice as high as wide. Left
    to itself it goes by the size of the part and may do y first, which rounds differently.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = box
    kept_width, kept_height = size
    x_start, x_stop = reach(left, right, kept_width, width, support_px=_SUPPORT_PX[resampling])
    y_start, y_stop = reach(top, bottom, kept_height, height, support_px=_SUPPORT_PX[resampling])
    part = Image.fromarray(pixels[y_start:y_stop, x_start:x_stop])
    if resampling is Image.Resampling.NEAREST:
        box = (left - x_start, top - y_start, right - x_start, bottom - y_start)
        return part.resize((kept_width, kept_height), resampling, box=box)
    rows = part.resize((kept_width, part.height), resampling, box=(left - x_start, 0, right - x_start, part.height))
    return rows.resize((kept_width, kept_height), resampling, box=(0, top - y_start, kept_width, bottom - y_start))


def _pad(image: Image.Image, placement: Placement, fill: Color | int) -> Image.Image:
    if not placement.pads:
        return image
    canvas = Image.new(image.mode, (placement.resolution, placement.resolution), fill)
    canvas.paste(image, placement.offset)
    return canvas


def _padded(pixels: NDArray[np.uint8], placement: Placement, fill: Color | int) -> NDArray[np.uint8]:
    """`_pad` for an array."""
    if not placement.pads:
        return pixels
    height, width = pixels.shape[:2]
    left, top = placement.offset
    canvas = np.empty((placement.resolution, placement.resolution, *pixels.shape[2:]), np.uint8)
    canvas[:] = fill
    canvas[top : top + height, left : left + width] = pixels
    return canvas
