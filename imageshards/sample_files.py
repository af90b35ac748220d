"""The files of one drawn image: the photograph in its file format, odd or not, the trimap and the head box."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from PIL import Image, ImageCms, ImageDraw

from imageshards.sample_drawing import TRIMAP_BACKGROUND, Picture

_EXTRANEOUS_BYTES = 240
_CUT_AT = 0.8
_JPEG_QUALITY = 88
_ORIENTATION_TAG, _TURN_RIGHT = 0x0112, 6

_XML = """\
<annotation>
	<folder>OXIIIT</folder>
	<filename>{image_id}.jpg</filename>
	<source><database>OXFORD-IIIT Pet Dataset</database><annotation>OXIIIT</annotation><image>flickr</image></source>
	<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>
	<segmented>0</segmented>
	<object>
		<name>{species}</name>
		<pose>Frontal</pose>
		<truncated>0</truncated>
		<occluded>0</occluded>
		<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
		<difficult>0</difficult>
	</object>
</annotation>
"""


class Fault(StrEnum):
    """How an image file is odd, in the words of expected.json."""

    PNG_ALPHA = "PNG with alpha under a .jpg name"
    PNG = "PNG without alpha under a .jpg name"
    GIF = "GIF (palette) under a .jpg name, in no split"
    TRUNCATED = "JPEG cut off at 80 % (premature end)"
    EXTRANEOUS = "JPEG with 240 extraneous bytes before its end marker"
    ROTATED = "stored rotated, EXIF orientation 6 (the annotations are in upright coordinates)"
    CMYK = "CMYK JPEG"
    GRAY = "gray JPEG, in no split"


def encode_image(picture: Picture, fault: Fault | None, *, with_profile: bool = False) -> bytes:
    """The photograph as a file.

    Args:
        picture: What was drawn.
        fault: How the file is to be odd; None for a plain RGB JPEG.
        with_profile: Whether a plain JPEG carries an ICC profile (sRGB).
    """
    if fault is not None:
        return _ODD_ENCODERS[fault](picture.image)
    return _jpeg(picture.image, icc_profile=_srgb_profile()) if with_profile else _jpeg(picture.image)


def encode_trimap(picture: Picture, *, empty: bool = False) -> bytes:
    """The trimap as an 8-bit gray PNG; an empty one is background all over."""
    return _saved(Image.new("L", picture.trimap.size, TRIMAP_BACKGROUND) if empty else picture.trimap, "PNG")


def encode_box(picture: Picture, image_id: str, species: str) -> bytes:
    """The head box as Pascal VOC XML, in upright coordinates."""
    return _XML.format(image_id=image_id, species=species, size=picture.image.size, box=picture.head_box).encode()


def _truncated(image: Image.Image) -> bytes:
    whole = _jpeg(image)
    return whole[: int(len(whole) * _CUT_AT)]


def _with_extraneous_bytes(image: Image.Image) -> bytes:
    whole = _jpeg(image)
    return whole[:-2] + bytes(_EXTRANEOUS_BYTES) + whole[-2:]


def _stored_rotated(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = _TURN_RIGHT
    return _jpeg(image.transpose(Image.Transpose.ROTATE_90), exif=exif)


def _with_transparent_corners(image: Image.Image) -> bytes:
    alpha = Image.new("L", image.size)
    frame = (0, 0, image.width - 1, image.height - 1)
    ImageDraw.Draw(alpha).rounded_rectangle(frame, radius=min(image.size) // 5, fill=255)
    transparent = image.convert("RGBA")
    transparent.putalpha(alpha)
    return _saved(transparent, "PNG")


_ODD_ENCODERS: Mapping[Fault, Callable[[Image.Image], bytes]] = {
    Fault.PNG_ALPHA: _with_transparent_corners,
    Fault.PNG: lambda image: _saved(image, "PNG"),
    Fault.GIF: lambda image: _saved(image.quantize(256), "GIF"),
    Fault.TRUNCATED: _truncated,
    Fault.EXTRANEOUS: _with_extraneous_bytes,
    Fault.ROTATED: _stored_rotated,
    Fault.CMYK: lambda image: _jpeg(image.convert("CMYK")),
    Fault.GRAY: lambda image: _jpeg(image.convert("L")),
}


def _srgb_profile() -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)  # its creation time (ICC.1:2022, section 7.2) would differ with every run
    return bytes(profile)


def _jpeg(image: Image.Image, **options: Any) -> bytes:
    return _saved(image, "JPEG", quality=_JPEG_QUALITY, **options)


def _saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()
