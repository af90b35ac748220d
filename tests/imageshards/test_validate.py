"""Validation: each check passes on what was built, and fails when its fault is planted, it and no other.

A fault is planted as a faulty driver would have made it: the shard is written again and its result says so. Only what
happens to the file afterwards leaves the result as it was.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from imageshards import plan
from imageshards.archive import members
from imageshards.errors import ImageShardsError, ObjectMissingError
from imageshards.index import IndexRow, index_rows, read_index, read_index_info, write_index
from imageshards.oxford_facts import ORIGINAL, Facts, OddImage
from imageshards.oxford_pets import DATASET
from imageshards.recipe import Augment, Recipe
from imageshards.sample import SampleSpec, write_sample
from imageshards.schema import METADATA_KEY, REJECTS_SCHEMA
from imageshards.shard_file import REJECTS_NAME, Reject, concatenate_rejects
from imageshards.store import open_store
from imageshards.upload import upload
from imageshards.validate import validate_version
from tests.imageshards.small_dataset import (
    Built,
    Drawn,
    build_drawn,
    copy_of_raw,
    put_rejects,
    write_archive,
)
from tests.imageshards.tampered import (
    SIDE,
    Change,
    again,
    by_place,
    failed,
    findings_of,
    having,
    position,
    rewritten,
    with_result,
    without,
)

ROOT = Path(__file__).resolve().parents[2]
TRAINVAL, TEST = "trainval-00000.parquet", "test-00000.parquet"
NOTHING_LEFT_OF_A_SHARD = {"accounting", "no-class-empty"}


@pytest.fixture(scope="module")
def good(drawn, tmp_path_factory) -> Built:
    """A version of the plain recipe, as it was built; tests do not change it."""
    return build_drawn(drawn, open_store(str(tmp_path_factory.mktemp("good") / "store")))


@pytest.fixture
def copied(good, tmp_path) -> Built:
    """The same, to be tampered with."""
    return good.copied_to(tmp_path / "store")


def trimap_with(value: int) -> bytes:
    return bytes([value]) + bytes([2]) * (SIDE * SIDE - 1)


@dataclass(frozen=True)
class Fault:
    """What is wrong, and which checks must say so."""

    fails: set[str]
    name: str = TRAINVAL
    change: Change | None = None
    plant: Callable[[Built], Built] | None = None
    subject: dict[str, Any] = dataclasses.field(default_factory=dict)

    def planted(self, built: Built) -> Built:
        if self.plant:
            return self.plant(built)
        return rewritten(built, self.name, self.change) if self.change else built


def deleted(built: Built) -> Built:
    built.store.delete(built.key(TEST))
    return built


def overwritten(name: str, data: Callable[[bytes], bytes]) -> Callable[[Built], Built]:
    def plant(built: Built) -> Built:
        built.store.put(built.key(name), data(built.store.get(built.key(name))))
        return built

    return plant


def pixel_flipped(data: bytes) -> bytes:
    """One bit of the pixels, which lie plain at the file's beginning somewhere; the footer is as it was."""
    damaged = bytearray(data)
    damaged[len(data) // 3] ^= 1
    return bytes(damaged)


def rejecting(*image_ids: str) -> Callable[[Built], Built]:
    """Rejects in place of rows, everywhere."""

    def plant(built: Built) -> Built:
        rows = {row["image_id"]: row for row in built.rows().drop_columns(["image", "trimap"]).to_pylist()}
        for shard in built.shards:
            ours = [rows[name] for name in image_ids if rows[name]["split"] == shard.split]
            rejects = [
                *(dataclasses.asdict(reject) for reject in shard.rejects),
                *(
                    {name: row[name] for name in ("image_id", "source_key", "source_sha256", "split", "class_name")}
                    | {"reason": "undecodable", "detail": "as planted"}
                    for row in ours
                ),
            ]
            samples = shard.samples - len(ours)
            built = rewritten(built, shard.name, without(*image_ids), rejects=rejects, samples=samples)
        put_rejects(built.store, built.key(""), concatenate_rejects(built.shards))
        return built

    return plant


def all_of_test(built: Built) -> Built:
    return rejecting(*(row["image_id"] for row in built.rows().to_pylist() if row["split"] == "test"))(built)


def moved(built: Built) -> Built:
    """A test image in the shard that training reads; its columns are right."""
    table = pq.read_table(built.path(TEST))
    row = table.slice(position(table, "pug_97"), 1)
    built = rewritten(built, TEST, without("pug_97"))
    return rewritten(built, TRAINVAL, lambda table: by_place(pa.concat_tables([table, row])))


def rejects_put(change: Callable[[list[Reject]], Iterable[Reject]]) -> Callable[[Built], Built]:
    def plant(built: Built) -> Built:
        put_rejects(built.store, built.key(""), list(change(concatenate_rejects(built.shards))))
        return built

    return plant


def rejects_with_other_columns(built: Built) -> Built:
    buffer = io.BytesIO()
    rows = [dataclasses.asdict(reject) for reject in concatenate_rejects(built.shards)]
    table = pa.Table.from_pylist(rows, schema=REJECTS_SCHEMA)
    pq.write_table(table.rename_columns([*REJECTS_SCHEMA.names[:-1], "note"]), buffer)
    built.store.put(built.key(REJECTS_NAME), buffer.getvalue())
    return built


def other_metadata(**changes: Any) -> Change:
    def change(table: pa.Table) -> pa.Table:
        content = json.loads(table.schema.metadata[METADATA_KEY]) | changes
        return table.replace_schema_metadata({METADATA_KEY: json.dumps(content, sort_keys=True).encode()})

    return change


def with_index(change: Callable[[IndexRow], IndexRow]) -> Callable[[Built], Built]:
    """Another index than the one that the shards were built from, in a raw store of its own."""

    def plant(built: Built) -> Built:
        raw = copy_of_raw(built.drawn, built.path("x").parents[5] / "raw")
        rows = [change(row) for row in index_rows(read_index(raw, built.drawn.info.key))]
        write_index(raw, rows, info=read_index_info(raw, built.drawn.info.key))
        return replace(built, drawn=replace(built.drawn, store=raw))

    return plant


def column_as(name: str, type_: pa.DataType) -> Change:
    def change(table: pa.Table) -> pa.Table:
        number = table.schema.get_field_index(name)
        field = table.schema.field(number).with_type(type_)
        return table.set_column(number, field, table.column(name).cast(type_))

    return change


def nullable(name: str) -> Change:
    def change(table: pa.Table) -> pa.Table:
        number = table.schema.get_field_index(name)
        return table.set_column(number, table.schema.field(number).with_nullable(True), table.column(name))

    return change


SCHEMA = {"schema"} | NOTHING_LEFT_OF_A_SHARD
READABLE = {"shard-readable"} | NOTHING_LEFT_OF_A_SHARD
PUG = "pug_98"
"""An image of trainval, with a box and a trimap; there is another of its class."""

FAULTS = {
    "a label of another class": Fault({"annotations"}, change=having(PUG, label=0)),
    "no label": Fault({"annotations"}, change=having(PUG, label=None)),
    "the name of another class": Fault({"annotations"}, change=having(PUG, class_name="beagle")),
    "no name of a class": Fault({"annotations"}, change=having(PUG, class_name=None)),
    "another species": Fault({"annotations"}, change=having(PUG, species="cat")),
    "another source": Fault({"annotations"}, change=having(PUG, source_key="raw/other.jpg")),
    "another digest of the source": Fault({"annotations"}, change=having(PUG, source_sha256="0" * 64)),
    "another split": Fault({"annotations", "placement"}, change=having(PUG, split="test")),
    "a row too few": Fault({"accounting"}, change=without(PUG)),
    "a row twice": Fault({"accounting", "copies"}, change=again(PUG)),
    "a copy that nobody asked for": Fault({"copies"}, change=again(PUG, copy=1)),
    "a plain row that is called a copy": Fault(
        {"copies", "accounting"}, change=lambda table: by_place(having(PUG, copy=1)(table))
    ),
    "a row of an image that does not exist": Fault(
        {"accounting", "annotations", "head-boxes", "trimaps"}, change=again(PUG, image_id="nobody_1")
    ),
    "a row of an image that was rejected": Fault(
        {"accounting", "annotations"}, change=again(PUG, image_id="beagle_96")
    ),
    "a row in the shard of another split": Fault({"placement"}, plant=moved),
    "rows in another order": Fault({"placement"}, change=lambda table: table.take(list(range(table.num_rows))[::-1])),
    "a head box beyond the frame": Fault({"head-boxes"}, change=having(PUG, head_box=[1, 1, SIDE + 1, 9])),
    "a head box before the frame": Fault({"head-boxes"}, change=having(PUG, head_box=[-1, 1, 9, 9])),
    "a head box inside out": Fault({"head-boxes"}, change=having(PUG, head_box=[9, 1, 1, 9])),
    "a head box without area": Fault({"head-boxes"}, change=having(PUG, head_box=[1, 9, 9, 9])),
    "a head box of nothing": Fault({"head-boxes"}, change=having(PUG, head_box=[0, 0, 0, 0], head_box_visible=0)),
    "a head box that is no number": Fault({"head-boxes"}, change=having(PUG, head_box=[float("nan")] * 4)),
    "no head box, and nothing said of it": Fault(
        {"head-boxes"}, change=having(PUG, head_box=None, head_box_visible=None)
    ),
    "no head box, but visible": Fault({"head-boxes"}, change=having(PUG, head_box=None, head_box_visible=0.5)),
    "a head box that is not visible": Fault({"head-boxes"}, change=having(PUG, head_box_visible=0)),
    "a head box more than visible": Fault({"head-boxes"}, change=having(PUG, head_box_visible=1.5)),
    "a visible share that is no number": Fault({"head-boxes"}, change=having(PUG, head_box_visible=float("nan"))),
    "a head box where there is none": Fault(
        {"head-boxes"}, TEST, having("pug_97", head_box=[1, 1, 9, 9], head_box_visible=1)
    ),
    "a head box that the index knows nothing of": Fault(
        {"head-boxes"}, plant=with_index(lambda row: replace(row, head_box=None) if row.image_id == PUG else row)
    ),
    "a trimap value of 4": Fault({"trimaps"}, change=having(PUG, trimap=trimap_with(4))),
    "a trimap value of 255": Fault({"trimaps"}, change=having(PUG, trimap=trimap_with(255))),
    "a trimap value of 0 where nothing is filled": Fault({"trimaps"}, change=having(PUG, trimap=trimap_with(0))),
    "no trimap": Fault({"trimaps"}, change=having(PUG, trimap=None)),
    "a trimap that the index knows nothing of": Fault(
        {"trimaps"}, plant=with_index(lambda row: replace(row, trimap_key=None) if row.image_id == PUG else row)
    ),
    "an image that the archive did not have": Fault(
        {"accounting", "annotations"},
        plant=with_index(lambda row: replace(row, split=None) if row.image_id == PUG else row),
    ),
    "a column of another type": Fault(SCHEMA, change=column_as("label", pa.int32())),
    "a column of another name": Fault(
        SCHEMA, change=lambda table: table.rename_columns(["id", *table.column_names[1:]])
    ),
    "a column too few": Fault(SCHEMA, change=lambda table: table.drop_columns(["repairs"])),
    "a column too many": Fault(SCHEMA, change=lambda table: table.append_column("x", table.column("label"))),
    "columns in another order": Fault(SCHEMA, change=lambda table: table.select(table.column_names[::-1])),
    "a column that may be null": Fault(SCHEMA, change=nullable("image_id")),
    "pixels as a list": Fault(SCHEMA, change=column_as("image", pa.binary())),
    "images of another resolution": Fault(SCHEMA, change=other_metadata(resolution=224)),
    "other class names in the file": Fault(SCHEMA, change=other_metadata(class_names=["a", "b"])),
    "another recipe in the file": Fault(SCHEMA, change=other_metadata(recipe={"fit": "stretch"})),
    "another format version in the file": Fault(SCHEMA, change=other_metadata(format_version=0)),
    "another shard's name in the file": Fault(SCHEMA, change=other_metadata(shard=TEST)),
    "a shard that is gone": Fault(READABLE, plant=deleted),
    "an empty file": Fault(READABLE, plant=overwritten(TEST, lambda data: b"")),
    "a file cut off": Fault(READABLE, plant=overwritten(TEST, lambda data: data[:-100])),
    "a file with another's footer": Fault(READABLE, plant=overwritten(TEST, lambda data: data[:-60] + bytes(60))),
    "a file of another kind": Fault(READABLE, plant=overwritten(TEST, lambda data: b"<html>")),
    "one bit of the pixels": Fault(READABLE, plant=overwritten(TRAINVAL, pixel_flipped)),
    "one bit of the pixels of a shard that a restart found": Fault(
        READABLE,
        plant=lambda built: with_result(overwritten(TRAINVAL, pixel_flipped)(built), TRAINVAL),
    ),
    "another shard than the driver wrote": Fault(
        {"shard-digest"},
        plant=lambda built: replace(
            rewritten(built, TEST, having("pug_97", image=bytes(SIDE * SIDE * 3))), versions=built.versions
        ),
    ),
    "a class all of which was rejected": Fault({"no-class-empty"}, plant=rejecting("pug_97", "pug_99")),
    "a split all of which was rejected": Fault({"no-class-empty"}, plant=all_of_test),
    "no table of rejects": Fault(
        {"rejects-table"}, plant=lambda built: built.store.delete(built.key(REJECTS_NAME)) or built
    ),
    "a damaged table of rejects": Fault({"rejects-table"}, plant=overwritten(REJECTS_NAME, lambda data: data[:-9])),
    "damaged pages in the table of rejects": Fault(
        {"rejects-table"}, plant=overwritten(REJECTS_NAME, lambda data: data[:4] + b"\xff" * 90 + data[94:])
    ),
    "a reject missing from the table": Fault({"rejects-table"}, plant=rejects_put(lambda rejects: rejects[1:])),
    "a reject twice in the table": Fault({"rejects-table"}, plant=rejects_put(lambda rejects: rejects * 2)),
    "another reason in the table": Fault(
        {"rejects-table"}, plant=rejects_put(lambda rejects: [replace(rejects[0], reason="empty")])
    ),
    "a reject too many in the table": Fault(
        {"rejects-table"}, plant=rejects_put(lambda rejects: [*rejects, replace(rejects[0], image_id="x")])
    ),
    "other columns in the table of rejects": Fault({"rejects-table"}, plant=rejects_with_other_columns),
    "too many rejects": Fault({"reject-fraction"}, subject={"max_reject_fraction": 0.001}),
    "facts of another archive": Fault(
        {
            "published-counts",
            "published-classes",
            "published-odd-images",
            "published-missing-boxes",
            "published-empty-trimaps",
        },
        subject={"facts": ORIGINAL},
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_planted_fault_fails_its_checks_and_no_other(copied, what):
    fault = FAULTS[what]
    findings = findings_of(fault.planted(copied), **fault.subject)
    assert failed(findings) == fault.fails
    assert not findings.passed


def facts_of(drawn: Drawn) -> Facts:
    """What is known of the drawn sample."""
    expected = drawn.expected
    names = drawn.info.class_names
    return Facts(
        splits={"trainval": expected["trainval"], "test": expected["test"]},
        species={"cat": expected["cat_classes"], "dog": expected["dog_classes"]},
        fewer={split: dict.fromkeys(names, 2) for split in ("trainval", "test")},
        unlisted=len(expected["unlisted"]),
        head_boxes={
            "trainval": expected["trainval"] - len(expected["trainval_without_box"]),
            "test": 0,
            None: 0,
        },
        trimaps=drawn.info.images,
        stray_members=3,
        odd_images={"chihuahua_96": OddImage("jpeg", frozenset({"jpeg-warning"}))},
        without_box=frozenset(expected["trainval_without_box"]),
        empty_trimaps=frozenset(expected["empty_trimaps"]),
    )


def test_what_was_built_passes_every_check(drawn, good):
    findings = findings_of(good, facts=facts_of(drawn), max_leaks=0, max_reject_fraction=0.01)
    assert failed(findings) == set()
    assert findings.passed


def test_every_check_is_shown_to_fail(drawn, good):
    names = {check.name for check in findings_of(good, facts=facts_of(drawn), max_leaks=0).checks}
    shown = set.union(*(fault.fails for fault in FAULTS.values())) | {"images", "leakage"}  # these two further down
    assert names == shown


@pytest.mark.parametrize("what", [name for name, fault in FAULTS.items() if fault.plant is None and fault.change])
def test_a_failed_check_names_what_it_is_about(copied, what):
    fault = FAULTS[what]
    for check in findings_of(fault.planted(copied)).checks:
        if not check.passed:
            assert 1 <= len(check.examples) <= 5
            assert check.found != check.expected


def test_the_findings_count_what_lies_there(drawn, good):
    findings = findings_of(good)
    listed = drawn.expected["listed"]
    assert (findings.rows, findings.samples) == (listed - 1, listed - 1)
    assert findings.splits == {"test": drawn.expected["test"], "trainval": drawn.expected["trainval"] - 1}
    assert findings.rejects == {"truncated": 1}
    assert findings.left_out == {"no-split": 3}
    assert findings.repairs == {
        "alpha-composited": 1,
        "cmyk-to-rgb": 1,
        "exif-orientation": 1,
        "jpeg-warning": 1,
        "misnamed": 2,
    }
    assert {split: sum(counts.values()) for split, counts in findings.classes.items()} == findings.splits
    assert findings.shards == good.shards


def test_counts_come_from_the_rows_and_not_from_what_the_driver_says(copied):
    told = rewritten(copied, TRAINVAL, lambda table: table, samples=999, repairs={"misnamed": 999})
    findings = findings_of(told)
    assert findings.samples == findings_of(copied.copied_to(copied.path("x").parents[5] / "again")).samples
    assert findings.repairs["misnamed"] == 2


def test_the_statistics_are_those_of_the_stored_pixels(good):
    pixels = np.frombuffer(b"".join(good.rows().column("image").to_pylist()), np.uint8).reshape(-1, 3)
    statistics = findings_of(good).pixels
    assert statistics is not None
    assert statistics.mean == pytest.approx(pixels.mean(axis=0), rel=1e-12)
    assert statistics.std == pytest.approx(pixels.std(axis=0), rel=1e-9)


def test_progress_counts_rows_and_ends_with_all_of_them(good):
    seen: list[int] = []
    validate_version(good.subject(), raw_store=good.drawn.store, store=good.store, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == good.rows().num_rows


_THREADS_LEFT = """
import pickle, sys
from pathlib import Path
from imageshards.store import open_store
from imageshards.validate import validate_version

def threads():
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum(not name.startswith("tokio") for name in names)  # those of the store come when they are needed

subject, raw_store, store = pickle.load(sys.stdin.buffer)
before = threads()
findings = validate_version(subject, raw_store=open_store(raw_store), store=open_store(store))
print(findings.rows, threads() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_shards_are_read_by_no_threads_but_its_own(good):
    """Arrow's would outlive it, each with memory of its own for what it read last."""
    told = pickle.dumps((good.subject(), good.drawn.store.url, good.store.url))
    done = subprocess.run([sys.executable, "-c", _THREADS_LEFT], input=told, cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.split() == [str(good.rows().num_rows).encode(), b"0"]


RECIPES = {
    "gray": Recipe(color="gray"),
    "letterbox": Recipe(fit="letterbox"),
    "stretch": Recipe(fit="stretch"),
    "float32": Recipe(dtype="float32", normalize="imagenet"),
    "float16 of its own statistics": Recipe(dtype="float16", normalize="dataset"),
    "jpeg": Recipe(encoding="jpeg"),
    "gray jpeg": Recipe(encoding="jpeg", color="gray"),
    "png": Recipe(encoding="png"),
    "gray webp": Recipe(encoding="webp", color="gray"),
}


@pytest.mark.parametrize("which", RECIPES)
def test_every_kind_of_recipe_passes(faultless, tmp_path, which):
    built = build_drawn(faultless, open_store(str(tmp_path / "store")), recipe=RECIPES[which])
    assert failed(findings_of(built)) == set()


def test_many_shards_pass(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "MAX_SHARD_BYTES", SIDE * SIDE * 4 * 20)
    built = build_drawn(drawn, open_store(str(tmp_path / "store")))
    assert len(built.shards) == 8
    assert failed(findings_of(built)) == set()


def test_a_row_in_another_shard_of_its_split_is_misplaced(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "MAX_SHARD_BYTES", SIDE * SIDE * 4 * 20)
    built = build_drawn(drawn, open_store(str(tmp_path / "store")))
    table = pq.read_table(built.path(TRAINVAL))
    row = table.slice(0, 1)
    (image_id,) = row.column("image_id").to_pylist()
    built = rewritten(built, TRAINVAL, without(image_id))
    built = rewritten(built, "trainval-00001.parquet", lambda rows: by_place(pa.concat_tables([rows, row])))
    findings = findings_of(built)
    assert failed(findings) == {"placement"}
    assert [check.examples for check in findings.checks if check.name == "placement"] == [(image_id,)]


def test_images_in_no_split_pass_where_they_are_kept(drawn, tmp_path):
    kept = build_drawn(drawn, open_store(str(tmp_path / "store")), keep_unlisted=True)
    findings = findings_of(kept)
    assert failed(findings) == set()
    assert findings.splits["unlisted"] == 3
    assert findings.left_out == {}
    assert failed(findings_of(kept, keep_unlisted=False)) == {"accounting"}


def test_images_in_no_split_that_were_not_kept_are_missed(good):
    assert failed(findings_of(good, keep_unlisted=True)) == {"accounting"}


def test_poison_passes_as_a_reject(drawn, tmp_path):
    built = build_drawn(drawn, open_store(str(tmp_path / "store")), poison={"pug_97": "killed its worker"})
    findings = findings_of(built)
    assert failed(findings) == set()
    assert findings.rejects == {"truncated": 1, "worker-crash": 1}


@pytest.fixture(scope="module")
def augmented(faultless, tmp_path_factory) -> Built:
    pytest.importorskip("torch")
    recipe = Recipe(augment=Augment(copies=2, horizontal_flip=0.5, translate=1.0, scale=(0.01, 0.5)))
    return build_drawn(faultless, open_store(str(tmp_path_factory.mktemp("augmented") / "store")), recipe=recipe)


def test_augmented_copies_pass_even_pushed_out_of_the_frame(augmented):
    findings = findings_of(augmented)
    assert failed(findings) == set()
    assert findings.rows == findings.samples + 2 * 37
    assert any(not any(trimap) for trimap in augmented.rows().column("trimap").to_pylist())


def test_statistics_are_those_of_plain_rows_alone(augmented, faultless, tmp_path):
    plain = build_drawn(faultless, open_store(str(tmp_path / "store")))
    assert findings_of(augmented).pixels == findings_of(plain).pixels


def test_a_copy_too_few_is_missed(augmented, tmp_path):
    def drop(table: pa.Table) -> pa.Table:
        rows = table.select(["image_id", "copy"]).to_pylist()
        return table.filter(pa.array([row != {"image_id": "pug_96", "copy": 2} for row in rows]))

    built = augmented.copied_to(tmp_path / "store")
    assert failed(findings_of(rewritten(built, TRAINVAL, drop))) == {"copies"}


def test_a_plain_image_without_trimap_values_fails_where_a_copy_may(augmented, tmp_path):
    empty = bytes(SIDE * SIDE)
    built = augmented.copied_to(tmp_path / "store")
    assert failed(findings_of(rewritten(built, TRAINVAL, having("pug_96", trimap=empty)))) == {"trimaps"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_pixels_that_are_no_numbers_are_found(drawn, tmp_path, value, dtype):
    built = build_drawn(drawn, open_store(str(tmp_path / "store")), recipe=Recipe(dtype=dtype, normalize="unit"))
    pixels = np.zeros((SIDE, SIDE, 3), dtype)
    pixels[-1, -1, -1] = value
    findings = findings_of(rewritten(built, TRAINVAL, having(PUG, image=pixels.tobytes())))
    assert failed(findings) == {"images"}


def encoded(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


BLANK = Image.new("RGB", (SIDE, SIDE))
WRONG_FILES = {
    "nothing": b"",
    "text": b"no image",
    "a jpeg of another size": encoded(Image.new("RGB", (SIDE, SIDE + 1)), "JPEG"),
    "a png of another size": encoded(Image.new("RGB", (SIDE - 1, SIDE)), "PNG"),
    "a webp of another size": encoded(Image.new("RGB", (1, 1)), "WEBP"),
    "a jpeg cut off": cut(encoded(Image.effect_noise((SIDE, SIDE), 99).convert("RGB"), "JPEG")),
    "a png cut off": cut(encoded(Image.effect_noise((SIDE, SIDE), 99).convert("RGB"), "PNG")),
    "a gif": encoded(BLANK, "GIF"),
    "a png bomb": encoded(Image.new("1", (14_000, 14_000)), "PNG"),
}


@pytest.mark.parametrize("encoding", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("what", WRONG_FILES)
def test_files_that_are_not_the_image_they_should_be_are_found(encoded_versions, tmp_path, encoding, what):
    built = encoded_versions[encoding].copied_to(tmp_path / "store")
    findings = findings_of(rewritten(built, TRAINVAL, having(PUG, image=WRONG_FILES[what])))
    assert failed(findings) == {"images"}
    assert [check.examples for check in findings.checks if check.name == "images"] == [(PUG,)]


@pytest.fixture(scope="module")
def encoded_versions(drawn, tmp_path_factory) -> dict[str, Built]:
    return {
        encoding: build_drawn(
            drawn, open_store(str(tmp_path_factory.mktemp(encoding) / "store")), recipe=Recipe(encoding=encoding)
        )
        for encoding in ("jpeg", "png", "webp")
    }


def test_the_picture_of_one_split_in_the_other_is_a_leak(tmp_path):
    built = build_drawn(_leaking(tmp_path), open_store(str(tmp_path / "store")))
    findings = findings_of(built, max_leaks=0)
    assert failed(findings) == {"leakage"}
    (check,) = (check for check in findings.checks if check.name == "leakage")
    assert check.examples == ("pug_96 (trainval) and pug_97 (test)",)
    assert findings_of(built, max_leaks=1).passed
    assert findings_of(built, max_leaks=None).passed


def _leaking(tmp_path: Path) -> Drawn:
    """A drawn sample in which a test image shows what a training image shows."""
    sample = write_sample(tmp_path / "sample", SampleSpec(per_class=2, median_long_side_px=120, faults=False))
    packed = {}
    for what, path in (("images", sample.images), ("annotations", sample.annotations)):
        files = {member.name: data or b"" for member, data in members(path)}
        doubled = {
            name: files[name.replace("pug_97", "pug_96")] if name.endswith(("g_97.jpg", "/pug_97.png")) else data
            for name, data in files.items()
        }
        packed[what] = write_archive(tmp_path / f"{what}.tar.gz", doubled.items())
    raw = open_store(str(tmp_path / "raw"))
    info = upload(packed["images"], packed["annotations"], raw, dataset=DATASET).index
    return Drawn(info, raw, packed, sample.expected)


def test_a_missing_index_is_an_error_and_no_finding(good):
    subject = good.subject(info=replace(good.drawn.info, key="raw/none.parquet"))
    with pytest.raises(ObjectMissingError):
        validate_version(subject, raw_store=good.drawn.store, store=good.store)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.floats(0, 1, exclude_max=True),
    junk=st.binary(min_size=1, max_size=40),
    which=st.sampled_from([TRAINVAL, TEST]),
)
def test_whatever_bytes_are_damaged_validation_ends_with_a_finding(copied, good, start, junk, which):
    data = good.store.get(good.key(which))
    at = int(start * len(data))
    damaged = (data[:at] + junk + data[at + len(junk) :])[: len(data)]
    copied.store.put(copied.key(which), damaged)
    try:
        findings = findings_of(copied)
    except ImageShardsError:
        pytest.fail("damage in a shard is a finding, not an error")
    finally:
        copied.store.put(copied.key(which), data)
    assert findings.passed == (damaged == data)
    if damaged != data:
        assert failed(findings) & {"shard-digest", "shard-readable", "schema"}
