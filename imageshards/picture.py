"""An image with what is known about it: as it was decoded, and as it goes into a shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imageshards.errors import ConfigError

Box = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax: the edges, in continuous pixel coordinates, where pixel (0, 0) covers 0 to 1 both ways."""


@dataclass(frozen=True, slots=True)
class Reduced:
    """How the pixels of a picture that was decoded at reduced scale lie on its source.

    Each covers `factor` x `factor` pixels of the source. Where a side of the source is no multiple of that, the pixels
    along one edge reach beyond it.

    Attributes:
        factor: 2, 4 or 8.
        source: (width, height) of the upright source.
        origin: Where the source begins, (x, y) in reduced pixels: 0 to 1. Above 0 where the picture was turned so that
            the edge that reaches beyond came to lie on the left, or at the top.
    """

    factor: int
    source: tuple[int, int]
    origin: tuple[float, float]

    def box(self, box: Box) -> Box:
        """A box in source pixels, in reduced ones."""
        x, y = self.origin
        factor = self.factor
        return box[0] / factor + x, box[1] / factor + y, box[2] / factor + x, box[3] / factor + y


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded image with its annotation, in upright coordinates of the source.

    Attributes:
        pixels: (H, W, 3) uint8, RGB, upright, C-contiguous; of the source, or of the source at reduced scale.
        head_box: The head, or None where there is no annotation.
        trimap: (H, W) uint8 with the values 1 pet, 2 background, 3 border, of the source's size; or None.
        reduced: How the pixels lie on the source; None where they are the source's.
    """

    pixels: NDArray[np.uint8]
    head_box: Box | None
    trimap: NDArray[np.uint8] | None
    reduced: Reduced | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the source in px."""
        return self.reduced.source if self.reduced else (self.pixels.shape[1], self.pixels.shape[0])


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image at its resolution, ready to be written. Arrays may be read-only.

    Attributes:
        pixels: (R, R, C), C-contiguous; C is 3 or 1, the dtype is the recipe's.
        head_box: In output pixels, clipped to the frame; None where there was none, and where it vanished.
        head_box_visible: Fraction of the head box's area left inside the frame: 0.0 where it vanished, None where there
            was none.
        trimap: (R, R) uint8, C-contiguous, with the values 1 2 3, and 0 only where a fill covers the frame; or None.
        upscaled: Whether the source had to be enlarged, along either side.
    """

    pixels: NDArray[Any]
    head_box: Box | None
    head_box_visible: float | None
    trimap: NDArray[np.uint8] | None
    upscaled: bool


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """Mean and standard deviation of a dataset's pixels, one value per channel, on the 0-1 scale.

    Raises:
        ConfigError: A channel that does not vary, so that nothing can be divided by its deviation.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise ConfigError(
                f"a channel has one value in every pixel (std {self.std}), so normalize dataset cannot divide by its "
                "deviation: set normalize to unit or given"
            )
