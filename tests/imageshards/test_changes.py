"""What changed since the version before: each part of the answer, and what it says where it cannot be given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imageshards.changes import compare_versions
from imageshards.index import IndexInfo, IndexRow, content_digest, index_key, write_index
from imageshards.index_changes import ChangedImage, ImageChanges
from imageshards.manifest import Manifest, PixelStatistics, current_manifest, publish_manifest
from imageshards.plan import version_prefix
from imageshards.pointer import latest_key
from imageshards.recipe import Augment, Recipe
from imageshards.shard_file import REJECTS_NAME
from imageshards.store import Store, open_store
from imageshards.version_changes import Changes, ClassCount, Count, Drift, RecipeChange, RejectChange
from tests.imageshards.built_version import SMALL, build_version, plain_manifest, put_rejects, uploaded_sample
from tests.imageshards.small_dataset import tree

OLD, NEW = "0" * 32, "1" * 32


def rows(count: int, **first: Any) -> list[IndexRow]:
    """Rows of an index, of which the first one may be special."""
    found = [
        IndexRow(f"pug_{number}", f"images/{number}.jpg", f"raw/pets/images/{number}.jpg", "c" * 64, 9, 1, "pug", "dog")
        for number in range(count)
    ]
    return [replace(found[0], **first), *found[1:]]


def version(store: Store, of: list[IndexRow], rejects: Mapping[str, str] | None = None, **fields: Any) -> Manifest:
    """A version whose index and rejects lie in a store."""
    digest = content_digest(of, ("Abyssinian", "pug"))
    key = index_key("oxford-iiit-pet", digest, "annotations")
    info = IndexInfo(key, digest, "oxford-iiit-pet", len(of), ("Abyssinian", "pug"), {}, digest, "b" * 64)
    write_index(store, of, info=info)
    refused = rejects or {}
    reasons = {reason: list(refused.values()).count(reason) for reason in refused.values()}
    manifest = plain_manifest(index=key, index_digest=digest, images=len(of), rejects=reasons, **fields)
    table = [
        {"image_id": name, "source_key": "k", "source_sha256": "s", "split": "test", "reason": reason, "detail": "d"}
        for name, reason in refused.items()
    ]
    put_rejects(store, version_prefix(manifest.dataset, manifest.resolution, manifest.fingerprint), table)
    return manifest


def compare(store: Store, old: Manifest | None, new: Manifest) -> Changes:
    return compare_versions(old, new, raw_store=store, store=store)


def test_the_first_version_says_so(folder_store: Store):
    new = version(folder_store, rows(12), {"pug_3": "truncated"}, fingerprint=NEW)
    changes = compare(folder_store, None, new)
    assert changes.gist() == "first version: 12 images, 9 rows, 1 reject"
    assert (changes.old, changes.images, changes.rejects, changes.not_compared) == (None, None, None, ())
    assert Count("images", None, 12) in changes.counts
    assert changes.to_markdown().startswith("First version: 12 images, 9 rows, 1 reject.\n")


def test_images_rejects_classes_pixels_and_counts_are_compared(store: Store):
    old = version(
        store,
        rows(5),
        {"pug_1": "truncated", "pug_2": "empty"},
        fingerprint=OLD,
        classes={"test": {"Abyssinian": 2, "pug": 2}, "trainval": {"pug": 5}},
        pixels=PixelStatistics(mean=(100.0, 110.0, 120.0), std=(50.0, 0.0, 50.0)),
    )
    new = version(
        store,
        rows(7, split="test"),
        {"pug_1": "truncated", "pug_2": "undecodable", "pug_6": "truncated"},
        fingerprint=NEW,
        classes={"test": {"Abyssinian": 2, "pug": 3}, "trainval": {"pug": 5}, "unlisted": {"pug": 1}},
        pixels=PixelStatistics(mean=(110.0, 111.0, 120.0), std=(50.0, 1.0, 40.0)),
    )
    changes = compare(store, old, new)
    assert changes.images == ImageChanges(
        added=2,
        changed=1,
        kinds={"split": 1},
        first_added=("pug_5", "pug_6"),
        first_changed=(ChangedImage("pug_0", ("split",)),),
    )
    assert changes.rejects is not None
    assert changes.rejects.new == RejectChange(
        2, {"truncated": 1, "undecodable": 1}, (("pug_2", "undecodable"), ("pug_6", "truncated"))
    )
    assert changes.rejects.gone == RejectChange(1, {"empty": 1}, (("pug_2", "empty"),))
    assert changes.classes == (ClassCount("test", "pug", 2, 3), ClassCount("unlisted", "pug", 0, 1))
    assert changes.pixels == (
        Drift(0, 100.0, 110.0, 50.0, 50.0, 0.2),
        Drift(1, 110.0, 111.0, 0.0, 1.0, None),
        Drift(2, 120.0, 120.0, 50.0, 40.0, 0.0),
    )
    counts = {count.name: (count.old, count.new) for count in changes.counts}
    assert counts["images"] == (5, 7)
    assert counts["rejected: empty"] == (1, 0)
    assert counts["rejected: undecodable"] == (0, 1)
    assert counts["rows in trainval"] == (5, 5)
    assert changes.gist() == ("2 images added, 1 changed, none gone; 2 new rejects, 1 gone; rows changed in 1 class")
    assert changes.not_compared == changes.recipe == ()


def test_there_and_back_mirror_each_other(folder_store: Store):
    old = version(folder_store, rows(5), {"pug_1": "truncated"}, fingerprint=OLD)
    new = version(folder_store, rows(7, label=0), {"pug_6": "empty"}, fingerprint=NEW)
    there, back = compare(folder_store, old, new), compare(folder_store, new, old)
    assert there.images is not None
    assert back.images is not None
    assert there.rejects is not None
    assert back.rejects is not None
    assert (there.images.added, there.images.gone) == (back.images.gone, back.images.added) == (2, 0)
    assert there.images.first_changed == back.images.first_changed
    assert (there.rejects.new, there.rejects.gone) == (back.rejects.gone, back.rejects.new)
    assert [(count.name, count.old, count.new) for count in there.counts] != []
    assert {(count.name, count.old, count.new) for count in there.counts} == {
        (count.name, count.new, count.old) for count in back.counts
    }


def test_two_raw_stores_are_compared(tmp_path: Path, folder_store: Store):
    elsewhere = open_store(str(tmp_path / "elsewhere"))
    old = version(elsewhere, rows(5), fingerprint=OLD)
    new = version(folder_store, rows(6), fingerprint=NEW)
    changes = compare_versions(old, new, raw_store=folder_store, store=folder_store, old_raw_store=elsewhere)
    assert changes.images == ImageChanges(added=1, first_added=("pug_5",))
    apart = compare_versions(old, new, raw_store=folder_store, store=folder_store)
    assert apart.images is None
    assert "is no longer there" in apart.not_compared[0]


def test_the_same_index_is_not_read(folder_store: Store):
    old = version(folder_store, rows(5), fingerprint=OLD)
    folder_store.delete(old.index)
    new = old.model_copy(update={"fingerprint": NEW})
    changes = compare(folder_store, old, new)
    assert changes.images == ImageChanges()
    assert changes.not_compared == ()


def test_a_missing_old_index_is_told(folder_store: Store):
    old, new = (version(folder_store, rows(n), fingerprint=name) for n, name in ((5, OLD), (6, NEW)))
    folder_store.delete(old.index)
    changes = compare(folder_store, old, new)
    assert changes.images is None
    assert changes.rejects is not None
    assert changes.gist().startswith("images not compared; no new rejects")
    assert changes.not_compared == (
        f"images: the index of the version before, {folder_store.uri(old.index)}, is no longer there",
    )
    assert "### Not compared" in changes.to_markdown()


def test_an_old_index_of_another_version_is_told(folder_store: Store, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr("imageshards.index_row.INDEX_VERSION", 1)
        old = version(folder_store, rows(5), fingerprint=OLD)
    new = version(folder_store, rows(6), fingerprint=NEW)
    (problem,) = compare(folder_store, old, new).not_compared
    assert problem.endswith("cannot be read: expected index version 2, found 1")


def test_an_index_that_is_not_that_of_the_old_version_is_told(folder_store: Store):
    old, new = (version(folder_store, rows(n), fingerprint=name) for n, name in ((5, OLD), (6, NEW)))
    (problem,) = compare(folder_store, old.model_copy(update={"index": new.index}), new).not_compared
    assert "is no longer the index of the version before" in problem


@pytest.mark.parametrize("damage", [None, b"", b"PAR1 no parquet"])
def test_rejects_that_cannot_be_read_are_told(folder_store: Store, damage: bytes | None):
    old = version(folder_store, rows(5), {"pug_1": "empty"}, fingerprint=OLD)
    new = version(folder_store, rows(5), fingerprint=NEW)
    key = version_prefix(old.dataset, old.resolution, OLD) + REJECTS_NAME
    if damage is None:
        folder_store.delete(key)
    else:
        folder_store.put(key, damage)
    changes = compare(folder_store, old, new)
    assert changes.rejects is None
    assert len(changes.not_compared) == 1
    assert "rejects not compared" in changes.gist()


def test_without_rejects_no_table_is_needed(folder_store: Store):
    old, new = (version(folder_store, rows(5), fingerprint=name) for name in (OLD, NEW))
    for manifest in (old, new):
        folder_store.delete(version_prefix(manifest.dataset, manifest.resolution, manifest.fingerprint) + REJECTS_NAME)
    changes = compare(folder_store, old, new)
    assert changes.rejects is not None
    assert changes.rejects.new.count == changes.rejects.gone.count == 0


def test_keys_of_the_recipe_that_differ_are_named(folder_store: Store):
    of = rows(5)
    old = version(folder_store, of, fingerprint=OLD, recipe=Recipe(contrast="clahe"))
    new = version(folder_store, of, fingerprint=NEW, recipe=Recipe(augment=Augment(copies=2, horizontal_flip=0.5)))
    changes = compare(folder_store, old, new)
    named = {change.key: change for change in changes.recipe}
    assert named["contrast"] == RecipeChange("contrast", "clahe", "none")
    assert named["augment.copies"] == RecipeChange("augment.copies", None, 2)
    assert "fit" not in named
    assert changes.pixels  # in the same units
    assert changes.gist().endswith("; recipe changed (augment, clahe_clip_limit, clahe_tiles and 1 more)")


@pytest.mark.parametrize(
    ("recipe", "keys"),
    [
        (Recipe(color="gray"), "color"),
        (Recipe(dtype="float32"), "dtype"),
        (Recipe(dtype="float32", normalize="unit"), "dtype, normalize"),
    ],
)
def test_pixel_values_in_other_units_are_not_compared(folder_store: Store, recipe: Recipe, keys: str):
    of = rows(5)
    old, new = version(folder_store, of, fingerprint=OLD), version(folder_store, of, fingerprint=NEW, recipe=recipe)
    changes = compare(folder_store, old, new)
    assert changes.pixels == ()
    assert changes.not_compared == (f"pixel values: they are stored in other units, for the recipe changed {keys}",)


def test_a_version_without_pixels_has_no_drift(folder_store: Store):
    of = rows(5)
    old = version(folder_store, of, fingerprint=OLD, pixels=PixelStatistics(mean=(), std=()))
    new = version(folder_store, of, fingerprint=NEW)
    assert compare(folder_store, old, new).pixels == ()


def test_the_same_version_is_called_that(folder_store: Store):
    of = version(folder_store, rows(5), {"pug_1": "empty"}, fingerprint=OLD)
    assert compare(folder_store, of, of).gist() == "the same version as before"


def test_the_answer_is_json_ready(folder_store: Store):
    old = version(folder_store, rows(5), {"pug_1": "empty"}, fingerprint=OLD, recipe=Recipe(contrast="equalize"))
    new = version(folder_store, rows(6, split="test"), fingerprint=NEW)
    changes = compare(folder_store, old, new)
    found = json.loads(json.dumps(changes.to_dict()))
    assert found["gist"] == changes.gist()
    assert found["images"]["first_changed"] == [{"image_id": "pug_0", "kinds": ["split"]}]
    assert found["rejects"]["gone"]["first"] == [["pug_1", "empty"]]
    assert found["recipe"] == [{"key": "contrast", "old": "equalize", "new": "none"}]


def test_real_versions_of_two_nights_are_compared(tmp_path: Path):
    """The archive of the second night has more pictures of each class, some of them faulty, and another recipe."""
    specs = (replace(SMALL, faults=False), replace(SMALL, per_class=4))
    nights = [uploaded_sample(tmp_path, spec) for spec in specs]
    store = nights[0][2]
    old = publish_manifest(store, build_version(*nights[0][:2], store).manifest)
    new = build_version(*nights[1][:2], store, recipe=Recipe(contrast="equalize")).manifest
    before = tree(store)
    changes = compare(store, current_manifest(store, new.dataset, new.resolution), new)
    assert tree(store) == before
    assert changes.old == old.fingerprint
    assert changes.images is not None
    assert changes.images.added - changes.images.gone == new.images - old.images > 0
    assert changes.images.kinds["bytes"] > 0
    assert changes.rejects is not None
    assert (changes.rejects.new.reasons, changes.rejects.gone.count) == (new.rejects, 0)
    assert new.rejects
    assert changes.classes
    assert all(drift.shift for drift in changes.pixels)
    assert changes.not_compared == ()


def test_the_current_manifest_is_none_where_none_can_be_read(folder_store: Store):
    manifest = plain_manifest()
    assert current_manifest(folder_store, manifest.dataset, manifest.resolution) is None
    publish_manifest(folder_store, manifest)
    assert current_manifest(folder_store, manifest.dataset, manifest.resolution) == manifest
    pointer = folder_store.get(latest_key(manifest.dataset, manifest.resolution))
    for damaged in (b"{", b'{"fingerprint": "../a"}'):
        folder_store.put(latest_key(manifest.dataset, manifest.resolution), damaged)
        assert current_manifest(folder_store, manifest.dataset, manifest.resolution) is None
    folder_store.put(latest_key(manifest.dataset, manifest.resolution), pointer)
    folder_store.put(manifest.key, b"{}")
    assert current_manifest(folder_store, manifest.dataset, manifest.resolution) is None
    folder_store.delete(manifest.key)
    assert current_manifest(folder_store, manifest.dataset, manifest.resolution) is None
