"""The bounds: decoding alone, and decoding and resizing, in plain processes that throw the result away.

Written out here with the libraries alone, so that the bounds do not move when this package changes. The files lie in
memory before the clock starts, as do the processes run; there is no reading, no annotation, no writing.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from benchmarks.stopwatch import Stopwatch

_AT_ONCE = 32
_RESIZE = 256
_CROP = 224

Pixels = NDArray[np.uint8]


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


def decode_and_resize(data: bytes) -> Pixels | None:
    """(224, 224, 3) uint8: Resize(256) and CenterCrop(224) in one, of the part of the image that the crop keeps."""
    pixels = decode(data)
    if pixels is None:
        return None
    height, width = pixels.shape[:2]
    short = min(height, width)
    resized = (int(_RESIZE * width / short), int(_RESIZE * height / short))
    left, top = (round((side - _CROP) / 2) for side in resized)
    across, down = width / resized[0], height / resized[1]
    box = (left * across, top * down, (left + _CROP) * across, (top + _CROP) * down)
    return np.asarray(Image.fromarray(pixels).resize((_CROP, _CROP), Image.Resampling.BILINEAR, box=box))


def work(
    make: Callable[[bytes], Any], files: list[Path], taken: Synchronized[int], gates: tuple[Barrier, Barrier]
) -> None:
    """One process: takes the next files as long as there are any."""
    contents: dict[bytes, bytes] = {}
    data = [contents.setdefault(content, content) for content in map(Path.read_bytes, files)]
    for content in data[:_AT_ONCE]:
        make(content)
    for gate in gates:
        gate.wait()
    while True:
        with taken:
            start = taken.value
            taken.value += _AT_ONCE
        if start >= len(data):
            break
        for content in data[start : start + _AT_ONCE]:
            make(content)
    gates[1].wait()


def main() -> None:
    """Measure one of the two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=Path, required=True, help="a folder of images")
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--resize", action="store_true")
    options = parser.parse_args()
    files = sorted(options.files.iterdir())
    context = get_context("spawn")
    gates = context.Barrier(options.processes + 1), context.Barrier(options.processes + 1)
    make = decode_and_resize if options.resize else decode
    taken = context.Value("l", 0)
    workers = [
        context.Process(target=work, args=(make, files, taken, gates), daemon=True) for _ in range(options.processes)
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
