"""What the flow and the driver hand each other: read back as written, refused when it is something else."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageshards.errors import ConfigError
from imageshards.index import IndexInfo, IndexRow, index_rows, read_index, write_index
from imageshards.job import (
    LINE_PREFIX,
    JobResult,
    JobSpec,
    Population,
    VersionResult,
    count_population,
    driver_line,
    parse_driver_line,
)
from imageshards.plan import left_out_rule, split_of
from imageshards.shard_file import Reject, ShardResult
from imageshards.store import StoreSpec
from tests.imageshards.recipes import recipes

SPEC = {
    "spec_version": 1,
    "dataset": "pets",
    "index_key": "raw/pets/index/a.parquet",
    "raw_store": {"url": "s3://raw-bucket/prefix", "endpoint_url": "http://127.0.0.1:7480", "credentials_env": "RAW_"},
    "store": {"url": "s3://bucket/prefix", "region": "eu-west-1"},
    "resolutions": [224, 384],
    "recipe": {"fit": "letterbox"},
    "result_key": "runs/1/result.json",
}
URI = "s3://bucket/prefix/runs/1/spec.json"

REJECT = Reject("beagle_116", "raw/k.jpg", "a" * 64, "trainval", None, "truncated", "premature end")
SHARD = ShardResult(224, "test-00000.parquet", "test", 6, 2, 999, "b" * 64, "c" * 64, (REJECT,), {"misnamed": 1})


def spec_json(**changes: object) -> bytes:
    return json.dumps({name: value for name, value in (SPEC | changes).items() if value is not ...}).encode()


@given(recipes(), st.booleans())
def test_a_spec_is_read_back_as_written(recipe, keep_unlisted):
    spec = JobSpec(**(SPEC | {"recipe": recipe, "keep_unlisted": keep_unlisted}))
    found = JobSpec.from_json(spec.model_dump_json(indent=1).encode(), uri=URI)
    assert found == spec
    assert found.recipe.fingerprint() == recipe.fingerprint()
    assert isinstance(found.store, StoreSpec)


@pytest.mark.parametrize(
    "changes",
    {
        "an unknown key": {"secret": "x"},
        "an unknown key of the recipe": {"recipe": {"sharpen": 1}},
        "an unknown key of a store": {"store": {"url": "data", "secret_access_key": "x"}},
        "a key missing": {"dataset": ...},
        "no resolution": {"resolutions": []},
        "a resolution of zero": {"resolutions": [224, 0]},
        "a resolution beyond any": {"resolutions": [1_000_000]},
        "a resolution that is no number": {"resolutions": ["large"]},
    }.items(),
    ids=lambda item: item[0],
)
def test_a_spec_that_cannot_be_right_is_refused(changes):
    with pytest.raises(ConfigError, match=rf"{URI} is no job spec: "):
        JobSpec.from_json(spec_json(**changes[1]), uri=URI)


@pytest.mark.parametrize("data", [b"", b"[]", b"3", b"null", b'"text"', b"\xff\xfe", b"{"])
def test_what_is_no_json_object_is_no_spec(data):
    with pytest.raises(ConfigError, match=URI):
        JobSpec.from_json(data, uri=URI)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_spec_of_another_version_is_refused_with_what_to_do(version):
    with pytest.raises(ConfigError, match="use the same version of imageshards on both sides"):
        JobSpec.from_json(spec_json(spec_version=version), uri=URI)


def test_an_impossible_store_keeps_its_own_error():
    with pytest.raises(ConfigError, match="ftp"):
        JobSpec.from_json(spec_json(store={"url": "ftp://host/x"}), uri=URI)


def test_a_spec_cannot_be_changed():
    spec = JobSpec.from_json(spec_json(), uri=URI)
    with pytest.raises(ValueError, match="frozen"):
        spec.dataset = "other"


def test_a_result_is_read_back_as_written():
    versions = (
        VersionResult(224, "f" * 32, (SHARD, SHARD), None),
        VersionResult(384, "e" * 32, (), {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}),
    )
    result = JobResult(versions, 1.5, {"pillow": "13.0.0"})
    assert JobResult.from_json(result.to_json()) == result


def test_a_result_counts_the_shards_that_were_reused():
    reused = dataclasses.replace(SHARD, reused=True)
    failed = dataclasses.replace(SHARD, reuse_problem="gone")
    versions = (VersionResult(224, "f" * 32, (SHARD, reused, reused)), VersionResult(384, "e" * 32, (reused, failed)))
    result = JobResult.from_json(JobResult(versions, 1.5, {}).to_json())
    assert [version.reused for version in result.versions] == [2, 1]
    assert (result.reused, result.shards) == (3, 5)
    assert result.versions[1].shards[1].reuse_problem == "gone"


@given(st.sampled_from(["log", "progress", "error"]), st.dictionaries(st.text(), st.text() | st.integers()))
def test_a_line_for_the_waiting_task_is_read_back_whatever_stands_before_it(kind, content):
    content = {name: value for name, value in content.items() if name not in {"kind"}}
    line = driver_line(kind, **content)
    assert "\n" not in line
    for before in ("", "(driver pid=12) ", "2026-01-01 INFO "):
        assert parse_driver_line(before + line + "\n") == {"kind": kind, **content}


@pytest.mark.parametrize(
    "line", ["", "hello", f"{LINE_PREFIX} no json", f"{LINE_PREFIX} [1]", f"{LINE_PREFIX}", '{"a": 1}']
)
def test_other_lines_are_not_for_the_waiting_task(line):
    assert parse_driver_line(line) is None


images = st.builds(
    IndexRow,
    image_id=st.uuids().map(str),
    member=st.just("m.jpg"),
    source_key=st.just("k"),
    source_sha256=st.just("s"),
    source_size_bytes=st.just(1),
    label=st.sampled_from([None, 0, 1]),
    split=st.sampled_from([None, "trainval", "test"]),
    left_out=st.sampled_from([None, "member-too-large"]),
)


@given(st.lists(images, max_size=30, unique_by=lambda row: row.image_id), st.booleans())
def test_every_image_is_counted_once_in_a_split_or_under_a_rule(tmp_path_factory, rows, keep_unlisted):
    from imageshards.store import open_store

    store = open_store(str(tmp_path_factory.getbasetemp() / "population"))
    info = IndexInfo("raw/pets/index/a.parquet", "d", "pets", len(rows), (), {}, "a", "b")
    write_index(store, rows, info=info)
    population = count_population(store, info.key, keep_unlisted=keep_unlisted)
    assert sum(population.splits.values()) + sum(population.left_out.values()) == len(rows)
    splits = [split_of(row, keep_unlisted=keep_unlisted) for row in rows]
    rules = [left_out_rule(row, keep_unlisted=keep_unlisted) for row in rows]
    assert population == Population(
        {split: splits.count(split) for split in sorted({split for split in splits if split})},
        {rule: rules.count(rule) for rule in sorted({rule for rule in rules if rule})},
    )


def test_the_drawn_sample_is_counted(drawn):
    expected = drawn.expected
    population = count_population(drawn.store, drawn.info.key, keep_unlisted=False)
    assert population.splits == {"test": expected["test"], "trainval": expected["trainval"]}
    assert population.left_out == {"no-split": 3}
    kept = count_population(drawn.store, drawn.info.key, keep_unlisted=True)
    assert kept.splits["unlisted"] == 3
    assert kept.left_out == {}
    assert len(index_rows(read_index(drawn.store, drawn.info.key))) == drawn.info.images
