from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms.v2 import functional

from imageshards.filters import binarize, correct_contrast, denoise, gaussian_kernel_size
from imageshards.recipe import Recipe
from tests.imageshards.pictures import noise, smooth

PICTURES = {"noise": noise((224, 224)), "smooth": smooth((224, 224)), "flat": np.full((224, 224, 3), 90, np.uint8)}


@pytest.fixture(params=PICTURES)
def pixels(request):
    return PICTURES[request.param]


def as_tensor(pixels):
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def levels_apart(ours, theirs):
    return int(np.abs(ours.astype(int) - np.asarray(theirs).astype(int)).max())


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 2.0, 3.7, 5.0, 7.5, 10.0, 20.0])
def test_gaussian_denoise_is_torchvisions_blur(pixels, sigma):
    side = gaussian_kernel_size(sigma)
    theirs = functional.gaussian_blur(as_tensor(pixels), [side, side], [sigma, sigma]).permute(1, 2, 0)
    assert levels_apart(denoise(pixels, Recipe(denoise="gaussian", gaussian_sigma=sigma)), theirs) <= 1


@pytest.mark.parametrize("size", [3, 5, 7])
def test_median_denoise_is_pillows(pixels, size):
    theirs = Image.fromarray(pixels).filter(ImageFilter.MedianFilter(size))
    assert levels_apart(denoise(pixels, Recipe(denoise="median", median_size=size)), theirs) == 0


def test_equalize_is_pillows_and_torchvisions(pixels):
    ours = correct_contrast(pixels, Recipe(contrast="equalize"))
    assert levels_apart(ours, ImageOps.equalize(Image.fromarray(pixels))) == 0
    assert levels_apart(ours, functional.equalize(as_tensor(pixels)).permute(1, 2, 0)) <= 1


def test_autocontrast_is_pillows_and_torchvisions(pixels):
    ours = correct_contrast(pixels, Recipe(contrast="autocontrast"))
    assert levels_apart(ours, ImageOps.autocontrast(Image.fromarray(pixels))) == 0
    assert levels_apart(ours, functional.autocontrast(as_tensor(pixels)).permute(1, 2, 0)) <= 1


def test_clahe_spreads_lightness_and_leaves_grays_gray():
    ramp = np.repeat(np.tile(np.linspace(100, 140, 128, dtype=np.uint8), (128, 1))[..., None], 3, axis=2)
    spread = correct_contrast(ramp, Recipe(contrast="clahe", clahe_clip_limit=10.0, clahe_tiles=2))
    assert np.ptp(spread) > 2 * np.ptp(ramp)
    assert np.abs(spread.astype(int) - spread[..., :1]).max() <= 1


def test_clahe_bears_more_tiles_than_pixels():
    assert correct_contrast(noise((20, 20)), Recipe(contrast="clahe", clahe_tiles=64)).shape == (20, 20, 3)


def test_none_changes_nothing(pixels):
    assert denoise(pixels, Recipe()) is pixels
    assert correct_contrast(pixels, Recipe()) is pixels


@pytest.mark.parametrize("level", [0, 127, 254, 255])
def test_a_fixed_threshold_is_white_above_its_level(level):
    plane = noise((64, 64))[..., :1]
    ours = binarize(plane, Recipe(color="gray", threshold="fixed", threshold_level=level))
    assert (ours == np.where(plane > level, 255, 0)).all()
    assert (ours[..., 0] == np.asarray(Image.fromarray(plane[..., 0]).point(lambda value: (value > level) * 255))).all()


def test_otsu_parts_two_groups_of_values():
    rng = np.random.default_rng(0)
    dark, light = rng.normal(60, 10, (32, 64)), rng.normal(190, 10, (32, 64))
    plane = np.concatenate([dark, light]).clip(0, 255).astype(np.uint8)[..., None]
    ours = binarize(plane, Recipe(color="gray", threshold="otsu"))
    assert (ours[:32] == 0).all()
    assert (ours[32:] == 255).all()


def test_adaptive_compares_with_the_mean_around():
    plane = noise((64, 64))[..., :1]
    recipe = Recipe(color="gray", threshold="adaptive", adaptive_block_size=5, adaptive_offset=4.0)
    mean = cv2.blur(plane[..., 0], (5, 5), borderType=cv2.BORDER_REPLICATE).astype(int)
    assert (binarize(plane, recipe)[..., 0] == np.where(plane[..., 0] > mean - 4, 255, 0)).all()
