"""Quality filters on resized images: denoise, contrast, threshold.

Pillow and OpenCV do the work. Where OpenCV stands in for a slower Pillow or torchvision operation, docs/differences.md
states how far apart they are. OpenCV takes 70 ms and 16 MB to import: only recipes that filter import this module.
"""

from __future__ import annotations

import math
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from imageshards.recipe import Recipe

Pixels = NDArray[np.uint8]

GAUSSIAN_REACH_SIGMAS = 3.0
"""Where a Gaussian kernel is cut off: what lies beyond weighs 0.3 %."""

_WHITE = 255


def gaussian_kernel_size(sigma_px: float) -> int:
    """Side of the Gaussian kernel for a sigma, odd."""
    return 2 * math.ceil(GAUSSIAN_REACH_SIGMAS * sigma_px) + 1


def denoise(pixels: Pixels, recipe: Recipe) -> Pixels:
    """Smooth an (H, W, 3) uint8 image.

    `gaussian` mirrors the image at its borders and `median` repeats them, as torchvision's and Pillow's do.
    """
    if recipe.denoise == "gaussian":
        return _gaussian_blur(pixels, recipe.gaussian_sigma)
    if recipe.denoise == "median":
        return cast("Pixels", cv2.medianBlur(pixels, recipe.median_size))
    return pixels


def _gaussian_blur(pixels: Pixels, sigma_px: float) -> Pixels:
    """Blur in OpenCV's fixed point, the same on every processor, with 16 bits instead of 8: at most 1 level off."""
    side = gaussian_kernel_size(sigma_px)
    wide: Any = cv2.GaussianBlur(
        pixels.astype(np.uint16) << 8,
        (side, side),
        sigma_px,
        borderType=cv2.BORDER_REFLECT_101,
        hint=cv2.ALGO_HINT_ACCURATE,
    )
    return cast("Pixels", ((wide + 128) >> 8).astype(np.uint8))


def correct_contrast(pixels: Pixels, recipe: Recipe) -> Pixels:
    """Spread the values of an (H, W, 3) uint8 image.

    `equalize` and `autocontrast` work on each channel by itself, as Pillow's do, and so shift colors; `clahe` works on
    the lightness of CIELAB and leaves the colors alone.
    """
    if recipe.contrast == "equalize":
        return np.asarray(ImageOps.equalize(Image.fromarray(pixels)))
    if recipe.contrast == "autocontrast":
        return np.asarray(ImageOps.autocontrast(Image.fromarray(pixels)))
    if recipe.contrast == "clahe":
        lab: Any = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
        tiles = (recipe.clahe_tiles, recipe.clahe_tiles)
        lab[..., 0] = cv2.createCLAHE(clipLimit=recipe.clahe_clip_limit, tileGridSize=tiles).apply(lab[..., 0])
        return cast("Pixels", cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))
    return pixels


def binarize(pixels: Pixels, recipe: Recipe) -> Pixels:
    """Turn an (H, W, 1) uint8 image into black (0) and white (255)."""
    plane: Any = pixels[..., 0]
    if recipe.threshold == "fixed":
        _, plane = cv2.threshold(plane, recipe.threshold_level, _WHITE, cv2.THRESH_BINARY)
    elif recipe.threshold == "otsu":
        _, plane = cv2.threshold(plane, 0, _WHITE, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    elif recipe.threshold == "adaptive":
        plane = cv2.adaptiveThreshold(
            plane,
            _WHITE,
            cv2.ADAPTIVE_THRESH_MEAN_C,
            cv2.THRESH_BINARY,
            recipe.adaptive_block_size,
            recipe.adaptive_offset,
        )
    return cast("Pixels", plane[..., None])
