"""What preprocessing is held against: decoding, and resizing, in plain processes that keep nothing.

Of photographs alone, or with their trimaps. Written out here with the libraries alone, so that it does not move when
this package changes. The files lie in memory before the clock starts, as do the processes run; there is no reading and
no writing.
"""

from __future__ import annotations

import argparse
import io
import struct
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from kornia_rs.io import decode_image_png_u8
from numpy.typing import NDArray
from PIL import Image

from benchmarks.stopwatch import Stopwatch

_AT_ONCE = 32
_RESIZE = 256
_CROP = 224
_SIZE_IN_PNG = struct.Struct(">16xII")

Pixels = NDArray[np.uint8]
Contents = tuple[bytes, bytes | None]
"""Of a photograph, and of its trimap where that is asked for."""


def decode(data: bytes) -> Pixels | None:
    """(H, W, 3) uint8, RGB; None where that cannot be had. What is no RGB JPEG is left to Pillow."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, strict=True)
    except ValueError:
        try:
            with Image.open(io.BytesIO(data)) as image:
                pixels = np.asarray(image.convert("RGB"))
        except OSError:
            return None
    return pixels


def resize(image: Image.Image, resampling: Image.Resampling) -> Pixels:
    """(224, 224) or (224, 224, 3) uint8: Resize(256) and CenterCrop(224) in one, of the part that the crop keeps."""
    width, height = image.size
    short = min(height, width)
    resized = (int(_RESIZE * width / short), int(_RESIZE * height / short))
    left, top = (round((side - _CROP) / 2) for side in resized)
    across, down = width / resized[0], height / resized[1]
    box = (left * across, top * down, (left + _CROP) * across, (top + _CROP) * down)
    return np.asarray(image.resize((_CROP, _CROP), resampling, box=box))


def decode_and_resize(data: bytes) -> Pixels | None:
    """(224, 224, 3) uint8; None where it cannot be decoded."""
    pixels = decode(data)
    return None if pixels is None else resize(Image.fromarray(pixels), Image.Resampling.BILINEAR)


def decode_and_place(data: bytes) -> Pixels | None:
    """(224, 224) uint8: a trimap. Plain gray by the png crate, a third of Pillow's time; what is not, by Pillow."""
    try:
        width, height = _SIZE_IN_PNG.unpack_from(data)
        image = Image.fromarray(decode_image_png_u8(data, (height, width), "mono")[:, :, 0])
    except Exception:  # noqa: BLE001 (its errors have no type of their own)
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
        except OSError:
            return None
    return resize(image, Image.Resampling.NEAREST)


def work(
    make: Callable[[bytes], Any],
    files: list[Path],
    trimaps: Path | None,
    taken: Synchronized[int],
    gates: tuple[Barrier, Barrier],
) -> None:
    """One process: takes the next files as long as there are any."""
    data = read(files, trimaps)

    def handle(part: list[Contents]) -> None:
        for photograph, trimap in part:
            make(photograph)
            if trimap is not None:
                decode_and_place(trimap)

    handle(data[:_AT_ONCE])
    for gate in gates:
        gate.wait()
    while True:
        with taken:
            start = taken.value
            taken.value += _AT_ONCE
        if start >= len(data):
            break
        handle(data[start : start + _AT_ONCE])
    gates[1].wait()


def read(files: list[Path], trimaps: Path | None) -> list[Contents]:
    """All files, those that are equal once; with the trimaps of photographs that have one."""
    known: dict[bytes, bytes] = {}

    def once(path: Path | None) -> bytes | None:
        return known.setdefault(content := path.read_bytes(), content) if path else None

    return [(once(path) or b"", once(trimap_of(path, trimaps) if trimaps else None)) for path in files]


def trimap_of(photograph: Path, trimaps: Path) -> Path | None:
    """The trimap of a photograph, by its name."""
    path = trimaps / f"{photograph.stem}.png"
    return path if path.exists() else None


def main() -> None:
    """Measure one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=Path, required=True, help="a folder of images")
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--resize", action="store_true")
    parser.add_argument("--trimaps", type=Path, help="a folder: the trimaps of the photographs too")
    options = parser.parse_args()
    files = sorted(options.files.iterdir())
    if options.trimaps and not any(trimap_of(path, options.trimaps) for path in files):
        parser.error(f"no file of {options.trimaps} has the name of a photograph in {options.files}")
    context = get_context("spawn")
    gates = context.Barrier(options.processes + 1), context.Barrier(options.processes + 1)
    make = decode_and_resize if options.resize else decode
    taken = context.Value("l", 0)
    workers = [
        context.Process(target=work, args=(make, files, options.trimaps, taken, gates), daemon=True)
        for _ in range(options.processes)
    ]
    for worker in workers:
        worker.start()
    gates[0].wait()
    with Stopwatch() as stopwatch:
        gates[1].wait()
        gates[1].wait()
        stopwatch.images = len(files)
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
