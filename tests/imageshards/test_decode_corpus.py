"""Decoding survives whatever bytes it gets: no crash, no hang, no output, no more than 1 GB, and always an answer.

Each group of files is decoded in a process of its own, this file run as a program, so that a crash is noticed, what C
libraries print is seen, and the peak of memory is that of decoding alone.
"""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from imageshards.decode import DecodePolicy, decode
from imageshards.decoded import Repair
from imageshards.errors import RejectReason, SampleError

WIDTH, HEIGHT = 48, 32
CUTS, FLIPS = 20, 200
MAX_SECONDS = 5.0
MAX_PEAK_BYTES = 10**9

PLAIN = DecodePolicy()
LENIENT = DecodePolicy(keep_damaged=True, icc="srgb", background=(1, 2, 3))


def picture() -> Image.Image:
    """A colorful gradient, with enough detail to need all tables of a codec."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return Image.fromarray(np.stack([x * 5, y * 7, (x + y) * 3 + x * y % 7], -1).astype(np.uint8))


def pictures_by_mode() -> dict[str, Image.Image]:
    rgb = picture()
    modes = {mode: rgb.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "CMYK", "YCbCr", "I", "F", "LAB")}
    modes["RGBA"] = rgb.copy()
    modes["RGBA"].putalpha(modes["L"])
    modes["P+t"] = modes["P"].copy()
    modes["P+t"].info["transparency"] = bytes(range(256))
    modes["PA"] = modes["P"].convert("PA")
    sixteen = np.asarray(modes["L"]).astype(np.uint16) * 257
    modes["I;16"] = Image.fromarray(sixteen)
    modes["I;16B"] = Image.frombytes("I;16B", rgb.size, sixteen.astype(">u2").tobytes())
    return modes


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


MODES = {
    "JPEG": ["1", "L", "RGB", "CMYK", "YCbCr"],
    "PNG": ["1", "L", "LA", "P", "P+t", "RGB", "RGBA", "I;16"],
    "GIF": ["1", "L", "P", "P+t", "RGB", "RGBA"],
    "WEBP": ["L", "P+t", "RGB", "RGBA"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
    "TIFF": ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16", "I;16B"],
    "AVIF": ["L", "RGB", "RGBA"],
    "JPEG2000": ["L", "LA", "RGB", "RGBA", "CMYK", "I;16"],
}
"""Every mode that Pillow writes; those that it converts before it writes them are not repeated."""

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "JPEG": [
        {"progressive": True},
        {"subsampling": 0, "restart_marker_rows": 1},
        {"subsampling": 1},
        {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()},
    ],
    "PNG": [{"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}],
    "GIF": [{"interlace": 0, "comment": b"a comment"}],
    "WEBP": [{"lossless": True}, {"quality": 10}],
    "BMP": [],
    "TIFF": [
        *({"compression": name} for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma")),
        {"compression": "tiff_lzw", "tiffinfo": {322: 16, 323: 16}},
        {"big_tiff": True},
    ],
    "AVIF": [{"subsampling": "4:4:4", "quality": 90}],
    "JPEG2000": [{"no_jp2": True}, {"tile_size": (16, 16)}, {"irreversible": True}, {"num_resolutions": 2}],
}
FAX = ("group3", "group4", "tiff_ccitt")
ANIMATED = ("GIF", "WEBP", "AVIF", "PNG", "TIFF")


def corpus(file_format: str) -> dict[str, bytes]:
    """Files of one format in every mode and with every option, named by them."""
    modes = pictures_by_mode()
    files = {f"{mode}": encoded(modes[mode], file_format) for mode in MODES[file_format]}
    exif = Image.Exif()
    exif[0x0112] = 6
    files["exif"] = encoded(modes["RGB"], file_format, exif=exif)
    for options in OPTIONS[file_format]:
        files[f"RGB {list(options)} {len(files)}"] = encoded(modes["RGB"], file_format, **options)
    if file_format == "TIFF":
        files.update({name: encoded(modes["1"], file_format, compression=name) for name in FAX})
    if file_format in ANIMATED:
        frames = [Image.fromarray(np.roll(np.asarray(picture()), 4 * shift, 1)) for shift in range(3)]
        files["animated"] = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    return files


def damaged(name: str, data: bytes) -> Iterator[bytes]:
    """The file, cut at 20 places, and with a bit flipped at 200."""
    yield data
    for cut in range(CUTS):
        yield data[: len(data) * cut // CUTS]
    draw = random.Random(name)
    for _ in range(FLIPS):
        flipped = bytearray(data)
        flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        yield bytes(flipped)


def outcome(data: bytes, policy: DecodePolicy) -> str:
    """`accepted`, `repaired`, or the reason of the rejection; anything else fails."""
    try:
        decoded = decode(data, policy)
    except SampleError as error:
        return str(RejectReason(error.reason))
    pixels = decoded.pixels
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert sorted(pixels.shape[:2]) == sorted((decoded.source_height, decoded.source_width))
    assert 1 <= decoded.exif_orientation <= 8
    assert {Repair(repair) for repair in decoded.repairs} <= set(Repair)
    return "repaired" if decoded.repairs else "accepted"


def decode_corpus(file_format: str) -> dict[str, Any]:
    """Decode all damaged files of a format under both policies; runs in the process of its own."""
    outcomes: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    slowest = (0.0, "")
    for name, data in corpus(file_format).items():
        for number, variant in enumerate(damaged(name, data)):
            for policy in (PLAIN, LENIENT):
                start = time.perf_counter()
                result = outcome(variant, policy)
                slowest = max(slowest, (time.perf_counter() - start, f"{name} variant {number}"))
                outcomes[result] += 1
                if number == 0:
                    whole[result] += 1
    return {"outcomes": outcomes, "whole": whole, "slowest": slowest}


def peak_bytes() -> int:
    """Peak memory of this process alone (getrusage would count the parent's, from before the exec)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def run(*arguments: str) -> dict[str, Any]:
    """Run this file as a program; what it prints beside its one line of JSON fails the test."""
    finished = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.stderr == ""
    assert finished.returncode == 0
    result: dict[str, Any] = json.loads(finished.stdout)
    return result


if __name__ == "__main__":
    answer = decode_corpus(sys.argv[2])
    print(json.dumps({**answer, "peak_bytes": peak_bytes()}))  # noqa: T201 - the answer to the test
