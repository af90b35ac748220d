"""Encoded images: any reader of the format gets the pixels back, and the same pixels give the same bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imageshards.encode import encode
from imageshards.recipe import Recipe
from tests.imageshards.pictures import smooth

ENCODINGS = ["jpeg", "png", "webp"]


def recipe(encoding: str, color: str = "rgb", **fields: object) -> Recipe:
    return Recipe(encoding=encoding, color=color, **fields)


def picture(side: int = 64, *, gray: bool = False) -> np.ndarray:
    pixels = smooth((side, side))
    return np.ascontiguousarray(pixels[:, :, :1]) if gray else pixels


def gradient(side: int, *, channels: int) -> np.ndarray:
    """Changes so slowly that no encoder with subsampled colors loses much of it."""
    ramp = np.arange(side, dtype=np.uint8)
    return np.stack([100 + ramp[:, None] + 0 * ramp, 50 + ramp + 0 * ramp[:, None], 90 + ramp + ramp[:, None]], -1)[
        ..., :channels
    ].copy()


def decoded(data: bytes) -> np.ndarray:
    return np.atleast_3d(np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("color", ["rgb", "gray"])
@pytest.mark.parametrize("side", [1, 7, 64])
def test_any_reader_gets_back_what_it_looked_like(encoding, color, side):
    pixels = gradient(side, channels=1 if color == "gray" else 3)
    data = encode(pixels, recipe(encoding, color))
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format or "").lower() == encoding
        assert image.size == (side, side)
        channels = np.atleast_3d(np.asarray(image.convert("L" if color == "gray" else "RGB")))
    assert np.abs(channels.astype(int) - pixels).mean() < (6 if encoding != "png" else 0.001)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_png_loses_nothing(side, channels, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, channels), np.uint8)
    assert (decoded(encode(pixels, recipe("png", "gray" if channels == 1 else "rgb"))) == pixels).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("gray", [False, True])
def test_the_same_pixels_give_the_same_bytes(encoding, gray):
    what = recipe(encoding, "gray" if gray else "rgb")
    assert encode(picture(gray=gray), what) == encode(picture(gray=gray).copy(), what)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("gray", [False, True])
def test_pixels_that_cannot_be_written_to_are_encoded_too(encoding, gray):
    pixels = picture(gray=gray).copy()
    what = recipe(encoding, "gray" if gray else "rgb")
    expected = encode(pixels, what)
    pixels.flags.writeable = False
    assert encode(pixels, what) == expected


@pytest.mark.parametrize("encoding", ["jpeg", "webp"])
def test_quality_trades_size_for_likeness(encoding):
    sizes, errors = [], []
    for quality in (20, 60, 95):
        data = encode(picture(128), recipe(encoding, encoding_quality=quality))
        sizes.append(len(data))
        errors.append(np.abs(decoded(data).astype(int) - picture(128)).mean())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


def test_a_gray_jpeg_has_one_channel():
    height, width, space, _ = simplejpeg.decode_jpeg_header(encode(picture(gray=True), recipe("jpeg", "gray")))
    assert (height, width, space.lower()) == (64, 64, "gray")


def test_a_jpeg_passes_strict_decoding():
    data = encode(picture(), recipe("jpeg"))
    assert simplejpeg.decode_jpeg(data, strict=True).shape == (64, 64, 3)
