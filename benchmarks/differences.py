"""docs/differences.md: how far this package's pictures are from torchvision's and Pillow's own.

    python -m benchmarks.differences > docs/differences.md

Measured on the real photographs beside the repository where they are, else on drawn ones. Takes about two minutes.
"""

from __future__ import annotations

import io
import math
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageFilter, ImageOps
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from benchmarks.reduced_scale import reduced_scale
from imageshards import augment, filters
from imageshards.picture import Picture
from imageshards.recipe import Augment, Recipe
from imageshards.sample import write_sample
from imageshards.transform import prepare

PHOTOGRAPHS = Path(__file__).parents[2] / "shared" / "data" / "pets-sample" / "images.tar.gz"
CROP_FRACTION = 0.875
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

Pixels = NDArray[Any]
Make = Callable[[Pixels], Pixels]


@dataclass
class Comparison:
    """One operation against its reference, over many images.

    Attributes:
        operation: What is compared, as a recipe says it.
        reference: What it is compared with.
        ours: From the source, or from the plain picture at 224, to our picture.
        theirs: From the same to the reference's picture.
        on_plain: Whether both start from the plain picture at 224 rather than from the source.
    """

    operation: str
    reference: str
    ours: Make
    theirs: Make
    on_plain: bool = False
    largest: float = 0.0
    means: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def add(self, source: Pixels, plain: Pixels) -> None:
        """Compare on one more image."""
        start = plain if self.on_plain else source
        difference = np.abs(self.ours(start).astype(np.float64) - self.theirs(start))
        self.largest = max(self.largest, float(difference.max()))
        self.means.append(float(difference.mean()))
        self.shares.append(float((difference > 0).mean()))

    def row(self) -> str:
        """A line of the table."""
        largest = f"{self.largest:.2g}" if self.largest % 1 else f"{self.largest:.0f}"
        cells = (self.operation, self.reference, largest, f"{np.mean(self.means):.2g}", f"{np.mean(self.shares):.2%}")
        return f"| {' | '.join(cells)} |"


def read_images() -> tuple[list[Pixels], str]:
    """The pictures to compare on, and what they are."""
    if PHOTOGRAPHS.exists():
        return _read(PHOTOGRAPHS), "real photographs of Oxford-IIIT Pet"
    with tempfile.TemporaryDirectory() as folder:
        return _read(write_sample(Path(folder)).images), "drawn pictures (`python -m imageshards.sample`)"


def _read(archive: Path) -> list[Pixels]:
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # one of the photographs is cut off on purpose
    with tarfile.open(archive) as images:
        members = [member for member in images if member.name.endswith(".jpg")]
        data = [images.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    return [np.array(Image.open(io.BytesIO(item)).convert("RGB")) for item in data]


def by_recipe(resolution: int = 224, *, copy: int = 0, **fields: Any) -> Make:
    """What `prepare` makes of a source."""
    recipe = Recipe(**fields)

    def make(pixels: Pixels) -> Pixels:
        return prepare(Picture(pixels, None, None), recipe, resolution=resolution, image_id="x", copy=copy).pixels

    return make


def by_pillow(make: Callable[[Image.Image], Any]) -> Make:
    """A reference that takes a Pillow image."""
    return lambda pixels: np.asarray(make(Image.fromarray(pixels)))


def by_tensor(make: Callable[[torch.Tensor], torch.Tensor]) -> Make:
    """A reference that takes a (C, H, W) tensor."""

    def run(pixels: Pixels) -> Pixels:
        tensor = make(torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous())
        array: Pixels = tensor.permute(1, 2, 0).numpy()
        return array

    return run


def resize_and_crop(resolution: int, interpolation: str = "bilinear") -> Callable[[Any], Any]:
    """The usual pair of torchvision."""
    mode = InterpolationMode[interpolation.upper()]
    steps = [v2.Resize(round(resolution / CROP_FRACTION), mode, antialias=True), v2.CenterCrop(resolution)]
    composed: Callable[[Any], Any] = v2.Compose(steps)
    return composed


def geometry() -> Iterator[Comparison]:
    """Every fit and interpolation."""
    for resolution in (224, 299, 384, 600):
        for exact in (False, True):
            yield Comparison(
                f"center-crop, bilinear, {resolution} px{', exact' if exact else ''}",
                "torchvision Resize + CenterCrop on Pillow images",
                by_recipe(resolution, exact=exact),
                by_pillow(resize_and_crop(resolution)),
            )
    yield Comparison(
        "center-crop, bilinear, 224 px",
        "the same on tensors (for information)",
        by_recipe(),
        by_tensor(resize_and_crop(224)),
    )
    for interpolation in ("bicubic", "lanczos", "nearest"):
        yield Comparison(
            f"center-crop, {interpolation}",
            "torchvision Resize + CenterCrop on Pillow images",
            by_recipe(interpolation=interpolation),
            by_pillow(resize_and_crop(224, interpolation)),
        )
    yield Comparison(
        "stretch", "torchvision Resize((224, 224))", by_recipe(fit="stretch"), by_pillow(v2.Resize((224, 224)))
    )
    yield Comparison(
        "letterbox",
        "Pillow ImageOps.pad",
        by_recipe(fit="letterbox"),
        by_pillow(lambda image: ImageOps.pad(image, (224, 224), Image.Resampling.BILINEAR)),
    )


def quality() -> Iterator[Comparison]:
    """Filters on the plain picture."""
    for sigma in (0.5, 1.0, 3.0, 10.0, 20.0):
        recipe, side = Recipe(denoise="gaussian", gaussian_sigma=sigma), filters.gaussian_kernel_size(sigma)
        yield Comparison(
            f"denoise gaussian, sigma {sigma:g}",
            "torchvision gaussian_blur",
            lambda pixels, recipe=recipe: filters.denoise(pixels, recipe),  # type: ignore[misc]
            by_tensor(lambda image, side=side, sigma=sigma: functional.gaussian_blur(image, [side, side], [sigma] * 2)),  # type: ignore[misc]
            on_plain=True,
        )
    yield Comparison(
        "denoise gaussian, sigma 1",
        "Pillow GaussianBlur, three box blurs (for information)",
        lambda pixels: filters.denoise(pixels, Recipe(denoise="gaussian")),
        by_pillow(lambda image: image.filter(ImageFilter.GaussianBlur(1))),
        on_plain=True,
    )
    for size in (3, 5, 7):
        recipe = Recipe(denoise="median", median_size=size)
        yield Comparison(
            f"denoise median, size {size}",
            "Pillow MedianFilter",
            lambda pixels, recipe=recipe: filters.denoise(pixels, recipe),  # type: ignore[misc]
            by_pillow(lambda image, size=size: image.filter(ImageFilter.MedianFilter(size))),  # type: ignore[misc]
            on_plain=True,
        )
    for name in ("equalize", "autocontrast"):
        recipe = Recipe(contrast=name)
        for reference, theirs in (
            (f"Pillow ImageOps.{name}", by_pillow(getattr(ImageOps, name))),
            (f"torchvision {name} on tensors", by_tensor(getattr(functional, name))),
        ):
            yield Comparison(
                f"contrast {name}",
                reference,
                lambda pixels, recipe=recipe: filters.correct_contrast(pixels, recipe),  # type: ignore[misc]
                theirs,
                on_plain=True,
            )


def colors() -> Iterator[Comparison]:
    """Channels, threshold, normalization, from the source to the end."""
    plain = by_recipe()
    for reference, gray in (
        ("Pillow convert('L')", by_pillow(lambda image: image.convert("L"))),
        ("torchvision Grayscale on tensors", by_tensor(functional.rgb_to_grayscale)),
    ):
        yield Comparison(
            "color gray",
            reference,
            by_recipe(color="gray"),
            lambda pixels, gray=gray: gray(plain(pixels)).reshape(224, 224, 1),  # type: ignore[misc]
        )
    yield Comparison(
        "threshold fixed, 127, on gray",
        "Pillow convert('L') and point",
        by_recipe(color="gray", threshold="fixed"),
        lambda pixels: np.asarray(
            Image.fromarray(plain(pixels)).convert("L").point(lambda value: 255 if value > 127 else 0)
        )[..., None],
    )
    steps = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET)])
    yield Comparison(
        "normalize imagenet, float32 (in units of the standard deviation)",
        "torchvision ToDtype + Normalize",
        by_recipe(normalize="imagenet", dtype="float32"),
        lambda pixels: by_tensor(steps)(plain(pixels)),
    )


def neutral(**fields: Any) -> augment.Draw:
    """A draw with nothing on but what is named."""
    drawn = augment.draw(Augment(copies=1), image_id="x", copy=1, source=(224, 224), resolution=224)
    return augment.Draw(**{name: fields.get(name, getattr(drawn, name)) for name in augment.Draw.__dataclass_fields__})


def augmentation() -> Iterator[Comparison]:
    """Each operation of augmented copies, with the numbers given rather than drawn."""
    crop = Augment(copies=1, crop_scale=(0.2, 0.8))

    def torchvision_crop(image: Image.Image) -> Any:
        drawn = augment.draw(crop, image_id="x", copy=1, source=image.size, resolution=224)
        left, top, width, height = drawn.crop or (0, 0, *image.size)
        return functional.resized_crop(image, top, left, height, width, [224, 224])

    yield Comparison(
        "random resized crop",
        "torchvision resized_crop on Pillow images",
        by_recipe(copy=1, augment=crop),
        by_pillow(torchvision_crop),
    )
    affine = {"shift_px": (5, -7), "scale": 1.2, "angle_degrees": 20.0, "shear_degrees": 8.0}
    yield Comparison(
        "rotation, shift, zoom, shear",
        "torchvision affine on tensors, bilinear",
        lambda pixels: augment.warp(pixels, None, None, neutral(**affine), (0, 0, 0)).pixels,
        by_tensor(
            lambda image: functional.affine(
                image, 20.0, [5, -7], 1.2, [8.0, 0.0], InterpolationMode.BILINEAR, fill=[0.0, 0.0, 0.0]
            )
        ),
        on_plain=True,
    )
    yield Comparison(
        "flips",
        "torchvision horizontal_flip, vertical_flip",
        lambda pixels: augment.warp(pixels, None, None, neutral(flips=(True, True)), (0, 0, 0)).pixels,
        by_tensor(lambda image: functional.vertical_flip(functional.horizontal_flip(image))),
        on_plain=True,
    )
    for name, value in (("brightness", 1.3), ("contrast", 0.7), ("saturation", 1.6), ("hue", -0.2)):
        operation = getattr(functional, f"adjust_{name}")
        yield _jitter(f"{name} {value}", f"torchvision adjust_{name}", {name: value}, operation, value)
    for sigma in (0.5, 2.0, 8.0):
        side = 2 * math.ceil(augment.BLUR_REACH_SIGMAS * sigma) + 1
        yield _jitter(
            f"blur, sigma {sigma:g}",
            "torchvision gaussian_blur",
            {"blur_sigma_px": sigma},
            functional.gaussian_blur,
            [side, side],
            [sigma, sigma],
        )

    def torchvision_noise(image: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        noisy: torch.Tensor = functional.gaussian_noise(image, sigma=0.1)
        return noisy

    noise = {"noise_sigma": 0.1, "noise_seed": 5}
    yield _jitter("noise, sigma 0.1", "torchvision gaussian_noise, same seed", noise, torchvision_noise)


def _jitter(
    operation: str, reference: str, fields: dict[str, Any], theirs: Callable[..., Any], *args: Any
) -> Comparison:
    drawn = neutral(**fields)
    return Comparison(
        operation,
        reference,
        lambda pixels: augment.jitter(pixels, drawn),
        by_tensor(lambda image: theirs(image, *args)),
        on_plain=True,
    )


HEAD = """\
# Differences from torchvision and Pillow

Generated by `python -m benchmarks.differences` on {count} {kind}, at 224 px unless stated, with
{versions}.

Differences are in levels (0 to 255); the mean and the share are over all values of all images. Where torchvision and
Pillow differ from each other, a result agrees with one of them; the other is there for information."""

TABLE_HEAD = """
## {title}

| operation | reference | largest difference | mean difference | values that differ |
|---|---|---|---|---|"""

LIBRARIES = ("pillow", "torchvision", "torch", "opencv-python-headless")


def main() -> None:
    """Measure, and write the page to standard output."""
    torch.set_num_threads(1)
    images, kind = read_images()
    sections = {
        "Geometry": list(geometry()),
        "Quality": list(quality()),
        "Color": list(colors()),
        "Augmentation": list(augmentation()),
    }
    for source in images:
        plain = by_recipe()(source)
        for comparison in (item for items in sections.values() for item in items):
            comparison.add(source, plain)
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    print(HEAD.format(count=len(images), kind=kind, versions=versions))
    for title, comparisons in sections.items():
        print(TABLE_HEAD.format(title=title))
        for comparison in comparisons:
            print(comparison.row())
    for line in reduced_scale(images):
        print(line)


if __name__ == "__main__":
    main()
