"""Stored pixels as a person sees them: normalization undone, head box and trimap outline drawn in."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from imageshards.manifest import Manifest
from imageshards.picture import Box
from imageshards.recipe import IMAGENET_MEAN, IMAGENET_STD

BOX_COLOR = (255, 176, 0)
OUTLINE_COLOR = (0, 229, 255)
_SHADE_COLOR = (16, 16, 16)
"""Around both, so that they show on any ground."""

_TRIMAP_BACKGROUND = 2
_TRIMAP_FILL = 0


def stored_pixels(image: bytes, manifest: Manifest) -> NDArray[Any]:
    """The image column of one row as (R, R, C) of the stored dtype."""
    if manifest.encoding == "raw":
        shape = (manifest.resolution, manifest.resolution, manifest.channels)
        return np.frombuffer(image, manifest.dtype).reshape(shape)
    with Image.open(io.BytesIO(image), formats=[manifest.encoding.upper()]) as opened:
        return np.atleast_3d(np.asarray(opened.convert("RGB" if manifest.channels == 3 else "L")))


def displayable(pixels: NDArray[Any], manifest: Manifest) -> NDArray[np.uint8]:
    """Undo dtype and normalization: (R, R, C) as stored in, uint8 out."""
    if pixels.dtype == np.uint8:
        return pixels
    values = pixels.astype(np.float32)
    normalize = manifest.recipe.get("normalize", "none")
    if normalize != "none":
        mean, std = _mean_and_std(normalize, manifest.recipe, manifest)
        values = (values * np.asarray(std, np.float32) + np.asarray(mean, np.float32)) * 255
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _mean_and_std(normalize: str, recipe: Mapping[str, Any], manifest: Manifest) -> tuple[Any, Any]:
    if normalize == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    if normalize == "given":
        return recipe["mean"], recipe["std"]
    if normalize == "dataset" and manifest.normalization is not None:
        return manifest.normalization.mean, manifest.normalization.std
    return 0.0, 1.0


def thumbnail(pixels: NDArray[np.uint8], side_px: int) -> Image.Image:
    """An (H, W, 3) or (H, W, 1) image as RGB, its longer side no longer than given."""
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).convert("RGB")
    size = _fitting(image.size, side_px)
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def annotated(
    pixels: NDArray[np.uint8], head_box: Box | None, trimap: NDArray[np.uint8] | None, *, side_px: int
) -> Image.Image:
    """The thumbnail of an image with head box and trimap outline drawn in at its own scale.

    Args:
        pixels: (H, W, 3) or (H, W, 1) uint8.
        head_box: In pixels of the image.
        trimap: (H, W) uint8.
        side_px: Longest side of the thumbnail.
    """
    image = thumbnail(pixels, side_px)
    if trimap is not None:
        image = _with_outline(image, trimap)
    if head_box is not None:
        _draw_box(image, head_box, image.width / pixels.shape[1], image.height / pixels.shape[0])
    return image


def _fitting(size: tuple[int, int], side_px: int) -> tuple[int, int]:
    scale = min(1.0, side_px / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _with_outline(image: Image.Image, trimap: NDArray[np.uint8]) -> Image.Image:
    """Draw the edge between the animal, its border included, and the background."""
    small = np.asarray(Image.fromarray(trimap).resize(image.size, Image.Resampling.NEAREST))
    inside = (small != _TRIMAP_BACKGROUND) & (small != _TRIMAP_FILL)
    edge = inside & ~_eroded(inside)
    shade = _dilated(edge) & ~edge
    drawn = np.array(image)
    drawn[shade] = (drawn[shade].astype(np.uint16) + np.array(_SHADE_COLOR, np.uint16)) // 2
    drawn[edge] = OUTLINE_COLOR
    return Image.fromarray(drawn)


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without the pixels that touch an unset one; what lies outside of the image counts as set."""
    padded = np.pad(mask, 1, constant_values=True)
    return padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _dilated(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return ~_eroded(~mask)


def _draw_box(image: Image.Image, box: Box, scale_x: float, scale_y: float) -> None:
    left, top = min(image.width - 2, round(box[0] * scale_x)), min(image.height - 2, round(box[1] * scale_y))
    right = max(left + 1, min(image.width, round(box[2] * scale_x)) - 1)
    bottom = max(top + 1, min(image.height, round(box[3] * scale_y)) - 1)
    draw = ImageDraw.Draw(image)
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_SHADE_COLOR, width=4)
    draw.rectangle((left, top, right, bottom), outline=BOX_COLOR, width=2)
