"""Bytes of one image → upright RGB pixels, or a `SampleError` that says why not."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from imageshards.decoded import Decoded, DecodePolicy, Repair
from imageshards.errors import RejectReason, SampleError
from imageshards.orientation import upright, upright_box

__all__ = [
    "DecodePolicy",
    "Decoded",
    "Repair",
    "decode",
    "decode_trimap",
    "suffix_disagrees",
    "upright",
    "upright_box",
]

_SUFFIXES = {
    "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "png": (".png", ".apng"),
    "gif": (".gif",),
    "webp": (".webp",),
    "bmp": (".bmp", ".dib"),
    "tiff": (".tif", ".tiff"),
    "avif": (".avif", ".avifs"),
    "jpeg2000": (".jp2", ".j2k", ".jpc", ".jpx", ".j2c", ".jpf"),
}


def suffix_disagrees(name: str, source_format: str) -> bool:
    """Whether a file name's suffix belongs to another format than the content's."""
    return not name.lower().endswith(_SUFFIXES[source_format])


def decode(data: bytes, policy: DecodePolicy = DecodePolicy()) -> Decoded:
    """PROVISIONAL body."""
    if not data:
        raise SampleError("the file has 0 bytes", reason=RejectReason.EMPTY)
    repairs: list[str] = []
    if data[:3] == b"\xff\xd8\xff":
        try:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
            if height * width > policy.max_pixels:
                raise SampleError("too large", reason=RejectReason.TOO_LARGE)
            if colorspace in ("YCbCr", "RGB", "Gray"):
                pixels = simplejpeg.decode_jpeg(data)
                mode = "L" if colorspace == "Gray" else "RGB"
                return Decoded(pixels, width, height, "jpeg", mode, 1, (Repair.GRAY_TO_RGB,) if mode == "L" else ())
        except ValueError as error:
            if "extraneous" not in str(error):
                raise SampleError(f"JPEG data lost: {error}", reason=RejectReason.TRUNCATED) from error
            pixels = simplejpeg.decode_jpeg(data, strict=False)
            return Decoded(pixels, pixels.shape[1], pixels.shape[0], "jpeg", "RGB", 1, (Repair.JPEG_WARNING,))
    try:
        image = Image.open(io.BytesIO(data))
        pixels = np.asarray(image.convert("RGB"))
    except Exception as error:
        raise SampleError(f"cannot decode: {error}", reason=RejectReason.UNDECODABLE) from error
    return Decoded(pixels, image.width, image.height, str(image.format).lower(), image.mode, 1, tuple(repairs))


def decode_trimap(data: bytes, *, max_pixels: int) -> npt.NDArray[np.uint8]:
    """PROVISIONAL body."""
    try:
        trimap = np.asarray(Image.open(io.BytesIO(data)))
    except Exception as error:
        raise SampleError(f"cannot decode trimap: {error}", reason=RejectReason.BAD_ANNOTATION) from error
    if trimap.ndim != 2 or not np.isin(trimap, (1, 2, 3)).all():
        raise SampleError("trimap values", reason=RejectReason.BAD_ANNOTATION)
    return trimap
