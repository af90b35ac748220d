"""Work units: every image a row or a reject, and the same bytes whoever builds them, when, and beside what."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import io
import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imageshards import plan, shard_file
from imageshards.decode import decode
from imageshards.errors import ObjectMissingError, StoreError
from imageshards.index import IndexRow, index_rows, read_index, read_index_info, sample_hash, write_index
from imageshards.plan import bucket_of
from imageshards.recipe import Augment, Recipe
from imageshards.schema import METADATA_KEY, OUTCOME_KEY
from imageshards.shards import build_unit, measure_unit, probe_images, unit_rows
from imageshards.statistics import PixelSums
from imageshards.store import Store, open_store
from imageshards.transform import Picture, prepare
from tests.imageshards.small_dataset import Built, Drawn, build_drawn, copy_of_raw, measured, plan_drawn, tree

AUGMENTED = Recipe(augment=Augment(copies=2, horizontal_flip=0.5, rotation_degrees=10))


@pytest.fixture(scope="module")
def built(drawn, tmp_path_factory) -> Built:
    """Two resolutions of the plain recipe."""
    store = open_store(str(tmp_path_factory.mktemp("built")))
    return build_drawn(drawn, store, resolutions=(24, 32))


@pytest.fixture
def small_shards(monkeypatch) -> None:
    """Many shards for each split, of several row groups."""
    monkeypatch.setattr(plan, "MAX_SHARD_BYTES", 32 * 32 * 4 * 8)
    monkeypatch.setattr(shard_file, "ROW_GROUP_BYTES", 32 * 32 * 4 * 3)


def index_of(drawn: Drawn) -> dict[str, IndexRow]:
    return {row.image_id: row for row in index_rows(read_index(drawn.store, drawn.info.key))}


def ids(built: Built, resolution: int | None = None) -> list[str]:
    return built.rows(resolution).column("image_id").to_pylist()


def shard_bytes(built: Built) -> dict[str, bytes]:
    return {key: data for key, data in tree(built.store).items() if "rejects" not in key}


def test_every_image_is_a_row_a_reject_or_left_out(drawn, built):
    for resolution, version in built.versions.items():
        rows = ids(built, resolution)
        rejects = [reject.image_id for shard in version.shards for reject in shard.rejects]
        left_out = [image_id for image_id, row in index_of(drawn).items() if row.split is None]
        assert sorted([*rows, *rejects, *left_out]) == sorted(index_of(drawn))
        assert rejects
        assert sorted(left_out) == drawn.expected["unlisted"]


def test_rejects_say_why(built):
    rejects = [reject for shard in built.versions[32].shards for reject in shard.rejects]
    assert [(reject.image_id, reject.reason) for reject in rejects] == [("beagle_96", "truncated")]
    assert (rejects[0].split, rejects[0].class_name) == ("trainval", "beagle")
    assert len(rejects[0].source_sha256) == 64
    assert rejects[0].detail


def test_rows_say_what_the_index_says(drawn, built):
    index = index_of(drawn)
    for row in built.rows(32).drop_columns(["image", "trimap"]).to_pylist():
        source = index[row["image_id"]]
        for name in ("label", "class_name", "species", "split", "source_key", "source_sha256"):
            assert row[name] == getattr(source, name)
        assert row["copy"] == 0
        assert (row["head_box"] is not None) == (source.head_box is not None)


def test_rows_say_what_was_found_in_the_file_and_done_to_it(drawn, built):
    rows = {row["image_id"]: row for row in built.rows(32).to_pylist()}
    odd = {image_id: rows[image_id] for image_id in drawn.expected["odd_files"] if image_id in rows}
    assert odd["Abyssinian_96"]["source_format"] == "png"
    assert odd["Abyssinian_96"]["repairs"] == ["alpha-composited", "misnamed"]
    assert odd["Egyptian_Mau_96"]["repairs"] == ["misnamed"]
    assert odd["chihuahua_96"]["repairs"] == ["jpeg-warning"]
    assert odd["shiba_inu_97"]["source_mode"] == "CMYK"
    rotated = odd["pug_96"]
    assert (rotated["exif_orientation"], rotated["repairs"]) == (6, ["exif-orientation"])
    assert {row["upscaled"] for row in rows.values()} == {True, False}


def test_pixels_box_and_trimap_are_those_of_the_recipe(drawn, built):
    index = index_of(drawn)
    for row in built.rows(32).to_pylist()[::10]:
        source = index[row["image_id"]]
        if row["repairs"]:
            continue
        trimap = np.asarray(Image.open(io.BytesIO(drawn.store.get(source.trimap_key or ""))))
        picture = Picture(decode(drawn.store.get(source.source_key)).pixels, source.head_box, trimap)
        prepared = prepare(picture, Recipe(), resolution=32, image_id=source.image_id)
        assert row["image"] == prepared.pixels.tobytes()
        assert row["trimap"] == (prepared.trimap.tobytes() if prepared.trimap is not None else None)
        assert row["head_box"] == (pytest.approx(prepared.head_box) if prepared.head_box else None)
        assert row["upscaled"] == prepared.upscaled


def test_a_rebuild_gives_the_same_bytes(built, drawn, tmp_path):
    again = build_drawn(drawn, open_store(str(tmp_path)), resolutions=(24, 32))
    assert shard_bytes(again) == shard_bytes(built)
    assert again.versions == built.versions


@pytest.mark.parametrize("resolution", [24, 32])
def test_what_is_built_beside_a_resolution_does_not_change_it(built, drawn, tmp_path, resolution):
    alone = build_drawn(drawn, open_store(str(tmp_path)), resolutions=(resolution,))
    assert alone.files() == built.files(resolution)


def test_many_shards_are_the_same_bytes_in_whatever_company(small_shards, drawn, tmp_path):
    together = build_drawn(drawn, open_store(str(tmp_path / "a")), resolutions=(32, 16))
    assert {resolution: len(version.shards) for resolution, version in together.versions.items()} == {16: 8, 32: 32}
    for resolution in (16, 32):
        alone = build_drawn(drawn, open_store(str(tmp_path / str(resolution))), resolutions=(resolution,))
        assert alone.files() == together.files(resolution)
    assert ids(together, 16) == ids(together, 32)


def test_many_shards_hold_each_image_once_in_its_bucket(small_shards, drawn, tmp_path):
    built = build_drawn(drawn, open_store(str(tmp_path)))
    counts = Counter(shard.split for shard in built.shards)
    assert counts == {"trainval": 16, "test": 16}
    for shard in built.shards:
        number = int(shard.name.split("-")[1].removesuffix(".parquet"))
        for row in pq.read_table(built.path(shard.name), columns=["image_id", "split"]).to_pylist():
            assert bucket_of(sample_hash(row["image_id"]), counts[shard.split]) == number
            assert row["split"] == shard.split
    assert len(ids(built)) == len(set(ids(built))) == drawn.expected["listed"] - 1


def test_rows_lie_in_the_order_of_their_hash(built):
    for shard in built.versions[32].shards:
        found = pq.read_table(built.path(shard.name, 32), columns=["image_id"]).column(0).to_pylist()
        assert found == sorted(found, key=sample_hash)
        assert found != sorted(found)


def with_changed(
    drawn: Drawn,
    tmp_path: Path,
    image_id: str,
    *,
    image: bytes | None = None,
    trimap: bytes | None = None,
    **changes: Any,
) -> Drawn:
    """The sample with another content of one image, and an index that says so."""
    raw = copy_of_raw(drawn, tmp_path / "raw")
    rows = {row.image_id: row for row in index_rows(read_index(raw, drawn.info.key))}
    row = rows[image_id]
    if image is not None:
        raw.put(row.source_key, image)
        changes["source_sha256"] = hashlib.sha256(image).hexdigest()
    if trimap is not None:
        raw.put(row.trimap_key or "", trimap)
        changes["trimap_sha256"] = hashlib.sha256(trimap).hexdigest()
    rows[image_id] = dataclasses.replace(row, **changes)
    write_index(raw, rows.values(), info=read_index_info(raw, drawn.info.key))
    return dataclasses.replace(drawn, store=raw)


def saved(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def opened(store: Store, key: str | None) -> Image.Image:
    return Image.open(io.BytesIO(store.get(key or "")))


def test_a_changed_image_changes_one_shard(small_shards, drawn, tmp_path):
    mirrored = opened(drawn.store, index_of(drawn)["pug_97"].source_key).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    changed = with_changed(drawn, tmp_path, "pug_97", image=saved(mirrored, "JPEG"))
    before = build_drawn(drawn, open_store(str(tmp_path / "before")))
    after = build_drawn(changed, open_store(str(tmp_path / "after")))
    different = {name for name in before.files() if before.files()[name] != after.files()[name]}
    assert len(different) == 1
    inputs = {shard.name: shard.inputs for shard in before.shards}
    assert {shard.name for shard in after.shards if shard.inputs != inputs[shard.name]} == different


FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}


@pytest.mark.parametrize("encoding", FORMATS)
@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_encoded_images_are_files_of_their_format(faultless, tmp_path, encoding, color):
    built = build_drawn(faultless, open_store(str(tmp_path)), recipe=Recipe(encoding=encoding, color=color))
    for data in built.rows().column("image").to_pylist():
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.size) == (FORMATS[encoding], (32, 32))
    assert _metadata(built)["encoding"] == encoding


def test_png_holds_the_pixels_of_raw(built, drawn, tmp_path):
    encoded = build_drawn(drawn, open_store(str(tmp_path)), recipe=Recipe(encoding="png"))
    for png, raw in zip(
        encoded.rows().column("image").to_pylist(), built.rows(32).column("image").to_pylist(), strict=True
    ):
        assert np.asarray(Image.open(io.BytesIO(png))).tobytes() == raw


@pytest.mark.parametrize(("dtype", "color"), [("float16", "gray"), ("float32", "rgb")])
def test_float_pixels_are_those_of_raw_on_the_scale_of_one(faultless, tmp_path, dtype, color):
    scaled = Recipe(dtype=dtype, normalize="unit", color=color)
    plain = build_drawn(faultless, open_store(str(tmp_path / "plain")), recipe=Recipe(color=color))
    floats = build_drawn(faultless, open_store(str(tmp_path / "floats")), recipe=scaled)
    found = np.frombuffer(b"".join(floats.rows().column("image").to_pylist()), dtype)
    expected = np.frombuffer(b"".join(plain.rows().column("image").to_pylist()), np.uint8) / 255
    assert np.abs(found - expected).max() < (1e-3 if dtype == "float16" else 1e-6)
    assert (_metadata(floats)["dtype"], _metadata(floats)["channels"]) == (dtype, 1 if color == "gray" else 3)


def _metadata(built: Built) -> dict[str, object]:
    return json.loads(pq.read_schema(built.path(built.shards[0].name)).metadata[METADATA_KEY])


def test_copies_are_laid_one_after_another_through_training_shards_alone(faultless, tmp_path):
    pytest.importorskip("torch")
    built = build_drawn(faultless, open_store(str(tmp_path)), recipe=AUGMENTED)
    for shard in built.shards:
        table = pq.read_table(built.path(shard.name), columns=["image_id", "copy"])
        found, copies = table.column("image_id").to_pylist(), table.column("copy").to_pylist()
        if shard.split == "test":
            assert set(copies) == {0}
            assert shard.rows == shard.samples
            continue
        assert copies == sorted(copies)
        assert (shard.rows, shard.samples) == (3 * len(set(found)), len(set(found)))
        each = [found[start : start + shard.samples] for start in range(0, shard.rows, shard.samples)]
        assert each[0] == each[1] == each[2] == sorted(each[0], key=sample_hash)


def test_copies_differ_and_the_plain_image_stays_as_it_is(faultless, tmp_path):
    pytest.importorskip("torch")
    plain = build_drawn(faultless, open_store(str(tmp_path / "plain")))
    copied = build_drawn(faultless, open_store(str(tmp_path / "copied")), recipe=AUGMENTED)
    pixels = {(row["image_id"], row["copy"]): row["image"] for row in copied.rows().to_pylist()}
    for row in plain.rows().to_pylist():
        assert pixels[row["image_id"], 0] == row["image"]
        if row["split"] == "trainval":
            assert len({pixels[row["image_id"], copy] for copy in range(3)}) == 3


def test_copies_do_not_depend_on_the_number_of_shards(faultless, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    one = build_drawn(faultless, open_store(str(tmp_path / "one")), recipe=AUGMENTED)
    monkeypatch.setattr(plan, "MAX_SHARD_BYTES", 32 * 32 * 4 * 16)
    many = build_drawn(faultless, open_store(str(tmp_path / "many")), recipe=AUGMENTED)
    assert len(many.shards) > 2 * len(one.shards)

    def pictures(built: Built) -> dict[tuple[str, int], bytes]:
        return {(row["image_id"], row["copy"]): row["image"] for row in built.rows().to_pylist()}

    assert pictures(many) == pictures(one)


def test_images_in_no_split_are_kept_when_asked_for(drawn, tmp_path, built):
    kept = build_drawn(drawn, open_store(str(tmp_path)), keep_unlisted=True)
    unlisted = [shard for shard in kept.shards if shard.split == "unlisted"]
    assert [shard.name for shard in unlisted] == ["unlisted-00000.parquet"]
    rows = pq.read_table(kept.path(unlisted[0].name)).to_pylist()
    assert sorted(row["image_id"] for row in rows) == drawn.expected["unlisted"]
    assert {row["split"] for row in rows} == {"unlisted"}
    assert all(row["class_name"] and row["image_id"].startswith(row["class_name"]) for row in rows)
    listed = {name: data for name, data in kept.files().items() if not name.startswith("unlisted")}
    assert listed == built.files(32)


def test_the_footer_tells_the_outcome_of_the_bucket(built):
    for shard in built.versions[32].shards:
        outcome = json.loads(pq.read_metadata(built.path(shard.name, 32)).metadata[OUTCOME_KEY])
        assert outcome["samples"] == shard.samples == shard.rows
        assert [reject["image_id"] for reject in outcome["rejects"]] == [r.image_id for r in shard.rejects]
        repairs = pq.read_table(built.path(shard.name, 32), columns=["repairs"]).column(0).to_pylist()
        assert outcome["repairs"] == shard.repairs == Counter(name for names in repairs for name in names)
        assert hashlib.sha256(built.path(shard.name, 32).read_bytes()).hexdigest() == shard.sha256


def test_a_shard_says_nothing_of_when_where_and_beside_what_it_was_built(built):
    for shard in built.versions[32].shards:
        metadata = pq.read_metadata(built.path(shard.name, 32)).metadata
        assert set(metadata) == {METADATA_KEY, OUTCOME_KEY, b"ARROW:schema"}
        assert not [word for word in (b"/tmp", b"raw_store", b"created") if word in metadata[METADATA_KEY]]


READER = """
import json, sys
import numpy as np
import pyarrow.parquet as pq

side = int(sys.argv[2])
with pq.ParquetFile(sys.argv[1], memory_map=True) as file:
    table = file.read()
    column = table.column("image")
    assert column.num_chunks == 1
    chunk = column.chunk(0)
    images = np.frombuffer(chunk.buffers()[1], np.uint8)[: len(chunk) * chunk.type.byte_width]
    images = images.reshape(len(chunk), side, side, 3)
    assert images.base is not None
    assert images.__array_interface__["data"][0] == chunk.buffers()[1].address
    labels = table.column("label").to_numpy()
    others = ("imageshards", "PIL", "torch", "ray", "prefect", "pandas", "obstore", "pydantic")
    ours = [name for name in sys.modules if name.partition(".")[0] in others]
    print(json.dumps({"sum": int(images.sum()), "shape": images.shape, "labels": labels.tolist(), "ours": ours}))
"""


def test_pyarrow_alone_reads_a_shard_into_one_array_without_a_copy_per_row(built, tmp_path):
    """In a process with nothing of this package, in a folder without it."""
    shard = built.versions[32].shards[0]
    done = subprocess.run(
        [sys.executable, "-I", "-c", READER, str(built.path(shard.name, 32)), "32"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    table = pq.read_table(built.path(shard.name, 32))
    assert found["ours"] == []
    assert found["shape"] == [shard.rows, 32, 32, 3]
    assert found["sum"] == sum(sum(image) for image in table.column("image").to_pylist())
    assert found["labels"] == table.column("label").to_pylist()


def _some_row(drawn: Drawn, store: Store) -> IndexRow:
    return next(row for row in index_rows(read_index(store, drawn.info.key)) if row.split == "test" and row.trimap_key)


@pytest.mark.parametrize("field", ["source_key", "trimap_key"])
def test_a_missing_raw_object_fails_the_unit_and_says_what_to_do(drawn, tmp_path, field):
    raw = copy_of_raw(drawn, tmp_path / "raw")
    raw.delete(getattr(_some_row(drawn, raw), field))
    with pytest.raises(ObjectMissingError, match="which the index refers to, is gone; delete the index object"):
        build_drawn(dataclasses.replace(drawn, store=raw), open_store(str(tmp_path / "out")))


@pytest.mark.parametrize("field", ["source_key", "trimap_key"])
def test_a_raw_object_with_another_digest_fails_the_unit(drawn, tmp_path, field):
    raw = copy_of_raw(drawn, tmp_path / "raw")
    row = _some_row(drawn, raw)
    raw.put(getattr(row, field), b"something else")
    with pytest.raises(StoreError, match=r"is not what the index says: expected sha256 .*, found .*delete it"):
        build_drawn(dataclasses.replace(drawn, store=raw), open_store(str(tmp_path / "out")))


def test_a_unit_that_fails_leaves_no_shard_of_its_own_and_no_scratch(drawn, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    raw = copy_of_raw(drawn, tmp_path / "raw")
    raw.delete(_some_row(drawn, raw).source_key)
    store = open_store(str(tmp_path / "out"))
    build, units = plan_drawn(drawn)
    for unit in units:
        if unit.split == "test":
            with pytest.raises(ObjectMissingError):
                build_unit(build, unit, raw_store=raw, store=store)
    assert tree(store) == {}
    assert list(scratch.iterdir()) == []


def test_a_poisonous_image_is_rejected_unseen(drawn, tmp_path, built):
    raw = copy_of_raw(drawn, tmp_path / "raw")
    victim = _some_row(drawn, raw)
    raw.delete(victim.source_key)
    poisoned = build_drawn(
        dataclasses.replace(drawn, store=raw),
        open_store(str(tmp_path / "out")),
        poison={victim.image_id: "killed its worker"},
    )
    rejects = {reject.image_id: reject for shard in poisoned.shards for reject in shard.rejects}
    assert (rejects[victim.image_id].reason, rejects[victim.image_id].detail) == ("worker-crash", "killed its worker")
    assert set(ids(poisoned)) == set(ids(built, 32)) - {victim.image_id}
    inputs = {shard.name: shard.inputs for shard in built.versions[32].shards}
    assert {shard.split for shard in poisoned.shards if shard.inputs != inputs[shard.name]} == {"test"}


def test_a_trimap_of_another_size_rejects_its_image(drawn, tmp_path):
    changed = with_changed(drawn, tmp_path, "pug_98", trimap=saved(Image.new("L", (9, 5), 2), "PNG"))
    built = build_drawn(changed, open_store(str(tmp_path / "out")))
    rejects = {reject.image_id: reject for shard in built.shards for reject in shard.rejects}
    assert rejects["pug_98"].reason == "bad-annotation"
    assert "the trimap is 9 x 5 px" in rejects["pug_98"].detail


BOXES = {
    "inside": ((10.0, 10.0, 20.0, 20.0), None, []),
    "reaching out": ((10.0, 10.0, 9000.0, 9000.0), None, ["head-box-clipped"]),
    "outside": ((9000.0, 10.0, 9001.0, 20.0), "bad-annotation", []),
}


@pytest.mark.parametrize("where", BOXES)
def test_a_box_is_kept_clipped_or_rejected(drawn, tmp_path, where):
    box, reason, repairs = BOXES[where]
    changed = with_changed(drawn, tmp_path, "pug_98", head_box=box, head_box_frame=None)
    built = build_drawn(changed, open_store(str(tmp_path / "out")))
    rejects = {reject.image_id: reject.reason for shard in built.shards for reject in shard.rejects}
    assert rejects.get("pug_98") == reason
    if reason is None:
        (row,) = (row for row in built.rows().to_pylist() if row["image_id"] == "pug_98")
        assert row["repairs"] == repairs


def test_a_box_too_thin_to_be_stored_is_gone(drawn, tmp_path):
    """A crop may leave less of a box than float32 tells from nothing."""
    sliver = (9.0, 9.0, 9.0 + 1e-9, 20.0)
    changed = with_changed(drawn, tmp_path, "pug_98", head_box=sliver, head_box_frame=None)
    built = build_drawn(changed, open_store(str(tmp_path / "out")), recipe=Recipe(fit="stretch"))
    (row,) = (row for row in built.rows().to_pylist() if row["image_id"] == "pug_98")
    assert (row["head_box"], row["head_box_visible"]) == (None, 0.0)


@pytest.mark.parametrize("drawn_on", ["upright", "stored"])
def test_annotations_of_a_rotated_image_are_upright_whichever_way_they_were_drawn(drawn, tmp_path, built, drawn_on):
    """The drawn pug_96 is stored rotated, its annotations are upright; here they are also tried as stored."""
    pug = index_of(drawn)["pug_96"]
    assert pug.head_box is not None
    assert pug.head_box_frame is not None
    if drawn_on == "stored":
        xmin, ymin, xmax, ymax = pug.head_box
        width, _ = pug.head_box_frame
        turned = opened(drawn.store, pug.trimap_key).transpose(Image.Transpose.ROTATE_90)
        box = (ymin, width - xmax, ymax, width - xmin)
        drawn_so = with_changed(
            drawn, tmp_path, "pug_96", trimap=saved(turned, "PNG"), head_box=box, head_box_frame=turned.size
        )
    else:
        drawn_so = drawn
    found = build_drawn(drawn_so, open_store(str(tmp_path / "out"))).rows().to_pylist()
    (row,) = (row for row in found if row["image_id"] == "pug_96")
    (expected,) = (row for row in built.rows(32).to_pylist() if row["image_id"] == "pug_96")
    assert row == expected


def test_a_unit_reads_the_images_of_its_bucket_and_split(drawn):
    build, _ = plan_drawn(drawn, keep_unlisted=True)
    units = [plan.Unit(split, bucket, 4, (32,)) for split in ("trainval", "test", "unlisted") for bucket in range(4)]
    rows = [(unit, row) for unit in units for row in unit_rows(build, unit, drawn.store)]
    assert sorted(row.image_id for _, row in rows) == sorted(index_of(drawn))
    for unit, row in rows:
        assert (row.split or "unlisted") == unit.split
        assert unit.hash_range[0] <= row.sample_hash <= unit.hash_range[1]


def test_measuring_sums_the_plain_training_images_before_normalization(drawn, built):
    recipe = Recipe(dtype="float32", normalize="dataset")
    build, units = plan_drawn(drawn, recipe=recipe)
    sums = [measure_unit(build, unit, raw_store=drawn.store)[32] for unit in units if unit.split == "trainval"]
    total = sum(sums, PixelSums.zero(3))
    plain = [row["image"] for row in built.rows(32).to_pylist() if row["split"] == "trainval"]
    assert total == PixelSums.of(np.frombuffer(b"".join(plain), np.uint8).reshape(-1, 32, 32, 3))


def test_a_dataset_normalized_by_its_own_statistics_has_mean_0_and_deviation_1(drawn, tmp_path):
    built = build_drawn(drawn, open_store(str(tmp_path)), recipe=Recipe(dtype="float32", normalize="dataset"))
    table = built.rows()
    trainval = [row["image"] for row in table.select(["image", "split"]).to_pylist() if row["split"] == "trainval"]
    pixels = np.frombuffer(b"".join(trainval), np.float32).reshape(-1, 3).astype(np.float64)
    assert pixels.mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-5)
    assert pixels.std(axis=0) == pytest.approx([1, 1, 1], abs=1e-5)


def test_statistics_do_not_depend_on_the_number_of_units(drawn, monkeypatch):
    recipe = Recipe(dtype="float32", normalize="dataset")
    one = measured(*plan_drawn(drawn, recipe=recipe), drawn)
    monkeypatch.setattr(plan, "MAX_SHARD_BYTES", 32 * 32 * 13 * 8)
    build, units = plan_drawn(drawn, recipe=recipe)
    assert len(units) > 8
    many = measured(build, units[::-1], drawn)
    assert [version.statistics for version in many.versions] == [version.statistics for version in one.versions]


@pytest.fixture
def no_garbage_collection():
    """Only what is let go of on purpose goes."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def fetching_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


@pytest.mark.parametrize("damage", ["none", "missing object"])
def test_no_thread_is_left_to_the_garbage_collector(no_garbage_collection, drawn, tmp_path, damage):
    """Where it ended them, in a thread that was just starting, that thread waited for ever."""
    raw = copy_of_raw(drawn, tmp_path / "raw")
    if damage == "missing object":
        raw.delete(index_of(drawn)["pug_98"].source_key)
    out = open_store(str(tmp_path / "out"))
    build, units = plan_drawn(drawn, recipe=Recipe(fit="letterbox", upscale="reject"))
    unit = next(unit for unit in units if unit.split == "trainval")
    rows = unit_rows(build, unit, raw)
    for work in (
        lambda: build_unit(build, unit, raw_store=raw, store=out),
        lambda: measure_unit(build, unit, raw_store=raw),
        lambda: probe_images(build, unit, rows, raw_store=raw),
    ):
        try:
            work()
        except ObjectMissingError as error:
            kept = error
        assert fetching_threads() == []
    assert damage == "none" or "pug_98" in kept.message


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(encoding="webp"), Recipe(dtype="float16", normalize="dataset")])
def test_probing_takes_every_image_and_writes_nothing(drawn, recipe):
    build, units = plan_drawn(drawn, recipe=recipe, resolutions=(24, 32))
    before = tree(drawn.store)
    for unit in units:
        probe_images(build, unit, unit_rows(build, unit, drawn.store), raw_store=drawn.store)
    assert tree(drawn.store) == before
