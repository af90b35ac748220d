"""The published facts of the original archives: that they add up, hold for those alone, and that each can fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from imageshards.oxford_facts import ORIGINAL, Observed, check_facts, known_facts
from imageshards.oxford_pets import ANNOTATIONS_SHA256, IMAGES_SHA256
from imageshards.sample_drawing import BREEDS

CLASSES = [breed.name for breed in BREEDS]
Rows = dict[str, dict[str, Any]]
BOX = [1.0, 1.0, 2.0, 2.0]


def original_index() -> Rows:
    """An index as the original archives must give it; ordinary images have made-up numbers."""
    named = {*ORIGINAL.odd_images, *ORIGINAL.without_box, *ORIGINAL.empty_trimaps}
    unlisted = [name for name, odd in ORIGINAL.odd_images.items() if odd.source_format == "gif"]
    unlisted += ["Egyptian_Mau_129", "staffordshire_bull_terrier_2", "staffordshire_bull_terrier_22"]
    index: Rows = {}
    for name in CLASSES:
        species = "cat" if name[0].isupper() else "dog"
        listed = sorted(known for known in named if known.rsplit("_", 1)[0] == name and known not in unlisted)
        for split in ("trainval", "test"):
            wanted = ORIGINAL.fewer[split].get(name, 100)
            ids = [known for known in listed if (split == "test") == (known == "Abyssinian_5")]
            ids += [f"{name}_{split}{number}" for number in range(wanted - len(ids))]
            for image_id in ids:
                box = BOX if split == "trainval" and image_id not in ORIGINAL.without_box else None
                index[image_id] = {"split": split, "class_name": name, "species": species, "head_box": box}
    loose = [*unlisted, *(f"Abyssinian_loose{number}" for number in range(ORIGINAL.unlisted - len(unlisted)))]
    for number, image_id in enumerate(loose):
        box = BOX if number < ORIGINAL.head_boxes[None] else None
        index[image_id] = {"split": None, "class_name": "Abyssinian", "species": "cat", "head_box": box}
    return index


@pytest.fixture
def observed() -> Observed:
    index = original_index()
    rows = {
        name: (odd.source_format, sorted(odd.repairs)) for name, odd in ORIGINAL.odd_images.items() if not odd.reject
    }
    rows |= {name: ("jpeg", []) for name in ORIGINAL.empty_trimaps}
    return Observed(
        index=index,
        members={"trimap": 7390, "not-an-image": 3, "appledouble": 7391},
        rows=rows,
        rejects={"beagle_116": "truncated"},
        empty_trimaps=set(ORIGINAL.empty_trimaps),
    )


def failed(observed: Observed) -> set[str]:
    return {check.name for check in check_facts(ORIGINAL, observed) if not check.passed}


def test_facts_hold_for_the_originals_alone() -> None:
    assert known_facts(IMAGES_SHA256, ANNOTATIONS_SHA256) is ORIGINAL
    assert known_facts(IMAGES_SHA256, "0" * 64) is None
    assert known_facts("0" * 64, ANNOTATIONS_SHA256) is None


@pytest.mark.parametrize("split", ["trainval", "test"])
def test_classes_add_up_to_their_split(split: str) -> None:
    short = sum(100 - images for images in ORIGINAL.fewer[split].values())
    assert 100 * len(CLASSES) - short == ORIGINAL.splits[split]
    assert set(ORIGINAL.fewer[split]) <= set(CLASSES)


def test_the_numbers_of_the_publications_are_met() -> None:
    assert ORIGINAL.images == 7390
    assert sum(ORIGINAL.head_boxes.values()) == 3686
    assert ORIGINAL.splits["trainval"] - len(ORIGINAL.without_box) == ORIGINAL.head_boxes["trainval"]
    assert (len(ORIGINAL.odd_images), len(ORIGINAL.without_box), len(ORIGINAL.empty_trimaps)) == (15, 9, 7)


def test_the_original_archives_pass(observed: Observed) -> None:
    assert [check.sentence() for check in check_facts(ORIGINAL, observed) if not check.passed] == []


def test_a_damaged_image_that_was_kept_passes(observed: Observed) -> None:
    rows = {**observed.rows, "beagle_116": ("jpeg", ["kept-damaged"])}
    assert failed(replace(observed, rows=rows, rejects={})) == set()


def test_a_missing_image_is_found(observed: Observed) -> None:
    index = {name: row for name, row in observed.index.items() if name != "pug_test0"}
    assert failed(replace(observed, index=index)) == {"published-counts", "published-classes"}


def test_two_images_with_each_others_class_are_found(observed: Observed) -> None:
    index = {**observed.index, "pug_test0": {**observed.index["pug_test0"], "class_name": "beagle"}}
    assert failed(replace(observed, index=index)) == {"published-classes"}


def test_a_lost_head_box_is_named(observed: Observed) -> None:
    index = {**observed.index, "pug_trainval3": {**observed.index["pug_trainval3"], "head_box": None}}
    checks = {check.name: check for check in check_facts(ORIGINAL, replace(observed, index=index))}
    assert not checks["published-missing-boxes"].passed
    assert checks["published-missing-boxes"].examples == ("pug_trainval3",)


def test_missing_trimaps_and_stray_members_are_found(observed: Observed) -> None:
    assert failed(replace(observed, members={**observed.members, "trimap": 7389})) == {"published-counts"}
    assert failed(replace(observed, members={"trimap": 7390})) == {"published-counts"}


def test_an_odd_image_that_was_not_noticed_is_named(observed: Observed) -> None:
    unnoticed = {**observed.rows, "Egyptian_Mau_186": ("png", ["misnamed"])}
    checks = {check.name: check for check in check_facts(ORIGINAL, replace(observed, rows=unnoticed))}
    assert checks["published-odd-images"].examples == ("Egyptian_Mau_186: png, misnamed",)
    assert failed(replace(observed, rejects={"chihuahua_121": "truncated"})) == {"published-odd-images"}


def test_an_empty_trimap_that_is_none_is_named(observed: Observed) -> None:
    fewer = set(ORIGINAL.empty_trimaps) - {"leonberger_18"}
    assert failed(replace(observed, empty_trimaps=fewer)) == {"published-empty-trimaps"}
    assert failed(replace(observed, empty_trimaps={*ORIGINAL.empty_trimaps, "pug_test1"})) == set()
