"""The catalog: what is added once is joined in the order of the index, what is added twice is told."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageshards import catalog as catalog_module
from imageshards.catalog import Catalog, Contradiction, index_columns
from imageshards.errors import StoreError
from imageshards.index_row import TOO_LARGE_RULE, IndexRow, sample_hash
from imageshards.oxford_pets import ClassEntry, Classes, FrameSize, HeadBox, ListEntry
from imageshards.store import ObjectInfo

CLASSES = Classes(("korat", "beagle"), ("cat", "dog"))
DIGEST = bytes(range(32))


def entry(image_id: str, class_id: int = 1) -> ListEntry:
    return ListEntry(image_id, class_id, ClassEntry(CLASSES.names[class_id], CLASSES.species[class_id]))


@pytest.fixture
def catalog():
    with Catalog() as entered:
        yield entered


def add_image(catalog: Catalog, image_id: str, **changes) -> bool:
    values = {"name": f"images/{image_id}.jpg", "sha256": DIGEST, "size_bytes": 7} | changes
    return catalog.add_image(image_id, f"{image_id}.jpg", **values)


def rows_of(catalog: Catalog, count: int = 3) -> list[IndexRow]:
    rows = []
    for batch in catalog.rows(count):
        columns = index_columns(batch, CLASSES, "raw/")
        hashes = columns.pop("sample_hash")
        rows += [IndexRow(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
        assert list(hashes) == [row.sample_hash for row in rows[-len(batch) :]]
    return rows


def test_everything_said_of_an_image_is_joined(catalog):
    catalog.add_box("beagle_1", HeadBox((1.5, 2, 3, 4), FrameSize(50, 60)))
    catalog.add_to_split("test", entry("beagle_1"))
    catalog.add_trimap("beagle_1", "annotations/trimaps/beagle_1.png", DIGEST[::-1])
    add_image(catalog, "beagle_1")
    catalog.add_listed(entry("beagle_1"))
    (row,) = rows_of(catalog)
    assert row == IndexRow(
        "beagle_1",
        "beagle_1.jpg",
        "raw/images/beagle_1.jpg",
        DIGEST.hex(),
        7,
        label=1,
        class_name="beagle",
        species="dog",
        split="test",
        head_box=(1.5, 2, 3, 4),
        head_box_frame=(50, 60),
        trimap_key="raw/annotations/trimaps/beagle_1.png",
        trimap_sha256=DIGEST[::-1].hex(),
    )


def test_an_image_of_which_nothing_was_said_has_the_class_of_its_name(catalog):
    add_image(catalog, "korat_9")
    add_image(catalog, "poodle_9")
    found = {row.image_id: (row.label, row.class_name, row.species, row.split) for row in rows_of(catalog)}
    assert found == {"korat_9": (0, "korat", "cat", None), "poodle_9": (None, None, None, None)}


def test_an_image_that_was_not_stored_is_left_out(catalog):
    add_image(catalog, "beagle_1", name=None, sha256=None, size_bytes=1 << 40)
    (row,) = rows_of(catalog)
    assert (row.left_out, row.source_key, row.source_sha256, row.source_size_bytes) == (TOO_LARGE_RULE, "", "", 1 << 40)


def test_a_box_without_a_frame_has_none(catalog):
    add_image(catalog, "beagle_1")
    catalog.add_box("beagle_1", HeadBox((1, 2, 3, 4), None))
    (row,) = rows_of(catalog)
    assert (row.head_box, row.head_box_frame) == ((1, 2, 3, 4), None)


@settings(deadline=None, max_examples=30)
@given(ids=st.lists(st.text(min_size=1, max_size=5).filter(lambda t: t.isprintable()), unique=True, max_size=20))
def test_rows_come_by_split_then_hash_then_id_whatever_the_order(ids):
    with Catalog() as catalog:
        for number, image_id in enumerate(ids):
            add_image(catalog, image_id)
            if number % 3:
                catalog.add_to_split("test" if number % 3 == 1 else "trainval", entry(image_id))
        found = [(row.split or "", sample_hash(row.image_id), row.image_id) for row in rows_of(catalog)]
    assert len(found) == len(ids)
    assert found == sorted(found)


def test_what_is_added_twice_is_told_and_left_as_it_was(catalog):
    assert add_image(catalog, "a_1")
    assert not add_image(catalog, "a_1", sha256=b"other")
    assert catalog.image("a_1") == ("a_1.jpg", DIGEST)
    assert catalog.add_annotation("annotations/x", DIGEST)
    assert not catalog.add_annotation("annotations/x", b"other")
    assert catalog.annotation_digest("annotations/x") == DIGEST
    assert catalog.add_listed(entry("a_1"))
    assert not catalog.add_listed(entry("a_1", 0))
    assert catalog.add_to_split("test", entry("a_1"))
    assert not catalog.add_to_split("trainval", entry("a_1"))
    assert catalog.split_of("a_1") == "test"
    assert catalog.add_trimap("a_1", "t", DIGEST)
    assert not catalog.add_trimap("a_1", "u", DIGEST)
    assert catalog.add_box("a_1", None)
    assert not catalog.add_box("a_1", HeadBox((1, 2, 3, 4), None))


def test_lists_that_do_not_agree_are_found(catalog):
    for image_id in ("c_1", "b_1", "a_1"):
        catalog.add_listed(entry(image_id, 0))
        catalog.add_to_split("test", entry(image_id, 1 if image_id != "a_1" else 0))
    assert catalog.contradiction() == Contradiction("b_1", "test", 1, "dog", 0, "cat")
    assert catalog.in_splits_alone() == (0, None)
    catalog.add_to_split("test", entry("z_1"))
    catalog.add_to_split("test", entry("y_1"))
    assert catalog.in_splits_alone() == (2, "y_1")


def test_listed_images_that_the_archive_lacks_are_counted_and_some_named(catalog):
    for number in range(9):
        catalog.add_listed(entry(f"a_{number}"))
    add_image(catalog, "a_3")
    assert catalog.missing_images(2) == (9, 8, ["a_0", "a_1"])


def test_what_lies_under_another_name_is_found_there(catalog):
    add_image(catalog, "a_1")
    add_image(catalog, "a_2")
    catalog.add_trimap("a_2", "annotations/trimaps/a_2.png", DIGEST)
    catalog.move("images/a_1.jpg", "images/a_1.beef.jpg")
    catalog.move("annotations/trimaps/a_2.png", "annotations/trimaps/a_2.beef.png")
    found = {row.image_id: (row.source_key, row.trimap_key) for row in rows_of(catalog)}
    assert found == {
        "a_1": ("raw/images/a_1.beef.jpg", None),
        "a_2": ("raw/images/a_2.jpg", "raw/annotations/trimaps/a_2.beef.png"),
    }


def test_what_the_store_holds_is_kept(catalog):
    assert not catalog.add_present(iter(()))
    assert catalog.add_present([ObjectInfo("raw/a", 5, '"etag"'), ObjectInfo("raw/b", 6, None)])
    assert catalog.present("raw/a") == ObjectInfo("raw/a", 5, '"etag"')
    assert catalog.present("raw/c") is None


def test_nothing_is_left_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Catalog() as catalog:
        add_image(catalog, "a_1")
        assert list(tmp_path.iterdir()) == [catalog.folder]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), OSError(28, "No space left")])
def test_a_full_disk_is_a_store_error_that_names_the_folder(error):
    with pytest.raises(StoreError, match="TMPDIR") as caught, Catalog() as catalog:
        raise error
    assert str(catalog.folder) in caught.value.message


def test_a_database_that_has_no_room_is_a_store_error(monkeypatch):
    monkeypatch.setattr(catalog_module, "_SET_UP", catalog_module._SET_UP + "PRAGMA max_page_count = 20;")

    def fill() -> None:
        with Catalog() as catalog:
            for number in range(10_000):
                add_image(catalog, f"a_{number}")

    with pytest.raises(StoreError, match="full"):
        fill()


def test_other_errors_pass_through():
    with pytest.raises(KeyError), Catalog():
        raise KeyError("x")


GROWTH = """
import resource
from imageshards import catalog
catalog._SET_UP = catalog._SET_UP.replace(f"-{catalog._CACHE_KIB}", "-512")
def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with catalog.Catalog() as found:
    for number in range(150_000):
        found.add_image(f"beagle_{number}", f"images/{number}", name=f"images/{number}", sha256=bytes(32), size_bytes=1)
        if number == 10_000:
            before = peak_mb()
    assert sum(len(rows) for rows in found.rows(1000)) == 150_000
    print(peak_mb() - before)
"""


def test_memory_does_not_grow_with_the_number_of_images():
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 10  # the rows themselves take 25 MB
