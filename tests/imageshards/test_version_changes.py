"""The page that a person reads in the morning: the gist first, numbers that add up, names that cannot break it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from imageshards.index_changes import ChangedImage, ImageChanges
from imageshards.version_changes import (
    MAX_CLASSES,
    Changes,
    ClassCount,
    Count,
    Drift,
    RecipeChange,
    RejectChange,
    RejectChanges,
)

NONE = RejectChanges(RejectChange(), RejectChange())


def changes(**fields: Any) -> Changes:
    usual: dict[str, Any] = {
        "dataset": "oxford-iiit-pet",
        "resolution": 224,
        "old": "0" * 32,
        "new": "1" * 32,
        "old_created_at": "2026-01-02T03:04:05+00:00",
        "images": ImageChanges(),
        "rejects": NONE,
    }
    return Changes(**(usual | fields))


def lines(page: str, title: str) -> list[str]:
    """The lines of the table below a heading, without its head."""
    return page.partition(f"### {title}\n\n")[2].partition("\n\n")[0].splitlines()[2:]


@pytest.mark.parametrize(
    ("fields", "gist"),
    [
        ({}, "no images added, changed or gone; no new rejects; class balance unchanged"),
        (
            {"images": ImageChanges(added=3, changed=1), "rejects": RejectChanges(RejectChange(1), RejectChange())},
            "3 images added, 1 changed, none gone; 1 new reject; class balance unchanged",
        ),
        (
            {
                "images": ImageChanges(added=1, changed=1200, gone=2000),
                "rejects": RejectChanges(RejectChange(), RejectChange(2)),
                "classes": (ClassCount("test", "pug", 1, 2), ClassCount("trainval", "pug", 2, 3)),
                "recipe": (RecipeChange("augment.copies", 1, 2), RecipeChange("augment.seed", 1, 2)),
            },
            "1 image added, 1,200 changed, 2,000 gone; no new rejects, 2 gone; rows changed in 1 class; "
            "recipe changed (augment)",
        ),
        (
            {"images": ImageChanges(gone=1)},
            "no images added, none changed, 1 gone; no new rejects; class balance unchanged",
        ),
        ({"images": None, "rejects": None}, "images not compared; rejects not compared; class balance unchanged"),
    ],
)
def test_the_first_line_says_the_gist(fields: dict[str, Any], gist: str):
    found = changes(**fields)
    assert found.gist() == gist
    assert found.to_markdown().splitlines()[0] == f"{gist[0].upper()}{gist[1:]}."


def test_both_versions_are_named():
    page = changes().to_markdown()
    assert f"version `{'1' * 32}`, against `{'0' * 32}`, published 2026-01-02T03:04:05+00:00." in page


def test_counts_stand_beside_each_other():
    page = changes(counts=(Count("images", 1200, 1100), Count("rows", 5, 5))).to_markdown()
    assert "| images | 1,200 | 1,100 | -100 |\n| rows | 5 | 5 |  |" in page
    first = changes(old=None, images=None, rejects=None, counts=(Count("images", None, 7), Count("rows", None, 5)))
    assert "| images |  | 7 |  |" in first.to_markdown()
    assert first.gist() == "first version: 7 images, 5 rows, no rejects"


def test_images_are_named_by_what_became_of_them():
    images = ImageChanges(30, 1, 0, {"bytes": 1, "box": 1}, ("a", "b"), (ChangedImage("c", ("bytes", "box")),))
    page = changes(images=images).to_markdown()
    assert lines(page, "Images") == ["| added | 30 | a, b and 28 more |", "| changed | 1 | c (bytes, box) |"]
    assert "Changed in: bytes 1, box 1." in page


def test_rejects_are_named_with_their_reasons():
    rejects = RejectChanges(RejectChange(1, {"empty": 1}, (("a", "empty"),)), RejectChange(2, {}, (("b", "empty"),)))
    page = changes(rejects=rejects).to_markdown()
    assert lines(page, "Rejects") == ["| new | 1 | a (empty) |", "| gone | 2 | b (empty) and 1 more |"]


def test_the_classes_that_changed_most_come_first():
    counts = [ClassCount("test", f"class-{number}", 100, 100 + number) for number in range(1, MAX_CLASSES + 11)]
    page = changes(classes=tuple(counts)).to_markdown()
    found = lines(page, "Rows by class")
    assert found[0] == "| class-50, test | 100 | 150 | +50 |"
    assert len(found) == MAX_CLASSES
    assert "… and 10 more." in page


def test_drift_is_told_in_stored_units_and_in_standard_deviations():
    page = changes(pixels=(Drift(0, 100.0, 110.0, 50.0, 40.0, 0.2), Drift(1, 1.0, 1.0, 0.0, 0.0, None))).to_markdown()
    assert lines(page, "Pixel values") == [
        "| 0 | 100 | 110 | +10 | +0.200 | 50 | 40 | -10 |",
        "| 1 | 1 | 1 | +0 |  | 0 | 0 | +0 |",
    ]


def test_values_of_the_recipe_are_shown():
    page = changes(recipe=(RecipeChange("fill", [1, 2, 3], None),)).to_markdown()
    assert lines(page, "Recipe") == [r"| fill | \[1, 2, 3\] | null |"]


def test_there_is_no_table_of_nothing():
    page = changes().to_markdown()
    assert "###" not in page
    assert "\n\n\n" not in page


def test_a_name_cannot_break_the_page():
    evil = "a|b\n### <script>[x](http://evil)"
    images = ImageChanges(added=1, first_added=(evil,))
    page = changes(images=images, not_compared=(evil,), classes=(ClassCount(evil, evil, 1, 2),)).to_markdown()
    assert "<script>" not in page
    assert "[x](" not in page.replace(r"\[x\](", "")
    assert re.findall("^### (.*)", page, re.MULTILINE) == ["Images", "Rows by class", "Not compared"]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in lines(page, "Images"))
