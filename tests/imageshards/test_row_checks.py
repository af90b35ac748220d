"""Checks on row groups: what holds passes, what does not is named, and pixels of plain rows are added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from imageshards.columns import places_in
from imageshards.encode import encode
from imageshards.recipe import Augment, Recipe
from imageshards.row_checks import EXPECTATIONS, empty_trimaps, look_at_pixels, wrong_rows
from imageshards.schema import image_type
from imageshards.statistics import PixelSums

SIDE = 4
PLAIN = Recipe()
AUGMENTED = Recipe(augment=Augment(copies=1, hue=0.1))
INDEX = pa.table(
    {
        "image_id": ["annotated", "bare"],
        "label": pa.array([3, None], pa.int16()),
        "class_name": ["pug", None],
        "species": ["dog", None],
        "split": ["test", None],
        "source_key": ["raw/annotated.jpg", "raw/bare.jpg"],
        "source_sha256": ["0" * 64, "1" * 64],
        "head_box": pa.array([[1.0, 1.0, 2.0, 2.0], None], pa.list_(pa.float64(), 4)),
        "trimap_key": ["raw/t.png", None],
    }
)
BOX = [0.0, 0.0, 4.0, 4.0]
TRIMAP = bytes([1, 2, 3, 2] * 4)


def pixels(recipe: Recipe = PLAIN, value: float = 7) -> bytes:
    return np.full((SIDE, SIDE, recipe.channels), value, recipe.dtype).tobytes()


def row(image_id: str = "annotated", **changes: Any) -> dict[str, Any]:
    annotated = image_id == "annotated"
    return {
        "image_id": image_id,
        "copy": 0,
        "image": pixels(),
        "head_box": BOX if annotated else None,
        "head_box_visible": 1.0 if annotated else None,
        "trimap": TRIMAP if annotated else None,
        "label": 3 if annotated else None,
        "class_name": "pug" if annotated else None,
        "species": "dog" if annotated else None,
        "split": "test" if annotated else "unlisted",
        "source_key": f"raw/{image_id}.jpg",
        "source_sha256": ("0" if annotated else "1") * 64,
    } | changes


def table_of(rows: list[dict[str, Any]], recipe: Recipe = PLAIN) -> pa.Table:
    schema = pa.schema(
        {
            "image_id": pa.string(),
            "copy": pa.int16(),
            "image": image_type(recipe, SIDE),
            "head_box": pa.list_(pa.float32(), 4),
            "head_box_visible": pa.float32(),
            "trimap": pa.binary(SIDE * SIDE),
            "label": pa.int16(),
            **dict.fromkeys(("class_name", "species", "split", "source_key", "source_sha256"), pa.string()),
        }
    )
    return pa.Table.from_pylist(rows, schema=schema)


@dataclass
class Checked:
    """What the checks found in some row groups."""

    sums: PixelSums
    problems: dict[str, list[str]]
    empty_trimaps: list[str]


def check(*groups: pa.Table, recipe: Recipe = PLAIN) -> Checked:
    """Check row groups as the shards' are."""
    sums, looks = PixelSums.zero(recipe.channels), []
    for group in groups:
        plain = np.array([copy == 0 for copy in group.column("copy").to_pylist()])
        group_sums, look = look_at_pixels(group.select(["image", "trimap"]), plain, recipe, SIDE)
        sums += group_sums
        looks.append(look)
    rows, look = pa.concat_tables(groups), pa.concat_tables(looks)
    for name in look.column_names:
        rows = rows.append_column(name, look.column(name))
    known = INDEX.take(places_in(rows.column("image_id"), INDEX.column("image_id")))
    ids = rows.column("image_id").to_pylist()
    problems = {
        name: [image_id for image_id, bad in zip(ids, wrong, strict=True) if bad]
        for name, wrong in wrong_rows(rows, known, recipe, SIDE).items()
    }
    return Checked(sums, problems, [image_id for image_id, yes in zip(ids, empty_trimaps(rows), strict=True) if yes])


def checked(*rows: dict[str, Any], recipe: Recipe = PLAIN) -> Checked:
    return check(table_of(list(rows), recipe), recipe=recipe)


def problems(*rows: dict[str, Any], recipe: Recipe = PLAIN) -> dict[str, list[str]]:
    return {name: found for name, found in checked(*rows, recipe=recipe).problems.items() if found}


def test_rows_as_they_should_be_pass():
    assert problems(row(), row("bare"), row("annotated"), row("bare")) == {}


def test_every_check_is_told_even_where_nothing_failed():
    assert set(checked(row()).problems) == set(EXPECTATIONS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label", 4),
        ("label", None),
        ("class_name", "beagle"),
        ("class_name", None),
        ("species", "cat"),
        ("split", "trainval"),
        ("split", "unlisted"),
        ("source_key", "raw/bare.jpg"),
        ("source_sha256", "2" * 64),
    ],
)
def test_an_annotation_other_than_that_of_the_index_is_named(name, value):
    assert problems(row("bare"), row(**{name: value})) == {"annotations": ["annotated"]}


@pytest.mark.parametrize("name", ["label", "class_name", "species"])
def test_an_annotation_where_the_index_has_none_is_named(name):
    value = 3 if name == "label" else "pug"
    assert problems(row(), row("bare", **{name: value})) == {"annotations": ["bare"]}


BOXES = {
    "sides that are no numbers": ([None, 0, 4, 4], 1.0, False),
    "the whole frame": ([0, 0, 4, 4], 1.0, True),
    "a part": ([0.5, 1, 2, 3.5], 0.3, True),
    "half a thousandth beyond, as float32 may be": ([0, 0, 4.0005, 4], 1.0, True),
    "beyond": ([0, 0, 4.1, 4], 1.0, False),
    "before": ([0, -0.1, 4, 4], 1.0, False),
    "inside out": ([3, 0, 1, 4], 1.0, False),
    "without area": ([1, 1, 1, 1], 1.0, False),
    "not a number": ([float("nan"), 0, 4, 4], 1.0, False),
    "infinite": ([0, 0, float("inf"), 4], 1.0, False),
    "left the frame": (None, 0.0, True),
    "gone without a word": (None, None, False),
    "gone, yet visible": (None, 0.2, False),
    "there, yet invisible": ([0, 0, 4, 4], 0.0, False),
    "there, and nothing said of it": ([0, 0, 4, 4], None, False),
    "visible beyond all of it": ([0, 0, 4, 4], 1.1, False),
    "visible less than nothing": ([0, 0, 4, 4], -0.1, False),
    "visible by no number": ([0, 0, 4, 4], float("nan"), False),
}


@pytest.mark.parametrize("what", BOXES)
def test_a_head_box_that_the_index_has(what):
    box, visible, holds = BOXES[what]
    expected = {} if holds else {"head-boxes": ["annotated"]}
    assert problems(row(head_box=box, head_box_visible=visible)) == expected


@pytest.mark.parametrize(
    ("box", "visible", "holds"), [(None, None, True), (BOX, 1.0, False), (None, 0.0, False), (BOX, None, False)]
)
def test_a_head_box_that_the_index_has_not(box, visible, holds):
    expected = {} if holds else {"head-boxes": ["bare"]}
    assert problems(row("bare", head_box=box, head_box_visible=visible)) == expected


def trimap(*values: int) -> bytes:
    return bytes(values) + bytes([2]) * (SIDE * SIDE - len(values))


@pytest.mark.parametrize("value", [1, 2, 3])
def test_a_trimap_of_known_values_passes(value):
    assert problems(row(trimap=trimap(value))) == {}


@pytest.mark.parametrize("value", [4, 127, 255])
@pytest.mark.parametrize("recipe", [PLAIN, Recipe(fit="letterbox"), AUGMENTED])
@pytest.mark.parametrize("copy", [0, 1])
def test_a_trimap_of_other_values_never_passes(value, recipe, copy):
    assert problems(row(trimap=trimap(value), copy=copy), recipe=recipe) == {"trimaps": ["annotated"]}


@pytest.mark.parametrize(
    ("recipe", "copy", "some", "all_"),
    [
        (PLAIN, 0, False, False),
        (Recipe(fit="stretch"), 0, False, False),
        (Recipe(fit="letterbox"), 0, True, False),
        (AUGMENTED, 0, False, False),
        (AUGMENTED, 1, True, True),
    ],
)
def test_zeros_are_allowed_where_the_recipe_fills(recipe, copy, some, all_):
    assert (problems(row(trimap=trimap(0), copy=copy), recipe=recipe) == {}) is some
    assert (problems(row(trimap=bytes(SIDE * SIDE), copy=copy), recipe=recipe) == {}) is all_


def test_a_trimap_where_the_index_has_none_and_none_where_it_has_one():
    assert problems(row(trimap=None), row("bare", trimap=TRIMAP)) == {"trimaps": ["annotated", "bare"]}


def test_trimaps_of_background_alone_are_told_of_plain_rows():
    empty = bytes([2]) * SIDE * SIDE
    checker = checked(row(trimap=empty), row(), row("bare"), row(trimap=empty, copy=1), recipe=AUGMENTED)
    assert checker.empty_trimaps == ["annotated"]


def test_rows_of_no_image_of_the_index_may_have_no_annotation():
    bare = {"head_box": None, "head_box_visible": None, "trimap": None}
    assert problems(row("stranger", **bare)) == {"annotations": ["stranger"]}
    assert problems(row("stranger", **bare | {"head_box": BOX, "trimap": TRIMAP})) == {
        "annotations": ["stranger"],
        "head-boxes": ["stranger"],
        "trimaps": ["stranger"],
    }


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.filterwarnings("error")
def test_pixels_that_are_no_numbers_are_found_in_copies_too(dtype, value):
    recipe = Recipe(dtype=dtype, normalize="unit", augment=Augment(copies=1, hue=0.1))
    good, bad = pixels(recipe, 0.5), pixels(recipe, value)
    found = checked(
        row(image=good), row("bare", image=bad), row(image=good, copy=1), row("bare", image=bad, copy=1), recipe=recipe
    )
    assert found.problems["images"] == ["bare", "bare"]


@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_pixels_of_plain_rows_are_added_up_over_row_groups(color):
    recipe = Recipe(color=color, augment=Augment(copies=1, hue=0.1))
    checker = check(
        table_of([row(image=pixels(recipe, 1)), row(image=pixels(recipe, 200), copy=1)], recipe),
        table_of([row(image=pixels(recipe, 200), copy=1)], recipe),
        table_of([row(image=pixels(recipe, 3))], recipe),
        recipe=recipe,
    )
    stored = np.frombuffer(pixels(recipe, 1) + pixels(recipe, 3), np.uint8).reshape(2, SIDE, SIDE, recipe.channels)
    assert checker.sums == PixelSums.of(stored)


@pytest.mark.parametrize("encoding", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_encoded_images_are_decoded_and_added_up(encoding, color):
    recipe = Recipe(encoding=encoding, color=color)
    image = np.full((SIDE, SIDE, recipe.channels), 99, np.uint8)
    checker = checked(row(image=encode(image, recipe)), row("bare", image=b"nothing"), recipe=recipe)
    assert checker.problems["images"] == ["bare"]
    assert checker.sums.count == SIDE * SIDE
    assert checker.sums.mean_and_std()[0] == pytest.approx([99] * recipe.channels, abs=1)


@pytest.mark.parametrize("encoding", ["jpeg", "png", "webp"])
def test_a_file_of_another_encoding_is_not_the_image(encoding):
    others = {"jpeg", "png", "webp"} - {encoding}
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    for other in others:
        data = encode(image, Recipe(encoding=other))
        assert problems(row(image=data), recipe=Recipe(encoding=encoding)) == {"images": ["annotated"]}


def test_a_slice_of_a_table_is_checked_as_what_it_is():
    whole = table_of([row(image=pixels(value=9), trimap=trimap(4)), row(), row("bare", trimap=TRIMAP)])
    checker = check(whole.slice(1, 1))
    assert not any(checker.problems.values())
    assert checker.sums.mean_and_std()[0] == (7.0, 7.0, 7.0)


def test_a_table_of_several_chunks_is_checked_as_one():
    checker = check(pa.concat_tables([table_of([row()]), table_of([row("bare"), row(trimap=trimap(4))])]))
    assert checker.problems["trimaps"] == ["annotated"]
    assert checker.sums.count == 3 * SIDE * SIDE
