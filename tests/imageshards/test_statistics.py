"""Pixel sums: exact, and the same in whatever order and portions they are added."""

from __future__ import annotations

import fractions
import functools
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from imageshards.errors import ConfigError
from imageshards.statistics import PixelSums

shapes = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
batches = shapes.flatmap(lambda shape: np_st.arrays(np.uint8, shape))


def exact(pixels: np.ndarray) -> PixelSums:
    """Python's own integers."""
    values = pixels.reshape(-1, pixels.shape[-1]).tolist()
    columns = list(zip(*values, strict=True))
    return PixelSums(len(values), tuple(map(sum, columns)), tuple(sum(v * v for v in column) for column in columns))


def added(parts: list[PixelSums], channels: int) -> PixelSums:
    return functools.reduce(operator.add, parts, PixelSums.zero(channels))


@settings(deadline=None)
@given(batches)
def test_sums_are_exact(pixels):
    assert PixelSums.of(pixels) == exact(pixels)
    assert all(type(value) is int for value in (*PixelSums.of(pixels).total, *PixelSums.of(pixels).squares))


@pytest.mark.parametrize("shape", [(600, 600, 3), (3, 224, 224, 3), (1, 4096, 7, 1), (257, 1, 1), (1, 1, 70000, 3)])
def test_sums_are_exact_where_they_are_largest(shape):
    white = np.full(shape, 255, np.uint8)
    count = white.size // shape[-1]
    assert PixelSums.of(white) == PixelSums(count, (255 * count,) * shape[-1], (255**2 * count,) * shape[-1])


@settings(deadline=None)
@given(batches, st.data())
def test_neither_order_nor_portions_matter(pixels, data):
    order = data.draw(st.permutations(range(len(pixels))))
    one_by_one = added([PixelSums.of(pixels[position]) for position in order], pixels.shape[-1])
    assert one_by_one == PixelSums.of(pixels)


@settings(deadline=None)
@given(batches)
def test_mean_and_deviation_are_those_of_numpy(pixels):
    mean, std = PixelSums.of(pixels).mean_and_std()
    values = pixels.reshape(-1, pixels.shape[-1]).astype(np.float64)
    assert mean == pytest.approx(values.mean(axis=0), rel=1e-12, abs=1e-12)
    assert std == pytest.approx(values.std(axis=0), rel=1e-9, abs=1e-6)


def test_the_deviation_is_right_where_it_is_tiny_beside_the_mean():
    pixels = np.full((1000, 1000, 1), 255, np.uint8)
    pixels[0, 0] = 254
    _, (std,) = PixelSums.of(pixels).mean_and_std()
    n = 10**6
    variance = fractions.Fraction(1, n) - fractions.Fraction(1, n * n)
    assert std == pytest.approx(float(variance) ** 0.5, rel=1e-12)


def test_one_color_has_no_deviation():
    assert PixelSums.of(np.full((5, 5, 3), 77, np.uint8)).mean_and_std() == ((77.0,) * 3, (0.0,) * 3)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_float_pixels_are_summed_in_double_precision(dtype):
    pixels = np.random.default_rng(0).normal(1000, 1, (64, 64, 3)).astype(dtype)
    mean, std = PixelSums.of(pixels).mean_and_std()
    values = pixels.reshape(-1, 3).astype(np.float64)
    assert mean == pytest.approx(values.mean(axis=0), rel=1e-12)
    assert std == pytest.approx(values.std(axis=0), rel=1e-4)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_no_image_adds_nothing(dtype):
    assert PixelSums.of(np.zeros((0, 4, 4, 3), dtype)) == PixelSums.zero(3)
    assert PixelSums.zero(3) + PixelSums.zero(3) == PixelSums.zero(3)


def test_sums_of_different_channels_are_not_added():
    with pytest.raises(ValueError, match="zip"):
        PixelSums.zero(1) + PixelSums.zero(3)


def test_statistics_are_on_the_scale_of_one():
    pixels = np.array([[[0, 255], [255, 0]]], np.uint8)
    statistics = PixelSums.of(pixels).statistics()
    assert statistics.mean == (0.5, 0.5)
    assert statistics.std == (0.5, 0.5)


def test_statistics_of_nothing_are_refused_with_what_to_do():
    with pytest.raises(ConfigError, match="unit or given"):
        PixelSums.zero(3).statistics()


def test_statistics_of_one_color_are_refused():
    with pytest.raises(ConfigError, match="unit or given"):
        PixelSums.of(np.zeros((2, 2, 3), np.uint8)).statistics()
