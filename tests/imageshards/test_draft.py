"""The draft: a manifest that says what was validated, and nothing that it was not told."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pyarrow.parquet as pq
import pytest

from imageshards.draft import draft_manifest
from imageshards.job import JobResult
from imageshards.manifest import Manifest, publish_manifest, read_manifest
from imageshards.oxford_pets import DATASET
from imageshards.recipe import Recipe
from imageshards.sources import sources_of
from imageshards.store import open_store
from imageshards.validate import validate_version
from tests.imageshards.small_dataset import Built, build_drawn

SOFTWARE = {"pillow": "13.0.0"}
CREATED_AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


@pytest.fixture(scope="module")
def built(drawn, tmp_path_factory) -> Built:
    return build_drawn(drawn, open_store(str(tmp_path_factory.mktemp("draft"))))


def draft(built: Built, **changes: object) -> Manifest:
    subject = built.subject()
    findings = validate_version(subject, raw_store=built.drawn.store, store=built.store)
    arguments = {
        "archives": sources_of(built.drawn.archives),
        "raw_store_url": built.drawn.store.url,
        "built": JobResult((built.version,), 1.0, SOFTWARE),
        "created_at": CREATED_AT,
    }
    return draft_manifest(subject, findings, **(arguments | changes))


def test_the_counts_add_up(drawn, built):
    manifest = draft(built)
    assert manifest.images == drawn.info.images
    assert manifest.images == manifest.samples + sum(manifest.rejects.values()) + sum(manifest.left_out.values())
    assert manifest.rows == sum(manifest.splits.values()) == sum(shard.rows for shard in manifest.shards)
    assert {split: sum(counts.values()) for split, counts in manifest.classes.items()} == manifest.splits
    assert (manifest.rejects, manifest.left_out) == ({"truncated": 1}, {"no-split": 3})
    assert manifest.repairs["misnamed"] == 2


def test_every_shard_is_named_by_its_key_with_its_digest(built):
    manifest = draft(built)
    assert [(entry.path, entry.sha256) for entry in manifest.shards] == [
        (built.key(shard.name), shard.sha256) for shard in built.shards
    ]
    for entry in manifest.shards:
        path = built.store.local_path(entry.path)
        assert path is not None
        assert pq.read_metadata(path).num_rows == entry.rows
        assert path.stat().st_size == entry.size_bytes


def test_the_sources_are_those_of_the_archives(drawn, built):
    manifest = draft(built)
    assert {what: source.sha256 for what, source in manifest.sources.items()} == {
        "images": drawn.info.images_sha256,
        "annotations": drawn.info.annotations_sha256,
    }
    assert (manifest.index, manifest.index_digest) == (drawn.info.key, drawn.info.digest)
    assert manifest.raw_store == drawn.store.url
    assert manifest.software == SOFTWARE


def test_the_recipe_is_in_its_canonical_form(built):
    manifest = draft(built)
    assert manifest.recipe == json.loads(Recipe().canonical())
    assert manifest.recipe_fingerprint == Recipe().fingerprint()
    assert (manifest.dtype, manifest.channels, manifest.encoding) == ("uint8", 3, "raw")


def test_every_check_is_in_it(built):
    manifest = draft(built)
    assert {check.name for check in manifest.checks} >= {"accounting", "annotations", "shard-digest"}
    assert all(check.passed for check in manifest.checks)


@pytest.mark.parametrize(
    ("created_at", "written"),
    [
        (CREATED_AT, "2026-01-02T03:04:05+00:00"),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T00:00:00+02:00"),
    ],
)
def test_the_time_of_publication_has_its_zone(built, created_at, written):
    assert draft(built, created_at=created_at).created_at == written


def test_a_draft_is_published_and_read_back(built):
    manifest = publish_manifest(built.store, draft(built))
    assert manifest == read_manifest(built.store, DATASET, 32, built.version.fingerprint) == draft(built)


def test_measured_statistics_are_in_it(drawn, tmp_path):
    recipe = Recipe(dtype="float32", normalize="dataset")
    built = build_drawn(drawn, open_store(str(tmp_path)), recipe=recipe)
    manifest = draft(built)
    assert manifest.normalization is not None
    assert len(manifest.normalization.mean) == len(manifest.normalization.std) == 3
    assert all(0 < value < 1 for value in (*manifest.normalization.mean, *manifest.normalization.std))


def test_without_measured_statistics_there_are_none(built):
    assert draft(built).normalization is None
