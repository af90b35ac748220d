"""From a decoded image to the arrays of a shard's row: pixels, head box and trimap together.

The steps run in the order that `imageshards.recipe` states. OpenCV is imported only by recipes that filter, torch only
for augmented copies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imageshards.errors import ConfigError
from imageshards.geometry import Placement, place, place_box, place_pixels, place_stretched, place_trimap
from imageshards.picture import Box, ChannelStatistics, Picture, Prepared
from imageshards.recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe

__all__ = ["Box", "ChannelStatistics", "Picture", "Prepared", "prepare", "prepare_unnormalized"]


def prepare(
    picture: Picture,
    recipe: Recipe,
    *,
    resolution: int,
    image_id: str,
    copy: int = 0,
    statistics: ChannelStatistics | None = None,
) -> Prepared:
    """Apply a recipe to one image.

    The result depends on nothing but the arguments: not on the process, the order of calls, or a global random state.

    Args:
        picture: The decoded image; it stays as it is.
        recipe: What is done to it.
        resolution: R, the side of the square result in pixels.
        image_id: Steers the random numbers of augmented copies, with the recipe's seed and `copy`.
        copy: 0 for the plain image, 1 to `recipe.augment.copies` for an augmented one.
        statistics: The dataset's, for recipes that normalize by them.

    Returns:
        Pixels of the recipe's channels and dtype, head box and trimap.

    Raises:
        SampleError: The image must be enlarged and the recipe rejects that (too-small), or is too long (too-large).
        ConfigError: The recipe normalizes by the dataset's statistics, and they are missing.
    """
    prepared = prepare_unnormalized(picture, recipe, resolution=resolution, image_id=image_id, copy=copy)
    if recipe.normalize == "none" and recipe.dtype == "uint8":
        return prepared
    return replace(prepared, pixels=_normalize(prepared.pixels, recipe, statistics))


def prepare_unnormalized(
    picture: Picture, recipe: Recipe, *, resolution: int, image_id: str, copy: int = 0
) -> Prepared:
    """Apply a recipe up to its threshold, without normalize and dtype: pixels are uint8.

    What a dataset's statistics are measured on; arguments and errors are those of `prepare`.
    """
    if not 0 <= copy <= recipe.augment.copies:
        raise ValueError(f"copy {copy} of {image_id}: the recipe has copies 0 to {recipe.augment.copies}")
    placement = place(picture.size, recipe, resolution)
    if copy:
        prepared = _augmented(picture, recipe, placement, image_id=image_id, copy=copy)
    else:
        prepared = _placed(picture, recipe, placement)
        if recipe.filters:
            prepared = replace(prepared, pixels=_filtered(prepared.pixels, recipe))
    if recipe.color == "rgb":
        return prepared
    pixels = _one_channel(prepared.pixels, recipe.color)
    return replace(prepared, pixels=_thresholded(pixels, recipe) if recipe.threshold != "none" else pixels)


def _placed(picture: Picture, recipe: Recipe, placement: Placement) -> Prepared:
    box, visible = (None, None) if picture.head_box is None else place_box(picture.head_box, placement)
    return Prepared(
        pixels=place_pixels(
            picture.pixels,
            placement,
            interpolation=recipe.interpolation,
            exact=recipe.exact,
            fill=recipe.fill,
            reduced=picture.reduced,
        ),
        head_box=box,
        head_box_visible=visible,
        trimap=None if picture.trimap is None else place_trimap(picture.trimap, placement),
        upscaled=placement.upscales,
    )


def _augmented(picture: Picture, recipe: Recipe, placement: Placement, *, image_id: str, copy: int) -> Prepared:
    from imageshards import augment  # noqa: PLC0415  torch: 3 s and 700 MB that only these recipes are to pay

    drawn = augment.draw(
        recipe.augment, image_id=image_id, copy=copy, source=placement.source, resolution=placement.resolution
    )
    if drawn.crop is None:
        placed = _placed(picture, recipe, placement)
    else:
        placed = _placed(_cropped(picture, drawn.crop), recipe, place_stretched(drawn.crop[2:], placement.resolution))
    warped = augment.warp(placed.pixels, placed.trimap, placed.head_box, drawn, recipe.augment.fill)
    pixels = _filtered(warped.pixels, recipe) if recipe.filters else warped.pixels
    return replace(
        placed,
        pixels=augment.jitter(pixels, drawn),
        head_box=warped.head_box,
        head_box_visible=None if placed.head_box_visible is None else placed.head_box_visible * warped.visible,
        trimap=warped.trimap,
    )


def _cropped(picture: Picture, crop: tuple[int, int, int, int]) -> Picture:
    left, top, width, height = crop
    part = np.s_[top : top + height, left : left + width]
    box = picture.head_box
    return Picture(
        pixels=picture.pixels[part],
        head_box=None if box is None else (box[0] - left, box[1] - top, box[2] - left, box[3] - top),
        trimap=None if picture.trimap is None else picture.trimap[part],
    )


def _filtered(pixels: NDArray[Any], recipe: Recipe) -> NDArray[Any]:
    from imageshards import filters  # noqa: PLC0415  OpenCV, which most recipes do without

    return filters.correct_contrast(filters.denoise(pixels, recipe), recipe)


def _thresholded(pixels: NDArray[Any], recipe: Recipe) -> NDArray[Any]:
    from imageshards import filters  # noqa: PLC0415  as above

    return filters.binarize(pixels, recipe)


def _one_channel(pixels: NDArray[Any], color: str) -> NDArray[Any]:
    if color == "gray":
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    channel = ("red", "green", "blue").index(color)
    return np.ascontiguousarray(pixels[..., channel : channel + 1])


def _normalize(pixels: NDArray[Any], recipe: Recipe, statistics: ChannelStatistics | None) -> NDArray[Any]:
    """In single precision and in torchvision's order (scale, subtract, divide); rounded to float16 at the end."""
    if recipe.normalize == "none":
        return pixels.astype(recipe.dtype)
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, width * channels).astype(np.float32)  # long rows: numpy takes half the time
    rows *= np.float32(1 / 255)
    if recipe.normalize != "unit":
        mean, std = _mean_and_std(recipe, statistics)
        rows -= np.tile(np.asarray(mean, np.float32), width)
        rows /= np.tile(np.asarray(std, np.float32), width)
    return rows.reshape(pixels.shape).astype(recipe.dtype, copy=False)


def _mean_and_std(recipe: Recipe, statistics: ChannelStatistics | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if recipe.normalize == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    if recipe.normalize == "given" and recipe.mean and recipe.std:
        return recipe.mean, recipe.std
    if statistics is None or len(statistics.mean) != recipe.channels:
        raise ConfigError(
            f"normalize dataset needs mean and std of {recipe.channels} channel(s), measured before; found {statistics}"
        )
    return statistics.mean, statistics.std
