"""What is shown of stored pixels: values as they were before normalization, box and outline where they belong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from imageshards.display import BOX_COLOR, OUTLINE_COLOR, annotated, displayable, stored_pixels, thumbnail
from imageshards.encode import encode
from imageshards.manifest import Manifest, PixelStatistics
from imageshards.picture import ChannelStatistics, Picture
from imageshards.recipe import Recipe, parse_recipe
from imageshards.transform import prepare
from tests.imageshards.built_version import plain_manifest
from tests.imageshards.pictures import smooth

SIDE = 64


def manifest_of(recipe: Recipe, **fields: Any) -> Manifest:
    return plain_manifest(recipe=recipe, resolution=SIDE, **fields)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dtype": "float16"},
        {"dtype": "float32"},
        {"normalize": "unit", "dtype": "float16"},
        {"normalize": "unit", "dtype": "float32"},
        {"normalize": "imagenet", "dtype": "float32"},
        {"normalize": "imagenet", "dtype": "float16"},
        {"normalize": "given", "mean": [0.3, 0.4, 0.5], "std": [0.1, 0.2, 0.3], "dtype": "float32"},
        {"normalize": "given", "mean": [0.3], "std": [0.1], "dtype": "float32", "color": "gray"},
        {"normalize": "dataset", "dtype": "float32"},
        {"color": "red"},
    ],
    ids=str,
)
def test_stored_values_are_brought_back_to_what_they_were(settings: dict[str, Any]) -> None:
    recipe = parse_recipe(settings)
    plain = recipe.model_copy(update={"normalize": "none", "dtype": "uint8"})
    picture = Picture(smooth((90, 70)), None, None)
    measured = ChannelStatistics((0.2, 0.5, 0.7), (0.1, 0.2, 0.4))
    manifest = manifest_of(recipe, normalization=PixelStatistics(mean=measured.mean, std=measured.std))

    stored = prepare(picture, recipe, resolution=SIDE, image_id="a", statistics=measured).pixels.tobytes()
    shown = displayable(stored_pixels(stored, manifest), manifest)

    expected = prepare(picture, plain, resolution=SIDE, image_id="a").pixels
    assert shown.dtype == np.uint8
    assert np.abs(shown.astype(int) - expected).max() <= (1 if recipe.dtype == "float16" else 0)


@pytest.mark.parametrize("encoding", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_encoded_images_are_decoded(encoding: str, color: str) -> None:
    recipe = parse_recipe({"encoding": encoding, "color": color})
    pixels = prepare(Picture(smooth((90, 70)), None, None), recipe, resolution=SIDE, image_id="a").pixels

    shown = displayable(stored_pixels(encode(pixels, recipe), manifest_of(recipe)), manifest_of(recipe))

    assert shown.shape == pixels.shape
    assert np.abs(shown.astype(int) - pixels).mean() < 4


def test_the_box_is_drawn_along_its_edges_at_the_scale_of_the_thumbnail() -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)

    drawn = np.asarray(annotated(pixels, (40.0, 20.0, 160.0, 80.0), None, side_px=100))

    ys, xs = np.nonzero((drawn == BOX_COLOR).all(axis=2))
    assert drawn.shape == (50, 100, 3)
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (20, 10, 79, 39)


def test_a_box_on_the_edge_of_the_frame_stays_visible() -> None:
    drawn = np.asarray(annotated(np.zeros((64, 64, 1), np.uint8), (0.0, 0.0, 64.0, 64.0), None, side_px=64))

    on = (drawn == BOX_COLOR).all(axis=2)
    assert on[0].all()
    assert on[-1].all()
    assert on[:, 0].all()
    assert on[:, -1].all()


def test_a_box_smaller_than_a_pixel_is_drawn_all_the_same() -> None:
    drawn = np.asarray(annotated(np.zeros((64, 64, 3), np.uint8), (63.9, 63.9, 64.0, 64.0), None, side_px=64))

    assert (drawn == BOX_COLOR).all(axis=2).any()


def test_the_outline_runs_along_the_animal_and_not_along_frame_or_fill() -> None:
    trimap = np.full((64, 64), 2, np.uint8)
    trimap[20:64, 16:48] = 3
    trimap[24:64, 20:44] = 1
    trimap[:8] = 0

    drawn = np.asarray(annotated(np.zeros((64, 64, 3), np.uint8), None, trimap, side_px=64))

    on = (drawn == OUTLINE_COLOR).all(axis=2)
    expected = np.zeros((64, 64), bool)
    expected[20, 16:48] = expected[20:, 16] = expected[20:, 47] = True
    assert (on == expected).all()


def test_what_is_shown_is_never_enlarged_nor_changed() -> None:
    pixels = smooth((40, 30))
    before = pixels.copy()

    assert (np.asarray(annotated(pixels, None, None, side_px=224)) == before).all()
    annotated(pixels, (1.0, 1.0, 20.0, 20.0), np.ones((30, 40), np.uint8), side_px=224)
    assert (pixels == before).all()
    assert thumbnail(np.zeros((1, 3000, 3), np.uint8), 224).size == (224, 1)
