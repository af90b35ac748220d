"""The galleries: the recipe's steps are those of the shards; repaired and rejected images come with their reason."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imageshards import gallery
from imageshards.decode import decode
from imageshards.display import annotated, displayable, stored_pixels
from imageshards.errors import RejectReason
from imageshards.gallery import (
    Pictures,
    Strip,
    choose_rejects,
    choose_step_rows,
    recipe_steps,
    rejected_gallery,
    repaired_gallery,
    step_gallery,
)
from imageshards.picture import Picture
from imageshards.recipe import Recipe, parse_recipe
from imageshards.shard_file import Reject
from imageshards.store import Store, open_store
from imageshards.stored_rows import StoredRow, find_copies, read_pixels
from imageshards.survey import spread, survey_version
from imageshards.transform import prepare_unnormalized
from tests.imageshards.built_version import BuiltVersion, build_version, put_rejects, uploaded_sample
from tests.imageshards.pictures import smooth

EVERYTHING = parse_recipe(
    {
        "fit": "letterbox",
        "denoise": "median",
        "contrast": "clahe",
        "color": "gray",
        "threshold": "otsu",
        "normalize": "unit",
        "dtype": "float16",
        "augment": {"copies": 2, "horizontal_flip": 0.5, "rotation_degrees": 20},
    }
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltVersion:
    return build_version(*uploaded_sample(tmp_path_factory.mktemp("gallery")))


@pytest.fixture(scope="module")
def built_with_everything(tmp_path_factory: pytest.TempPathFactory) -> BuiltVersion:
    return build_version(*uploaded_sample(tmp_path_factory.mktemp("gallery")), recipe=EVERYTHING)


def pictures_of(built: BuiltVersion, rows: list[StoredRow]) -> Pictures:
    return {
        row: annotated(
            displayable(stored_pixels(image, built.manifest), built.manifest), row.head_box, trimap, side_px=256
        )
        for row, image, trimap in read_pixels(built.manifest, rows, built.store)
    }


def steps_of(built: BuiltVersion) -> tuple[list[StoredRow], list[Strip]]:
    survey = survey_version(built.manifest, built.store)
    rows = choose_step_rows(row for rows in survey.first.values() for row in rows)
    copies = find_copies(built.manifest, rows, copies=4, store=built.store)
    pictures = pictures_of(built, [*rows, *copies])
    return rows, step_gallery(built.manifest, rows, copies, pictures, raw_store=built.store)


def repaired_of(built: BuiltVersion) -> dict[str, Strip]:
    rows = spread(survey_version(built.manifest, built.store).repaired, 12)
    strips = repaired_gallery(rows, pictures_of(built, rows), raw_store=built.store)
    return {strip.name: strip for strip in strips}


def test_the_steps_follow_each_other_in_the_order_of_the_recipe() -> None:
    assert [name for name, _, _ in recipe_steps(EVERYTHING)] == [
        "letterbox",
        "denoise",
        "contrast",
        "color",
        "threshold",
    ]
    assert [name for name, _, _ in recipe_steps(Recipe())] == ["center-crop"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fit": "stretch", "denoise": "gaussian", "gaussian_sigma": 2.5},
        {"contrast": "equalize", "color": "blue"},
        {"denoise": "median", "contrast": "autocontrast", "color": "gray", "threshold": "adaptive"},
        {"fit": "letterbox", "fill": [9, 9, 9], "contrast": "clahe", "color": "red", "threshold": "fixed"},
    ],
    ids=str,
)
def test_after_the_last_step_pixels_are_those_of_the_whole_recipe(settings: dict[str, object]) -> None:
    recipe, picture = parse_recipe(settings), Picture(smooth((90, 70)), None, None)
    _, _, last = recipe_steps(recipe)[-1]

    found, expected = (
        prepare_unnormalized(picture, each, resolution=64, image_id="a").pixels for each in (last, recipe)
    )

    assert (found == expected).all()


def test_each_step_is_shown_before_and_after(built_with_everything: BuiltVersion) -> None:
    rows, strips = steps_of(built_with_everything)

    assert len(strips) == len(rows) == 4
    for strip in strips:
        titles = [panel.title for panel in strip.panels]
        assert titles == [
            "source",
            "letterbox",
            "denoise",
            "contrast",
            "color",
            "threshold",
            "as stored",
            "copy 1",
            "copy 2",
        ]
        assert all(panel.image is not None and panel.alt for panel in strip.panels)
    assert "normalized (unit)" in strips[0].panels[6].note
    assert strips[0].panels[5].note == "otsu"


def test_a_recipe_that_only_crops_shows_the_source_and_what_is_stored(built: BuiltVersion) -> None:
    rows, strips = steps_of(built)

    assert [panel.title for panel in strips[0].panels] == ["source", "center-crop, as stored"]
    width, height = rows[0].source_width, rows[0].source_height
    assert strips[0].panels[0].note == f"{width} x {height} px, decoded"
    assert f"{width} x {height} to " in strips[0].panels[1].note
    assert strips[0].panels[1].note.endswith("the middle kept, bilinear")


def test_an_encoded_image_is_shown_as_it_was_encoded(tmp_path: Path) -> None:
    recipe = parse_recipe({"encoding": "jpeg", "encoding_quality": 30, "fit": "stretch"})

    _, strips = steps_of(build_version(*uploaded_sample(tmp_path), recipe=recipe))

    assert [panel.title for panel in strips[0].panels] == ["source", "stretch", "as stored"]
    assert strips[0].panels[2].note == "jpeg, quality 30"


def test_steps_are_shown_on_annotated_training_images_wide_and_tall(built: BuiltVersion) -> None:
    rows, _ = steps_of(built)

    assert all(row.split == "trainval" and row.head_box for row in rows)
    assert sum(row.source_width > row.source_height for row in rows) == 2


def test_images_that_are_turned_or_huge_are_not_chosen_for_the_steps(built: BuiltVersion) -> None:
    rows = survey_version(built.manifest, built.store).first["trainval"]
    turned = [replace(row, exif_orientation=6) for row in rows]
    huge = [replace(row, source_width=10_000, source_height=10_000) for row in rows]

    assert choose_step_rows([*turned, *huge]) == []


def test_each_repaired_image_is_shown_before_and_after_with_its_repair(built: BuiltVersion) -> None:
    strips = repaired_of(built)

    assert len(strips) >= 5
    for strip in strips.values():
        assert [panel.title for panel in strip.panels] == ["before", "ours"]
        assert strip.panels[1].image is not None
        assert len(strip.facts) >= 2
    assert {fact.partition(":")[0] for strip in strips.values() for fact in strip.facts[:-1]} >= set(
        built.manifest.repairs
    )


def test_an_image_stored_on_its_side_lies_on_its_side_before(built: BuiltVersion) -> None:
    rows = survey_version(built.manifest, built.store).repaired["exif-orientation"]
    upright = decode(built.store.get(rows[0].source_key)).pixels.shape

    before = repaired_of(built)[rows[0].image_id].panels[0].image

    assert before is not None
    assert (before.width > before.height) != (upright[1] > upright[0])
    assert "EXIF orientation 6" in repaired_of(built)[rows[0].image_id].facts[-1]


def test_what_a_naive_loader_cannot_read_is_told(built: BuiltVersion, tmp_path: Path) -> None:
    row = survey_version(built.manifest, built.store).repaired["misnamed"][0]
    store = open_store(str(tmp_path))
    store.put(row.source_key, b"no image at all")

    strip = repaired_gallery([row], pictures_of(built, [row]), raw_store=store)[0]

    assert strip.panels[0].image is None
    assert "a naive loader fails: UnidentifiedImageError" in strip.panels[0].note


def test_a_huge_repaired_image_is_not_decoded(built: BuiltVersion) -> None:
    row = survey_version(built.manifest, built.store).repaired["misnamed"][0]
    huge = replace(row, source_width=9000, source_height=9000)

    strip = repaired_gallery([huge], {huge: Image.new("RGB", (8, 8))}, raw_store=built.store)[0]

    assert strip.panels[0].image is None
    assert "too large" in strip.panels[0].note


def test_rejects_are_chosen_over_all_reasons(built: BuiltVersion, tmp_path: Path) -> None:
    def reject(number: int, reason: str) -> dict[str, object]:
        return {**REJECT, "image_id": f"pug_{number}", "reason": reason}

    store = open_store(str(tmp_path))
    rejects = [reject(number, "truncated") for number in range(50)]
    put_rejects(store, built.prefix, [*rejects, reject(60, "empty"), reject(61, "too-small")])

    chosen = choose_rejects(built.manifest, store)

    assert len(chosen) == 12
    assert {each.reason for each in chosen} == {"truncated", "empty", "too-small"}
    assert choose_rejects(built.manifest.model_copy(update={"rejects": {}}), store) == []


REJECT = {
    "image_id": "pug_1",
    "source_key": "raw/pug_1.jpg",
    "source_sha256": "0" * 64,
    "split": "trainval",
    "class_name": "pug",
    "reason": "undecodable",
    "detail": "why",
}


def jpeg(side: int = 80) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(smooth((side, side))).save(buffer, "JPEG")
    return buffer.getvalue()


def rejected(store: Store, data: bytes, reason: str) -> Strip:
    reject = Reject(**{**REJECT, "reason": reason, "source_sha256": hashlib.sha256(data).hexdigest()})  # type: ignore[arg-type]
    store.put(reject.source_key, data)
    return rejected_gallery([reject], raw_store=store)[0]


def test_a_rejected_image_comes_with_reason_detail_size_and_format(folder_store: Store) -> None:
    strip = rejected(folder_store, jpeg()[:-300], RejectReason.TRUNCATED)

    assert strip.facts[0].startswith("truncated: ")
    assert strip.facts[1] == "why"
    assert strip.facts[2] == f"{len(jpeg()) - 300:,} bytes, begins like jpeg"
    assert strip.labels == "pug, trainval"


def test_what_is_left_of_a_truncated_image_is_shown(folder_store: Store) -> None:
    image = rejected(folder_store, jpeg()[:-300], RejectReason.TRUNCATED).panels[0].image

    assert image is not None
    assert np.asarray(image).std() > 5


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (b"", "0 bytes, begins with nothing"),
        (b"\x00\x01garbage", "9 bytes, begins with 00 01 67 61 72 62 61 67"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "48 bytes, begins like png"),
        (b"GIF89a", "6 bytes, begins like gif"),
    ],
)
def test_what_cannot_be_seen_is_told_by_its_facts(folder_store: Store, data: bytes, fact: str) -> None:
    strip = rejected(folder_store, data, RejectReason.UNDECODABLE)

    assert strip.panels[0].image is None
    assert strip.facts[2] == fact


def test_an_image_that_killed_workers_is_never_decoded(folder_store: Store) -> None:
    strip = rejected(folder_store, jpeg(), RejectReason.WORKER_CRASH)

    assert strip.panels[0].image is None
    assert strip.panels[0].note == "not decoded here"


def test_an_image_too_large_is_told_and_not_decoded(folder_store: Store) -> None:
    assert rejected(folder_store, jpeg(3000), RejectReason.TOO_LARGE).panels[0].image is None


def test_of_a_huge_file_only_the_beginning_is_read(folder_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "_MAX_FETCHED_BYTES", 1000)

    strip = rejected(folder_store, jpeg(), RejectReason.TOO_LARGE)

    assert strip.panels[0].image is None
    assert strip.facts[2].endswith("begins like jpeg")
