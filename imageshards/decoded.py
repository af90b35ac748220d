"""What decoding is told, and what it gives: the policy, the pixels, and the closed list of repairs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from imageshards.picture import Reduced
from imageshards.recipe import Recipe


class Repair(StrEnum):
    """What had to be done to a stored image to get an upright RGB one. A closed list: reports rely on it."""

    MISNAMED = "misnamed"
    """The name's suffix belongs to another format than the content's (noted by the caller, who knows the name)."""
    JPEG_WARNING = "jpeg-warning"
    """libjpeg warned of something that cost no pixel: bytes in excess, a missing end marker."""
    JPEG_UNCHECKED = "jpeg-unchecked"
    """An unusual JPEG that only Pillow reads, which does not tell what libjpeg warned of."""
    DECODER_WARNING = "decoder-warning"
    """Another decoder warned of something that cost no pixel."""
    KEPT_DAMAGED = "kept-damaged"
    """Data were lost; the recipe says to keep what is left."""
    FIRST_FRAME = "first-frame"
    """Animated, or of several pages: the first was taken."""
    BILEVEL_TO_RGB = "bilevel-to-rgb"
    GRAY_TO_RGB = "gray-to-rgb"
    PALETTE_TO_RGB = "palette-to-rgb"
    CMYK_TO_RGB = "cmyk-to-rgb"
    YCCK_TO_RGB = "ycck-to-rgb"
    YCBCR_TO_RGB = "ycbcr-to-rgb"
    LAB_TO_RGB = "lab-to-rgb"
    HSV_TO_RGB = "hsv-to-rgb"
    DEPTH_SCALED = "16-bit-scaled"
    """More than 8 bits per channel, as integers, brought to 8."""
    FLOAT_SCALED = "float-scaled"
    ICC_TO_SRGB = "icc-to-srgb"
    ICC_BROKEN = "icc-broken"
    """The recipe says to convert, the profile cannot be used: pixels as without a profile."""
    ALPHA_COMPOSITED = "alpha-composited"
    """Transparent pixels were put on the recipe's background."""
    EXIF_ORIENTATION = "exif-orientation"
    """Turned or mirrored to stand upright."""
    HEAD_BOX_CLIPPED = "head-box-clipped"
    """The annotated box reached out of the image (noted by the caller, who knows the annotations)."""


@dataclass(frozen=True, slots=True)
class DecodePolicy:
    """What decoding does where there is a choice; `Recipe` documents each field."""

    keep_damaged: bool = False
    icc: Literal["ignore", "srgb"] = "ignore"
    background: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int = 64_000_000

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        """The part of a recipe that decoding obeys."""
        return cls(recipe.keep_damaged, recipe.icc, recipe.background, recipe.max_pixels)


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image as upright RGB pixels, and how it was stored.

    Attributes:
        pixels: (H, W, 3) uint8, RGB, upright, C-contiguous; of the image, or of the image at reduced scale.
        source_width: Width as stored, before the EXIF orientation was applied.
        source_height: Height as stored, likewise.
        source_format: `jpeg`, `png`, `gif`, `webp`, `bmp`, `tiff`, `avif` or `jpeg2000`, by content.
        source_mode: Pillow's mode of the stored image: `RGB`, `L`, `CMYK`, `P`, `RGBA`, `I;16`, …
        exif_orientation: 1 to 8; 1 where none is stated.
        repairs: What was done, out of `Repair`, in the order applied.
        reduced: How the pixels lie on the image; None where they are the image's.
    """

    pixels: npt.NDArray[np.uint8]
    source_width: int
    source_height: int
    source_format: str
    source_mode: str
    exif_orientation: int
    repairs: tuple[str, ...]
    reduced: Reduced | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright image in px."""
        if self.exif_orientation >= 5:  # 5 to 8 turn by a quarter
            return self.source_height, self.source_width
        return self.source_width, self.source_height
