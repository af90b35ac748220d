"""One shard: rows come back as they went in, the footer tells the outcome, and nothing half-written stays."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageshards import direct_file, shard_file
from imageshards.errors import StoreError
from imageshards.recipe import Augment, Recipe
from imageshards.schema import METADATA_KEY, shard_metadata, shard_schema
from imageshards.shard_file import (
    Reject,
    ShardResult,
    ShardWriter,
    concatenate_rejects,
    read_shard_result,
    rows_per_group,
)
from imageshards.store import open_store

SIDE = 8
PLAIN = Recipe()
NAME = "trainval-00000.parquet"
REJECT = Reject("beagle_116", "raw/beagle_116.jpg", "a" * 64, "trainval", "beagle", "truncated", "premature end")


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "image_id": f"beagle_{number}",
        "copy": 0,
        "label": 1,
        "class_name": "beagle",
        "species": "dog",
        "split": "trainval",
        "head_box": (1.0, 2.0, 3.0, 4.0),
        "head_box_visible": 1.0,
        "source_key": f"raw/beagle_{number}.jpg",
        "source_sha256": "b" * 64,
        "source_width": 500,
        "source_height": 375,
        "source_format": "jpeg",
        "source_mode": "RGB",
        "exif_orientation": 1,
        "perceptual_hash": 2**64 - 1,
        "upscaled": False,
        "repairs": [],
    } | changes


def pixels_of(number: int, recipe: Recipe = PLAIN) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.integers(0, 255, (SIDE, SIDE, recipe.channels)).astype(recipe.dtype)


def trimap_of(number: int) -> np.ndarray | None:
    return None if number % 3 == 1 else np.full((SIDE, SIDE), 1 + number % 3, np.uint8)


def metadata_of(recipe: Recipe) -> dict[bytes, bytes]:
    return shard_metadata(
        dataset="pets",
        recipe=recipe,
        resolution=SIDE,
        class_names=("Abyssinian", "beagle"),
        shard=NAME,
        inputs="c" * 64,
    )


def open_writer(path: Path, recipe: Recipe = PLAIN) -> ShardWriter:
    output = open_store(str(path.parent)).open_output(path.name)
    return ShardWriter(
        output, name=path.name, recipe=recipe, resolution=SIDE, split="trainval", metadata=metadata_of(recipe)
    )


def write(path: Path, count: int, recipe: Recipe = PLAIN, rejects: tuple[Reject, ...] = ()) -> ShardResult:
    with open_writer(path, recipe) as writer:
        for number in range(count):
            image = pixels_of(number, recipe) if recipe.encoding == "raw" else f"file {number}".encode()
            writer.append(row(number), image=image, trimap=trimap_of(number))
        for reject in rejects:
            writer.reject(reject)
        return writer.finish()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / NAME


@pytest.fixture
def small_groups(monkeypatch) -> None:
    """Row groups of five raw RGB images."""
    monkeypatch.setattr(shard_file, "ROW_GROUP_BYTES", 5 * SIDE * SIDE * 4)


RECIPES = [
    Recipe(),
    Recipe(color="gray"),
    Recipe(dtype="float16", normalize="unit"),
    Recipe(dtype="float32", normalize="unit"),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.color}-{recipe.dtype}")
@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_rows_come_back_as_they_went_in(small_groups, path, recipe, count):
    write(path, count, recipe)
    table = pq.read_table(path)
    assert table.schema.remove_metadata().equals(shard_schema(recipe, SIDE))
    for number, found in enumerate(table.to_pylist()):
        image = np.frombuffer(found.pop("image"), recipe.dtype).reshape(SIDE, SIDE, recipe.channels)
        assert (image == pixels_of(number, recipe)).all()
        trimap, expected = found.pop("trimap"), trimap_of(number)
        assert (trimap is None) == (expected is None)
        if expected is not None:
            assert trimap == expected.tobytes()
        assert found == row(number) | {"head_box": [1.0, 2.0, 3.0, 4.0]}
    assert table.num_rows == count


@pytest.mark.parametrize("encoding", ["jpeg", "png", "webp"])
def test_encoded_images_come_back_as_they_went_in(small_groups, path, encoding):
    write(path, 100, Recipe(encoding=encoding))
    assert pq.read_table(path).column("image").to_pylist() == [f"file {number}".encode() for number in range(100)]


def test_what_an_image_does_not_have_is_null(path):
    with open_writer(path) as writer:
        bare = dict.fromkeys(("label", "class_name", "species", "head_box", "head_box_visible"))
        writer.append(row(0) | bare, image=pixels_of(0), trimap=None)
        writer.append(row(1), image=pixels_of(1), trimap=trimap_of(0))
        writer.finish()
    found = pq.read_table(path).to_pylist()
    assert {name for name, value in found[0].items() if value is None} == {*bare, "trimap"}
    assert not any(value is None for value in found[1].values())


@settings(deadline=None, max_examples=20)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_missing_trimap_is_null_wherever_it_lies_in_its_row_group(tmp_path_factory, present):
    path = tmp_path_factory.mktemp("trimaps") / NAME
    with open_writer(path) as writer:
        for number, there in enumerate(present):
            writer.append(
                row(number), image=pixels_of(number), trimap=np.ones((SIDE, SIDE), np.uint8) if there else None
            )
        writer.finish()
    assert pq.read_table(path).column("trimap").is_valid().to_pylist() == present


def test_the_buffers_of_the_writer_may_be_used_again(small_groups, path):
    pixels, trimap = pixels_of(0), np.ones((SIDE, SIDE), np.uint8)
    with open_writer(path) as writer:
        for number in range(12):
            pixels[:] = number
            trimap[:] = number
            writer.append(row(number), image=pixels, trimap=trimap)
        writer.finish()
    table = pq.read_table(path)
    assert [image[0] for image in table.column("image").to_pylist()] == list(range(12))
    assert [trimap[0] for trimap in table.column("trimap").to_pylist()] == list(range(12))


def test_the_same_rows_give_the_same_bytes(small_groups, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / NAME, 12, rejects=(REJECT,))
    assert (tmp_path / "a" / NAME).read_bytes() == (tmp_path / "b" / NAME).read_bytes()


def test_row_groups_are_full_but_for_the_last(small_groups, path):
    write(path, 12)
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [5, 5, 2]


@pytest.mark.parametrize("recipe", [*RECIPES, Recipe(augment=Augment(copies=1, hue=0.1))])
@pytest.mark.parametrize("resolution", [224, 384, 600])
def test_row_groups_of_raw_images_have_8_to_32_megabytes(recipe, resolution):
    row_bytes = resolution**2 * (recipe.channels * np.dtype(recipe.dtype).itemsize + 1)
    assert 8e6 <= rows_per_group(recipe, resolution) * row_bytes <= 32e6


def test_a_row_larger_than_a_group_is_a_group(monkeypatch):
    monkeypatch.setattr(shard_file, "ROW_GROUP_BYTES", 100)
    assert rows_per_group(Recipe(), 224) == 1


def columns_of(path: Path) -> dict[str, Any]:
    group = pq.read_metadata(path).row_group(0)
    return {group.column(number).path_in_schema: group.column(number) for number in range(group.num_columns)}


def test_pixels_lie_plain_and_all_else_is_compressed(path):
    write(path, 12)
    columns = columns_of(path)
    assert {name for name, column in columns.items() if column.compression == "UNCOMPRESSED"} == {"image"}
    assert {column.compression for name, column in columns.items() if name != "image"} == {"ZSTD"}
    assert set(columns["image"].encodings) == {"PLAIN"} | ({"RLE"} & set(columns["image"].encodings))
    assert {name for name, column in columns.items() if not column.is_stats_set} == {"image", "trimap"}


def test_raw_pixels_lie_in_the_file_as_they_are(path):
    write(path, 2)
    assert pixels_of(0).tobytes() + pixels_of(1).tobytes() in path.read_bytes()


def test_the_footer_tells_what_became_of_every_sample(path):
    with open_writer(path) as writer:
        writer.append(row(0, repairs=["misnamed", "gray-to-rgb"]), image=pixels_of(0), trimap=None)
        writer.append(row(1, repairs=["misnamed"]), image=pixels_of(1), trimap=None)
        writer.append(row(0, copy=1, repairs=["misnamed"]), image=pixels_of(0), trimap=None)
        writer.reject(REJECT)
        result = writer.finish()
    assert (result.rows, result.samples) == (3, 2)
    assert result.repairs == {"gray-to-rgb": 1, "misnamed": 2}
    assert result.rejects == (REJECT,)
    assert (result.name, result.split, result.resolution, result.inputs) == (NAME, "trainval", SIDE, "c" * 64)
    assert result.size_bytes == path.stat().st_size
    assert read_shard_result(path, resolution=SIDE, name=NAME) == result


def test_the_metadata_of_the_format_are_in_the_file(path):
    write(path, 1)
    assert pq.read_metadata(path).metadata[METADATA_KEY] == metadata_of(Recipe())[METADATA_KEY]
    assert json.loads(pq.read_schema(path).metadata[METADATA_KEY])["layout"] == "HWC"


def test_an_empty_shard_can_be_read(path):
    result = write(path, 0, rejects=(REJECT,))
    assert (result.rows, result.samples, result.rejects) == (0, 0, (REJECT,))
    assert pq.read_table(path).num_rows == 0


def test_a_result_survives_json(path):
    result = write(path, 3, rejects=(REJECT, dataclasses.replace(REJECT, image_id="x", class_name=None)))
    assert ShardResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_how_a_shard_came_to_be_is_kept_and_does_not_tell_it_from_another(path):
    built = write(path, 3)
    reused = dataclasses.replace(built, reused=True, reuse_problem="gone")
    again = ShardResult.from_dict(reused.to_dict())
    assert (again.reused, again.reuse_problem) == (True, "gone")
    assert again == built


@pytest.mark.parametrize("recipe", [PLAIN, Recipe(encoding="png")], ids=["raw", "png"])
def test_pixels_go_out_page_by_page_and_never_a_row_group_at_once(path, monkeypatch, recipe):
    page_rows, pages = 6, 10
    monkeypatch.setattr(shard_file, "_PAGE_BYTES", page_rows * SIDE * SIDE * 3)
    written = []
    write_on = direct_file.DirectFile.write
    monkeypatch.setattr(
        direct_file.DirectFile, "write", lambda file, data: written.append(len(data)) or write_on(file, data)
    )
    with open_writer(path, recipe) as writer:
        for number in range(pages * page_rows):
            image = pixels_of(number) if recipe.encoding == "raw" else bytes(SIDE * SIDE * 3 - 4)  # and its length
            writer.append(row(number), image=image, trimap=None)
        writer.finish()
    assert written.count(page_rows * SIDE * SIDE * 3) == pages
    assert pq.read_metadata(path).num_row_groups == 1


@pytest.mark.parametrize("rows", [0, 3, 7])
def test_a_writer_left_by_an_exception_leaves_no_file(small_groups, path, rows):
    with pytest.raises(RuntimeError, match="while decoding"), open_writer(path) as writer:  # noqa: PT012 (the point)
        for number in range(rows):
            writer.append(row(number), image=pixels_of(number), trimap=None)
        raise RuntimeError("while decoding")
    assert not any(path.parent.iterdir())


def test_a_writer_that_cannot_begin_leaves_no_file(path, monkeypatch):
    def fail(*arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(shard_file, "_parquet_writer", fail)
    with pytest.raises(MemoryError):
        open_writer(path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("rows", [1, 6])
def test_a_writer_left_with_its_block_nearly_full_holds_up_nobody(small_groups, tmp_path, rows):
    for _ in range(direct_file._BLOCKS_IN_FLIGHT + 1):  # Parquet's closing bytes find the file ended
        with open_writer(tmp_path / "a") as writer:
            for number in range(rows):
                writer.append(row(number), image=pixels_of(number), trimap=None)
            written = writer._output.target
            written.write(bytes(direct_file._BLOCK_BYTES - 1 - written.size_bytes))
    assert write(tmp_path / NAME, 3).rows == 3
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_row_that_lacks_a_value_cannot_be_finished(path):
    with pytest.raises((pa.ArrowInvalid, ValueError, KeyError)), open_writer(path) as writer:  # noqa: PT012 (both lines)
        writer.append(
            {name: value for name, value in row(0).items() if name != "upscaled"}, image=pixels_of(0), trimap=None
        )
        writer.finish()
    assert not path.exists()


def damaged(data: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "garbage": b"nothing of Parquet",
        "cut off": data[:-10],
        "footer overwritten": data[:-200] + b"\xff" * 192 + data[-8:],
        "only the footer's size": data[-8:],
    }


@pytest.mark.parametrize("damage", damaged(b""))
def test_a_damaged_file_is_no_finished_shard(path, damage):
    write(path, 3)
    path.write_bytes(damaged(path.read_bytes())[damage])
    with pytest.raises(StoreError, match=rf"{NAME} is no finished shard: .*; delete it and run again"):
        read_shard_result(path, resolution=SIDE, name=NAME)


def test_a_missing_file_is_no_finished_shard(path):
    with pytest.raises(StoreError, match="no finished shard"):
        read_shard_result(path, resolution=SIDE, name=NAME)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {b"imageshards.outcome": b"{}"},
        {b"imageshards.outcome": b"[]", b"imageshards": b"{}"},
        {b"imageshards.outcome": b"not json", b"imageshards": b"{}"},
        {
            b"imageshards.outcome": b'{"split": "test", "samples": 1, "rejects": [{}], "repairs": {}}',
            b"imageshards": b'{"inputs": ""}',
        },
    ],
)
def test_parquet_of_others_is_no_finished_shard(path, metadata):
    pq.write_table(pa.table({"a": [1]}, metadata=metadata), path)
    with pytest.raises(StoreError, match="no finished shard"):
        read_shard_result(path, resolution=SIDE, name=NAME)


def test_rejects_come_in_the_order_of_the_shards_names(path):
    result = write(path, 0, rejects=(REJECT, dataclasses.replace(REJECT, image_id="beagle_117")))
    later = dataclasses.replace(
        result, name="trainval-00001.parquet", rejects=(dataclasses.replace(REJECT, image_id="z"),)
    )
    first = dataclasses.replace(result, name="test-00000.parquet", rejects=(dataclasses.replace(REJECT, image_id="a"),))
    found = concatenate_rejects([later, result, first])
    assert [reject.image_id for reject in found] == ["a", "beagle_116", "beagle_117", "z"]


def test_a_shard_in_the_buffers_of_another_has_the_bytes_of_one_in_its_own(tmp_path, monkeypatch):
    fresh = shard_file._Buffers()
    monkeypatch.setattr(shard_file, "_buffers", fresh)
    with open_writer(tmp_path / "alone" / NAME) as writer:
        writer.append(row(0), image=pixels_of(0), trimap=None)
        alone = writer.finish()
    write(tmp_path / "before" / NAME, 40)
    assert fresh._spare
    with open_writer(tmp_path / "after" / NAME) as writer:
        assert not fresh._spare
        writer.append(row(0), image=pixels_of(0), trimap=None)
        after = writer.finish()
    assert after == alone
    assert (tmp_path / "after" / NAME).read_bytes() == (tmp_path / "alone" / NAME).read_bytes()


def test_two_shards_at_once_share_no_buffer(tmp_path):
    write(tmp_path / "before" / NAME, 3)
    with open_writer(tmp_path / "a" / NAME) as first, open_writer(tmp_path / "b" / NAME) as second:
        for number in range(3):
            first.append(row(number), image=pixels_of(number), trimap=trimap_of(number))
            second.append(row(number), image=pixels_of(number + 50), trimap=trimap_of(number + 50))
        results = first.finish(), second.finish()
    assert results[0].sha256 == write(tmp_path / "c" / NAME, 3).sha256
    assert results[0].sha256 != results[1].sha256


def test_the_buffers_of_a_shard_that_was_not_finished_are_not_used_again(tmp_path, monkeypatch):
    fresh = shard_file._Buffers()
    monkeypatch.setattr(shard_file, "_buffers", fresh)
    with open_writer(tmp_path / NAME) as writer:
        writer.append(row(0), image=pixels_of(0), trimap=None)
    assert not fresh._spare
