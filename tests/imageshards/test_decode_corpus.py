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
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from imageshards.decode import DecodePolicy, decode
from imageshards.decoded import Repair
from imageshards.errors import RejectReason, SampleError

WIDTH, HEIGHT = 48, 32
CUTS, FLIPS = 20, 200
MAX_SECONDS = 60.0
"""Of processor time: far above what any file takes (the worst, a BMP, 5 s), and far below work without an end."""
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


def damaged(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """What was done to the file, and what it is then: cut at 20 places, a bit flipped at 200."""
    for cut in range(CUTS):
        size = len(data) * cut // CUTS
        yield f"cut at {size}", data[:size]
    draw = random.Random(name)
    for _ in range(FLIPS):
        flipped = bytearray(data)
        position = draw.randrange(len(data))
        flipped[position] ^= 1 << draw.randrange(8)
        yield f"flipped at {position}", bytes(flipped)


def outcome(data: bytes, policy: DecodePolicy) -> tuple[str, npt.NDArray[np.uint8] | None]:
    """`accepted`, `repaired` or the reason of the rejection; and the pixels. Anything else fails."""
    try:
        decoded = decode(data, policy)
    except SampleError as error:
        return str(RejectReason(error.reason)), None
    pixels = decoded.pixels
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert sorted(pixels.shape[:2]) == sorted((decoded.source_height, decoded.source_width))
    assert 1 <= decoded.exif_orientation <= 8
    assert {Repair(repair) for repair in decoded.repairs} <= set(Repair)
    return "repaired" if decoded.repairs else "accepted", pixels


class Tally:
    """What became of the files that one process decoded."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.slowest = (0.0, "")

    def decode(self, name: str, data: bytes, policy: DecodePolicy) -> tuple[str, npt.NDArray[np.uint8] | None]:
        start = time.process_time()
        result, pixels = outcome(data, policy)
        self.slowest = max(self.slowest, (time.process_time() - start, name))
        self.outcomes[result] += 1
        return result, pixels

    def to_json(self, **more: Any) -> str:
        return json.dumps({"outcomes": self.outcomes, "slowest": self.slowest, "peak_bytes": peak_bytes(), **more})


def peak_bytes() -> int:
    """Peak memory of this process alone (getrusage would count the parent's, from before the exec)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def decode_corpus(file_format: str) -> str:
    """Decode all damaged files of a format under both policies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, while it writes
        files = corpus(file_format)
    tally = Tally()
    rejected, changed = [], []
    for name, data in files.items():
        _, whole = tally.decode(name, data, PLAIN)
        if whole is None:
            rejected.append(name)
        for kind, variant in damaged(name, data):
            _, pixels = tally.decode(f"{name}, {kind}", variant, PLAIN)
            tally.decode(f"{name}, {kind}", variant, LENIENT)
            if pixels is not None and kind.startswith("cut") and not np.array_equal(pixels, whole):
                changed.append(f"{name}, {kind}")
    return tally.to_json(rejected=rejected, changed=changed, files=len(files))


def decode_bombs(which: str) -> str:
    """Decode the bombs of one format under both policies."""
    tally = Tally()
    expected = {}
    for name, (make, reason) in BOMBS.items():
        if name.startswith(which):
            data = make()
            result, _ = tally.decode(name, data, PLAIN)
            expected[name] = [reason, result]
            tally.decode(name, data, LENIENT)
    return tally.to_json(expected=expected)


def decode_stdin(_: str) -> str:
    """Decode one file from standard input."""
    data = sys.stdin.buffer.read()
    tally = Tally()
    result, _pixels = tally.decode("stdin", data, PLAIN)
    return tally.to_json(result=result)


def run(program: str, argument: str, stdin: bytes | None = None) -> dict[str, Any]:
    """Run this file as a program; anything that it prints beside its line of JSON fails the test."""
    finished = subprocess.run(
        [sys.executable, __file__, program, argument], input=stdin, capture_output=True, timeout=120, check=False
    )
    assert finished.stderr.decode() == ""
    assert finished.returncode == 0
    result: dict[str, Any] = json.loads(finished.stdout)
    assert result["slowest"][0] < MAX_SECONDS
    assert result["peak_bytes"] < MAX_PEAK_BYTES
    return result


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from Linux's /proc")
class TestCorpus:
    @pytest.mark.parametrize("file_format", MODES)
    def test_damaged_files_end_accepted_repaired_or_rejected_with_a_reason(self, file_format: str) -> None:
        result = run("corpus", file_format)
        assert result["rejected"] == []
        assert result["changed"] == [], "a cut file was accepted with other pixels than the whole one's"
        assert set(result["outcomes"]) <= {"accepted", "repaired", *RejectReason}
        assert sum(result["outcomes"].values()) == result["files"] * (1 + 2 * (CUTS + FLIPS))

    @pytest.mark.parametrize("file_format", ["png", "gif", "webp", "bmp", "tiff", "avif", "jpeg2000", "jpeg "])
    def test_bombs_cost_neither_memory_nor_time(self, file_format: str) -> None:
        result = run("bombs", file_format)
        assert result["expected"]
        for name, (reason, found) in result["expected"].items():
            assert found == reason, name

    @pytest.mark.parametrize("name", ["png", "tiff", "jpeg", "webp", "avif", "jpeg2000"])
    def test_the_largest_image_allowed_takes_less_than_1_gb(self, name: str) -> None:
        result = run("stdin", "", LARGEST[name]())
        assert result["result"] in ("accepted", "repaired")


def png(
    width: int, height: int, *, bits: int = 8, color_type: int = 2, before: bytes = b"", pixels: bytes = b""
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + before + png_chunk(b"IDAT", pixels or zlib.compress(bytes(4)))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@cache
def zeros(size: int) -> bytes:
    """Deflated zeros, made piece by piece."""
    compressor = zlib.compressobj(1)
    pieces = [compressor.compress(bytes(2**20)) for _ in range(size // 2**20 + 1)]
    return b"".join([*pieces, compressor.flush()])


def gif(width: int, height: int, body: bytes) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + body + b";"


def gif_frame(width: int = 1, height: int = 1, blocks: bytes = b"\x02\x44\x01\0") -> bytes:
    return b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02" + blocks


def tiff(
    *more: tuple[int, int, int, int], size: tuple[int, int] = (2, 2), following: int = 0, tail: bytes = b""
) -> bytes:
    """Gray, uncompressed, its pixels at byte 8; more (tag, type, count, value) replace or add to its own."""
    own = {256: size[0], 257: size[1], 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: size[1], 279: size[0] * size[1]}
    entries = {tag: (tag, 4, 1, value) for tag, value in own.items()} | {entry[0]: entry for entry in more}
    directory = b"".join(struct.pack("<HHII", *entries[tag]) for tag in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + struct.pack("<I", following) + tail


def tiff_directories_in_a_circle() -> bytes:
    first = tiff(following=300).ljust(300, b"\0")
    return first + tiff(following=8)[8:] + bytes(100)


def patched(data: bytes, marker: bytes, offset: int, *values: int, code: str = ">2I") -> bytes:
    found = bytearray(data)
    struct.pack_into(code, found, found.index(marker) + offset, *values)
    return bytes(found)


def jpeg(**options: Any) -> bytes:
    return encoded(picture(), "JPEG", **options)


def jpeg_of_many_scans(size: int, count: int) -> bytes:
    data = encoded(Image.new("RGB", (size, size), (90, 80, 70)), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


def jpeg2000(**options: Any) -> bytes:
    return encoded(picture(), "JPEG2000", no_jp2=True, **options)


def bmp(width: int, height: int, bits: int, compression: int, body: bytes) -> bytes:
    colors = 2**bits if bits <= 8 else 0
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, colors, 0)
    return (
        b"BM"
        + struct.pack("<III", 0, 0, 54 + 4 * colors)
        + header
        + bytes(range(256))[: 4 * colors].ljust(4 * colors)
        + body
    )


SIZ = b"\xff\x4f\xff\x51"

BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "png of 50,000 x 50,000 px": (lambda: png(50_000, 50_000), "too-large"),
    "png of a gigabyte in each text and profile": (
        lambda: png(
            1,
            1,
            before=b"".join(
                png_chunk(kind, head + zeros(2**30))
                for kind, head in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0"))
            ),
        ),
        "accepted",
    ),
    "png of a gigabyte of pixels for one": (lambda: png(1, 1, pixels=zeros(2**30)), "accepted"),
    "png of a million chunks": (lambda: png(1, 1, before=png_chunk(b"IDAT", b"") * 10**6), "undecodable"),
    "png of an Exif directory of 65,535 entries": (
        lambda: png(1, 1, before=png_chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(12 * 65_535))),
        "accepted",
    ),
    "gif of 10,000 frames": (lambda: gif(1, 1, (b"!\xf9\x04\0\0\0\0\0" + gif_frame()) * 10_000), "repaired"),
    "gif of 10,000,000 comments": (lambda: gif(1, 1, b"!\xfe" + b"\x01a" * 10**7 + b"\0" + gif_frame()), "undecodable"),
    "gif of 10,000,000 blocks": (lambda: gif(1, 1, gif_frame(blocks=b"\x01\x44" * 10**7 + b"\0")), "undecodable"),
    "gif with nothing behind its frame": (lambda: gif(1, 1, gif_frame() + b"x" * 10**7), "undecodable"),
    "gif of 60,000 x 60,000 px": (lambda: gif(60_000, 60_000, gif_frame()), "too-large"),
    "gif that grows to 60,000 x 60,000 px": (lambda: gif(1, 1, gif_frame(60_000, 60_000)), "too-large"),
    "webp of 16,383 x 16,383 px": (
        lambda: b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (16_382).to_bytes(3, "little") * 2,
        "too-large",
    ),
    "bmp of 50,000 x 50,000 px": (lambda: bmp(50_000, 50_000, 24, 0, bytes(100)), "too-large"),
    "bmp of 64 million runs": (lambda: bmp(8000, 8000, 8, 1, b"\x01\x12" * 10**7), "too-large"),
    "bmp of the most run lengths allowed, in one line": (
        lambda: bmp(1999, 1999, 8, 1, b"\x01\x12" * 1999**2),
        "truncated",
    ),
    "bmp of 10 million ends of lines": (lambda: bmp(100, 100, 8, 1, b"\0\0" * 10**7), "undecodable"),
    "tiff with a loop of one directory": (lambda: tiff(following=8, tail=bytes(8)), "repaired"),
    "tiff with a loop of two directories": (tiff_directories_in_a_circle, "repaired"),
    "tiff of 20,000 tags that share 20 MB": (
        lambda: tiff(*((tag, 7, 20_000_000, 8) for tag in range(40_000, 60_000)), tail=bytes(20_000_000)),
        "repaired",
    ),
    "tiff of 20,000,000 strips": (lambda: tiff((273, 4, 20_000_000, 8), tail=bytes(80_000_000)), "undecodable"),
    "tiff of 100,000 strips": (
        lambda: tiff(
            (273, 4, 100_000, 8), (278, 4, 1, 1), (279, 4, 100_000, 8), size=(2, 100_000), tail=bytes(400_000)
        ),
        "truncated",
    ),
    "tiff of a tile of 65,520 x 65,520 px": (
        lambda: tiff((259, 4, 1, 5), (322, 4, 1, 65_520), (323, 4, 1, 65_520), (324, 4, 1, 8), (325, 4, 1, 9)),
        "too-large",
    ),
    "tiff of 2^60 entries": (
        lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**60) + bytes(10**7),
        "undecodable",
    ),
    "tiff of an Exif directory of 10 billion numbers": (
        lambda: (
            tiff((34665, 4, 1, 400)).ljust(400, b"\0")
            + struct.pack("<H", 2000)
            + b"".join(struct.pack("<HHII", tag, 4, 5_000_000, 0) for tag in range(2000))
            + bytes(20_000_000)
        ),
        "undecodable",
    ),
    "avif of 16,384 x 16,384 px": (
        lambda: patched(encoded(picture(), "AVIF"), b"ispe", 8, 16_384, 16_384),
        "too-large",
    ),
    "jpeg2000 of 50,000 x 50,000 px in a box of 48 x 32": (
        lambda: patched(patched(encoded(picture(), "JPEG2000"), SIZ, 8, 50_000, 50_000), SIZ, 24, 50_000, 50_000),
        "too-large",
    ),
    "jpeg2000 of 16,384 missing tiles": (
        lambda: patched(patched(jpeg2000(), SIZ, 8, 4096, 4096), SIZ, 24, 32, 32),
        "truncated",
    ),
    "jpeg2000 of 16 million tiles": (
        lambda: patched(patched(jpeg2000(), SIZ, 8, 4096, 4096), SIZ, 24, 1, 1),
        "undecodable",
    ),
    "jpeg2000 of 16,384 components": (lambda: patched(jpeg2000(), SIZ, 40, 16_384, code=">H"), "undecodable"),
    "jpeg of 65,500 x 65,500 px": (lambda: patched(jpeg(), b"\xff\xc0", 5, 65_500, 65_500, code=">2H"), "too-large"),
    "jpeg of 2,000 scans": (lambda: jpeg_of_many_scans(8, 2000), "undecodable"),
    "jpeg of 80 scans of 64 million pixels": (
        lambda: patched(jpeg_of_many_scans(8, 70), b"\xff\xc2", 5, 8000, 8000, code=">2H"),
        "undecodable",
    ),
    "jpeg of 80 scans of 4 million pixels": (lambda: jpeg_of_many_scans(2000, 70), "truncated"),
    "jpeg of 64 million missing pixels": (
        lambda: patched(jpeg(), b"\xff\xc0", 5, 8000, 8000, code=">2H"),
        "truncated",
    ),
    "jpeg of 10 million segments": (lambda: jpeg()[:2] + b"\xff\xfe\0\2" * 10**7 + jpeg()[2:], "undecodable"),
    "jpeg of 10 million restart markers": (lambda: jpeg()[:20] + b"\xff\xd0" * 10**7 + jpeg()[20:], "accepted"),
    "jpeg of 20 MB of fill": (lambda: jpeg()[:20] + b"\xff" * 20_000_000 + jpeg()[20:], "accepted"),
    "jpeg of 20 MB of junk": (lambda: jpeg()[:20] + bytes(20_000_000) + jpeg()[20:], "repaired"),
    "jpeg of 1,500 Exif segments": (
        lambda: (
            jpeg()[:20] + (b"\xff\xe1\xff\xffExif\0\0MM\0*\0\0\0\x08\xff\xff").ljust(65_537, b"\0") * 1500 + jpeg()[20:]
        ),
        "accepted",
    ),
}
"""Name, which begins with the format; how it is made; what becomes of it."""


def filled(mode: str, side: int, file_format: str, **options: Any) -> Callable[[], bytes]:
    color = (90, 80, 70, 60)[: len(Image.new(mode, (1, 1)).getbands())]
    return lambda: encoded(Image.new(mode, (side, side), color), file_format, **options)


LARGEST: dict[str, Callable[[], bytes]] = {
    "png": lambda: png(8000, 8000, color_type=6, bits=16, pixels=zeros(8000 * 64_001)),
    "tiff": filled("RGBA", 8000, "TIFF", compression="tiff_lzw", tiffinfo={278: 8000}),
    "jpeg": filled("CMYK", 8000, "JPEG", progressive=True),
    "webp": filled("RGBA", 5656, "WEBP", lossless=True, method=0),
    "avif": filled("RGBA", 5656, "AVIF", speed=10, subsampling="4:4:4"),
    "jpeg2000": filled("RGBA", 4600, "JPEG2000"),
}
"""As many pixels as the default limit lets through, of the costliest kind."""

PROGRAMS = {"corpus": decode_corpus, "bombs": decode_bombs, "stdin": decode_stdin}

if __name__ == "__main__":
    print(PROGRAMS[sys.argv[1]](sys.argv[2]))  # noqa: T201 - the answer to the test
