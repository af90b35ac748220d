from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from imageshards.errors import RejectReason, SampleError
from imageshards.geometry import MAX_SIDE_PX, place, place_box, place_pixels, place_trimap
from imageshards.picture import Picture
from imageshards.recipe import Recipe
from imageshards.transform import prepare
from tests.imageshards.pictures import boxed_picture, boxed_pictures, disagreement, noise

FITS = ("center-crop", "letterbox", "stretch")
TOLERANCE_PX = 1.5

sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


def recipe_of(fit: str, crop_fraction: float = 0.875, **fields: object) -> Recipe:
    return Recipe(fit=fit, **({"crop_fraction": crop_fraction} if fit == "center-crop" else {}), **fields)


@pytest.mark.parametrize(
    ("resolution", "crop_fraction", "short_side"),
    [(224, 0.875, 256), (299, 0.875, 342), (384, 0.875, 439), (600, 0.875, 686), (224, 1.0, 224)],
)
def test_center_crop_brings_the_shorter_side_to_resolution_over_crop_fraction(resolution, crop_fraction, short_side):
    placement = place((500, 375), recipe_of("center-crop", crop_fraction), resolution)
    assert placement.resized[1] == short_side
    assert placement.kept[2:] == (resolution, resolution)


@settings(deadline=None)
@given(size=sizes, resolution=st.integers(1, 600))
def test_letterbox_places_the_image_where_pillows_pad_does(size, resolution):
    placement = place(size, recipe_of("letterbox"), resolution)
    if min(round(min(size) / max(size) * resolution), *placement.resized) < 1 or max(size) * resolution > 10**6:
        return
    exactly, quickly = (
        place_pixels(noise(size), placement, interpolation="bilinear", exact=exact, fill=(1, 2, 3))
        for exact in (True, False)
    )
    padded = ImageOps.pad(
        Image.fromarray(noise(size)), (resolution, resolution), Image.Resampling.BILINEAR, color=(1, 2, 3)
    )
    assert (exactly == np.asarray(padded)).all()
    assert np.abs(quickly.astype(int) - padded).max() <= 2


@given(size=sizes, resolution=st.integers(1, 600), fit=st.sampled_from(FITS), fraction=st.floats(0.01, 1.0))
def test_what_is_kept_lies_in_the_resized_source_and_in_the_output(size, resolution, fit, fraction):
    placement = place(size, recipe_of(fit, fraction), resolution)
    left, top, width, height = placement.kept
    assert 0 <= left <= left + width <= placement.resized[0]
    assert 0 <= top <= top + height <= placement.resized[1]
    assert 0 <= placement.offset[0] <= placement.offset[0] + width <= resolution
    assert 0 <= placement.offset[1] <= placement.offset[1] + height <= resolution


@pytest.mark.parametrize("fit", FITS)
def test_an_image_that_must_be_enlarged_is_rejected_where_the_recipe_says_so(fit):
    with pytest.raises(SampleError, match="would have to be enlarged") as caught:
        place((100, 90), recipe_of(fit, upscale="reject"), 224)
    assert caught.value.reason is RejectReason.TOO_SMALL
    assert place((100, 90), recipe_of(fit), 224).upscales
    assert not place((1000, 900), recipe_of(fit, upscale="reject"), 224).upscales


def test_the_shorter_side_decides_whether_a_crop_enlarges():
    assert place((255, 400), Recipe(), 224).upscales
    assert not place((256, 400), Recipe(upscale="reject"), 224).upscales


def test_a_side_longer_than_pillow_can_address_is_rejected():
    with pytest.raises(SampleError) as caught:
        place((MAX_SIDE_PX + 1, 1), Recipe(), 224)
    assert caught.value.reason is RejectReason.TOO_LARGE


@pytest.mark.parametrize("fit", FITS)
@settings(max_examples=1000, deadline=None)
@given(picture=boxed_pictures(), resolution=st.integers(16, 128), fraction=st.floats(0.1, 1.0))
def test_the_box_agrees_with_the_box_of_the_mask(fit, picture, resolution, fraction):
    prepared = prepare(picture, recipe_of(fit, fraction), resolution=resolution, image_id="x")
    assert disagreement(prepared) <= TOLERANCE_PX


@pytest.mark.parametrize("fit", FITS)
@settings(max_examples=200, deadline=None)
@given(picture=boxed_pictures(), resolution=st.integers(16, 128), fraction=st.floats(0.1, 1.0))
def test_picture_and_trimap_sample_the_same_points(fit, picture, resolution, fraction):
    as_pixels = Picture(np.repeat(picture.trimap[..., None], 3, axis=2), picture.head_box, picture.trimap)
    recipe = recipe_of(fit, fraction, interpolation="nearest")
    prepared = prepare(as_pixels, recipe, resolution=resolution, image_id="x")
    assert (prepared.pixels[..., 1] == prepared.trimap).all()


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (120, 100)])
def test_an_edge_in_the_picture_stays_on_the_edge_of_the_trimap(size):
    width, height = size
    trimap = np.full((height, width), 2, np.uint8)
    trimap[:, : width // 2] = 1
    pixels = np.repeat(np.where(trimap == 1, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    prepared = prepare(Picture(pixels, None, trimap), Recipe(), resolution=224, image_id="x")
    dark = (prepared.pixels[112, :, 0] < 128).sum()
    assert abs(int(dark) - int((prepared.trimap[112] == 1).sum())) <= 1


def test_letterbox_fills_the_trimap_with_zero_and_the_picture_with_the_fill_color():
    picture = boxed_picture((200, 100), (10, 10, 50, 50))
    prepared = prepare(picture, Recipe(fit="letterbox", fill=(9, 8, 7)), resolution=100, image_id="x")
    assert (prepared.trimap[:25] == 0).all()
    assert (prepared.trimap[75:] == 0).all()
    assert set(np.unique(prepared.trimap[25:75])) == {1, 2}
    assert (prepared.pixels[:25] == (9, 8, 7)).all()
    assert prepared.head_box == (5.0, 30.0, 25.0, 50.0)
    assert prepared.head_box_visible == 1.0


def test_a_box_that_is_cut_says_which_share_of_it_is_left():
    picture = boxed_picture((400, 200), (0, 0, 200, 200))
    prepared = prepare(picture, recipe_of("center-crop", 1.0), resolution=200, image_id="x")
    assert prepared.head_box == (0.0, 0.0, 100.0, 200.0)
    assert prepared.head_box_visible == 0.5


def test_a_box_that_vanishes_becomes_none_and_zero_visible():
    picture = boxed_picture((400, 200), (0, 0, 50, 200))
    prepared = prepare(picture, recipe_of("center-crop", 1.0), resolution=200, image_id="x")
    assert prepared.head_box is None
    assert prepared.head_box_visible == 0.0


def test_no_box_and_no_trimap_stay_none():
    prepared = prepare(Picture(noise((50, 40)), None, None), Recipe(), resolution=32, image_id="x")
    assert (prepared.head_box, prepared.head_box_visible, prepared.trimap) == (None, None, None)


def test_a_box_without_area_is_not_visible():
    assert place_box((10.0, 10.0, 10.0, 30.0), place((100, 100), Recipe(), 32)) == (None, 0.0)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (3, 65535)])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_extreme_sizes_give_whole_pictures(size, fit, interpolation):
    picture = Picture(np.full((size[1], size[0], 3), 77, np.uint8), None, np.full((size[1], size[0]), 3, np.uint8))
    prepared = prepare(picture, recipe_of(fit, interpolation=interpolation), resolution=224, image_id="x")
    assert prepared.pixels.shape == (224, 224, 3)
    assert set(np.unique(prepared.pixels)) <= ({0, 77} if fit == "letterbox" else {77})
    assert set(np.unique(prepared.trimap)) <= ({0, 3} if fit == "letterbox" else {3})


STRIPS = """
import numpy as np
from imageshards.recipe import Recipe
from imageshards.transform import Picture, prepare
for shape in ((1, 5000), (5000, 1), (3, 30000), (30000, 3)):
    for exact in (False, True):
        picture = Picture(np.zeros((*shape, 3), np.uint8), None, np.ones(shape, np.uint8))
        prepare(picture, Recipe(exact=exact), resolution=600, image_id="x")
"""


def test_a_long_strip_is_cropped_without_being_enlarged_whole():
    limit_bytes = 2 << 30  # 1.1 GB of it is what numpy and Pillow reserve; a whole strip would take 7 GB
    done = subprocess.run(
        [sys.executable, "-c", STRIPS],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes)),
        env={"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(40, 700), st.integers(40, 700)),
    fit=st.sampled_from(["center-crop", "letterbox", "stretch"]),
    resolution=st.sampled_from([32, 224, 299]),
)
def test_trimaps_are_resized_as_pillow_does_it(size, fit, resolution):
    placement = place(size, recipe_of(fit), resolution)
    trimap = np.random.default_rng(size).integers(1, 4, size[::-1], dtype=np.uint8)
    left, top, width, height = placement.kept
    resized = Image.fromarray(trimap).resize(placement.resized, Image.Resampling.NEAREST)
    expected = Image.new("L", (resolution, resolution))
    expected.paste(resized.crop((left, top, left + width, top + height)), placement.offset)
    assert np.array_equal(place_trimap(trimap, placement), np.asarray(expected))


def test_trimaps_take_the_value_under_the_centre_of_the_output_pixel():
    trimap = np.array([[1, 2, 3, 2]], np.uint8).repeat(4, axis=0)
    placed = place_trimap(trimap, place((4, 4), recipe_of("stretch"), 2))
    assert placed.tolist() == [[2, 2], [2, 2]]
