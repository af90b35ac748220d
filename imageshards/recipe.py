"""Recipe: what is done to pixels, in one frozen model with a canonical form and a fingerprint.

The steps of a recipe always run in this order, whatever the order of its fields:

    decode (upright, RGB) → geometry (fit, or the random resized crop of an augmented copy) → flips, rotation, affine
    → denoise → contrast → brightness, contrast, saturation, hue, blur, noise of an augmented copy
    → color → threshold → normalize → dtype → encode
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from imageshards.errors import ConfigError
from imageshards.recipe_form import describe_fields

RESOLUTIONS = (224, 299, 336, 384, 448, 512, 600)
"""224 ResNet; 299 Inception v3, Xception; 336 CLIP, ViT; 384 large ViT, ConvNeXt; 448 and 512 detection and
segmentation; 600 EfficientNet-B7."""

MAX_RESOLUTION = 4096

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Per channel (RGB) on the 0-1 scale, as torchvision's pretrained weights state them."""

Channel = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Channel, Channel, Channel]
Factor = Annotated[float, Field(ge=0.0, le=10.0)]
FactorRange = tuple[Factor, Factor]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]

Ratio = Annotated[float, Field(ge=0.01, le=10.0)]
RatioRange = tuple[Ratio, Ratio]


class Augment(BaseModel):
    """Augmented copies of training images; test images never get any.

    Each random number is drawn from (seed, image id, copy), so a copy does not depend on which worker makes it.
    A range that holds only its neutral value switches the operation off.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, title="Augmentation", json_schema_extra=describe_fields
    )

    copies: int = Field(0, ge=0, le=100, description="Augmented copies per training image, beside the plain one.")
    seed: int = Field(0, ge=0, description="Seed of every random draw.")
    horizontal_flip: float = Field(0.0, ge=0.0, le=1.0, description="Probability of a left-right flip.")
    vertical_flip: float = Field(0.0, ge=0.0, le=1.0, description="Probability of an upside-down flip.")
    rotation_degrees: float = Field(0.0, ge=0.0, le=180.0, description="Rotation drawn from ± this many degrees.")
    crop_scale: tuple[Fraction, Fraction] = Field(
        (1.0, 1.0), description="Random resized crop: share of the area kept, drawn from this range; (1, 1) is off."
    )
    crop_ratio: RatioRange = Field(
        (0.75, 4 / 3), description="Random resized crop: width over height, drawn from this range."
    )
    translate: float = Field(0.0, ge=0.0, le=1.0, description="Shift by up to this share of the side, both ways.")
    scale: RatioRange = Field((1.0, 1.0), description="Zoom factor, drawn from this range.")
    shear_degrees: float = Field(0.0, ge=0.0, lt=90.0, description="Shear along x drawn from ± this many degrees.")
    fill: Color = Field((0, 0, 0), description="Color where rotation, shift or shear uncovers nothing.")
    brightness: FactorRange = Field((1.0, 1.0), description="Brightness factor, drawn from this range.")
    contrast: FactorRange = Field((1.0, 1.0), description="Contrast factor, drawn from this range.")
    saturation: FactorRange = Field((1.0, 1.0), description="Saturation factor, drawn from this range.")
    hue: float = Field(0.0, ge=0.0, le=0.5, description="Hue shift drawn from ± this share of the color circle.")
    blur_sigma: tuple[Annotated[float, Field(ge=0, le=20)], Annotated[float, Field(ge=0, le=20)]] = Field(
        (0.0, 0.0), description="Gaussian blur sigma in output pixels, drawn from this range; (0, 0) is off."
    )
    noise_sigma: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] = Field(
        (0.0, 0.0), description="Gaussian noise sigma on the 0-1 scale, drawn from this range; (0, 0) is off."
    )

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name in (
            "crop_scale",
            "crop_ratio",
            "scale",
            "brightness",
            "contrast",
            "saturation",
            "blur_sigma",
            "noise_sigma",
        ):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the lower end {low} lies above the upper end {high}")
        return self

    @property
    def crops(self) -> bool:
        """Whether a random resized crop takes the place of `fit`."""
        return self.crop_scale != (1.0, 1.0)

    @property
    def warps(self) -> bool:
        """Whether rotation, shift, zoom or shear are on."""
        return bool(self.rotation_degrees or self.translate or self.shear_degrees) or self.scale != (1.0, 1.0)

    @property
    def changes_anything(self) -> bool:
        """Whether any operation is on, so that a copy differs from the plain image."""
        factors = (self.brightness, self.contrast, self.saturation)
        jitters = self.hue or self.blur_sigma[1] or self.noise_sigma[1] or any(pair != (1.0, 1.0) for pair in factors)
        return bool(self.crops or self.warps or self.horizontal_flip or self.vertical_flip or jitters)


class Recipe(BaseModel):
    """What is done to pixels. The same recipe on the same image gives the same bytes, everywhere."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, title="Recipe", json_schema_extra=describe_fields
    )

    fit: Literal["center-crop", "letterbox", "stretch"] = Field(
        "center-crop",
        description="center-crop: shorter side to resolution / crop_fraction, then the middle; "
        "letterbox: the whole image on a square of the fill color; stretch: both sides to the resolution.",
    )
    crop_fraction: float = Field(
        0.875, ge=0.01, le=1.0, description="center-crop: share of the resized shorter side that is kept."
    )
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"] = Field(
        "bilinear", description="Resampling filter, with antialiasing; trimaps always use nearest."
    )
    fill: Color = Field((0, 0, 0), description="letterbox: color (R, G, B) around the image.")
    upscale: Literal["allow", "reject"] = Field("allow", description="What happens to an image that must be enlarged.")
    exact: bool = Field(
        False,
        description="Decode in full, resize the whole image with Pillow, then crop: equal to torchvision's and "
        "Pillow's own. Otherwise bilinear resizes only what is kept (at most 2 levels off), and a JPEG at least four "
        "times as large as needed is decoded at a half, a quarter or an eighth, still at least twice as large as "
        "needed (measured: less than 1 level off on average, PSNR above 44 dB). All else is equal either way.",
    )

    keep_damaged: bool = Field(False, description="Accept images with lost data (truncated JPEG), noted as a repair.")
    icc: Literal["ignore", "srgb"] = Field(
        "ignore", title="ICC profiles", description="Embedded color profiles: ignore, or convert to sRGB."
    )
    background: Color = Field((255, 255, 255), description="Color (R, G, B) that transparent images are put on.")
    max_pixels: int = Field(
        64_000_000,
        ge=1,
        le=500_000_000,
        description="Larger images are rejected from their header alone. "
        "Pixels of WebP and AVIF count twice, of JPEG 2000 three times.",
    )

    denoise: Literal["none", "gaussian", "median"] = Field("none", description="Noise filter on the resized image.")
    gaussian_sigma: float = Field(1.0, gt=0.0, le=20.0, description="denoise gaussian: sigma in output pixels.")
    median_size: Literal[3, 5, 7] = Field(3, description="denoise median: side of the window in output pixels.")
    contrast: Literal["none", "equalize", "autocontrast", "clahe"] = Field(
        "none",
        description="Contrast correction. equalize, autocontrast: each channel by itself, as Pillow does; clahe: the "
        "lightness of CIELAB, which leaves colors alone.",
    )
    clahe_clip_limit: float = Field(
        2.0, gt=0.0, le=100.0, title="CLAHE clip limit", description="clahe: contrast limit, in OpenCV's units."
    )
    clahe_tiles: int = Field(8, ge=1, le=64, title="CLAHE tiles", description="clahe: tiles along each side.")
    color: Literal["rgb", "gray", "red", "green", "blue"] = Field(
        "rgb", description="Three channels, gray (one channel, ITU-R 601 luma), or one channel alone."
    )
    threshold: Literal["none", "fixed", "otsu", "adaptive"] = Field(
        "none", description="Black and white, on the gray or single channel; needs color other than rgb."
    )
    threshold_level: Channel = Field(127, description="threshold fixed: values above become 255, others 0.")
    adaptive_block_size: int = Field(11, ge=3, le=255, description="threshold adaptive: side of the window, odd.")
    adaptive_offset: float = Field(
        2.0, ge=-255, le=255, description="threshold adaptive: subtracted from the local mean."
    )

    normalize: Literal["none", "unit", "imagenet", "given", "dataset"] = Field(
        "none",
        description="none: 0-255; unit: 0-1; imagenet, given, dataset: 0-1, then minus mean, divided by std "
        "(dataset: measured on trainval only).",
    )
    mean: tuple[Annotated[float, Field(ge=-10, le=10)], ...] | None = Field(
        None, description="normalize given: one per channel, on the 0-1 scale."
    )
    std: tuple[Annotated[float, Field(ge=0.001, le=1000)], ...] | None = Field(
        None, title="Standard deviation (std)", description="normalize given: one per channel, on the 0-1 scale."
    )
    dtype: Literal["uint8", "float16", "float32"] = Field(
        "uint8", title="Pixel type (dtype)", description="Type of stored pixels."
    )

    augment: Augment = Field(Augment(), description="Augmented copies of training images.")

    encoding: Literal["raw", "jpeg", "png", "webp"] = Field("raw", description="How pixels lie in the image column.")
    encoding_quality: int = Field(90, ge=1, le=100, description="Quality of jpeg and webp encoding.")

    @property
    def channels(self) -> int:
        """Channels of a prepared image: 3, or 1 for gray and single-channel recipes."""
        return 3 if self.color == "rgb" else 1

    @property
    def reduces(self) -> bool:
        """Whether large JPEGs may be decoded at reduced scale.

        Not where single pixels are picked out of the source, nor parts of any size.
        """
        return not self.exact and self.interpolation != "nearest" and not self.augment.crops

    @property
    def filters(self) -> bool:
        """Whether a quality filter is on; only then does a worker import OpenCV (for a threshold too)."""
        return self.denoise != "none" or self.contrast != "none"

    @property
    def augments(self) -> bool:
        """Whether any augmented copy is made; only then does a worker import torch."""
        return self.augment.copies > 0

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if problems := _disagreements(self):
            raise ValueError("; ".join(problems))
        return self

    def canonical(self) -> str:
        """The recipe as canonical JSON: every field that has an effect, sorted; equal recipes give equal text."""
        data = self.model_dump(mode="json")
        for path in _without_effect(self):
            section, _, field = path.rpartition(".")
            (data[section] if section else data).pop(field)
        return json.dumps(_without_minus_zero(data), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    def fingerprint(self) -> str:
        """Hash of the canonical form, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


NEEDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "crop_fraction": ("fit", ("center-crop",)),
    "fill": ("fit", ("letterbox",)),
    "gaussian_sigma": ("denoise", ("gaussian",)),
    "median_size": ("denoise", ("median",)),
    "clahe_clip_limit": ("contrast", ("clahe",)),
    "clahe_tiles": ("contrast", ("clahe",)),
    "threshold_level": ("threshold", ("fixed",)),
    "adaptive_block_size": ("threshold", ("adaptive",)),
    "adaptive_offset": ("threshold", ("adaptive",)),
    "mean": ("normalize", ("given",)),
    "std": ("normalize", ("given",)),
    "encoding_quality": ("encoding", ("jpeg", "webp")),
}
"""A field on the left has an effect only where the field on the right has one of these values."""


def _without_effect(recipe: Recipe) -> list[str]:
    fields = [field for field, (switch, values) in NEEDS.items() if getattr(recipe, switch) not in values]
    if recipe.interpolation == "nearest" or (recipe.interpolation != "bilinear" and recipe.augment.crops):
        fields.append("exact")
    if not recipe.augments:
        return [*fields, "augment"]
    if not recipe.augment.crops:
        fields.append("augment.crop_ratio")
    if not recipe.augment.warps:
        fields.append("augment.fill")
    return fields


def _without_minus_zero(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_minus_zero(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_minus_zero(item) for item in value]
    return value + 0.0 if isinstance(value, float) else value


def _disagreements(recipe: Recipe) -> list[str]:
    found = []
    for field in _without_effect(recipe):
        if field in NEEDS and getattr(recipe, field) != Recipe.model_fields[field].default:
            switch, values = NEEDS[field]
            found.append(
                f"{field} has no effect unless {switch} is {' or '.join(values)}; it is {getattr(recipe, switch)}"
            )
    if not recipe.augments and recipe.augment.changes_anything:
        found.append("augment has no effect while augment.copies is 0: set it to 1 or more")
    if recipe.augments and not recipe.augment.changes_anything:
        found.append(
            f"augment.copies is {recipe.augment.copies}, but no operation is on: the copies would be duplicates"
        )
    if recipe.threshold != "none" and recipe.color == "rgb":
        found.append("threshold works on one channel: set color to gray, red, green or blue")
    if recipe.adaptive_block_size % 2 == 0:
        found.append(f"adaptive_block_size must be odd, it is {recipe.adaptive_block_size}")
    if recipe.normalize == "given":
        for name, given in (("mean", recipe.mean), ("std", recipe.std)):
            if given is None or len(given) != recipe.channels:
                found.append(f"normalize given needs {name} with {recipe.channels} value(s), one per channel")
    if recipe.normalize == "imagenet" and recipe.color != "rgb":
        found.append("normalize imagenet is stated for three channels: set color to rgb")
    if recipe.normalize != "none" and recipe.dtype == "uint8":
        found.append(f"normalize {recipe.normalize} gives fractions: set dtype to float16 or float32")
    if recipe.encoding != "raw" and recipe.dtype != "uint8":
        found.append(f"encoding {recipe.encoding} holds uint8 only: set dtype to uint8, or encoding to raw")
    return found


def parse_recipe(data: Mapping[str, Any]) -> Recipe:
    """Build a recipe from plain data.

    Raises:
        ConfigError: An unknown key or a value out of range; the message names each of them.
    """
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(_problem(detail) for detail in error.errors())
        raise ConfigError(
            f"the recipe is not valid: {problems}. docs/recipe.md lists every key and its values"
        ) from error


def _problem(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown key {where!r}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}, found {detail['input']!r}" if where else message


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a JSON or YAML file.

    Raises:
        ConfigError: The file is missing, is neither JSON nor YAML, or holds no valid recipe.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the recipe file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the recipe file {path} is neither JSON nor YAML: {error}") from error
    if data is None:
        return Recipe()
    if not isinstance(data, dict):
        raise ConfigError(
            f"the recipe file {path} must hold one mapping of keys to values, found {type(data).__name__}"
        )
    return parse_recipe(data)
