"""Photographs of 12 megapixels, as cameras and telephones take them: enlarged samples with the noise of a sensor."""

from __future__ import annotations

import io
import tarfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.archives import add_member, read_members

SIZE = (4000, 3000)
QUALITY = 90
_NOISE_LEVELS = 3.5
"""Standard deviation; with it files have 2 to 5 MB, as files of such cameras do."""


def photograph(data: bytes, seed: int) -> bytes:
    """A JPEG file of 4000x3000 out of a small one; the same seed gives the same bytes."""
    with Image.open(io.BytesIO(data)) as image:
        large = ImageOps.fit(image.convert("RGB"), SIZE, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(seed).standard_normal((SIZE[1], SIZE[0], 1), np.float32) * _NOISE_LEVELS
    noisy = np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def enlarge(images: Path, annotations: Path, count: int, folder: Path, *, processes: int) -> tuple[Path, Path]:
    """The first images of both splits, `count` in all, as photographs; their labels, without trimaps and boxes.

    Returns:
        An images and an annotations archive, tar without compression.
    """
    pixels, notes = read_members(images), read_members(annotations)
    lists = {name: notes[f"annotations/{name}.txt"].decode().splitlines() for name in ("trainval", "test")}
    usable = {name: [line for line in lines if _is_whole(pixels[_path(line)])] for name, lines in lists.items()}
    kept = {name: lines[: count // 2] for name, lines in usable.items()}
    every = [line for lines in kept.values() for line in lines]
    new_images, new_annotations = folder / "photographs.tar", folder / "labels.tar"
    with (
        tarfile.open(new_images, "w") as tar,
        ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool,
    ):
        sources = [pixels[_path(line)] for line in every]
        for line, data in zip(every, pool.map(photograph, sources, range(len(every))), strict=True):
            add_member(tar, _path(line), data)
    with tarfile.open(new_annotations, "w") as tar:
        for name, lines in {"list": every, **kept}.items():
            add_member(tar, f"annotations/{name}.txt", "".join(f"{line}\n" for line in lines).encode())
    return new_images, new_annotations


def _path(line: str) -> str:
    return f"images/{line.split(maxsplit=1)[0]}.jpg"


def _is_whole(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except OSError:
        return False
    return True
