from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from imageshards.outline import box_outline, clip_outline, outline_area, outline_box

FRAME = (0.0, 0.0, 100.0, 100.0)


def turned(box, degrees):
    """The corners of a box, turned about its centre."""
    corners = np.array(box_outline(box))
    centre = corners.mean(axis=0)
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ((corners - centre) @ turn.T + centre).tolist()


def test_an_outline_inside_the_frame_stays_as_it_is():
    outline = turned((20, 30, 60, 50), 30)
    assert clip_outline(outline, FRAME) == outline
    assert outline_area(outline) == pytest.approx(800)


def test_an_outline_outside_leaves_nothing():
    assert list(clip_outline(turned((120, 30, 160, 50), 30), FRAME)) == []
    assert outline_area([]) == 0.0


def test_a_box_that_is_cut_keeps_the_part_inside():
    clipped = clip_outline(box_outline((-10.0, 40.0, 30.0, 130.0)), FRAME)
    assert outline_box(clipped) == (0.0, 40.0, 30.0, 100.0)


def test_a_frame_inside_an_outline_is_what_is_left():
    assert outline_area(clip_outline(turned((-300, -300, 400, 400), 33), FRAME)) == pytest.approx(10_000)


@given(
    left=st.integers(-100, 150),
    top=st.integers(-100, 150),
    width=st.integers(5, 150),
    height=st.integers(5, 150),
    degrees=st.floats(1, 89),
)
def test_the_area_left_is_what_opencv_finds(left, top, width, height, degrees):
    outline = turned((left, top, left + width, top + height), degrees)
    area, _ = cv2.intersectConvexConvex(np.float32(outline), np.float32(box_outline(FRAME)))
    assume(area == 0 or area > 1)  # OpenCV drops slivers
    ours = outline_area(clip_outline(outline, FRAME))
    assert ours == pytest.approx(area, abs=1, rel=1e-3)
