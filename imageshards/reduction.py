"""At which scale a JPEG is decoded: a half, a quarter or an eighth takes less time, and leaves less to resize.

The scale follows from the size of the image, the recipe and the resolution, and from nothing else: a shard has the same
bytes whatever other resolutions are built beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from imageshards.geometry import place_any
from imageshards.recipe import RESOLUTIONS, Recipe

FACTORS = (8, 4, 2)
"""By which libjpeg-turbo reduces with its SIMD code; other eighths it computes slower than the whole."""

GAP = 2
"""A reduced picture stays at least this many times as large as what is made of it, as with Pillow's `reducing_gap`."""

_LEAST_SIDE_PX = 8
"""Below, two of libjpeg's scales give pictures of one size, and it could not be told which one to take."""


def reduction(source: tuple[int, int], recipe: Recipe, resolution: int) -> int:
    """The factor by which a JPEG of (width, height), upright, is reduced: 1, 2, 4 or 8.

    The least by which any of the usual resolutions is reduced at all, so that they share one decode: reading the file's
    entropy code takes most of the time at any scale, and a quarter is got hardly faster than a half.
    """
    own = _own_factor(source, recipe, resolution)
    if own == 1:
        return 1
    others = (_own_factor(source, recipe, usual) for usual in RESOLUTIONS)
    return min([own, *(factor for factor in others if factor > 1)])


def _own_factor(source: tuple[int, int], recipe: Recipe, resolution: int) -> int:
    """The largest factor that the resolution alone allows."""
    if max(source) < max(2 * GAP * resolution, _LEAST_SIDE_PX) or not min(source) or not recipe.reduces:
        return 1  # no fit makes the longer side shorter than the resolution
    width, height = place_any(source, recipe, resolution).resized
    room = min(source[0] / width, source[1] / height) / GAP
    return next((factor for factor in FACTORS if factor <= room), 1)


class Reductions:
    """The factors of one recipe at several resolutions; what was asked once is remembered.

    Args:
        recipe: What is done to pixels.
        resolutions: Those that are built, one or more.
    """

    def __init__(self, recipe: Recipe, resolutions: Iterable[int]) -> None:
        self._recipe = recipe
        self.resolutions = tuple(resolutions)
        self._known: dict[tuple[int, int], Mapping[int, int]] = {}

    def of(self, source: tuple[int, int]) -> Mapping[int, int]:
        """The factor of each resolution for a source of (width, height), upright."""
        known = self._known.get(source)
        if known is None:
            known = {each: reduction(source, self._recipe, each) for each in self.resolutions}
            self._known[source] = known
        return known

    def largest(self, source: tuple[int, int]) -> int:
        """The largest of them."""
        return max(self.of(source).values())
