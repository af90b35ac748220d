"""Bytes of one image → upright RGB pixels, or a `SampleError` that says why not.

The format is told by content, never by name. What was done on the way is noted as a `Repair`; what cannot be trusted is
refused with a `RejectReason`. Whatever the bytes are, decoding does not crash, hang, print, or leave the memory that
`DecodePolicy.max_pixels` stands for: at most 1 GB at its default.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFile, JpegImagePlugin, TiffImagePlugin

from imageshards.colors import ColorSource, to_rgb
from imageshards.decoded import Decoded, DecodePolicy, Repair
from imageshards.errors import RejectReason, SampleError
from imageshards.formats.container import Container
from imageshards.formats.jpeg import decode_strictly
from imageshards.formats.jpeg_header import JpegHeader, read_header, read_icc_profile, without_metadata
from imageshards.formats.plain_png import read_color_png, read_gray_png
from imageshards.formats.reading import (
    FORMATS,
    check_size,
    damaged,
    foreign_code,
    load,
    open_first_image,
    sniff_or_reject,
)
from imageshards.orientation import exif_orientation, upright, upright_box
from imageshards.picture import Reduced

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


_KEEPS_VALUES = frozenset({"png", "bmp", "tiff"})

_DEFAULT_POLICY = DecodePolicy()

Reduction = Callable[[tuple[int, int]], int]
"""From (width, height) of an upright image to the factor by which it is reduced: 1, 2, 4 or 8."""


def _in_full(_size: tuple[int, int]) -> int:
    return 1


def suffix_disagrees(name: str, source_format: str) -> bool:
    """Whether the suffix of a file's name is not one of its format's: a case for `Repair.MISNAMED`."""
    return not name.lower().endswith(FORMATS[source_format].suffixes)


def decode(data: bytes, policy: DecodePolicy = _DEFAULT_POLICY, *, reduction: Reduction = _in_full) -> Decoded:
    """Decode one image.

    Args:
        data: The file, whatever its name.
        policy: What to do where there is a choice.
        reduction: By which factor to reduce a JPEG while it is decoded: 1, 2, 4 or 8 for its (width, height), upright.
            Any other format, and a JPEG of four components, is decoded in full. What is refused or repaired is the same
            at any scale.

    Raises:
        SampleError: `empty`, `unknown-format`, `too-large`, `truncated` where data are missing or damaged, and
            `undecodable` for all else.
    """
    source_format = sniff_or_reject(data)
    if source_format == "jpeg":
        return _decode_jpeg(data, policy, reduction)
    container = FORMATS[source_format].inspect(data)
    if container.size:
        check_size(container.size, container.weight, policy.max_pixels)
    if container.damage and not policy.keep_damaged:
        raise damaged(source_format, container.damage)
    try:
        return _decode_container(container, source_format, policy, load_truncated=False)
    except SampleError as error:
        if not policy.keep_damaged or error.reason == RejectReason.TOO_LARGE:
            raise
    return _decode_container(container, source_format, policy, load_truncated=True)


def _decode_jpeg(data: bytes, policy: DecodePolicy, reduction: Reduction) -> Decoded:
    header = read_header(data)
    check_size((header.width, header.height), 1, policy.max_pixels)
    factor = reduction(header.upright_size) if header.components in _SIMPLE_MODES else 1
    strict = decode_strictly(data, header, keep_damaged=policy.keep_damaged, factor=factor)
    profile = read_icc_profile(data, header) if policy.icc == "srgb" else None
    if strict is not None and profile is None and header.components in _SIMPLE_MODES:
        pixels, noted = strict
        mode, conversion = _SIMPLE_MODES[header.components]
        return _finish_jpeg(pixels, header, mode, (*noted, *conversion), factor)
    with foreign_code("jpeg"):
        if strict is None:
            image, noted = _jpeg_image(data, header), _UNCHECKED
        else:
            image, noted = _as_image(strict[0], header), strict[1]
        pixels, converted = to_rgb(image, ColorSource(profile=profile, background=policy.background))
    if image.mode == "CMYK" and header.adobe_transform == _YCCK:
        converted[0] = Repair.YCCK_TO_RGB
    return _finish_jpeg(pixels, header, image.mode, (*noted, *converted), factor if strict else 1)


_SIMPLE_MODES: dict[int, tuple[str, tuple[Repair, ...]]] = {1: ("L", (Repair.GRAY_TO_RGB,)), 3: ("RGB", ())}
"""By the number of components, what simplejpeg turns into RGB itself."""

_UNCHECKED: tuple[Repair, ...] = (Repair.JPEG_UNCHECKED,)

_YCCK = 2
"""The color transform of Adobe's segment that stands for YCCK (Adobe Technical Note 5116)."""


def _as_image(pixels: npt.NDArray[np.uint8], header: JpegHeader) -> Image.Image:
    """The decoded pixels in their own mode: CMYK 0 is no ink, inverted in Adobe's files and only there."""
    if header.components == 4:
        raw_mode = "CMYK" if header.adobe_transform is None else "CMYK;I"
        return Image.frombuffer("CMYK", (header.width, header.height), pixels, "raw", raw_mode, 0, 1)
    return Image.fromarray(pixels[:, :, 0] if header.components == 1 else pixels)


def _jpeg_image(data: bytes, header: JpegHeader) -> Image.Image:
    """What Pillow reads where TurboJPEG does not know the chroma subsampling; it takes any CMYK for Adobe's."""
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(without_metadata(data, header)))
    image.load()
    return ImageChops.invert(image) if image.mode == "CMYK" and header.adobe_transform is None else image


def _decode_container(
    container: Container, source_format: str, policy: DecodePolicy, *, load_truncated: bool
) -> Decoded:
    with foreign_code(source_format, load_truncated=load_truncated) as complaints:
        image = open_first_image(container, source_format, policy.max_pixels)
        mode, several = image.mode, container.several or getattr(image, "is_animated", False)
        orientation = container.orientation or exif_orientation(image.info.get("exif") or b"")
        source = _color_source(image, container, policy)
        pixels, converted = to_rgb(_loaded(image, container, source_format, load_truncated=load_truncated), source)
    damage = container.damage or next(iter(complaints.errors), None)
    if damage and not policy.keep_damaged:
        raise damaged(source_format, damage)
    noted = [Repair.KEPT_DAMAGED] if damage or load_truncated else []
    if container.oddity or complaints.warnings:
        noted.append(Repair.DECODER_WARNING)
    if several:
        noted.append(Repair.FIRST_FRAME)
    return _finish(pixels, source_format, mode, orientation, (*noted, *converted))


def _loaded(
    image: ImageFile.ImageFile, container: Container, source_format: str, *, load_truncated: bool
) -> Image.Image:
    if source_format == "png" and not (container.damage or container.oddity):
        pixels = read_color_png(container.data)
        if pixels is not None:
            return Image.fromarray(pixels)
    load(image, load_truncated=load_truncated)
    return image


def _color_source(image: ImageFile.ImageFile, container: Container, policy: DecodePolicy) -> ColorSource:
    bits, signed = container.bits or 8, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
        signed = _SIGNED in image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    profile = container.icc_profile if container.icc_profile is not None else image.info.get("icc_profile")
    return ColorSource(
        bits=bits,
        signed=signed,
        black_is_max=container.black_is_max,
        profile=profile if policy.icc == "srgb" else None,
        background=policy.background,
    )


_SIGNED = 2
"""TIFF's sample format of integers with a sign."""


def _finish_jpeg(
    stored: npt.NDArray[np.uint8], header: JpegHeader, mode: str, repairs: tuple[Repair, ...], factor: int
) -> Decoded:
    decoded = _finish(stored, "jpeg", mode, header.orientation, repairs)
    if factor == 1:
        return decoded
    height, width, _ = stored.shape
    covered = (0.0, 0.0, header.width / factor, header.height / factor)
    left, top, _, _ = upright_box(covered, header.orientation, width, height)
    return replace(
        decoded,
        source_width=header.width,
        source_height=header.height,
        reduced=Reduced(factor, header.upright_size, (left, top)),
    )


def _finish(
    stored: npt.NDArray[np.uint8], source_format: str, mode: str, orientation: int, repairs: tuple[Repair, ...]
) -> Decoded:
    height, width, _ = stored.shape
    if orientation != 1:
        stored = upright(stored, orientation)
        repairs = (*repairs, Repair.EXIF_ORIENTATION)
    return Decoded(stored, width, height, source_format, mode, orientation, repairs)


def decode_trimap(data: bytes, *, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Decode a trimap: an image of one channel, or with a palette, whose stored values are the classes.

    Returns:
        (H, W) uint8 of 1 pet, 2 background, 3 border; as stored, whatever its EXIF orientation says.

    Raises:
        SampleError: `bad-annotation` for all that can be wrong with it.
    """
    trimap = read_gray_png(data, max_pixels)
    if trimap is None:
        try:
            trimap = _decode_indices(data, max_pixels)
        except SampleError as error:
            raise SampleError(f"the trimap: {error}", reason=RejectReason.BAD_ANNOTATION) from error
    if trimap.min() < TRIMAP_VALUES[0] or trimap.max() > TRIMAP_VALUES[-1]:
        found = ", ".join(str(value) for value in np.unique(trimap)[:8])
        raise SampleError(
            f"the trimap holds the values {found}, expected only 1, 2 and 3", reason=RejectReason.BAD_ANNOTATION
        )
    return trimap


TRIMAP_VALUES = (1, 2, 3)


def _decode_indices(data: bytes, max_pixels: int) -> npt.NDArray[np.uint8]:
    source_format = sniff_or_reject(data)
    if source_format not in _KEEPS_VALUES:
        raise SampleError(f"{source_format} does not keep values, expected one of {', '.join(sorted(_KEEPS_VALUES))}")
    container = FORMATS[source_format].inspect(data)
    if container.damage:
        raise damaged(source_format, container.damage)
    if container.size:
        check_size(container.size, container.weight, max_pixels)
    with foreign_code(source_format) as complaints:
        image = open_first_image(container, source_format, max_pixels)
        if image.mode not in ("L", "P"):
            raise SampleError(f"expected one channel of 8 bits or a palette, found mode {image.mode}")
        load(image, load_truncated=False)
        indices = np.array(image)
    if complaints.errors:
        raise damaged(source_format, complaints.errors[0])
    if source_format == "png" and image.mode == "L" and container.bits in (2, 4):  # which Pillow stretches to 8 bits
        indices //= 255 // (2**container.bits - 1)
    return indices
