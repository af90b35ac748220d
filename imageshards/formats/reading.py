"""Each format with its inspection and its Pillow plugin; and what every way through them needs."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from imageshards.errors import RejectReason, SampleError
from imageshards.formats.boxed import inspect_avif, inspect_jpeg2000
from imageshards.formats.container import Container, sniff
from imageshards.formats.gif import inspect_gif
from imageshards.formats.png import inspect_png
from imageshards.formats.simple import inspect_bmp, inspect_webp
from imageshards.formats.tiff import inspect_tiff
from imageshards.pillow_guard import Complaints, guarded_pillow


class Format(NamedTuple):
    """One format: the suffixes of its names, what looks at its structure, what decodes it."""

    suffixes: tuple[str, ...]
    inspect: Callable[[bytes], Container]
    plugin: type[ImageFile.ImageFile]


FORMATS = {
    "jpeg": Format((".jpg", ".jpeg", ".jpe", ".jfif", ".jif"), Container, JpegImagePlugin.JpegImageFile),
    "png": Format((".png", ".apng"), inspect_png, PngImagePlugin.PngImageFile),
    "gif": Format((".gif",), inspect_gif, GifImagePlugin.GifImageFile),
    "webp": Format((".webp",), inspect_webp, WebPImagePlugin.WebPImageFile),
    "bmp": Format((".bmp", ".dib"), inspect_bmp, BmpImagePlugin.BmpImageFile),
    "tiff": Format((".tif", ".tiff"), inspect_tiff, TiffImagePlugin.TiffImageFile),
    "avif": Format((".avif", ".avifs"), inspect_avif, AvifImagePlugin.AvifImageFile),
    "jpeg2000": Format(
        (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), inspect_jpeg2000, Jpeg2KImagePlugin.Jpeg2KImageFile
    ),
}


def sniff_or_reject(data: bytes) -> str:
    """The format by content.

    Raises:
        SampleError: `empty`, or `unknown-format`.
    """
    if not data:
        raise SampleError("the file has 0 bytes", reason=RejectReason.EMPTY)
    source_format = sniff(data)
    if source_format is None:
        raise SampleError(
            f"the file begins with {data[:12]!r}, which none of {', '.join(FORMATS)} does",
            reason=RejectReason.UNKNOWN_FORMAT,
        )
    return source_format


def check_size(size: tuple[int, int], weight: int, max_pixels: int) -> None:
    """Reject as `too-large` an image of more pixels, each counted `weight` times, than `max_pixels`."""
    width, height = size
    if width * height * weight > max_pixels:
        counted = f", each counted {weight} times for what its decoder takes" if weight > 1 else ""
        raise SampleError(
            f"the image has {width} x {height} px{counted}, more than max_pixels {max_pixels:,} allows",
            reason=RejectReason.TOO_LARGE,
        )


def damaged(source_format: str, damage: str) -> SampleError:
    """The error of an image that has lost data."""
    return SampleError(f"the {source_format} has lost data: {damage}", reason=RejectReason.TRUNCATED)


def load(image: ImageFile.ImageFile, *, load_truncated: bool) -> None:
    """Decode the pixels; of a damaged TIFF, what libtiff got: Pillow raises, but has them when asked again."""
    try:
        image.load()
    except OSError:
        if not load_truncated:
            raise
        image.load()


def open_first_image(container: Container, source_format: str, max_pixels: int) -> ImageFile.ImageFile:
    """Let the one plugin read the header; no pixel is decoded, and no other plugin asked."""
    image = FORMATS[source_format].plugin(io.BytesIO(container.data))
    check_size(image.size, container.weight, max_pixels)
    image.info.pop("xmp", None)  # Pillow would turn a TIFF by the orientation in there
    return image


@contextmanager
def foreign_code(source_format: str, *, load_truncated: bool = False) -> Iterator[Complaints]:
    """Turn whatever Pillow and the libraries behind it raise into a `SampleError`."""
    complaints = Complaints()
    try:
        with guarded_pillow(load_truncated=load_truncated) as complaints:
            yield complaints
    except SampleError:
        raise
    except Exception as error:  # on garbage they raise any type: OSError, SyntaxError, struct.error, KeyError, …
        message = "; ".join([f"{type(error).__name__}: {error}", *complaints.errors[:1]])
        if _ENDS_EARLY.search(message) or complaints.errors:
            raise damaged(source_format, message) from error
        raise SampleError(f"the {source_format} cannot be decoded: {message}") from error


_ENDS_EARLY = re.compile(r"truncated|not enough|only got", re.IGNORECASE)
