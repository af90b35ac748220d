"""How far pictures made of a JPEG at reduced scale are from those made of the whole: a part of docs/differences.md.

Photographs of 12 megapixels are put together from small ones: at their own size, with an edge of a tile every 250
pixels and detail down to the single pixel, the hardest there is; and at twice their size, with noise, which is nearer
to what a camera gives.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imageshards.decode import decode
from imageshards.decoded import Decoded
from imageshards.picture import Picture
from imageshards.recipe import Recipe
from imageshards.transform import prepare

Pixels = NDArray[Any]

SIZE = (4000, 3000)
TILE_PX = 250
PICTURES = 4
JPEG_QUALITY = 90
NOISE_LEVELS = 3.0

SMALLEST_ROOM = {2: 600, 4: 299, 8: 160}
"""By factor, the resolution that needs most of what the factor leaves: of 12 megapixels a half has 1500 lines, and 600
px need 686."""

HEAD = """
## Reduced scale

JPEGs at least four times as large as needed are decoded at 1/2, 1/4 or 1/8, against the same recipe with `exact: true`.
Each factor at the resolution that leaves it the least room, and at 224 px as a photograph of 12 megapixels is decoded.
On {count} pictures of each kind, {width} x {height} px: *tiled* shows photographs at their own size, side by side, with
detail down to the single pixel; *enlarged* the same at twice their size with noise, as a camera gives it.

| scale | resolution | recipe | pictures | largest difference | mean difference | lowest PSNR |
|---|---|---|---|---|---|---|"""


def large_photographs(images: Sequence[Pixels]) -> Iterator[tuple[str, bytes]]:
    """JPEGs of 12 megapixels, each with its kind."""
    random = np.random.default_rng(0)
    tiles = [image[:TILE_PX, :TILE_PX] for image in images if min(image.shape[:2]) >= TILE_PX]
    for _ in range(PICTURES):
        yield "tiled", _encoded(_mosaic(tiles, random, SIZE))
        half = Image.fromarray(_mosaic(tiles, random, (SIZE[0] // 2, SIZE[1] // 2)))
        enlarged = np.asarray(half.resize(SIZE, Image.Resampling.LANCZOS))
        noise = random.normal(0, NOISE_LEVELS, enlarged.shape)
        yield "enlarged", _encoded(np.clip(enlarged + noise, 0, 255).astype(np.uint8))


def _mosaic(tiles: Sequence[Pixels], random: np.random.Generator, size: tuple[int, int]) -> Pixels:
    columns, rows = size[0] // TILE_PX, size[1] // TILE_PX
    chosen = random.integers(0, len(tiles), (rows, columns))
    return np.concatenate([np.concatenate([tiles[number] for number in line], axis=1) for line in chosen])


def _encoded(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def cases() -> list[tuple[int, int, Recipe]]:
    """Factor, resolution and recipe of each line."""
    plain, letterbox = Recipe(), Recipe(fit="letterbox", interpolation="bicubic")
    least = [(factor, resolution, plain) for factor, resolution in SMALLEST_ROOM.items()]
    return [*least, (2, 224, plain), (2, 224, letterbox)]


def reduced_scale(images: Sequence[Pixels]) -> Iterator[str]:
    """The lines of the section."""
    yield HEAD.format(count=PICTURES, width=SIZE[0], height=SIZE[1])
    found: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
    for kind, data in large_photographs(images):
        whole = decode(data)
        for number, (factor, resolution, recipe) in enumerate(cases()):
            reduced = decode(data, reduction=lambda _size, factor=factor: factor)  # type: ignore[misc]
            exact = recipe.model_copy(update={"exact": True})
            difference = _made(reduced, recipe, resolution) - _made(whole, exact, resolution)
            found.setdefault((number, kind), []).append(_measures(difference))
    for (number, kind), measures in sorted(found.items()):
        factor, resolution, recipe = cases()[number]
        largest, mean, psnr = zip(*measures, strict=True)
        yield (
            f"| 1/{factor} | {resolution} | {recipe.fit}, {recipe.interpolation} | {kind} | {max(largest):.0f} | "
            f"{np.mean(mean):.2f} | {min(psnr):.1f} dB |"
        )


def _made(decoded: Decoded, recipe: Recipe, resolution: int) -> Pixels:
    picture = Picture(decoded.pixels, None, None, decoded.reduced)
    pixels = prepare(picture, recipe, resolution=resolution, image_id="x").pixels
    return pixels.astype(np.float64)


def _measures(difference: Pixels) -> tuple[float, float, float]:
    """Largest and mean difference in levels, and the peak signal-to-noise ratio in decibels."""
    psnr = 10 * np.log10(255**2 / np.mean(difference**2))
    return float(np.abs(difference).max()), float(np.abs(difference).mean()), float(psnr)
