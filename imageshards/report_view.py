"""What the report says, as plain data for its template: pure functions of a manifest and a survey."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imageshards.contact_sheet import readable_class
from imageshards.manifest import Manifest, PixelStatistics
from imageshards.meanings import LEFT_OUT, MEMBERS, REJECTS, REPAIRS
from imageshards.recipe import IMAGENET_MEAN, IMAGENET_STD, Augment, Recipe
from imageshards.survey import Survey

MAX_CLASSES = 300
MAX_SHARDS = 200
DUPLICATES_SHOWN = 100
"""Longer tables would make the report heavy; the manifest has them all."""

_MAX_BINS = 24
_BIN_WIDTHS_PX = (10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000)
_COVERED = 0.98
"""Share of images that the bins before the last one hold: a few huge ones do not squeeze the rest."""

_SPLIT_ORDER = ("trainval", "test")
_CHANNELS = {"gray": ("gray",), "red": ("red",), "green": ("green",), "blue": ("blue",)}
_MAX_UINT8 = 255


@dataclass(frozen=True, slots=True)
class ClassBar:
    """One class: its rows in each split, and how long a bar of each is, in percent of the longest."""

    name: str
    counts: tuple[int, ...]
    widths: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SizeBin:
    """Images whose width or height lies in a range of px, and how high a bar of each is, in percent of the highest.

    Attributes:
        label: `200 to 249`, or `1000 and more`.
        start: Where the range begins.
        widths: Images whose width lies in it.
        heights: Images whose height lies in it.
        width_percent: Height of the bar.
        height_percent: Likewise.
        holds_resolution: Whether the version's resolution lies in the range.
    """

    label: str
    start: int
    widths: int
    heights: int
    width_percent: float
    height_percent: float
    holds_resolution: bool


@dataclass(frozen=True, slots=True)
class Named:
    """A name with its count and what it means."""

    name: str
    count: int
    meaning: str


def split_names(manifest: Manifest) -> list[str]:
    """The splits, training first."""
    known = [split for split in _SPLIT_ORDER if split in manifest.splits]
    return known + sorted(set(manifest.splits) - set(known))


def class_bars(manifest: Manifest) -> list[ClassBar]:
    """Rows of each class in each split, in the order of the labels; rows without a class come last."""
    splits = split_names(manifest)
    counted: dict[str | None, tuple[int, ...]] = {}
    names: list[str | None] = [*manifest.class_names]
    names += sorted({name for counts in manifest.classes.values() for name in counts} - set(manifest.class_names))
    for name in names[:MAX_CLASSES]:
        counted[name] = tuple(manifest.classes.get(split, {}).get(name or "", 0) for split in splits)
    longest = max((sum(counts) for counts in counted.values()), default=0) or 1
    return [
        ClassBar(readable_class(name), counts, tuple(round(100 * count / longest, 2) for count in counts))
        for name, counts in counted.items()
    ]


def class_range(manifest: Manifest) -> list[tuple[str, int, int]]:
    """Rows of the smallest and of the largest class of each split."""
    ranges = []
    for split in split_names(manifest):
        counts = [manifest.classes.get(split, {}).get(name, 0) for name in manifest.class_names]
        if counts:
            ranges.append((split, min(counts), max(counts)))
    return ranges


def size_bins(survey: Survey, resolution: int) -> list[SizeBin]:
    """Histogram of source widths and heights; the last bin is open."""
    sides = survey.widths + survey.heights
    if not sides:
        return []
    largest = max(sides)
    covered = _quantile(sides, _COVERED)
    width = next((width for width in _BIN_WIDTHS_PX if covered < width * (_MAX_BINS - 1)), _BIN_WIDTHS_PX[-1])
    first, last = min(sides) // width, min(covered // width + 1, largest // width)
    widths, heights = _binned(survey.widths, width, last), _binned(survey.heights, width, last)
    highest = max([*widths.values(), *heights.values()])
    return [
        SizeBin(
            label=_bin_label(number, width, is_open=number == last and largest >= (last + 1) * width),
            start=number * width,
            widths=widths[number],
            heights=heights[number],
            width_percent=round(100 * widths[number] / highest, 2),
            height_percent=round(100 * heights[number] / highest, 2),
            holds_resolution=min(resolution // width, last) == number,
        )
        for number in range(first, last + 1)
    ]


def _binned(counts: Mapping[int, int], width: int, last: int) -> Counter[int]:
    binned: Counter[int] = Counter()
    for side, count in counts.items():
        binned[min(side // width, last)] += count
    return binned


def _bin_label(number: int, width: int, *, is_open: bool) -> str:
    start = number * width
    return f"{start} px and more" if is_open else f"{start} to {start + width - 1} px"


def _quantile(counts: Mapping[int, int], share: float) -> int:
    reached, wanted = 0, share * sum(counts.values())
    for value, count in sorted(counts.items()):
        reached += count
        if reached >= wanted:
            return value
    return max(counts)


def median(counts: Mapping[int, int]) -> int:
    """The middle value of a histogram; 0 of an empty one."""
    return _quantile(counts, 0.5) if counts else 0


def pixel_rows(manifest: Manifest) -> list[tuple[str, float, float, float | None, float | None]]:
    """Channel, mean, deviation; and both on the 0-1 scale, for pixels that are stored as 0 to 255."""
    channels = _CHANNELS.get(str(manifest.recipe.get("color")), ("red", "green", "blue"))
    return [
        (name, mean, std, mean / _MAX_UINT8, std / _MAX_UINT8)
        if manifest.recipe.get("normalize", "none") == "none"
        else (name, mean, std, None, None)
        for name, mean, std in zip(channels, manifest.pixels.mean, manifest.pixels.std, strict=False)
    ]


def applied_normalization(manifest: Manifest) -> PixelStatistics | None:
    """Mean and deviation that were subtracted and divided by, on the 0-1 scale; None where none were."""
    recipe = manifest.recipe
    if recipe.get("normalize") == "imagenet":
        return PixelStatistics(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    if recipe.get("normalize") == "given":
        return PixelStatistics(mean=recipe["mean"], std=recipe["std"])
    return manifest.normalization


def named_counts(counts: Mapping[str, int], meanings: Mapping[str, str]) -> list[Named]:
    """Counts with what their names mean, the largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Named(name, count, meanings.get(name, "")) for name, count in ordered]


def recipe_rows(recipe: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key, value and description of each field of a canonical recipe that has an effect."""
    rows = []
    for key, value in recipe.items():
        if key == "augment":
            rows += [(f"augment.{name}", json.dumps(item), _described(Augment, name)) for name, item in value.items()]
        else:
            rows.append((key, value if isinstance(value, str) else json.dumps(value), _described(Recipe, key)))
    return rows


def _described(model: type[Recipe] | type[Augment], field: str) -> str:
    return (model.model_fields[field].description or "") if field in model.model_fields else ""


def accounting(manifest: Manifest) -> dict[str, int]:
    """The four numbers that must agree: images = samples + rejects + left out."""
    return {
        "images": manifest.images,
        "samples": manifest.samples,
        "rejects": sum(manifest.rejects.values()),
        "left_out": sum(manifest.left_out.values()),
    }


def view(manifest: Manifest, survey: Survey, *, left_out_names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Everything that the template shows except pictures."""
    return {
        "manifest": manifest,
        "survey": survey,
        "counts": accounting(manifest),
        "failed": [check for check in manifest.checks if not check.passed],
        "size_bytes": sum(shard.size_bytes for shard in manifest.shards),
        "splits": split_names(manifest),
        "classes": class_bars(manifest),
        "class_ranges": class_range(manifest),
        "bins": size_bins(survey, manifest.resolution),
        "median_width": median(survey.widths),
        "median_height": median(survey.heights),
        "boxes": sum(survey.boxes.values()),
        "formats": _by_count(survey.formats),
        "modes": _by_count(survey.modes),
        "pixels": pixel_rows(manifest),
        "normalization": applied_normalization(manifest),
        "repairs": named_counts(manifest.repairs, REPAIRS),
        "rejects": named_counts(manifest.rejects, REJECTS),
        "left_out": named_counts(manifest.left_out, LEFT_OUT),
        "left_out_names": left_out_names,
        "duplicates": manifest.duplicates[:DUPLICATES_SHOWN],
        "members": named_counts(manifest.members, MEMBERS),
        "recipe": recipe_rows(manifest.recipe),
        "shards": manifest.shards[:MAX_SHARDS],
    }


def _by_count(counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def readable_size(size_bytes: int) -> str:
    """A size for people, in units of 1,000."""
    value, units = float(size_bytes), list(_SIZE_UNITS)
    while value >= _SIZE_STEP and len(units) > 1:
        value /= _SIZE_STEP
        del units[0]
    return f"{value:,.0f} {units[0]}" if units[0] == _SIZE_UNITS[0] else f"{value:,.1f} {units[0]}"


_SIZE_STEP = 1000
_SIZE_UNITS = ("bytes", "kB", "MB", "GB", "TB")
