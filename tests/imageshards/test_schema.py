"""The Parquet schema: plain types, pinned names, metadata of the shard alone."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageshards.recipe import Recipe
from imageshards.schema import (
    BINARY_COLUMNS,
    METADATA_KEY,
    REJECTS_SCHEMA,
    image_size_bytes,
    image_type,
    shard_metadata,
    shard_schema,
)
from tests.imageshards.recipes import recipes

DOCUMENTED = {
    *("image_id", "image", "label", "class_name", "species", "split", "head_box", "head_box_visible", "trimap"),
    *("source_key", "source_sha256", "source_width", "source_height", "source_format", "source_mode"),
    *("exif_orientation", "upscaled", "repairs"),
}
"""DESIGN.md, section 4."""


def metadata_of(recipe: Recipe, **changes: object) -> dict[str, object]:
    arguments = {
        "dataset": "pets",
        "recipe": recipe,
        "resolution": 224,
        "class_names": ("Abyssinian", "beagle"),
        "shard": "test-00000.parquet",
        "inputs": "ab" * 32,
    }
    (content,) = shard_metadata(**(arguments | changes)).values()
    return json.loads(content)


def test_the_documented_columns_are_there():
    assert set(shard_schema(Recipe(), 224).names) >= DOCUMENTED


def is_plain(type_: pa.DataType) -> bool:
    if isinstance(type_, pa.ListType | pa.FixedSizeListType):
        return is_plain(type_.value_type)
    return pa.types.is_primitive(type_) or type_ in (pa.string(), pa.binary()) or pa.types.is_fixed_size_binary(type_)


@given(recipes(), st.integers(1, 600))
def test_types_are_plain_and_bytes_are_in_no_list(recipe, resolution):
    for field in shard_schema(recipe, resolution):
        assert is_plain(field.type)
        assert not isinstance(field.type, pa.BaseExtensionType)
        if field.name in BINARY_COLUMNS:
            assert pa.types.is_binary(field.type) or pa.types.is_fixed_size_binary(field.type)


@pytest.mark.parametrize(
    ("recipe", "values"),
    [
        (Recipe(), 3),
        (Recipe(color="gray"), 1),
        (Recipe(dtype="float32", normalize="unit"), 12),
        (Recipe(dtype="float16", normalize="unit", color="red"), 2),
    ],
)
def test_raw_pixels_have_a_fixed_size(recipe, values):
    assert image_type(recipe, 224) == pa.binary(224 * 224 * values)
    assert image_size_bytes(recipe, 224) == 224 * 224 * values


@pytest.mark.parametrize("encoding", ["jpeg", "png", "webp"])
def test_encoded_images_have_any_size(encoding):
    assert image_type(Recipe(encoding=encoding), 224) == pa.binary()


def test_what_every_row_must_have_cannot_be_null():
    schema = shard_schema(Recipe(), 224)
    optional = {field.name for field in schema if field.nullable}
    assert optional == {"label", "class_name", "species", "head_box", "head_box_visible", "trimap"}


@given(recipes())
def test_the_metadata_tell_how_to_read_the_pixels(recipe):
    metadata = metadata_of(recipe)
    assert metadata["layout"] == "HWC"
    assert (metadata["dtype"], metadata["channels"]) == (recipe.dtype, recipe.channels)
    assert (metadata["encoding"], metadata["resolution"]) == (recipe.encoding, 224)
    assert metadata["class_names"] == ["Abyssinian", "beagle"]
    assert metadata["recipe"] == json.loads(recipe.canonical())
    assert metadata["recipe_fingerprint"] == recipe.fingerprint()
    assert metadata["format_version"] == 1


def test_the_metadata_are_one_key_and_the_same_every_time():
    arguments = {"dataset": "pets", "resolution": 8, "class_names": ("a",), "shard": "s", "inputs": "i"}
    assert list(shard_metadata(recipe=Recipe(), **arguments)) == [METADATA_KEY]
    assert shard_metadata(recipe=Recipe(), **arguments) == shard_metadata(recipe=Recipe(), **arguments)


def test_the_metadata_of_shards_differ_by_shard():
    assert metadata_of(Recipe(), shard="test-00001.parquet") != metadata_of(Recipe())
    assert metadata_of(Recipe(), inputs="cd" * 32) != metadata_of(Recipe())


def test_a_reject_has_a_reason_and_a_detail():
    assert REJECTS_SCHEMA.names == [
        *("image_id", "source_key", "source_sha256", "split", "class_name", "reason", "detail"),
    ]
    assert {field.name for field in REJECTS_SCHEMA if field.nullable} == {"class_name"}
