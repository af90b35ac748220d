"""Two indexes compared: every image that differs is found, with what differs, however they are cut into pieces."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageshards import index, index_writer
from imageshards.errors import ObjectMissingError
from imageshards.index import IndexInfo, IndexRow, content_digest, row_digest, write_index
from imageshards.index_changes import (
    COLUMNS,
    MAX_NAMED,
    PIECE_IMAGES,
    ChangedImage,
    ImageChanges,
    compare_indexes,
    hash_ranges,
)
from imageshards.store import Store, open_store

NAN = float("nan")
ROW = IndexRow(
    image_id="beagle_1",
    member="images/beagle_1.jpg",
    source_key="raw/pets/images/beagle_1.jpg",
    source_sha256="a" * 64,
    source_size_bytes=9,
    label=1,
    class_name="beagle",
    species="dog",
    split="trainval",
    head_box=(1.0, 2.0, 3.0, 4.0),
    head_box_frame=(50, 60),
    trimap_key="raw/pets/annotations/trimaps/beagle_1.png",
    trimap_sha256="b" * 64,
)

CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("bytes", {"source_sha256": "c" * 64}),
    ("suffix", {"source_key": "raw/pets/images/beagle_1.png"}),
    ("label", {"label": 2}),
    ("label", {"label": None}),
    ("label", {"class_name": "pug"}),
    ("label", {"species": "cat"}),
    ("split", {"split": "test"}),
    ("split", {"split": None}),
    ("box", {"head_box": (1.0, 2.0, 3.0, 4.5)}),
    ("box", {"head_box": None}),
    ("box", {"head_box": (1.0, NAN, 3.0, 4.0)}),
    ("box", {"head_box_frame": (50, 61)}),
    ("box", {"head_box_frame": None}),
    ("trimap", {"trimap_sha256": "d" * 64}),
    ("trimap", {"trimap_sha256": None, "trimap_key": None}),
    ("rule", {"left_out": "member-too-large"}),
]


def stored(store: Store, rows: Sequence[IndexRow]) -> str:
    """Write an index under a key of its own."""
    key = f"raw/pets/index/{uuid.uuid4().hex}.parquet"
    info = IndexInfo(key, content_digest(rows, ()), "pets", len(rows), (), {"image": len(rows)}, "a" * 64, "b" * 64)
    write_index(store, rows, info=info)
    return key


def compare(
    store: Store, old: Sequence[IndexRow], new: Sequence[IndexRow], *, piece_images: int = PIECE_IMAGES
) -> ImageChanges:
    images = max(len(old), len(new))
    keys = stored(store, old), stored(store, new)
    return compare_indexes(store, keys[0], store, keys[1], images=images, piece_images=piece_images)


def test_the_kinds_cover_all_that_a_row_of_a_shard_can_depend_on():
    """Whatever changes `row_digest` must be seen, and nothing else."""
    for name in (field.name for field in fields(IndexRow)):
        changed = replace(ROW, **{name: {"source_key": "k.png", "left_out": "rule"}.get(name)})
        assert (row_digest(changed) != row_digest(ROW)) == (name in COLUMNS), name


@pytest.mark.parametrize(("kind", "change"), CHANGES)
def test_each_kind_of_change_is_told(folder_store: Store, kind: str, change: dict[str, Any]):
    changed = replace(ROW, **change)
    expected = ImageChanges(changed=1, kinds={kind: 1}, first_changed=(ChangedImage("beagle_1", (kind,)),))
    assert compare(folder_store, [ROW], [changed]) == expected
    assert compare(folder_store, [changed], [ROW]) == expected
    assert compare(folder_store, [changed], [changed]) == ImageChanges()


def test_what_no_shard_depends_on_is_no_change(folder_store: Store):
    elsewhere = replace(
        ROW, member="x/beagle_1.jpg", source_key="raw/pets/images/beagle_1.0123.jpg", trimap_key="elsewhere.png"
    )
    assert compare(folder_store, [ROW], [elsewhere]) == ImageChanges()


def test_a_box_without_numbers_is_not_the_same_as_none(folder_store: Store):
    nowhere = replace(ROW, head_box=(NAN, NAN, NAN, NAN))
    assert compare(folder_store, [replace(ROW, head_box=None)], [nowhere]).kinds == {"box": 1}
    assert compare(folder_store, [nowhere], [nowhere]) == ImageChanges()


def test_several_kinds_at_once_are_one_changed_image(folder_store: Store):
    changed = replace(ROW, split="test", source_sha256="c" * 64, head_box=None)
    found = compare(folder_store, [ROW], [changed])
    assert (found.changed, found.kinds) == (1, {"bytes": 1, "split": 1, "box": 1})
    assert found.first_changed == (ChangedImage("beagle_1", ("bytes", "split", "box")),)


def test_added_and_gone_images_are_named(folder_store: Store):
    other = replace(ROW, image_id="pug_1", split=None)
    assert compare(folder_store, [ROW], [other]) == ImageChanges(
        added=1, gone=1, first_added=("pug_1",), first_gone=("beagle_1",)
    )
    assert compare(folder_store, [], [other, ROW]) == ImageChanges(added=2, first_added=("beagle_1", "pug_1"))
    assert compare(folder_store, [], []) == ImageChanges()


def many(count: int) -> list[IndexRow]:
    splits = ("trainval", "test", None)
    return [replace(ROW, image_id=f"beagle_{number:05d}", split=splits[number % 3]) for number in range(count)]


def test_thousands_of_images_in_pieces_and_parts(folder_store: Store, monkeypatch: pytest.MonkeyPatch):
    """The indexes are of several row groups and parts, and the pieces cut across both."""
    monkeypatch.setattr(index, "ROW_GROUP_ROWS", 100)
    monkeypatch.setattr(index_writer, "PART_ROWS", 700)
    rows = many(3000)
    new = [replace(row, split="test") if number % 30 == 0 else row for number, row in enumerate(rows)][:2900]
    new += [replace(ROW, image_id=f"pug_{number:02d}") for number in range(50)]
    found = compare(folder_store, rows, new, piece_images=450)
    assert (found.added, found.changed, found.gone) == (50, 97, 100)
    assert found.kinds == {"split": 97}
    assert found.first_added == tuple(f"pug_{number:02d}" for number in range(MAX_NAMED))
    assert found.first_gone == tuple(f"beagle_{number:05d}" for number in range(2900, 2900 + MAX_NAMED))
    assert [image.image_id for image in found.first_changed] == [f"beagle_{30 * n:05d}" for n in range(MAX_NAMED)]


@pytest.mark.parametrize(("images", "pieces"), [(0, 1), (1, 1), (10, 1), (11, 2), (95, 10)])
def test_the_ranges_cover_each_hash_once(images: int, pieces: int):
    ranges = list(hash_ranges(images, 10))
    assert len(ranges) == pieces
    assert (ranges[0][0], ranges[-1][1]) == (0, 2**64 - 1)
    assert all(after[0] == before[1] + 1 for before, after in pairwise(ranges))


def test_a_missing_index_is_an_error(folder_store: Store):
    with pytest.raises(ObjectMissingError):
        compare_indexes(folder_store, "raw/pets/index/none.parquet", folder_store, stored(folder_store, []), images=1)


VARIANTS = [{}, *(change for _, change in CHANGES)]
INDEXES = st.dictionaries(
    st.sampled_from([f"image_{number}" for number in range(12)]), st.sampled_from(range(len(VARIANTS)))
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def rows_of(variants: dict[str, int]) -> list[IndexRow]:
    return [replace(ROW, image_id=image_id, **VARIANTS[number]) for image_id, number in variants.items()]


@settings(max_examples=40, deadline=None)
@given(old=INDEXES, new=INDEXES, piece_images=st.integers(1, 20))
def test_there_and_back_mirror_each_other_and_agree_with_the_digests(
    scratch: Path, old: dict[str, int], new: dict[str, int], piece_images: int
):
    store = open_store(str(scratch))
    before, after = rows_of(old), rows_of(new)
    there = compare(store, before, after, piece_images=piece_images)
    back = compare(store, after, before, piece_images=piece_images)
    assert (there.added, there.first_added) == (back.gone, back.first_gone)
    assert (there.gone, there.first_gone) == (back.added, back.first_added)
    assert (there.changed, there.kinds, there.first_changed) == (back.changed, back.kinds, back.first_changed)
    digests = [{row.image_id: row_digest(row) for row in rows} for rows in (before, after)]
    assert set(there.first_added) == digests[1].keys() - digests[0].keys()
    assert {image.image_id for image in there.first_changed} == {
        image_id for image_id in digests[0].keys() & digests[1].keys() if digests[0][image_id] != digests[1][image_id]
    }
