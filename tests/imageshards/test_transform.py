from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps
from torchvision.transforms import InterpolationMode, v2

from imageshards import augment, filters
from imageshards.errors import ConfigError
from imageshards.recipe import Augment, Recipe
from imageshards.transform import ChannelStatistics, Picture, prepare, prepare_unnormalized
from tests.imageshards.pictures import boxed_picture, boxed_pictures, noise, smooth
from tests.imageshards.recipes import recipes

RESOLUTIONS = (224, 299, 384, 600)
MAX_LEVELS, MEAN_LEVELS = 2, 0.06
SIZES = ((500, 375), (375, 500), (500, 333), (334, 500), (612, 1300), (120, 103), (64, 48), (1024, 768))


@pytest.fixture(scope="session")
def photographs(shared_sample: Path) -> list[np.ndarray]:
    """The 222 listed photographs, as Pillow reads them; the one that was cut off as far as it goes."""
    with tarfile.open(shared_sample / "annotations.tar.gz") as annotations:
        listing = annotations.extractfile("annotations/list.txt").read().decode()
    names = [line.split()[0] for line in listing.splitlines() if not line.startswith("#")]
    with tarfile.open(shared_sample / "images.tar.gz") as images, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        data = {member.name: images.extractfile(member).read() for member in images if member.isfile()}
        return [np.array(Image.open(io.BytesIO(data[f"images/{name}.jpg"])).convert("RGB")) for name in names]


def resize_and_center_crop(pixels: np.ndarray, resolution: int, interpolation: str = "bilinear") -> np.ndarray:
    """What torchvision makes of a Pillow image."""
    steps = v2.Compose(
        [
            v2.Resize(round(resolution / 0.875), InterpolationMode[interpolation.upper()], antialias=True),
            v2.CenterCrop(resolution),
        ]
    )
    return np.asarray(steps(Image.fromarray(pixels)))


def pixels_of(pixels: np.ndarray, recipe: Recipe, resolution: int, **arguments: object) -> np.ndarray:
    return prepare(Picture(pixels, None, None), recipe, resolution=resolution, image_id="x", **arguments).pixels


def assert_close_to_torchvision(images: list[np.ndarray], resolution: int) -> None:
    means = []
    for pixels in images:
        reference = resize_and_center_crop(pixels, resolution)
        assert (pixels_of(pixels, Recipe(exact=True), resolution) == reference).all()
        difference = np.abs(pixels_of(pixels, Recipe(), resolution).astype(int) - reference)
        assert difference.max() <= MAX_LEVELS
        means.append(difference.mean())
    assert np.mean(means) <= MEAN_LEVELS


@pytest.mark.sample
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_center_crop_is_torchvisions_on_real_photographs(photographs, resolution):
    assert len(photographs) == 222
    assert_close_to_torchvision(photographs, resolution)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_center_crop_is_torchvisions_on_generated_pictures(resolution):
    assert_close_to_torchvision([smooth(size, seed) for seed, size in enumerate(SIZES)], resolution)


@settings(max_examples=300, deadline=None)
@given(size=st.tuples(st.integers(1, 200), st.integers(1, 200)), resolution=st.integers(8, 100))
def test_exact_equals_torchvision_at_any_size(size, resolution):
    pixels = noise(size)
    ours = pixels_of(pixels, Recipe(exact=True), resolution)
    assert (ours == resize_and_center_crop(pixels, resolution)).all()


@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize("size", SIZES)
def test_other_interpolations_equal_torchvision(interpolation, size):
    ours = pixels_of(noise(size), Recipe(interpolation=interpolation), 224)
    assert (ours == resize_and_center_crop(noise(size), 224, interpolation)).all()


@pytest.mark.parametrize("size", SIZES)
def test_stretch_equals_torchvisions_resize_to_a_square(size):
    reference = np.asarray(v2.Resize((224, 224), antialias=True)(Image.fromarray(noise(size))))
    assert (pixels_of(noise(size), Recipe(fit="stretch", exact=True), 224) == reference).all()
    assert np.abs(pixels_of(noise(size), Recipe(fit="stretch"), 224).astype(int) - reference).max() <= MAX_LEVELS


@pytest.mark.parametrize("size", SIZES)
def test_letterbox_equals_pillows_pad(size):
    padded = ImageOps.pad(Image.fromarray(noise(size)), (224, 224), Image.Resampling.BILINEAR, color=(5, 6, 7))
    reference = np.asarray(padded)
    exactly, quickly = (Recipe(fit="letterbox", fill=(5, 6, 7), exact=exact) for exact in (True, False))
    assert (pixels_of(noise(size), exactly, 224) == reference).all()
    assert np.abs(pixels_of(noise(size), quickly, 224).astype(int) - reference).max() <= MAX_LEVELS


def test_gray_is_pillows_luma():
    rgb = pixels_of(smooth((300, 200)), Recipe(), 64)
    gray = pixels_of(smooth((300, 200)), Recipe(color="gray"), 64)
    assert (gray[..., 0] == np.asarray(Image.fromarray(rgb).convert("L"))).all()


@pytest.mark.parametrize(("color", "channel"), [("red", 0), ("green", 1), ("blue", 2)])
def test_one_color_is_that_channel_alone(color, channel):
    rgb = pixels_of(noise((90, 80)), Recipe(), 64)
    one = pixels_of(noise((90, 80)), Recipe(color=color), 64)
    assert one.flags.c_contiguous
    assert (one[..., 0] == rgb[..., channel]).all()


@pytest.mark.parametrize(
    ("recipe", "mean", "std"),
    [
        (Recipe(normalize="unit", dtype="float32"), (0, 0, 0), (1, 1, 1)),
        (Recipe(normalize="imagenet", dtype="float32"), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (
            Recipe(normalize="given", mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3), dtype="float32"),
            (0.5, 0.4, 0.3),
            (0.1, 0.2, 0.3),
        ),
        (Recipe(normalize="dataset", dtype="float32"), (0.1, 0.2, 0.3), (0.3, 0.2, 0.1)),
    ],
)
def test_normalization_is_torchvisions(recipe, mean, std):
    pixels = pixels_of(smooth((90, 80)), Recipe(), 64)
    steps = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    reference = steps(torch.from_numpy(pixels.copy()).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    ours = pixels_of(smooth((90, 80)), recipe, 64, statistics=ChannelStatistics(mean, std))
    assert ours.dtype == np.float32
    assert np.abs(ours - reference).max() < 1e-6
    half = recipe.model_copy(update={"dtype": "float16"})
    halved = pixels_of(smooth((90, 80)), half, 64, statistics=ChannelStatistics(mean, std))
    assert (halved == ours.astype(np.float16)).all()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_without_normalization_floats_hold_the_levels(dtype):
    ours = pixels_of(noise((90, 80)), Recipe(dtype=dtype), 64)
    assert ours.dtype == dtype
    assert (ours == pixels_of(noise((90, 80)), Recipe(), 64)).all()


def test_statistics_are_measured_on_what_normalization_gets():
    recipe = Recipe(denoise="median", color="gray", normalize="dataset", dtype="float32")
    before = prepare_unnormalized(Picture(noise((90, 80)), None, None), recipe, resolution=64, image_id="x").pixels
    assert before.dtype == np.uint8
    after = pixels_of(noise((90, 80)), recipe, 64, statistics=ChannelStatistics((0.25,), (0.5,)))
    assert np.allclose(after, (before / 255 - 0.25) / 0.5, atol=1e-6)


def test_missing_statistics_are_a_config_error():
    with pytest.raises(ConfigError, match="normalize dataset needs"):
        pixels_of(noise((90, 80)), Recipe(normalize="dataset", dtype="float32"), 64)


def test_statistics_of_pixels_that_do_not_vary_are_a_config_error():
    with pytest.raises(ConfigError, match="one value in every pixel"):
        ChannelStatistics((0.5, 0.5, 0.5), (0.1, 0.0, 0.1))


def test_a_copy_that_the_recipe_does_not_have_is_refused():
    with pytest.raises(ValueError, match="copies 0 to 0"):
        pixels_of(noise((90, 80)), Recipe(), 64, copy=1)


def test_the_picture_stays_as_it_was():
    picture = boxed_picture((90, 80), (10, 10, 40, 50))
    kept = picture.pixels.copy(), picture.trimap.copy()
    recipe = Recipe(contrast="clahe", augment=Augment(copies=1, horizontal_flip=1.0, brightness=(0.5, 0.9)))
    prepare(picture, recipe, resolution=80, image_id="x", copy=1)
    assert (picture.pixels == kept[0]).all()
    assert (picture.trimap == kept[1]).all()


def test_steps_run_in_the_stated_order():
    """Geometry, warp, denoise, contrast, jitter, color, threshold, normalize; another order gives another picture."""
    changes = Augment(copies=1, rotation_degrees=30, brightness=(0.5, 0.8), noise_sigma=(0.05, 0.05), fill=(255, 0, 0))
    recipe = Recipe(
        denoise="median",
        contrast="equalize",
        color="gray",
        threshold="adaptive",
        normalize="unit",
        dtype="float32",
        augment=changes,
    )
    picture = boxed_picture((300, 200), (50, 50, 150, 120))
    drawn = augment.draw(changes, image_id="x", copy=1, source=(300, 200), resolution=96)
    plain = prepare(picture, Recipe(), resolution=96, image_id="x").pixels

    def gray(pixels):
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]

    steps = {
        "warp": lambda pixels: augment.warp(pixels, None, None, drawn, changes.fill).pixels,
        "denoise": lambda pixels: filters.denoise(pixels, recipe),
        "contrast": lambda pixels: filters.correct_contrast(pixels, recipe),
        "jitter": lambda pixels: augment.jitter(pixels, drawn),
        "color": gray,
        "threshold": lambda pixels: filters.binarize(pixels, recipe),
        "normalize": lambda pixels: pixels.astype(np.float32) * np.float32(1 / 255),
    }

    def run(order):
        pixels = plain
        for name in order:
            pixels = steps[name](pixels)
        return pixels

    order = list(steps)
    ours = prepare(picture, recipe, resolution=96, image_id="x", copy=1).pixels
    assert (ours == run(order)).all()
    for first in range(3):
        swapped = [*order[:first], order[first + 1], order[first], *order[first + 2 :]]
        assert (run(swapped) != ours).any(), f"{swapped[first]} before {swapped[first + 1]} makes no difference"


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recipe=recipes(), picture=boxed_pictures(max_side=80), resolution=st.integers(4, 96), data=st.data())
def test_any_recipe_gives_what_it_promises(recipe, picture, resolution, data):
    copy = data.draw(st.integers(0, recipe.augment.copies))
    statistics = ChannelStatistics((0.5,) * recipe.channels, (0.25,) * recipe.channels)
    prepared = prepare(picture, recipe, resolution=resolution, image_id="x", copy=copy, statistics=statistics)
    assert prepared.pixels.shape == (resolution, resolution, recipe.channels)
    assert prepared.pixels.dtype == recipe.dtype
    assert prepared.pixels.flags.c_contiguous
    assert np.isfinite(prepared.pixels).all()
    assert prepared.trimap.shape == (resolution, resolution)
    assert prepared.trimap.dtype == np.uint8
    assert prepared.trimap.flags.c_contiguous
    assert prepared.trimap.max() <= 3
    if copy == 0 and recipe.fit != "letterbox":
        assert prepared.trimap.min() >= 1
    assert 0.0 <= prepared.head_box_visible <= 1.0
    assert (prepared.head_box is None) == (prepared.head_box_visible == 0.0)
    if prepared.head_box is not None:
        left, top, right, bottom = prepared.head_box
        assert 0 <= left < right <= resolution
        assert 0 <= top < bottom <= resolution


IMPORTS = """
import sys
import numpy as np
from imageshards.recipe import Recipe
from imageshards.transform import Picture, prepare
prepare(Picture(np.zeros((50, 40, 3), np.uint8), None, None), Recipe(), resolution=32, image_id="x")
assert not {"torch", "cv2", "prefect", "ray"} & set(sys.modules), sorted(sys.modules)
"""


def test_a_plain_recipe_imports_neither_torch_nor_opencv():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
