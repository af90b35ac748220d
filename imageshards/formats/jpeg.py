"""JPEG: decoded strictly, so that no loss passes for a picture.

libjpeg goes on after almost any damage and fills what is missing with gray. Here each of its warnings is either mended
and proved harmless, by decoding the mended bytes without any warning, or the sample has lost data.
"""

from __future__ import annotations

import re
from itertools import islice

import numpy as np
import numpy.typing as npt
import simplejpeg

from imageshards.decoded import Repair
from imageshards.errors import RejectReason, SampleError
from imageshards.formats.jpeg_header import (
    APP0,
    APP14,
    EOI,
    MAX_SEGMENTS,
    SOS,
    JpegHeader,
    is_adobe,
    read_header,
    walk_segments,
    without_metadata,
)

USUAL_SCANS = 20
MAX_SCANS = 100
MAX_SCAN_PIXELS = 3 * 10**9
"""Encoders write about 10 scans. One of a few bytes costs 0.8 ns per pixel (measured), so thousands of them, which fit
into a small file, would take minutes. Beyond the usual number, pixels times scans are bound to what takes 2.4 s."""

_EOI_BYTES = b"\xff\xd9"

# All warnings that libjpeg-turbo 3.1 has for decoding: JWRN_… in its src/jerror.h. Any other message is an error, after
# which it gives no pixels.
_JUNK = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x([0-9a-f]{2})")  # JWRN_EXTRANEOUS_DATA
_EARLY_END = "Premature end of JPEG file"  # JWRN_JPEG_EOF
_BAD_PROFILE = "Corrupt JPEG data: bad ICC marker"  # JWRN_BOGUS_ICC
_ASSUMED = (
    "Unknown Adobe color transform code",  # JWRN_ADOBE_XFORM
    "Warning: unknown JFIF revision number",  # JWRN_JFIF_MAJOR
    "Invalid SOS parameters for sequential JPEG",  # JWRN_NOT_SEQUENTIAL
)
_LOST = (
    "Corrupt JPEG data: bad arithmetic code",  # JWRN_ARITH_BAD_CODE
    "Corrupt JPEG data: bad Huffman code",  # JWRN_HUFF_BAD_CODE
    "Corrupt JPEG data: found marker",  # "… instead of RST%d", JWRN_MUST_RESYNC
    "Corrupt JPEG data: premature end of data segment",  # JWRN_HIT_MARKER
    "Inconsistent progression sequence",  # JWRN_BOGUS_PROGRESSION
)

_UNKNOWN_SUBSAMPLING = "Could not determine subsampling"

_MAX_JUNK_BYTES = 1024
_MAX_JUNK_SHARE = 1 / 8
"""Unread bytes beyond both, unless all are equal, are image data behind the place where the decoder lost its way."""

_MAX_MENDS = 4


def decode_strictly(
    data: bytes, header: JpegHeader, *, keep_damaged: bool, factor: int = 1
) -> tuple[npt.NDArray[np.uint8], tuple[Repair, ...]] | None:
    """Decode, and account for each of libjpeg's warnings.

    Args:
        data: The file.
        header: Its `read_header`.
        keep_damaged: Return what is left of a damaged image instead of rejecting it.
        factor: By which the picture is reduced: 1, 2, 4 or 8. Its sides are rounded up. All data are read and checked
            at any scale.

    Returns:
        (H, W, 3) RGB pixels, or (H, W, 4) CMYK where the file has four components, as stored: with Adobe's inversion;
        and the repairs. None where TurboJPEG does not know the chroma subsampling: another decoder must be asked.

    Raises:
        SampleError: `truncated` where data were lost, `undecodable` where libjpeg gives up.
    """
    whole = header.single_scan or _has_all_components(data, header)
    if not (whole or keep_damaged):
        raise SampleError("the JPEG has lost data: a component has no scan", reason=RejectReason.TRUNCATED)
    try:
        return _decode(data, header, factor), () if whole else (Repair.KEPT_DAMAGED,)
    except ValueError as error:
        message = str(error)
    if _UNKNOWN_SUBSAMPLING in message:
        return None
    if not (_JUNK.match(message) or message.startswith((_EARLY_END, _BAD_PROFILE, *_ASSUMED, *_LOST))):
        raise SampleError(f"the JPEG cannot be decoded: {message}")
    pixels = _decode_mended(data, header, message, factor)
    if pixels is not None and whole:
        return pixels, (Repair.JPEG_WARNING,)
    if not keep_damaged:
        raise SampleError(f"the JPEG has lost data: {message}", reason=RejectReason.TRUNCATED)
    try:
        return _decode(data, header, factor, strict=False), (Repair.KEPT_DAMAGED,)
    except ValueError as error:
        raise SampleError(f"the JPEG cannot be decoded: {error}") from error


def _decode(data: bytes, header: JpegHeader, factor: int, *, strict: bool = True) -> npt.NDArray[np.uint8]:
    colorspace = "CMYK" if header.components == 4 else "RGB"
    # of its scales, 1/8 to 16/8, TurboJPEG is given the least that makes a picture of this size
    least = {} if factor == 1 else {"min_height": -(-header.height // factor), "min_width": -(-header.width // factor)}
    try:
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace, strict=strict, **least)
    except ValueError:  # what libjpeg says
        raise
    except Exception as error:  # no memory, no decoder
        raise SampleError(f"the JPEG cannot be decoded: {type(error).__name__}: {error}") from error
    return pixels


def _has_all_components(data: bytes, header: JpegHeader) -> bool:
    """Whether the scans, a bounded number of them, hold each component: libjpeg leaves gray one that has none."""
    scans, components = 0, set[int]()
    for number, (marker, start, end) in enumerate(walk_segments(data, header.segments[-1][1])):
        if marker == SOS:
            scans += 1
            components.update(data[start + 5 : end - 3 : 2])
        if scans > MAX_SCANS or number > MAX_SEGMENTS:
            raise SampleError(f"the JPEG has more than {MAX_SCANS} scans, or {MAX_SEGMENTS} segments between them")
    if scans > USUAL_SCANS and scans * header.width * header.height > MAX_SCAN_PIXELS:
        raise SampleError(f"the JPEG has {scans} scans of {header.width} x {header.height} px")
    return len(components) >= header.components


def _decode_mended(data: bytes, header: JpegHeader, message: str, factor: int) -> npt.NDArray[np.uint8] | None:
    """Decode after mending what libjpeg warned of; None where that cannot be mended, or leads to a loss.

    simplejpeg makes libjpeg stop at its first warning, and a harmless one may hide a loss that comes later: so what
    is harmless gets mended, and the rest has to decode without a warning.
    """
    for _ in range(_MAX_MENDS):
        mended = _mend(data, header, message)
        if mended is None or mended == data:
            return None
        data, header = mended, read_header(mended)
        try:
            return _decode(data, header, factor)
        except ValueError as error:
            message = str(error)
    return None


def _mend(data: bytes, header: JpegHeader, message: str) -> bytes | None:
    junk = _JUNK.match(message)
    if junk and int(junk[2], 16) == EOI:
        return _without_junk_before_end(data, header, int(junk[1]))
    if junk:
        return _without_junk_between_segments(data, header)
    if message.startswith(_EARLY_END) and header.single_scan:  # of several scans, whole ones may be missing
        return data + _EOI_BYTES
    if message.startswith(_BAD_PROFILE):
        return without_metadata(data, header)
    if message.startswith(_ASSUMED):
        return _with_assumed_parameters(data, header)
    return None


def _without_junk_before_end(data: bytes, header: JpegHeader, size: int) -> bytes | None:
    """Without the bytes before the end marker that libjpeg did not read; None where they look like image data."""
    *_, (marker, end, _) = islice(walk_segments(data, header.segments[-1][1]), MAX_SEGMENTS)
    scan_size = end - header.scan_start
    if marker != EOI or size > scan_size:
        return None
    junk = data[end - size : end]
    if size > max(_MAX_JUNK_BYTES, _MAX_JUNK_SHARE * scan_size) and len(set(junk)) > 1:
        return None
    return data[: end - size] + _EOI_BYTES


def _without_junk_between_segments(data: bytes, header: JpegHeader) -> bytes:
    return b"".join([data[:2], *(data[start:end] for _, start, end in header.segments), data[header.scan_start :]])


def _with_assumed_parameters(data: bytes, header: JpegHeader) -> bytes:
    """With the JFIF revision, Adobe transform and scan parameters that libjpeg assumed in place of those it found."""
    mended = bytearray(data)
    for segment in header.segments:
        marker, start, end = segment
        if marker == APP0 and data.startswith(b"JFIF\0", start + 4) and end - start >= 11:
            mended[start + 9] = 1
        elif marker == APP14 and is_adobe(data, segment) and data[start + 15] > 2:
            mended[start + 15] = 2 if header.components == 4 else 1
        elif marker == SOS and header.single_scan:
            mended[end - 3 : end] = b"\x00\x3f\x00"
    return bytes(mended)
