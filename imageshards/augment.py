"""Augmented copies: random numbers drawn from (seed, image id, copy), and torchvision's operations steered by them.

`draw` decides, without a pixel; `warp` and `jitter` obey. Nothing here reads or changes a global random state, and
torch computes on one thread, since the order in which it adds up depends on their number: a copy comes out the same in
every process, in any order. On another kind of processor torch may round differently.

Importing torch and torchvision takes 3 s and 700 MB: only recipes that augment import this module.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from imageshards.outline import Outline, box_outline, clip_outline, outline_area, outline_box
from imageshards.picture import Box
from imageshards.recipe import Augment, Color

CROP_ATTEMPTS = 10
"""Crops that do not fit into the image are drawn anew this often, then the middle is taken, as in torchvision."""

BLUR_REACH_SIGMAS = 3.0
"""Where the Gaussian kernel is cut off: what lies beyond weighs 0.3 %."""

MIN_BLUR_SIGMA_PX = 0.1
"""Below this, a neighbouring pixel weighs less than 1e-21."""


@dataclass(frozen=True, slots=True)
class Draw:
    """All random numbers of one copy.

    Attributes:
        crop: (left, top, width, height) in source pixels of the random resized crop; None where the recipe has none.
        flips: Whether left and right, and top and bottom, change places.
        angle_degrees: Rotation about the centre, clockwise.
        shift_px: Translation to the right and down.
        scale: Zoom about the centre.
        shear_degrees: Shear along x.
        brightness: Factor.
        contrast: Factor.
        saturation: Factor.
        hue: Share of the color circle.
        blur_sigma_px: Sigma of the Gaussian blur.
        noise_sigma: Sigma of the Gaussian noise, on the 0-1 scale.
        noise_seed: Seed of the noise.
    """

    crop: tuple[int, int, int, int] | None
    flips: tuple[bool, bool]
    angle_degrees: float
    shift_px: tuple[int, int]
    scale: float
    shear_degrees: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    blur_sigma_px: float
    noise_sigma: float
    noise_seed: int

    @property
    def warps(self) -> bool:
        """Whether rotation, shift, zoom or shear change anything."""
        return (self.angle_degrees, self.shift_px, self.scale, self.shear_degrees) != (0.0, (0, 0), 1.0, 0.0)


def draw(augment: Augment, *, image_id: str, copy: int, source: tuple[int, int], resolution: int) -> Draw:
    """Draw the random numbers of one copy of an image of (width, height); pure.

    Each quantity takes its number whether its operation is on or not: switching one on leaves the others as they were.
    """
    digest = hashlib.sha256(f"{augment.seed}/{copy}/{image_id}".encode()).digest()
    random = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))

    def between(low: float, high: float) -> float:
        return low + (high - low) * random.random()

    reach_px = augment.translate * resolution
    return Draw(
        flips=(random.random() < augment.horizontal_flip, random.random() < augment.vertical_flip),
        angle_degrees=between(-augment.rotation_degrees, augment.rotation_degrees),
        shift_px=(round(between(-reach_px, reach_px)), round(between(-reach_px, reach_px))),
        scale=between(*augment.scale),
        shear_degrees=between(-augment.shear_degrees, augment.shear_degrees),
        brightness=between(*augment.brightness),
        contrast=between(*augment.contrast),
        saturation=between(*augment.saturation),
        hue=between(-augment.hue, augment.hue),
        blur_sigma_px=between(*augment.blur_sigma),
        noise_sigma=between(*augment.noise_sigma),
        noise_seed=int.from_bytes(digest[16:23], "little"),
        crop=_draw_crop(augment, random, source) if augment.crops else None,
    )


def _draw_crop(augment: Augment, random: np.random.Generator, source: tuple[int, int]) -> tuple[int, int, int, int]:
    """The crop of torchvision's RandomResizedCrop: area uniform, aspect ratio uniform in its logarithm."""
    source_width, source_height = source
    (low, high), (narrow, wide) = augment.crop_scale, augment.crop_ratio
    for _ in range(CROP_ATTEMPTS):
        area = source_width * source_height * (low + (high - low) * random.random())
        ratio = math.exp(math.log(narrow) + (math.log(wide) - math.log(narrow)) * random.random())
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= source_width and 0 < height <= source_height:
            left = int(random.random() * (source_width - width + 1))
            top = int(random.random() * (source_height - height + 1))
            return left, top, width, height
    width = min(source_width, max(1, round(source_height * wide)))
    height = min(source_height, max(1, round(source_width / narrow)))
    return (source_width - width) // 2, (source_height - height) // 2, width, height


@dataclass(frozen=True, slots=True)
class Warped:
    """What `warp` makes of an image, its trimap and its head box.

    Attributes:
        pixels: (R, R, 3) uint8.
        trimap: (R, R) uint8, 0 where nothing was; or None.
        head_box: Upright bounding box of that part of the transformed rectangle that lies inside the frame, or None.
        visible: That part's share of the transformed rectangle's area.
    """

    pixels: NDArray[np.uint8]
    trimap: NDArray[np.uint8] | None
    head_box: Box | None
    visible: float


def warp(
    pixels: NDArray[np.uint8], trimap: NDArray[np.uint8] | None, head_box: Box | None, drawn: Draw, fill: Color
) -> Warped:
    """Flip, then rotate, shift, zoom and shear by one affine map: an (R, R, 3) uint8 image, its trimap and its box."""
    side = pixels.shape[0]
    items: dict[str, Any] = {"image": tv_tensors.Image(_to_tensor(pixels))}
    if trimap is not None:
        items["mask"] = tv_tensors.Mask(torch.from_numpy(np.array(trimap)))
    if head_box is not None:
        edges = torch.tensor([head_box], dtype=torch.float64)
        items["box"] = tv_tensors.BoundingBoxes(edges, format="XYXY", canvas_size=(side, side))
    with _one_thread():
        items = {name: _flip(item, drawn) for name, item in items.items()}
        outline: Outline = box_outline(items["box"][0].tolist()) if "box" in items else []
        if drawn.warps:
            items["image"] = _affine(items["image"], drawn, fill=[float(value) for value in fill])
            if "mask" in items:
                items["mask"] = _affine(items["mask"], drawn, fill=[0.0])
            outline = _affine_outline(outline, drawn, side)
    box, visible = _visible_part(outline, float(side))
    return Warped(
        _to_array(items["image"]), items["mask"].contiguous().numpy() if "mask" in items else None, box, visible
    )


def _flip(item: Any, drawn: Draw) -> Any:
    if drawn.flips[0]:
        item = functional.horizontal_flip(item)
    return functional.vertical_flip(item) if drawn.flips[1] else item


def _affine(item: Any, drawn: Draw, fill: list[float] | None = None) -> Any:
    return functional.affine(
        item,
        angle=drawn.angle_degrees,
        translate=list(drawn.shift_px),
        scale=drawn.scale,
        shear=[drawn.shear_degrees, 0.0],
        interpolation=InterpolationMode.BILINEAR,  # masks take the nearest value all the same
        fill=fill,
    )


def _affine_outline(outline: Outline, drawn: Draw, side: int) -> Outline:
    """Corners rather than torchvision's boxes, which forget the rectangle that they bound."""
    if not outline:
        return outline
    corners = tv_tensors.KeyPoints(torch.tensor(outline, dtype=torch.float64), canvas_size=(side, side))
    moved: Outline = _affine(corners, drawn).tolist()
    return moved


def _visible_part(outline: Outline, side: float) -> tuple[Box | None, float]:
    inside = clip_outline(outline, (0.0, 0.0, side, side))
    area = outline_area(inside)
    if area <= 0.0:
        return None, 0.0
    return outline_box(inside), min(1.0, area / outline_area(outline))


def jitter(pixels: NDArray[np.uint8], drawn: Draw) -> NDArray[np.uint8]:
    """Brightness, contrast, saturation, hue, blur and noise, in this order, on an (H, W, 3) uint8 image."""
    image: Any = _to_tensor(pixels)
    with _one_thread():
        if drawn.brightness != 1.0:
            image = functional.adjust_brightness(image, drawn.brightness)
        if drawn.contrast != 1.0:
            image = functional.adjust_contrast(image, drawn.contrast)
        if drawn.saturation != 1.0:
            image = functional.adjust_saturation(image, drawn.saturation)
        if drawn.hue != 0.0:
            image = functional.adjust_hue(image, drawn.hue)
        if drawn.blur_sigma_px >= MIN_BLUR_SIGMA_PX:
            image = _blur(image, drawn.blur_sigma_px)
        if drawn.noise_sigma > 0.0:
            image = _add_noise(image, drawn.noise_sigma, drawn.noise_seed)
    return _to_array(image)


def _blur(image: Any, sigma_px: float) -> Any:
    """Rows, then columns: at a sigma of 5 a tenth of the time that torchvision takes for the square kernel."""
    side = 2 * math.ceil(BLUR_REACH_SIGMAS * sigma_px) + 1
    height, width = image.shape[-2:]
    kernel = (min(side, 2 * width - 1), min(side, 2 * height - 1))  # torch mirrors less than a whole side
    blurred = image.to(torch.float32)
    for size in ([kernel[0], 1], [1, kernel[1]]):
        blurred = functional.gaussian_blur(blurred, size, [sigma_px, sigma_px])
    return blurred.round_().to(torch.uint8)


def _add_noise(image: Any, sigma: float, seed: int) -> Any:
    """What torchvision's gaussian_noise does, which has no way to be given a generator of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(image.shape, generator=generator) * (sigma * 255)
    return (image + noise.to(torch.int16)).clamp(0, 255).to(torch.uint8)


def _to_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)  # a copy, since the array may be read-only


def _to_array(image: Any) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
