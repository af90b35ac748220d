"""The scale at which a JPEG is decoded: small enough to save time, large enough to be as good, and always the same."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imageshards.decode import decode
from imageshards.geometry import place_any
from imageshards.picture import Picture
from imageshards.recipe import RESOLUTIONS, Augment, Recipe
from imageshards.reduction import GAP, Reductions, reduction
from imageshards.transform import prepare
from tests.imageshards.pictures import smooth
from tests.imageshards.recipes import recipes

sizes = st.tuples(st.integers(1, 12_000), st.integers(1, 12_000))
resolutions = st.integers(1, 700) | st.sampled_from(RESOLUTIONS)


@pytest.mark.parametrize(
    ("size", "factors"),
    [
        ((500, 375), (1, 1, 1, 1, 1, 1, 1)),
        ((1600, 1200), (2, 1, 1, 1, 1, 1, 1)),
        ((2000, 1500), (2, 2, 1, 1, 1, 1, 1)),
        ((4000, 3000), (2, 2, 2, 2, 2, 2, 2)),
        ((8000, 6000), (4, 4, 4, 4, 4, 4, 4)),
        ((20_000, 16_000), (8, 8, 8, 8, 8, 8, 8)),
    ],
)
def test_photographs_are_decoded_at_one_scale_for_all_or_in_full_for_some(size, factors):
    assert tuple(reduction(size, Recipe(), resolution) for resolution in RESOLUTIONS) == factors
    assert tuple(reduction(size[::-1], Recipe(), resolution) for resolution in RESOLUTIONS) == factors


def test_a_larger_resolution_than_usual_has_a_scale_of_its_own():
    assert reduction((8000, 6000), Recipe(), 1024) == 2
    assert reduction((8000, 6000), Recipe(), 2048) == 1


@settings(max_examples=500)
@given(size=sizes, resolution=resolutions, recipe=recipes())
def test_a_reduced_picture_is_at_least_twice_as_large_as_what_is_made_of_it(size, resolution, recipe):
    factor = reduction(size, recipe, resolution)
    assert factor in (1, 2, 4, 8)
    if factor > 1:
        resized = place_any(size, recipe, resolution).resized
        assert all(side / factor >= GAP * needed for side, needed in zip(size, resized, strict=True))


@settings(max_examples=500)
@given(size=sizes, resolution=resolutions, fit=st.sampled_from(["center-crop", "letterbox", "stretch"]))
def test_what_is_four_times_as_large_as_needed_is_reduced(size, resolution, fit):
    recipe = Recipe(fit=fit)
    resized = place_any(size, recipe, resolution).resized
    room = min(side / needed for side, needed in zip(size, resized, strict=True))
    assert (reduction(size, recipe, resolution) > 1) == (room >= 2 * GAP and max(size) >= 8)


@given(size=sizes, some=st.lists(resolutions, min_size=1, max_size=4), recipe=recipes())
def test_a_scale_does_not_depend_on_the_other_resolutions(size, some, recipe):
    together = Reductions(recipe, some)
    assert together.of(size) == {each: reduction(size, recipe, each) for each in some}
    assert together.largest(size) == max(together.of(size).values())


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(exact=True),
        Recipe(interpolation="nearest"),
        Recipe(augment=Augment(copies=1, crop_scale=(0.5, 1))),
    ],
)
def test_recipes_that_want_every_pixel_get_it(recipe):
    assert reduction((20_000, 16_000), recipe, 224) == 1


def test_a_size_that_no_image_has_is_not_reduced():
    assert reduction((65_500, 0), Recipe(), 224) == 1


def test_an_image_that_is_too_small_is_refused_later():
    assert reduction((60_000, 3), Recipe(upscale="reject"), 224) == 1


def test_the_smallest_pictures_come_out_at_the_scale_that_was_asked_for():
    for size in itertools.product(range(1, 40), range(1, 40)):
        factor = reduction(size, Recipe(crop_fraction=1.0), 1)
        if factor > 1:
            decoded = decode(as_jpeg(np.zeros((size[1], size[0], 3), np.uint8)), reduction=lambda _size, f=factor: f)
            assert decoded.pixels.shape[:2] == (-(-size[1] // factor), -(-size[0] // factor))


def as_jpeg(pixels: np.ndarray, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=98, subsampling=0, exif=exif)
    return buffer.getvalue()


def ramps(size: tuple[int, int]) -> np.ndarray:
    """A picture whose levels tell where one is: a shift by one pixel is seen."""
    width, height = size
    red = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    green = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return np.stack([red, green, np.full((height, width), 128.0)], -1).round().astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", ["center-crop", "letterbox", "stretch"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_reduced_picture_lies_where_the_whole_does_however_it_was_turned(factor, fit, orientation):
    data = as_jpeg(ramps((321, 257)), orientation)  # one more than a multiple of 8: the last pixels cover an eighth
    recipe = Recipe(fit=fit)
    whole, reduced = decode(data), decode(data, reduction=lambda _size: factor)
    assert reduced.size == whole.size
    made = [
        prepare(Picture(each.pixels, None, None, each.reduced), recipe, resolution=32, image_id="x").pixels
        for each in (whole, reduced)
    ]
    assert np.abs(made[0].astype(int) - made[1]).mean() < 0.7  # ramps of 0.8 and 1 level a pixel
    assert np.abs(made[0].astype(int) - made[1]).max() <= 5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_the_difference_from_the_whole_is_small(interpolation):
    data = as_jpeg(smooth((1203, 901)))
    recipe = Recipe(interpolation=interpolation)
    whole, reduced = decode(data), decode(data, reduction=lambda _size: 4)
    pixels = [
        prepare(Picture(each.pixels, None, None, each.reduced), recipe, resolution=96, image_id="x").pixels.astype(int)
        for each in (whole, reduced)
    ]
    assert np.abs(pixels[0] - pixels[1]).max() <= 2


def test_box_and_trimap_do_not_depend_on_the_scale():
    trimap = np.full((901, 1203), 2, np.uint8)
    trimap[100:333, 300:777] = 1
    box = (300.0, 100.0, 777.0, 333.0)
    data = as_jpeg(smooth((1203, 901)))
    whole, reduced = decode(data), decode(data, reduction=lambda _size: 4)
    one, other = (
        prepare(Picture(each.pixels, box, trimap, each.reduced), Recipe(), resolution=96, image_id="x")
        for each in (whole, reduced)
    )
    assert one.head_box == other.head_box
    assert one.head_box_visible == other.head_box_visible
    assert np.array_equal(one.trimap, other.trimap)
    assert one.upscaled == other.upscaled
