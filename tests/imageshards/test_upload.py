"""The upload: one pass, every member counted, nothing overwritten, no index without all of its objects."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import Any

import pytest

from imageshards import archive, object_writer, upload
from imageshards.archive import ArchiveLimits
from imageshards.errors import ObjectMissingError, SourceError, StoreError, TransientError
from imageshards.fetch import Source, fetch
from imageshards.index import TOO_LARGE_RULE, IndexRow, index_rows, read_index
from imageshards.sample import SampleSpec, write_sample
from imageshards.store import Store, open_store
from imageshards.upload import Uploaded
from tests.imageshards.small_dataset import (
    LISTED,
    annotation_members,
    image_members,
    lists,
    tree,
    voc,
    write_archive,
)

DATASET = "pets"
OBJECTS = 3 + 4 + 2 + 4
"""Lists, trimaps, boxes, images of the members that `small_dataset` makes."""


@pytest.fixture
def run(tmp_path):
    """Upload members, packed into archives, into the store at tmp_path/store."""

    def run(images=None, annotations=None, *, suffix: str = ".tar.gz", store: Any = None, **options: Any) -> Uploaded:
        packed = write_archive(tmp_path / f"images{suffix}", image_members() if images is None else images)
        labels = write_archive(
            tmp_path / f"annotations{suffix}", annotation_members() if annotations is None else annotations
        )
        target = open_store(str(tmp_path / "store")) if store is None else store
        return upload.upload(packed, labels, target, dataset=DATASET, **options)

    return run


@pytest.fixture
def target(tmp_path) -> Store:
    return open_store(str(tmp_path / "store"))


def rows_of(store: Store, uploaded: Uploaded) -> dict[str, IndexRow]:
    return {row.image_id: row for row in index_rows(read_index(store, uploaded.index.key))}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def indexes(store: Store) -> list[str]:
    return [info.key for info in store.list(f"raw/{DATASET}/index")]


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_every_member_lies_in_the_store_and_the_index_tells_of_it(run, target, suffix):
    uploaded = run(suffix=suffix)
    assert (uploaded.written, uploaded.skipped) == (OBJECTS, 0)
    assert uploaded.index.members == {"image": 4, "trimap": 4, "annotation": 5}
    assert uploaded.index.images == 4
    assert uploaded.index.class_names == ("Abyssinian", "beagle")
    row = rows_of(target, uploaded)["beagle_1"]
    assert row == IndexRow(
        image_id="beagle_1",
        member="images/beagle_1.jpg",
        source_key="raw/pets/images/beagle_1.jpg",
        source_sha256=sha256(b"beagle_1"),
        source_size_bytes=8,
        label=1,
        class_name="beagle",
        species="dog",
        split="trainval",
        head_box=(10, 20, 30, 40),
        head_box_frame=(50, 60),
        trimap_key="raw/pets/annotations/trimaps/beagle_1.png",
        trimap_sha256=sha256(b"trimap of beagle_1"),
    )
    assert target.get(row.source_key) == b"beagle_1"
    assert target.get("raw/pets/annotations/list.txt") == lists()["list.txt"]
    assert uploaded.written_bytes == sum(
        len(data) for key, data in tree(target).items() if not key.startswith("raw/pets/index/")
    )


def test_zip_and_tar_give_the_same_content(run, tmp_path):
    digests = {run(suffix=suffix, store=open_store(str(tmp_path / suffix))).index.digest for suffix in (".tar", ".zip")}
    assert len(digests) == 1


def test_the_order_of_the_members_does_not_change_the_content(run, tmp_path):
    there = run()
    back = run(image_members()[::-1], annotation_members()[::-1], store=open_store(str(tmp_path / "other")))
    assert back.index.digest == there.index.digest
    assert back.index.key != there.index.key


def test_a_second_run_reads_and_writes_nothing(run, target, tmp_path):
    first = run()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    second = run()
    assert second == Uploaded(first.index, 0, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")} == before


def test_a_run_that_died_before_its_index_finds_its_objects(run, target):
    target.delete(run().index.key)
    again = run()
    assert (again.written, again.skipped, again.written_bytes) == (0, OBJECTS, 0)
    assert len(rows_of(target, again)) == 4


def test_a_new_archive_writes_what_is_new_alone(run, target):
    run()
    more = run(image_members(**{"beagle_3.jpg": b"new"}))
    assert (more.written, more.skipped) == (1, OBJECTS)
    assert len(indexes(target)) == 2


def test_a_changed_image_goes_beside_the_old_one(run, target):
    first = run()
    old = rows_of(target, first)
    second = run([(name, data if "beagle_1" not in name else b"changed") for name, data in image_members()])
    new = rows_of(target, second)
    assert target.get(old["beagle_1"].source_key) == b"beagle_1"
    assert new["beagle_1"].source_key == f"raw/pets/images/beagle_1.{sha256(b'changed')[:16]}.jpg"
    assert target.get(new["beagle_1"].source_key) == b"changed"
    assert (second.written, second.skipped) == (1, OBJECTS - 1)
    assert rows_of(target, first) == old
    assert {name: row for name, row in new.items() if name != "beagle_1"} == {
        name: row for name, row in old.items() if name != "beagle_1"
    }


def test_changing_an_image_back_uses_the_old_object(run, target):
    run()
    changed = [(name, data + b"!") for name, data in image_members()]
    assert run(changed).written == 4
    third = run([*image_members(), ("images/note.txt", b"makes it another archive")])
    assert third.written == 0
    assert {row.source_key for row in rows_of(target, third).values()} == {
        f"raw/pets/images/{image_id}.jpg" for image_id in LISTED
    }


def test_a_changed_trimap_and_list_go_beside_the_old_ones(run, target):
    run()
    changed = [
        (name, data + b"\n" if "list.txt" in name or "trimaps/beagle_1" in name else data)
        for name, data in annotation_members()
    ]
    second = run(annotations=changed)
    assert second.written == 2
    row = rows_of(target, second)["beagle_1"]
    assert target.get(row.trimap_key or "") == b"trimap of beagle_1\n"
    assert row.trimap_key != "raw/pets/annotations/trimaps/beagle_1.png"
    assert target.get("raw/pets/annotations/list.txt") == lists()["list.txt"]


def test_an_object_that_appears_meanwhile_with_the_same_content_is_taken(run, target):
    late = _LateObjects(target, {"raw/pets/images/beagle_1.jpg": b"beagle_1"})
    uploaded = run(store=late)
    assert (uploaded.written, uploaded.skipped) == (OBJECTS - 1, 1)


def test_an_object_that_appears_meanwhile_with_other_content_is_left_alone(run, target):
    late = _LateObjects(target, {"raw/pets/images/beagle_1.jpg": b"of another run"})
    uploaded = run(store=late)
    assert target.get("raw/pets/images/beagle_1.jpg") == b"of another run"
    assert target.get(rows_of(target, uploaded)["beagle_1"].source_key) == b"beagle_1"


def test_the_same_image_twice_is_one_image_and_one_duplicate(run, target):
    again = [
        ("images/beagle_1.jpg", b"beagle_1"),
        ("copy/beagle_1.jpg", b"beagle_1"),
        ("images/beagle_1.png", b"beagle_1"),
    ]
    uploaded = run([*image_members(), *again])
    assert uploaded.index.members["duplicate-member"] == 3
    assert uploaded.index.members["image"] == uploaded.index.images == 4


@pytest.mark.parametrize("name", ["images/beagle_1.jpg", "copy/beagle_1.jpg", "images/beagle_1.png"])
def test_one_name_for_two_images_is_refused(run, target, name):
    with pytest.raises(SourceError, match=r"two images named beagle_1 with different content.*remove one of them"):
        run([*image_members(), (name, b"another")])
    assert not indexes(target)


def test_an_annotation_twice_is_counted_as_a_duplicate(run):
    uploaded = run(annotations=[*annotation_members(), *annotation_members()])
    assert uploaded.index.members == {"image": 4, "trimap": 4, "annotation": 5, "duplicate-member": 9}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("annotations/trimaps/beagle_1.png", b"another"),
        ("trimaps/beagle_1.png", b"another"),
        ("backup/trimaps/beagle_1.png", b"trimap of beagle_1"),
        ("annotations/list.txt", b"# another"),
        ("annotations/xmls/beagle_1.xml", voc((1, 2, 3, 4))),
        ("backup/xmls/beagle_1.xml", voc()),
    ],
)
def test_two_annotations_of_one_image_are_refused(run, target, name, data):
    with pytest.raises(SourceError, match=name.rpartition("/")[2]):
        run(annotations=[*annotation_members(), (name, data)])
    assert not indexes(target)


def test_junk_and_strangers_are_left_out_and_counted(run, target):
    strangers = [
        ("images/._beagle_1.jpg", b"mac"),
        ("__MACOSX/images/beagle_1.jpg", b"mac"),
        ("images/beagle_1.mat", b"matlab"),
        ("images/README", b"text"),
        ("images/.jpg", b"no name"),
    ]
    labels = [("annotations/trimaps/._beagle_1.png", b"mac"), ("annotations/._trimaps", b"mac")]
    uploaded = run([*image_members(), *strangers], [*annotation_members(), *labels])
    assert uploaded.index.images == 4
    assert uploaded.index.members["not-an-image"] == 3
    assert sum(uploaded.index.members.values()) == len(image_members()) + len(annotation_members()) + 7
    assert not [key for key in tree(target) if "._" in key or ".mat" in key or "MACOSX" in key]


@pytest.mark.parametrize("name", ["/etc/passwd.jpg", "../beagle_9.jpg", "images/../../x.jpg"])
@pytest.mark.parametrize("which", ["images", "annotations"])
def test_an_unsafe_member_refuses_the_archive(run, target, tmp_path, which, name):
    members = {"images": image_members(), "annotations": annotation_members()}
    with pytest.raises(SourceError, match=r"refused|unsafe"):
        run(**{which: [*members[which], (name, b"bad")]})
    assert not indexes(target)
    assert not (tmp_path / "x.jpg").exists()


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".png", ".gif", ".webp", ".tiff", ".avif"])
def test_any_image_format_is_an_image(run, suffix):
    uploaded = run([*image_members(), (f"images/beagle_9{suffix}", b"data")])
    assert uploaded.index.images == 5


def test_images_in_no_list_are_in_the_index_with_the_class_of_their_name(run, target):
    uploaded = run(image_members(**{"beagle_77.jpg": b"x", "poodle_1.jpg": b"y"}))
    rows = rows_of(target, uploaded)
    assert (rows["beagle_77"].class_name, rows["beagle_77"].split) == ("beagle", None)
    assert (rows["poodle_1"].class_name, rows["poodle_1"].label) == (None, None)


@pytest.mark.parametrize("members", [[], [("images/README", b"none here")], [("images/._a_1.jpg", b"mac")]])
def test_an_archive_without_images_is_refused_with_what_it_holds(run, target, members):
    with pytest.raises(SourceError, match="holds no images"):
        run(members)
    assert not indexes(target)


def test_annotations_of_another_dataset_are_refused(run, target):
    others = {f"poodle_{number}": ("trainval", 1, 2) for number in range(9)}
    labels = [(f"annotations/{name}", data) for name, data in lists(others).items()]
    with pytest.raises(SourceError, match=r"lists 9 images, but .* holds 9 of them not: poodle_0.* …; check") as caught:
        run(annotations=labels)
    assert caught.value.context["missing"] == 9
    assert not indexes(target)


def test_an_image_missing_from_the_archive_is_named(run):
    with pytest.raises(SourceError, match="holds 1 of them not: Abyssinian_1;"):
        run(image_members()[1:])


def test_swapped_archives_are_refused(run, target):
    with pytest.raises(SourceError, match="this is an images archive, expected annotations"):
        run(annotation_members(), image_members())
    assert not indexes(target)


def test_an_annotations_archive_in_place_of_the_images_is_refused(run, target):
    with pytest.raises(SourceError, match="this is an annotations archive, expected images"):
        run(annotation_members())
    assert not indexes(target)


def test_a_file_named_as_the_folder_of_annotations_is_refused(run):
    with pytest.raises(SourceError, match="a folder was expected"):
        run(annotations=[("annotations", b"a file")])


def test_an_archive_that_is_cut_off_is_refused_and_leaves_no_index(run, tmp_path, target):
    run()
    (index,) = indexes(target)
    target.delete(index)
    packed = write_archive(tmp_path / "images.tar.gz", image_members(**{"beagle_5.jpg": bytes(range(256)) * 999}))
    packed.path.write_bytes(packed.path.read_bytes()[:-1000])
    labels = write_archive(tmp_path / "annotations.tar.gz", annotation_members())
    with pytest.raises(SourceError, match="truncated"):
        upload.upload(packed, labels, target, dataset=DATASET)
    assert not indexes(target)


@pytest.fixture
def small_members(monkeypatch):
    """An archive reader that hands out members of more than 1,000 bytes without their bytes."""
    limits = ArchiveLimits(max_member_bytes=1000)
    monkeypatch.setattr(upload, "members", lambda path: archive.members(path, limits=limits))


def test_an_image_too_large_for_the_reader_is_in_the_index_but_left_out(small_members, run, target):
    uploaded = run([(name, data * 200 if "beagle_1" in name else data) for name, data in image_members()])
    row = rows_of(target, uploaded)["beagle_1"]
    assert row.left_out == TOO_LARGE_RULE
    assert (row.source_key, row.source_sha256, row.source_size_bytes) == ("", "", 1600)
    assert uploaded.index.images == 4
    assert not target.exists("raw/pets/images/beagle_1.jpg")


def test_an_image_too_large_cannot_be_told_from_another_of_its_name(small_members, run):
    with pytest.raises(SourceError, match="two images named beagle_9"):
        run([*image_members(), ("a/beagle_9.jpg", b"x" * 2000), ("b/beagle_9.jpg", b"x" * 2000)])


def test_an_annotation_too_large_for_the_reader_is_refused(small_members, run, target):
    with pytest.raises(SourceError, match="too large for an annotation"):
        run(annotations=[*annotation_members(), ("annotations/trimaps/beagle_9.png", b"x" * 2000)])
    assert not indexes(target)


def test_progress_counts_images_and_ends_with_all_of_them(run):
    many = image_members(**{f"beagle_{number}.jpg": b"x" for number in range(10, 210)})
    seen: list[int] = []
    run(many, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(many)
    assert 2 <= len(seen) <= 5


class _Wrapped:
    """A real store with something done before each write."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: Any, *, create: bool = False) -> None:
        self.before_put(key)
        self._store.put(key, data, create=create)

    def before_put(self, key: str) -> None:
        raise NotImplementedError


class _LateObjects(_Wrapped):
    """Another run writes some objects after this one has listed what is there."""

    def __init__(self, store: Store, objects: dict[str, bytes]) -> None:
        super().__init__(store)
        self._objects = objects

    def before_put(self, key: str) -> None:
        if key in self._objects:
            self._store.put(key, self._objects.pop(key))


class _Measured(_Wrapped):
    """Slow writes; keeps the highest number of bytes and of writes at once."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._lock = threading.Lock()
        self._bytes = self._writes = self.most_bytes = self.most_writes = 0

    def put(self, key: str, data: Any, *, create: bool = False) -> None:
        if "/index/" in key:
            self._store.put(key, data, create=create)
            return
        with self._lock:
            self._bytes += len(data)
            self._writes += 1
            self.most_bytes = max(self.most_bytes, self._bytes)
            self.most_writes = max(self.most_writes, self._writes)
        time.sleep(0.002)
        self._store.put(key, data, create=create)
        with self._lock:
            self._bytes -= len(data)
            self._writes -= 1


class _Failing(_Wrapped):
    """The tenth write of an image fails."""

    def __init__(self, store: Store, error: Exception) -> None:
        super().__init__(store)
        self._error = error
        self.tried = 0

    def before_put(self, key: str) -> None:
        if "/images/" in key:
            self.tried += 1
            if self.tried == 10:
                raise self._error


def many_images(count: int, size_bytes: int = 100) -> list[tuple[str, bytes]]:
    more = [(f"images/beagle_{number}.jpg", f"{number}".encode().ljust(size_bytes)) for number in range(10, 10 + count)]
    return [*image_members(), *more]


def test_writes_run_in_parallel_within_a_budget_of_bytes(run, target, monkeypatch):
    monkeypatch.setattr(object_writer, "_BYTES_IN_FLIGHT", 5000)
    measured = _Measured(target)
    run(many_images(100, 1000), store=measured)
    assert 1000 < measured.most_bytes <= 5000
    assert measured.most_writes > 1


def test_a_member_larger_than_the_whole_budget_passes_alone(run, target, monkeypatch):
    monkeypatch.setattr(object_writer, "_BYTES_IN_FLIGHT", 500)
    measured = _Measured(target)
    uploaded = run(many_images(20, 1000), store=measured)
    assert measured.most_bytes < 1500
    assert uploaded.index.images == 24


@pytest.mark.parametrize("error", [StoreError("denied"), TransientError("gone for now"), ValueError("of a library")])
def test_a_failing_write_stops_the_pass_and_leaves_no_index(run, target, monkeypatch, error):
    monkeypatch.setattr(object_writer, "_BYTES_IN_FLIGHT", 2000)
    failing = _Failing(target, error)
    with pytest.raises(type(error), match=str(error)):
        run(many_images(2000), store=failing)
    assert failing.tried < 200
    assert not indexes(target)


def test_a_last_write_that_fails_leaves_no_index(run, target):
    failing = _Failing(target, StoreError("denied"))
    with pytest.raises(StoreError, match="denied"):
        run(many_images(6), store=failing)
    assert failing.tried == 10
    assert not indexes(target)


def test_a_run_after_a_failed_one_writes_the_rest(run, target):
    with pytest.raises(TransientError):
        run(many_images(50), store=_Failing(target, TransientError("gone for now")))
    uploaded = run(many_images(50))
    assert uploaded.written + uploaded.skipped == OBJECTS + 50
    assert uploaded.skipped > 0
    assert all(target.get(row.source_key) for row in rows_of(target, uploaded).values())


def test_a_folder_where_an_object_should_go_is_a_store_error(run, tmp_path):
    (tmp_path / "store/raw/pets/images/beagle_1.jpg").mkdir(parents=True)
    (tmp_path / "store/raw/pets/images/beagle_1.jpg/x").write_bytes(b"")
    with pytest.raises(StoreError):
        run()
    assert not indexes(open_store(str(tmp_path / "store")))


def test_a_damaged_index_is_not_taken_for_a_finished_upload(run, target):
    key = run().index.key
    target.put(key, b"PAR1 damaged")
    with pytest.raises(StoreError, match="delete it and run again") as caught:
        run()
    assert not isinstance(caught.value, ObjectMissingError)


def test_the_drawn_sample_is_accounted_for(drawn):
    assert drawn.info.images == drawn.expected["jpg_members"]
    assert drawn.info.members["image"] == drawn.expected["jpg_members"]
    assert drawn.info.members["not-an-image"] == 3
    rows = index_rows(read_index(drawn.store, drawn.info.key))
    assert sum(row.split == "trainval" for row in rows) == drawn.expected["trainval"]
    assert sum(row.split == "test" for row in rows) == drawn.expected["test"]
    assert sorted(row.image_id for row in rows if row.split is None) == drawn.expected["unlisted"]
    boxless = [row.image_id for row in rows if row.split == "trainval" and row.head_box is None]
    assert sorted(boxless) == drawn.expected["trainval_without_box"]
    for row in rows:
        assert sha256(drawn.store.get(row.source_key)) == row.source_sha256
        assert sha256(drawn.store.get(row.trimap_key or "")) == row.trimap_sha256


def test_an_images_archive_in_place_of_the_annotations_is_refused_at_its_first_image(tmp_path):
    store = open_store(str(tmp_path / "store"))
    sample = write_sample(tmp_path / "sample", SampleSpec(per_class=2, median_long_side_px=60))
    images = fetch(Source(str(sample.images)), tmp_path)
    with pytest.raises(SourceError, match="this is an images archive"):
        upload.upload(images, images, store, dataset="d")
    assert not [info.key for info in store.list() if info.key.endswith(".jpg")]
