"""Pictures for the tests of geometry, filters and augmentation, made by code."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from imageshards.picture import Box, Picture, Prepared

INSIDE, OUTSIDE = 1, 2


def noise(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """White noise of (width, height): the hardest picture for a resampling filter."""
    width, height = size
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Soft blobs of color of (width, height), like a photograph out of focus."""
    coarse = Image.fromarray(noise((7, 5), seed))
    return np.array(coarse.resize(size, Image.Resampling.BICUBIC))


def boxed_picture(size: tuple[int, int], box: tuple[int, int, int, int], seed: int = 0) -> Picture:
    """Noise whose trimap is 1 inside the box and 2 outside."""
    trimap = np.full((size[1], size[0]), OUTSIDE, np.uint8)
    trimap[box[1] : box[3], box[0] : box[2]] = INSIDE
    return Picture(noise(size, seed), tuple(float(edge) for edge in box), trimap)  # type: ignore[arg-type]


@st.composite
def boxed_pictures(draw: st.DrawFn, *, min_side: int = 1, max_side: int = 160) -> Picture:
    """Random pictures with a random box of whole pixels, drawn into the trimap too."""
    width, height = (draw(st.integers(min_side, max_side)) for _ in range(2))
    left, right = sorted(draw(st.tuples(st.integers(0, width), st.integers(0, width)).filter(lambda x: x[0] != x[1])))
    top, bottom = sorted(draw(st.tuples(st.integers(0, height), st.integers(0, height)).filter(lambda y: y[0] != y[1])))
    return boxed_picture((width, height), (left, top, right, bottom), seed=draw(st.integers(0, 1000)))


def mask_box(prepared: Prepared) -> Box | None:
    """The bounding box of the pixels that are inside, None where there are none."""
    assert prepared.trimap is not None
    rows, columns = np.nonzero(prepared.trimap == INSIDE)
    if len(rows) == 0:
        return None
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def disagreement(prepared: Prepared) -> float:
    """How many pixels the box and the bounding box of the mask are apart, at the worst of the four edges.

    A box without a mask is off by its shorter side: it should have been too narrow to cover the centre of a pixel.
    """
    box, mask = prepared.head_box, mask_box(prepared)
    if box is None:
        return 0.0 if mask is None else min(mask[2] - mask[0], mask[3] - mask[1])
    if mask is None:
        return min(box[2] - box[0], box[3] - box[1])
    return max(abs(a - b) for a, b in zip(box, mask, strict=True))
