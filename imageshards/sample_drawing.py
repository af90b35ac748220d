"""Draw one pet of one of the 37 Oxford breeds: its picture, its trimap and the box of its head.

A pet is a pile of polygons in pet units: the origin is the middle of the animal, 1 is about half its size, x runs to
the right and y down. Polygons are drawn at twice the size and halved, which smooths their edges; textures, light and
grain come on top at the final size. Trimap and head box are read off the drawn masks, so they fit to the pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Color = tuple[int, int, int]
Points = NDArray[np.float64]
Field = NDArray[np.float32]
"""(H, W) float32."""

TRIMAP_PET, TRIMAP_BACKGROUND, TRIMAP_BORDER = 1, 2, 3

_OVERSAMPLING = 2
_BLACK, _IVORY, _PINK = (26, 24, 26), (244, 238, 226), (222, 150, 150)


@dataclass(frozen=True, slots=True)
class Breed:
    """How the pets of one class look.

    Attributes:
        name: The class name as Oxford spells it: cats with a capital, dogs without.
        coat: Color (R, G, B) of the fur.
        marking: Color of stripes, spots, patches or points.
        pattern: Where the marking color goes; points are muzzle, ears and feet.
        ears: Shape of the ears.
    """

    name: str
    coat: Color
    marking: Color
    pattern: Literal["plain", "stripes", "spots", "patches", "points"]
    ears: Literal["prick", "drop"]

    @property
    def is_cat(self) -> bool:
        """Whether the class is one of the 12 cats."""
        return self.name[0].isupper()


BREEDS = (
    Breed("Abyssinian", (178, 112, 64), (140, 80, 44), "plain", "prick"),
    Breed("american_bulldog", (236, 230, 220), (170, 120, 78), "patches", "drop"),
    Breed("american_pit_bull_terrier", (112, 100, 100), (222, 214, 206), "patches", "drop"),
    Breed("basset_hound", (164, 104, 60), (240, 232, 220), "patches", "drop"),
    Breed("beagle", (188, 122, 66), (54, 42, 38), "patches", "drop"),
    Breed("Bengal", (204, 152, 92), (78, 50, 34), "spots", "prick"),
    Breed("Birman", (232, 220, 200), (112, 92, 84), "points", "prick"),
    Breed("Bombay", (44, 42, 46), (30, 28, 32), "plain", "prick"),
    Breed("boxer", (190, 126, 72), (50, 40, 38), "points", "drop"),
    Breed("British_Shorthair", (132, 138, 150), (116, 122, 136), "plain", "prick"),
    Breed("chihuahua", (214, 172, 120), (240, 226, 204), "points", "prick"),
    Breed("Egyptian_Mau", (182, 180, 172), (76, 74, 74), "spots", "prick"),
    Breed("english_cocker_spaniel", (142, 80, 42), (122, 66, 36), "plain", "drop"),
    Breed("english_setter", (234, 230, 224), (90, 88, 92), "spots", "drop"),
    Breed("german_shorthaired", (112, 74, 56), (214, 206, 196), "spots", "drop"),
    Breed("great_pyrenees", (246, 242, 234), (226, 214, 196), "plain", "drop"),
    Breed("havanese", (206, 186, 158), (120, 98, 80), "patches", "drop"),
    Breed("japanese_chin", (240, 238, 234), (42, 40, 44), "patches", "drop"),
    Breed("keeshond", (150, 146, 142), (66, 62, 62), "points", "prick"),
    Breed("leonberger", (186, 134, 80), (58, 46, 42), "points", "drop"),
    Breed("Maine_Coon", (152, 116, 82), (84, 62, 46), "stripes", "prick"),
    Breed("miniature_pinscher", (150, 72, 40), (126, 56, 32), "plain", "prick"),
    Breed("newfoundland", (52, 46, 46), (40, 36, 38), "plain", "drop"),
    Breed("Persian", (234, 212, 180), (216, 186, 148), "plain", "prick"),
    Breed("pomeranian", (226, 152, 84), (244, 206, 156), "points", "prick"),
    Breed("pug", (218, 190, 152), (56, 48, 46), "points", "drop"),
    Breed("Ragdoll", (228, 222, 216), (124, 116, 122), "points", "prick"),
    Breed("Russian_Blue", (112, 122, 140), (98, 108, 126), "plain", "prick"),
    Breed("saint_bernard", (238, 230, 220), (158, 84, 50), "patches", "drop"),
    Breed("samoyed", (250, 248, 244), (236, 230, 220), "plain", "prick"),
    Breed("scottish_terrier", (58, 56, 60), (44, 42, 46), "plain", "prick"),
    Breed("shiba_inu", (212, 136, 74), (246, 226, 198), "points", "prick"),
    Breed("Siamese", (226, 206, 178), (82, 62, 54), "points", "prick"),
    Breed("Sphynx", (226, 180, 164), (204, 150, 138), "plain", "prick"),
    Breed("staffordshire_bull_terrier", (90, 72, 62), (58, 46, 42), "stripes", "drop"),
    Breed("wheaten_terrier", (222, 190, 140), (206, 170, 118), "plain", "drop"),
    Breed("yorkshire_terrier", (92, 96, 108), (196, 136, 78), "points", "prick"),
)
"""All 37 classes, in the order of their class ids (alphabetical, case ignored)."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawn photograph with its annotations.

    Attributes:
        image: RGB, upright.
        trimap: 8-bit gray, same size: 1 pet, 2 background, 3 border.
        head_box: xmin, ymin, xmax, ymax in pixels, counted from 1, both ends belonging to the head.
    """

    image: Image.Image
    trimap: Image.Image
    head_box: tuple[int, int, int, int]


def draw_pet(breed: Breed, size: tuple[int, int], rng: np.random.Generator) -> Picture:
    """Draw one pet; the same arguments and the same state of `rng` give the same picture.

    Args:
        breed: How it looks.
        size: Width and height in pixels.
        rng: Source of pose, place and surroundings.
    """
    canvas = _Canvas(size, breed, rng)
    pose = _POSES[int(rng.integers(len(_POSES)))]
    pose(canvas, breed, rng)
    colors, pet, fur, head = (
        layer.reduce(_OVERSAMPLING) for layer in (canvas.colors, canvas.pet, canvas.fur, canvas.head)
    )
    _mark(colors, breed, fur, rng)
    scene, scene_light = _scene(pet, rng)
    scene.paste(colors, mask=pet)
    cover = _unit(pet)
    image = _lit(scene, scene_light * (1 - cover) + cover + _hair(fur, rng), rng)
    left, top, right, bottom = _solid(head).getbbox() or (0, 0, *size)
    return Picture(image, _trimap(pet), (left + 1, top + 1, right, bottom))


class _Canvas:
    """A color layer and the masks of pet, head and fur, all drawn in the same strokes."""

    def __init__(self, size: tuple[int, int], breed: Breed, rng: np.random.Generator) -> None:
        large = (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING)
        self.colors = Image.new("RGB", large, breed.coat)
        self.pet, self.head, self.fur = (Image.new("L", large) for _ in range(3))
        self._unit = min(large) * rng.uniform(0.36, 0.46)
        slack = np.array(large) / 2 - self._unit
        self._origin = np.array(large) / 2 + slack * rng.uniform(-0.7, 0.7, 2) + (0, self._unit * 0.08)
        self._mirror = np.array((rng.choice((-1, 1)), 1))

    def part(self, points: Points, color: Color, *, head: bool = False) -> None:
        """A part of the body, darker along its edge and covered with fur."""
        self._stroke(points, _shade(color, 0.78), [self.pet, self.fur, *([self.head] if head else [])], 255)
        center = points.mean(axis=0)
        self._stroke(center + (points - center) * 0.9 + (0, -0.012), color, [], 255)

    def feature(self, points: Points, color: Color) -> None:
        """A feature of the face: painted on, free of fur."""
        self._stroke(points, color, [self.fur], 0)

    def _stroke(self, points: Points, color: Color, masks: list[Image.Image], value: int) -> None:
        outline = (points * self._mirror * self._unit + self._origin).ravel().tolist()
        ImageDraw.Draw(self.colors).polygon(outline, fill=color)
        for mask in masks:
            ImageDraw.Draw(mask).polygon(outline, fill=value)


def _ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0) -> Points:
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return _placed(np.stack([rx * np.cos(turn), ry * np.sin(turn)], axis=1), (x, y), 1, degrees)


def _band(points: Points, width: float) -> Points:
    along = np.gradient(points, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.linalg.norm(along, axis=1, keepdims=True)
    return np.concatenate([points + normal * width, (points - normal * width)[::-1]])


def _placed(points: Points, at: tuple[float, float], scale: float, degrees: float) -> Points:
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    placed: Points = points * scale @ rotation + at
    return placed


def _shade(color: Color, factor: float) -> Color:
    red, green, blue = (min(255, round(channel * factor)) for channel in color)
    return red, green, blue


def _sitting(canvas: _Canvas, breed: Breed, rng: np.random.Generator) -> None:
    _draw_tail(canvas, breed, (0.35, 0.8), float(rng.uniform(20, 70)))
    for side in (-1, 1):
        canvas.part(_ellipse(side * 0.4, 0.7, 0.28, 0.27), _shade(breed.coat, 0.92))
    canvas.part(_ellipse(0, 0.38, 0.46, 0.6), breed.coat)
    for side in (-1, 1):
        canvas.part(_ellipse(side * 0.17, 0.66, 0.13, 0.33), _shade(breed.coat, 1.04))
        canvas.part(_ellipse(side * 0.18, 0.94, 0.15, 0.08), _feet(breed))
    _draw_head(canvas, breed, (float(rng.uniform(-0.1, 0.1)), -0.42), float(rng.uniform(0.4, 0.48)), rng)


def _lying(canvas: _Canvas, breed: Breed, rng: np.random.Generator) -> None:
    _draw_tail(canvas, breed, (0.95, 0.45), float(rng.uniform(-30, 40)))
    canvas.part(_ellipse(0.3, 0.32, 0.8, 0.37), breed.coat)
    canvas.part(_ellipse(0.78, 0.45, 0.3, 0.25), _shade(breed.coat, 0.92))
    for x in (-0.5, -0.2):
        canvas.part(_ellipse(x, 0.6, 0.3, 0.1), _feet(breed))
    _draw_head(canvas, breed, (-0.48, -0.05), float(rng.uniform(0.4, 0.46)), rng)


def _standing(canvas: _Canvas, breed: Breed, rng: np.random.Generator) -> None:
    _draw_tail(canvas, breed, (0.72, -0.05), float(rng.uniform(-80, 20)))
    for x, shade in ((-0.28, 0.8), (0.5, 0.8), (-0.45, 0.96), (0.66, 0.96)):
        canvas.part(_ellipse(x, 0.5, 0.11, 0.4), _shade(breed.coat, shade))
        canvas.part(_ellipse(x - 0.04, 0.88, 0.14, 0.07), _feet(breed))
    canvas.part(_ellipse(0.1, 0.12, 0.74, 0.36), breed.coat)
    canvas.part(_ellipse(-0.5, -0.1, 0.24, 0.42, -30), breed.coat)
    _draw_head(canvas, breed, (-0.62, -0.4), float(rng.uniform(0.34, 0.4)), rng)


def _close_up(canvas: _Canvas, breed: Breed, rng: np.random.Generator) -> None:
    canvas.part(_ellipse(0, 1.25, 0.95, 0.8), breed.coat)
    canvas.part(_ellipse(0, 1.2, 0.5, 0.6), _shade(breed.coat, 1.05))
    _draw_head(canvas, breed, (0, -0.1), float(rng.uniform(0.62, 0.76)), rng)


_POSES: tuple[Callable[[_Canvas, Breed, np.random.Generator], None], ...] = (_sitting, _lying, _standing, _close_up)


def _draw_tail(canvas: _Canvas, breed: Breed, at: tuple[float, float], degrees: float) -> None:
    along = np.linspace(0, 1, 12)
    curve = np.stack([0.6 * along, 0.22 * np.sin(along * np.pi * 1.2)], axis=1)
    width = 0.06 if breed.is_cat else 0.09
    canvas.part(_placed(_band(curve, width), at, 1, -degrees), _feet(breed))


def _feet(breed: Breed) -> Color:
    return breed.marking if breed.pattern == "points" else breed.coat


def _draw_head(canvas: _Canvas, breed: Breed, at: tuple[float, float], radius: float, rng: np.random.Generator) -> None:
    tilt = float(rng.uniform(-14, 14))
    wide = float(rng.uniform(0.95, 1.05))

    def placed(points: Points) -> Points:
        return _placed(points * (wide, 1), at, radius, tilt)

    if breed.ears == "prick":
        _draw_prick_ears(canvas, breed, placed)
    canvas.part(placed(_ellipse(0, 0.02, 0.94 if breed.is_cat else 0.8, 0.84)), breed.coat, head=True)
    if breed.ears == "drop":
        for side in (-1, 1):
            ear = placed(_ellipse(side * 0.82, 0.1, 0.26, 0.62, side * -14))
            canvas.part(ear, _shade(_feet(breed), 0.82), head=True)
    _draw_face(canvas, breed, placed)


def _draw_prick_ears(canvas: _Canvas, breed: Breed, placed: Callable[[Points], Points]) -> None:
    for side in (-1, 1):
        ear = np.array([(side * 0.9, -0.3), (side * 0.78, -1.15), (side * 0.16, -0.7)])
        canvas.part(placed(ear), _shade(_feet(breed), 0.9), head=True)
        canvas.feature(placed(ear.mean(axis=0) + (ear - ear.mean(axis=0)) * 0.55), _shade(_PINK, 0.85))


def _draw_face(canvas: _Canvas, breed: Breed, placed: Callable[[Points], Points]) -> None:
    muzzle = breed.marking if breed.pattern == "points" else _shade(breed.coat, 1.18)
    if breed.is_cat:
        for side in (-1, 1):
            canvas.part(placed(_ellipse(side * 0.19, 0.42, 0.25, 0.2)), muzzle, head=True)
        nose = np.array([(-0.11, 0.22), (0.11, 0.22), (0, 0.34)])
    else:
        canvas.part(placed(_ellipse(0, 0.46, 0.42, 0.42)), muzzle, head=True)
        nose = _ellipse(0, 0.3, 0.17, 0.12)
        canvas.feature(placed(_ellipse(0, 0.78, 0.1, 0.15)), _shade(_PINK, 0.95))
    canvas.feature(placed(nose), _shade(_PINK, 0.9) if breed.is_cat else _BLACK)
    for side in (-1, 1):
        mouth = np.array([(0, 0.4), (side * 0.04, 0.55), (side * 0.16, 0.62), (side * 0.27, 0.57)])
        canvas.feature(placed(_band(mouth, 0.016)), _shade(_BLACK, 1.6))
        _draw_eye(canvas, breed, side, placed)
        for lift in (-0.07, 0.03, 0.13) if breed.is_cat else ():
            whisker = np.array([(side * 0.25, 0.42 + lift / 2), (side * 0.85, 0.38 + lift * 1.6)])
            canvas.feature(placed(_band(whisker, 0.009)), _IVORY)


def _draw_eye(canvas: _Canvas, breed: Breed, side: int, placed: Callable[[Points], Points]) -> None:
    x, y = side * 0.38, -0.1
    iris = (150, 176, 84) if breed.is_cat else (104, 66, 38)
    rim, pupil = (0.19, 0.07) if breed.is_cat else (0.15, 0.09)
    canvas.feature(placed(_ellipse(x, y, rim, rim * 0.86)), _BLACK)
    canvas.feature(placed(_ellipse(x, y, rim * 0.86, rim * 0.7)), iris)
    canvas.feature(placed(_ellipse(x, y, pupil, rim * 0.66)), _BLACK)
    canvas.feature(placed(_ellipse(x - 0.04, y - 0.05, 0.035, 0.035)), _IVORY)


def _mark(colors: Image.Image, breed: Breed, fur: Image.Image, rng: np.random.Generator) -> None:
    """Dye part of the fur in the marking color."""
    match breed.pattern:
        case "stripes":
            across = np.linspace(0, 9 * fur.width / min(fur.size), fur.width, dtype=np.float32)
            share = _soft(np.sin((across + _noise(fur.size, 4, rng) * 2.2) * 2 * np.pi), 0.35, 3)
        case "spots":
            share = _soft(_noise(fur.size, 24, rng), 0.62, 14)
        case "patches":
            share = _soft(_noise(fur.size, 5, rng), 0.56, 22)
        case _:
            return
    colors.paste(breed.marking, mask=Image.fromarray((share * np.asarray(fur)).astype(np.uint8)))


def _soft(field: Field, threshold: float, steepness: float) -> Field:
    share: Field = np.clip((field - np.float32(threshold)) * np.float32(steepness), 0, 0.9)
    return share


def _hair(fur: Image.Image, rng: np.random.Generator) -> Field:
    """What the fall of the hair adds to the light."""
    fine, coarse = _noise(fur.size, 70, rng) - 0.5, _noise(fur.size, 9, rng) - 0.5
    hair: Field = (fine * np.float32(0.34) + coarse * np.float32(0.22)) * _unit(fur)
    return hair


def _scene(pet: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Field]:
    """Wall and floor, or meadow: two colors that meet at a horizon, and the light on them with the pet's shadow."""
    size, height = pet.size, pet.height
    far, near = _SCENES[int(rng.integers(len(_SCENES)))]
    horizon = height * rng.uniform(0.35, 0.7)
    floor = np.clip((np.arange(height, dtype=np.float32)[:, None] - horizon) / (0.02 * height) + 0.5, 0, 1)
    column = np.array(far) * (1 - floor) + np.array(near) * floor
    scene = Image.fromarray(column[:, None].astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    cloudy, grainy = _noise(size, 5, rng) - 0.5, _noise(size, int(rng.integers(20, 60)), rng) - 0.5
    cast = pet.reduce(8).filter(ImageFilter.BoxBlur(3)).resize(size, Image.Resampling.BILINEAR)
    shadow = _unit(cast)[np.maximum(np.arange(height) - round(height * 0.04), 0)]
    light = (1 + cloudy * 0.5 + grainy * (0.08 + 0.3 * floor)) * (1 - 0.45 * shadow)
    return scene, np.asarray(light, np.float32)


_SCENES: tuple[tuple[Color, Color], ...] = (
    ((196, 186, 170), (140, 104, 76)),
    ((150, 168, 186), (112, 132, 78)),
    ((104, 122, 92), (126, 148, 84)),
    ((176, 150, 140), (170, 166, 160)),
    ((90, 96, 112), (120, 92, 88)),
    ((214, 210, 200), (150, 160, 178)),
    ((132, 84, 78), (188, 170, 146)),
)
"""Colors of what is far and what is near."""


def _lit(scene: Image.Image, light: Field, rng: np.random.Generator) -> Image.Image:
    from_left, to_right = rng.uniform(0.85, 1.12, 2).tolist()
    light = light * np.linspace(from_left, to_right, scene.width, dtype=np.float32)
    grain = rng.standard_normal(light.shape, dtype=np.float32) * np.float32(rng.uniform(2, 6))
    # channel by channel: numpy is slow where the last axis is as short as 3
    planes = (np.clip(np.asarray(channel) * light + grain, 0, 255).astype(np.uint8) for channel in scene.split())
    return Image.merge("RGB", [Image.fromarray(plane) for plane in planes])


def _noise(size: tuple[int, int], cells: int, rng: np.random.Generator) -> Field:
    """Smooth noise from 0 to 1 with about `cells` bumps along the shorter side."""
    step = min(size) / cells
    cells_high, cells_wide = (max(2, round(side / step)) for side in reversed(size))
    coarse = Image.fromarray(rng.integers(0, 256, (cells_high, cells_wide), dtype=np.uint8))
    return _unit(coarse.resize(size, Image.Resampling.BICUBIC))


def _trimap(pet: Image.Image) -> Image.Image:
    radius = max(1.0, min(pet.size) * 0.012)
    near = np.asarray(_solid(pet).filter(ImageFilter.BoxBlur(radius)))
    values = np.full(near.shape, TRIMAP_BORDER, np.uint8)
    values[near >= 250] = TRIMAP_PET
    values[near <= 5] = TRIMAP_BACKGROUND
    return Image.fromarray(values)


def _solid(mask: Image.Image) -> Image.Image:
    return mask.point([0] * 128 + [255] * 128)


def _unit(mask: Image.Image) -> Field:
    return np.asarray(mask, dtype=np.float32) / np.float32(255)
