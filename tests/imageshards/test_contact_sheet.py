"""The contact sheet: which images, where they lie on it, and what is drawn into them."""

from __future__ import annotations

import io
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from imageshards.contact_sheet import (
    CELLS,
    PREVIEW_BYTES,
    PREVIEW_WIDTHS_PX,
    Cell,
    choose_rows,
    contact_sheet,
    preview,
    readable_class,
)
from imageshards.stored_rows import StoredRow


def row(image_id: str, class_name: str | None = "pug", split: str = "trainval") -> StoredRow:
    return StoredRow(
        image_id=image_id,
        copy=0,
        class_name=class_name,
        split=split,
        head_box=None,
        source_key=f"raw/{image_id}.jpg",
        source_width=10,
        source_height=10,
        source_format="jpeg",
        source_mode="RGB",
        exif_orientation=1,
        repairs=(),
        shard="trainval-00000.parquet",
        group=0,
        position=0,
    )


def population(classes: int, each: int) -> list[StoredRow]:
    return [
        row(f"class{number}_{index}_{split}", f"class{number}", split)
        for number in range(classes)
        for split in ("trainval", "test")
        for index in range(each)
    ]


def test_every_class_is_shown_before_any_is_shown_twice() -> None:
    chosen = Counter(row.class_name for row in choose_rows(population(37, 3)))

    assert len(chosen) == 37
    assert sorted(chosen.values()) == [1] * 26 + [2] * 11


def test_both_splits_are_shown_alike() -> None:
    assert Counter(row.split for row in choose_rows(population(37, 3))) == {"trainval": 24, "test": 24}
    assert Counter(row.split for row in choose_rows(population(2, 30), 8)) == {"trainval": 4, "test": 4}


def test_the_choice_depends_on_names_alone() -> None:
    rows = population(37, 3)
    shuffled = random.Random(0).sample(rows, len(rows))

    assert choose_rows(shuffled) == choose_rows(rows)


def test_a_small_dataset_is_shown_whole() -> None:
    rows = population(2, 3)

    assert set(choose_rows(rows)) == set(rows)
    assert choose_rows([]) == []


def test_images_of_a_class_lie_side_by_side() -> None:
    names = [row.class_name for row in choose_rows(population(4, 12))]

    assert len(names) == CELLS
    assert names == sorted(names)


def test_each_image_lies_in_its_cell_as_it_is() -> None:
    colors = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]
    cells = [Cell(row(f"a_{n}"), Image.new("RGB", (64, 64), color)) for n, color in enumerate(colors)]

    pixels = np.asarray(contact_sheet(cells, title="three", side_px=64))

    for color in colors:
        ys, xs = np.nonzero((pixels == color).all(axis=2))
        assert len(ys) == 64 * 64
        assert (np.ptp(ys), np.ptp(xs)) == (63, 63)


def test_rows_of_cells_follow_each_other_without_overlap() -> None:
    cells = [Cell(row(f"a_{number}"), Image.new("RGB", (32, 32), (250, 0, 250))) for number in range(CELLS)]

    sheet = contact_sheet(cells, title="all", side_px=32)

    assert (np.asarray(sheet) == (250, 0, 250)).all(axis=2).sum() == CELLS * 32 * 32


@pytest.mark.parametrize("name", ["x" * 500, "<script>alert(1)</script>", "犬\u0000\n猫 \u202e", "", None])
def test_any_name_can_be_written_below_an_image(name: str | None) -> None:
    sheet = contact_sheet([Cell(row(name or "id", name), Image.new("RGB", (32, 32)))], title=str(name) * 20, side_px=32)

    assert sheet.width < 64


def test_a_sheet_without_images_is_only_a_header() -> None:
    assert contact_sheet([], title="nothing", side_px=64).height < 300


def test_class_names_are_written_for_people() -> None:
    assert readable_class("american_bulldog") == "american bulldog"
    assert readable_class(None) == "no class"


def as_jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.mark.parametrize("side_px", [224, 20])
def test_a_preview_is_small_however_busy_the_pictures_are(side_px: int) -> None:
    random_pixels = np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), np.uint8)
    cells = [Cell(row(f"a_{number}"), Image.fromarray(random_pixels)) for number in range(CELLS)]
    sheet = contact_sheet(cells, title="busy", side_px=side_px)

    data = preview(as_jpeg(sheet))

    reduced = Image.open(io.BytesIO(data))
    assert reduced.format == "WEBP"
    assert reduced.width in {sheet.width, *PREVIEW_WIDTHS_PX}
    assert reduced.width / reduced.height == pytest.approx(sheet.width / sheet.height, rel=0.01)
    assert len(data) <= PREVIEW_BYTES
