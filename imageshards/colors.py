"""Any mode of Pillow → RGB of the right brightness.

Works in strips, so that a large picture needs little memory beyond its source and its result.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from imageshards.decoded import Repair
from imageshards.formats.container import MAX_PROFILE_BYTES

_STRIP_PIXELS = 2**20

_TO_RGB = {
    "1": Repair.BILEVEL_TO_RGB,
    "P": Repair.PALETTE_TO_RGB,
    "PA": Repair.PALETTE_TO_RGB,
    "CMYK": Repair.CMYK_TO_RGB,
    "YCbCr": Repair.YCBCR_TO_RGB,
    "LAB": Repair.LAB_TO_RGB,
    "HSV": Repair.HSV_TO_RGB,
}
_GRAY = frozenset({"L", "LA", "La", "I", "F"})
_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_WITH_PROFILE = frozenset({"L", "RGB", "CMYK"})

_INTEGER_WHITES = (2**8 - 1, 2**16 - 1, 2**32 - 1)
_FLOAT_WHITES = (1.0, 2.0**8 - 1, 2.0**16 - 1)
_FLOAT_HEADROOM = 2.0
"""Highlights and ringing may exceed white; a picture on a range of 255 that stays below 2 would be black anyway."""


@dataclass(frozen=True, slots=True)
class ColorSource:
    """What the conversion must know beside the image.

    Attributes:
        bits: Of the deepest channel as stored.
        signed: Whether integers are stored with a sign.
        black_is_max: Whether gray of more than 8 bits is stored inverted.
        profile: The ICC profile to convert from; None to leave colors alone, b"" for one that is broken.
        background: RGB color that transparent pixels are put on.
    """

    bits: int = 8
    signed: bool = False
    black_is_max: bool = False
    profile: bytes | None = None
    background: tuple[int, int, int] = (255, 255, 255)


def to_rgb(image: Image.Image, source: ColorSource) -> tuple[npt.NDArray[np.uint8], list[Repair]]:
    """Convert a loaded image.

    16-bit gray is divided by 257 and rounded, 12-bit gray scaled likewise; of other channels deeper than 8 bits Pillow
    keeps the high byte. White of 32-bit integers is the smallest of 255, 65,535 and 2^32 - 1 that no pixel exceeds;
    white of floats the smallest of 1, 255 and 65,535 that no finite pixel exceeds twofold. What lies above is white,
    as +inf is; what lies below 0 is black, as -inf and NaN are.

    Returns:
        (H, W, 3) uint8 RGB, and what was done, in order.
    """
    is_number = image.mode in ("I", "F") or image.mode.startswith("I;16")
    transparent = image.mode in _ALPHA or "transparency" in image.info
    if transparent and not is_number:
        _restore_transparent_color(image, source.bits)
    numbers = _Numbers(_white(image, source), source) if is_number else None
    transform, repairs = None, _mode_repairs(image.mode, source.bits)
    if source.profile is not None:
        profile = source.profile if len(source.profile) <= MAX_PROFILE_BYTES else b""
        transform = _srgb_transform(profile, _profile_mode(image.mode))
        repairs.append(Repair.ICC_TO_SRGB if transform else Repair.ICC_BROKEN)
    if transparent:
        repairs.append(Repair.ALPHA_COMPOSITED)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, strip in _strips(image):
        color, mask = numbers.to_gray(strip) if numbers else _split_alpha(strip)
        color = transform.apply(color) if transform else color.convert("RGB")
        if mask is not None:
            backed = Image.new("RGB", color.size, source.background)
            backed.paste(color, mask=mask)
            color = backed
        pixels[top : top + strip.height] = np.asarray(color)
    return pixels, repairs


def _mode_repairs(mode: str, bits: int) -> list[Repair]:
    repairs = []
    if mode in _TO_RGB:
        repairs.append(_TO_RGB[mode])
    elif mode in _GRAY or mode.startswith("I;16"):
        repairs.append(Repair.GRAY_TO_RGB)
    if mode == "F":
        repairs.append(Repair.FLOAT_SCALED)
    elif bits > 8 or mode == "I":
        repairs.append(Repair.DEPTH_SCALED)
    return repairs


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    rows = max(1, _STRIP_PIXELS // image.width)
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _restore_transparent_color(image: Image.Image, bits: int) -> None:
    """Bring PNG's transparent color, which is stated in the file's own bits, to the 8 bits that Pillow decoded."""
    color = image.info.get("transparency")
    if image.mode == "L" and bits < 8 and isinstance(color, int):
        image.info["transparency"] = color * 255 // (2**bits - 1)
    elif image.mode == "RGB" and bits == 16 and isinstance(color, tuple):
        image.info["transparency"] = tuple(channel >> 8 for channel in color)


def _split_alpha(strip: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Color without alpha, in the mode that a profile of the image would be for; and alpha, if there is any."""
    transparent = "transparency" in strip.info
    if strip.mode in ("PA", "RGBa") or (strip.mode in ("P", "RGB") and transparent):
        strip = strip.convert("RGBA")
    elif strip.mode == "La" or (strip.mode in ("1", "L") and transparent):
        strip = strip.convert("LA")
    if strip.mode in ("LA", "RGBA"):
        return strip.convert("L" if strip.mode == "LA" else "RGB"), strip.getchannel("A")
    return strip if strip.mode in _WITH_PROFILE else strip.convert(_profile_mode(strip.mode)), None


def _profile_mode(mode: str) -> Literal["L", "RGB", "CMYK"]:
    if mode in _GRAY or mode == "1" or mode.startswith("I;16"):
        return "L"
    return "CMYK" if mode == "CMYK" else "RGB"


@lru_cache(maxsize=8)
def _srgb_transform(profile: bytes, mode: Literal["L", "RGB", "CMYK"]) -> ImageCms.ImageCmsTransform | None:
    """The transform to sRGB, perceptual; None where the profile is broken or for another color space."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def _white(image: Image.Image, source: ColorSource) -> float:
    """The value that stands for white."""
    if image.mode.startswith("I;16"):
        return 4095.0 if source.bits == 12 else 65535.0
    if image.mode == "I" and source.bits == 16:  # TIFF's 16 bits with a sign
        return 32767.0
    whites = _FLOAT_WHITES if image.mode == "F" else _INTEGER_WHITES
    headroom = _FLOAT_HEADROOM if image.mode == "F" else 1.0
    highest = max(float(_numbers(strip, source).max(initial=0)) for _, strip in _strips(image))
    return next((float(white) for white in whites if highest <= white * headroom), float(whites[-1]))


def _numbers(strip: Image.Image, source: ColorSource) -> npt.NDArray[Any]:
    numbers: npt.NDArray[Any] = np.asarray(strip)
    if strip.mode == "F":
        return np.where(np.isfinite(numbers), numbers, 0)
    return numbers.view(np.uint32) if strip.mode == "I" and not source.signed else numbers


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Gray as 16-bit or 32-bit integers or floats."""

    white: float
    source: ColorSource

    def to_gray(self, strip: Image.Image) -> tuple[Image.Image, Image.Image | None]:
        """8-bit gray; and alpha, where one value of PNG's 16-bit gray is stated to be transparent."""
        numbers = np.asarray(strip) if strip.mode == "F" else _numbers(strip, self.source)
        share = np.nan_to_num(numbers / np.float64(self.white), nan=0.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0)
        if self.source.black_is_max:
            share = 1.0 - share
        gray = Image.fromarray(np.rint(share * 255).astype(np.uint8))
        transparent = strip.info.get("transparency")
        mask = None if transparent is None else Image.fromarray((numbers != transparent).astype(np.uint8) * 255)
        return gray, mask
