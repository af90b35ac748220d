"""Outlines: convex polygons, for boxes that rotation and shear have turned into something else."""

from __future__ import annotations

from collections.abc import Sequence

from imageshards.picture import Box

Outline = Sequence[Sequence[float]]
"""Corners (x, y) of a convex polygon, in order."""


def box_outline(box: Box) -> Outline:
    """The four corners of a box."""
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def outline_box(outline: Outline) -> Box:
    """The upright bounding box of an outline that has corners."""
    xs, ys = [corner[0] for corner in outline], [corner[1] for corner in outline]
    return min(xs), min(ys), max(xs), max(ys)


def outline_area(outline: Outline) -> float:
    """The area inside, by the shoelace formula."""
    following = [*outline[1:], *outline[:1]]
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(outline, following, strict=True))) / 2


def clip_outline(outline: Outline, frame: Box) -> Outline:
    """The part inside a frame, without corners where there is none (Sutherland and Hodgman, one side after another)."""
    for axis in (0, 1):
        outline = _cut(outline, axis, frame[axis], keep_above=True)
        outline = _cut(outline, axis, frame[axis + 2], keep_above=False)
    return outline


def _cut(outline: Outline, axis: int, limit: float, *, keep_above: bool) -> Outline:
    kept: list[Sequence[float]] = []
    for corner, following in zip(outline, [*outline[1:], *outline[:1]], strict=True):
        inside, stays = ((point[axis] >= limit) == keep_above or point[axis] == limit for point in (corner, following))
        if inside:
            kept.append(corner)
        if inside != stays:
            share = (limit - corner[axis]) / (following[axis] - corner[axis])
            crossing = [start + share * (stop - start) for start, stop in zip(corner, following, strict=True)]
            crossing[axis] = limit
            kept.append(crossing)
    return kept
