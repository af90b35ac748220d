"""What a shard is made from: the hash of it changes with all that its bytes follow from, and with nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from imageshards import plan
from imageshards.index import IndexRow
from imageshards.plan import Unit, bucket_of, shard_name
from imageshards.recipe import Recipe
from imageshards.schema import METADATA_KEY
from imageshards.shard_inputs import Build, Version, planned_shards
from imageshards.shards import unit_rows
from imageshards.store import open_store
from imageshards.transform import ChannelStatistics
from tests.imageshards.small_dataset import Drawn, build_drawn, plan_drawn


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """One shard of each split at 16 px, four at 32 px."""
    monkeypatch.setattr(plan, "MAX_SHARD_BYTES", 32 * 32 * 4 * 10)


@pytest.fixture
def planned(faultless: Drawn) -> tuple[Build, Unit, list[IndexRow]]:
    build, units = plan_drawn(faultless, resolutions=(16, 32))
    unit = next(unit for unit in units if unit.split == "trainval")
    return build, unit, unit_rows(build, unit, faultless.store)


def inputs(build: Build, unit: Unit, rows: list[IndexRow]) -> dict[tuple[int, str], str]:
    return {(shard.version.resolution, shard.name): shard.inputs for shard in planned_shards(build, unit, rows)}


def test_a_unit_has_the_shards_of_its_bucket_at_each_of_its_resolutions(planned):
    build, unit, rows = planned
    found = planned_shards(build, unit, rows)
    assert [(shard.version.resolution, shard.number) for shard in found] == [(16, 0), *((32, n) for n in range(4))]
    assert [shard.name for shard in found[:2]] == ["trainval-00000.parquet"] * 2
    assert found[0].key == f"shards/{build.dataset}/16/{build.versions[0].fingerprint}/trainval-00000.parquet"
    assert len({shard.inputs for shard in found}) == 5
    alone = planned_shards(build, replace(unit, resolutions=(32,)), rows)
    assert alone == found[1:]


def test_a_shard_says_what_it_was_planned_from(faultless, tmp_path):
    built = build_drawn(faultless, open_store(str(tmp_path)), resolutions=(16, 32))
    for unit in built.units:
        for shard in planned_shards(built.build, unit, unit_rows(built.build, unit, faultless.store)):
            footer = pq.read_metadata(built.path(shard.name, shard.version.resolution)).metadata[METADATA_KEY]
            assert json.loads(footer)["inputs"] == shard.inputs


def test_an_image_enters_the_shards_that_it_goes_to_alone(planned):
    build, unit, rows = planned
    changed = [*rows[:3], replace(rows[3], source_sha256="0" * 64), *rows[4:]]
    before, after = inputs(build, unit, rows), inputs(build, unit, changed)
    number = bucket_of(rows[3].sample_hash, 4)
    different = {name for name in before if before[name] != after[name]}
    assert different == {(16, shard_name("trainval", 0)), (32, shard_name("trainval", number))}


def with_version(change: Callable[[Version], Version]) -> Callable[[Build], Build]:
    return lambda build: replace(build, versions=tuple(change(version) for version in build.versions))


STATISTICS = ChannelStatistics((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))

FOLLOWS_FROM: dict[str, Callable[[Build], Build]] = {
    "recipe": lambda build: replace(build, recipe=Recipe(fit="letterbox")),
    "class names": lambda build: replace(build, class_names=("x", *build.class_names[1:])),
    "statistics": with_version(lambda version: replace(version, statistics=STATISTICS)),
}


@pytest.mark.parametrize("what", FOLLOWS_FROM)
def test_the_inputs_of_every_shard_change_with(planned, what):
    build, unit, rows = planned
    assert not set(inputs(build, unit, rows).values()) & set(inputs(FOLLOWS_FROM[what](build), unit, rows).values())


INDEPENDENT_OF: dict[str, Callable[[Build], Build]] = {
    "fingerprint": with_version(lambda version: replace(version, fingerprint="another")),
    "index": lambda build: replace(build, index_key="another"),
    "what becomes of unlisted images": lambda build: replace(build, keep_unlisted=True),
    "poison elsewhere": lambda build: replace(build, poison={"nobody_1": "killed its worker"}),
}


@pytest.mark.parametrize("what", INDEPENDENT_OF)
def test_the_inputs_do_not_depend_on(planned, what):
    build, unit, rows = planned
    assert inputs(INDEPENDENT_OF[what](build), unit, rows) == inputs(build, unit, rows)


def test_an_image_that_is_rejected_unseen_changes_its_shards(planned):
    build, unit, rows = planned
    poisoned = replace(build, poison={rows[0].image_id: "killed its worker"})
    before, after = inputs(build, unit, rows), inputs(poisoned, unit, rows)
    assert len({name for name in before if before[name] != after[name]}) == 2


def test_a_changed_number_of_shards_changes_them_all(planned):
    build, unit, rows = planned
    fewer = replace(build, versions=tuple(replace(each, shards={"trainval": 1}) for each in build.versions[1:]))
    assert not set(inputs(fewer, unit, rows).values()) & set(inputs(build, unit, rows).values())
