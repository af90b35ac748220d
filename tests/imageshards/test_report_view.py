"""What the report says in numbers: they add up, and they are those of the manifest."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageshards.recipe import Augment, Recipe, parse_recipe
from imageshards.report_view import (
    MAX_CLASSES,
    accounting,
    applied_normalization,
    class_bars,
    class_range,
    median,
    named_counts,
    pixel_rows,
    readable_size,
    recipe_rows,
    size_bins,
    split_names,
    view,
)
from imageshards.survey import Survey
from tests.imageshards.built_version import plain_manifest

sides = st.dictionaries(st.integers(1, 60_000), st.integers(1, 1000), min_size=1, max_size=40).map(Counter)


@given(widths=sides, heights=sides, resolution=st.integers(1, 4096))
def test_every_side_falls_into_one_bin(widths: Counter[int], heights: Counter[int], resolution: int) -> None:
    bins = size_bins(Survey(widths=widths, heights=heights), resolution)

    assert sum(each.widths for each in bins) == widths.total()
    assert sum(each.heights for each in bins) == heights.total()
    assert len(bins) <= 26
    assert max(max(each.width_percent, each.height_percent) for each in bins) == 100
    assert sum(each.holds_resolution for each in bins) <= 1


def test_one_huge_image_does_not_squeeze_the_others() -> None:
    survey = Survey(widths=Counter({500: 500, 300: 490, 9000: 2}), heights=Counter({375: 900, 7000: 2}))

    bins = size_bins(survey, 224)

    assert bins[-1].label.endswith("px and more")
    assert (bins[-1].widths, bins[-1].heights) == (2, 2)
    assert bins[1].start - bins[0].start <= 50


def test_there_are_no_bins_without_images() -> None:
    assert size_bins(Survey(), 224) == []
    assert median({}) == 0


def test_the_median_is_the_middle_value() -> None:
    assert median({1: 1, 5: 1, 100: 1}) == 5


def test_class_bars_hold_the_counts_of_the_manifest() -> None:
    bars = class_bars(plain_manifest())

    assert [(bar.name, bar.counts) for bar in bars] == [("Abyssinian", (1, 2)), ("pug", (4, 2))]
    assert [sum(bar.widths) for bar in bars] == [50, pytest.approx(100)]
    assert class_range(plain_manifest()) == [("trainval", 1, 4), ("test", 2, 2)]


def test_a_long_list_of_classes_is_cut() -> None:
    names = tuple(f"class_{number}" for number in range(5000))

    assert len(class_bars(plain_manifest(class_names=names, classes={}))) == MAX_CLASSES


def test_training_comes_before_test_before_others() -> None:
    assert split_names(plain_manifest(splits={"unlisted": 1, "test": 1, "trainval": 1})) == [
        "trainval",
        "test",
        "unlisted",
    ]


def test_the_four_numbers_of_the_headline_agree() -> None:
    counts = accounting(plain_manifest())

    assert counts["images"] == counts["samples"] + counts["rejects"] + counts["left_out"]


def test_pixels_from_0_to_255_are_told_on_both_scales() -> None:
    assert pixel_rows(plain_manifest())[0] == ("red", 120.0, 60.0, 120 / 255, 60 / 255)
    unit = parse_recipe({"normalize": "unit", "dtype": "float32"})
    assert pixel_rows(plain_manifest(recipe=unit))[0][3] is None
    assert [row[0] for row in pixel_rows(plain_manifest(recipe=parse_recipe({"color": "gray"})))] == ["gray"]


def test_the_normalization_that_was_applied_is_told() -> None:
    imagenet = parse_recipe({"normalize": "imagenet", "dtype": "float32"})
    given_ = parse_recipe({"normalize": "given", "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "dtype": "float32"})

    assert applied_normalization(plain_manifest()) is None
    for recipe, mean in ((imagenet, (0.485, 0.456, 0.406)), (given_, (0.1, 0.2, 0.3))):
        applied = applied_normalization(plain_manifest(recipe=recipe))
        assert applied is not None
        assert applied.mean == mean


def test_each_field_of_a_recipe_is_told_with_its_description() -> None:
    recipe = parse_recipe({"augment": {"copies": 1, "hue": 0.1}})

    rows = recipe_rows(plain_manifest(recipe=recipe).recipe)

    assert all(description for _, _, description in rows)
    keys = [key for key, _, _ in rows]
    assert "augment.copies" in keys
    assert "augment" not in keys
    assert {key for key in keys if "." not in key} <= set(Recipe.model_fields)
    assert {key.partition(".")[2] for key in keys if "." in key} <= set(Augment.model_fields)


def test_counts_come_largest_first_with_their_meaning() -> None:
    rows = named_counts({"b": 1, "a": 1, "c": 5}, {"c": "see"})

    assert [(row.name, row.count, row.meaning) for row in rows] == [("c", 5, "see"), ("a", 1, ""), ("b", 1, "")]


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (791_918_971, "791.9 MB"), (5 * 10**15, "5,000.0 TB")],
)
def test_sizes_are_told_in_units_for_people(size_bytes: int, text: str) -> None:
    assert readable_size(size_bytes) == text


def test_failed_checks_are_told() -> None:
    manifest = plain_manifest()
    failed = manifest.checks[0].model_copy(update={"passed": False})

    assert view(manifest, Survey(), left_out_names={})["failed"] == []
    assert view(manifest.model_copy(update={"checks": (failed,)}), Survey(), left_out_names={})["failed"] == [failed]
