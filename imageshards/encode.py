"""Prepared pixels → the bytes of an image file, for recipes that do not store raw pixels."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from imageshards.recipe import Recipe


def encode(pixels: npt.NDArray[np.uint8], recipe: Recipe) -> bytes:
    """Encode one image.

    Args:
        pixels: (H, W, 3) or (H, W, 1) uint8, C-contiguous.
        recipe: Its `encoding` is `jpeg`, `png` or `webp`; `encoding_quality` counts for jpeg and webp.
    """
    gray = pixels.shape[2] == 1
    if recipe.encoding == "jpeg":
        space = "GRAY" if gray else "RGB"
        encoded: bytes = simplejpeg.encode_jpeg(
            pixels,
            quality=recipe.encoding_quality,
            colorspace=space,
            colorsubsampling="Gray" if gray else "420",
            fastdct=False,
        )
        return encoded
    buffer = io.BytesIO()
    image = Image.fromarray(pixels[:, :, 0] if gray else pixels)
    if recipe.encoding == "webp":
        image.save(buffer, "WEBP", quality=recipe.encoding_quality)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()
