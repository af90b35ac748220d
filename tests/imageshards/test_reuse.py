"""Reuse: only a shard whose bytes are those that were published is copied; its copy appears as a whole."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from imageshards import plan
from imageshards.manifest import read_manifest_head
from imageshards.oxford_pets import DATASET
from imageshards.reuse import Published, PublishedShard, Reuse, find_published, reuse_shards
from imageshards.shard_file import ShardResult
from imageshards.shard_inputs import PlannedShard, planned_shards
from imageshards.shards import build_unit, unit_rows
from imageshards.store import Store, open_store
from tests.imageshards.nights import night
from tests.imageshards.small_dataset import Built, Drawn, build_drawn

RESOLUTION = 32


@dataclass(frozen=True)
class Case:
    """A published shard, and the same planned for another version."""

    built: Built
    store: Store
    result: ShardResult
    planned: PlannedShard
    published: PublishedShard

    def reuse(self, **changes: str) -> Reuse:
        return reuse_shards([self.planned], [replace(self.published, **changes)], self.store)

    def problem(self, **changes: str) -> str:
        """Why the shard was not copied; it was not."""
        found = self.reuse(**changes)
        assert found.results == {}
        assert not self.store.exists(self.planned.key)
        return found.problems[self.planned.key]


@pytest.fixture(scope="module")
def built(faultless: Drawn, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_drawn(faultless, open_store(str(tmp_path_factory.mktemp("built"))))


@pytest.fixture
def case_in(built: Built) -> Callable[[Store], Case]:
    """Puts the case into a store."""

    def make(store: Store) -> Case:
        result = built.shards[0]
        key = built.key(result.name)
        store.put(key, built.store.get(key))
        version = replace(built.build.versions[0], fingerprint="next")
        build = replace(built.build, versions=(version,))
        unit = next(unit for unit in built.units if unit.split == result.split)
        (planned,) = planned_shards(build, unit, unit_rows(build, unit, built.drawn.store))
        return Case(built, store, result, planned, PublishedShard(key, result.inputs, result.sha256))

    return make


@pytest.fixture
def case(store: Store, case_in: Callable[[Store], Case]) -> Case:
    """On each backend in turn."""
    return case_in(store)


@pytest.fixture
def folder_case(folder_store: Store, case_in: Callable[[Store], Case]) -> Case:
    return case_in(folder_store)


def test_a_shard_with_the_same_inputs_is_copied_and_says_so(case: Case) -> None:
    found = case.reuse()
    assert found.problems == {}
    assert found.results == {case.planned.key: case.result}
    assert found.results[case.planned.key].reused
    assert not case.result.reused
    assert case.store.get(case.planned.key) == case.store.get(case.published.key)


def test_a_copy_takes_the_place_of_what_an_earlier_run_left(case: Case) -> None:
    case.store.put(case.planned.key, b"half a shard")
    assert case.reuse().results
    assert case.reuse().results, "it is copied again after a worker was lost"
    assert case.store.get(case.planned.key) == case.store.get(case.published.key)


def test_a_shard_with_other_inputs_is_left_alone(case: Case) -> None:
    assert case.reuse(inputs="0" * 64) == Reuse({}, {})
    assert not case.store.exists(case.planned.key)


def test_a_shard_that_is_gone_is_not_copied(case: Case) -> None:
    case.store.delete(case.published.key)
    assert case.store.uri(case.published.key) in case.problem()


def test_a_shard_of_another_digest_is_not_copied(case: Case) -> None:
    assert case.problem(sha256="0" * 64).endswith(f"expected sha256 {'0' * 64}, found {case.result.sha256}")


def test_a_shard_that_says_it_has_other_inputs_is_not_copied(folder_case: Case) -> None:
    other = folder_case.built.shards[1]
    key = folder_case.built.key(other.name)
    folder_case.store.put(key, folder_case.built.store.get(key))
    problem = folder_case.problem(key=key, sha256=other.sha256)
    assert f"expected inputs {folder_case.result.inputs}, found {other.inputs}" in problem


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "/etc/passwd", "a//b"])
def test_a_manifest_that_names_no_key_is_a_problem_of_its_shard_alone(folder_case: Case, key: str) -> None:
    assert folder_case.problem(key=key)


def test_a_copy_over_a_file_never_shows_a_part_of_either(folder_case: Case) -> None:
    """Whoever reads meanwhile has one or the other: the link is made beside the file and renamed over it."""
    path = folder_case.store.local_path(folder_case.planned.key)
    source = folder_case.store.local_path(folder_case.published.key)
    assert path is not None
    assert source is not None
    folder_case.store.put(folder_case.planned.key, b"before")
    with path.open("rb") as reader:
        assert folder_case.reuse().results
        assert reader.read() == b"before"
    assert path.samefile(source)


def test_what_a_killed_copy_left_is_in_nobodys_way_and_no_shard(folder_case: Case) -> None:
    source = folder_case.store.local_path(folder_case.published.key)
    path = folder_case.store.local_path(folder_case.planned.key)
    assert path is not None
    assert source is not None
    path.parent.mkdir()
    path.with_name(f"{path.name}#0").hardlink_to(source)
    folder = folder_case.planned.key.rpartition("/")[0]
    assert list(folder_case.store.list(folder)) == []
    assert folder_case.reuse().results
    assert [info.key for info in folder_case.store.list(folder)] == [folder_case.planned.key]


def test_a_shard_that_is_built_over_a_copy_leaves_the_source_as_it_is(folder_case: Case) -> None:
    """A copy in a folder is a second name of the same file: whoever wrote into it would change what is published."""
    assert folder_case.reuse().results
    before = folder_case.store.get(folder_case.published.key)
    build = replace(folder_case.built.build, versions=(folder_case.planned.version,), class_names=("other",) * 37)
    unit = next(unit for unit in folder_case.built.units if unit.split == folder_case.result.split)
    build_unit(build, unit, raw_store=folder_case.built.drawn.store, store=folder_case.store)
    assert folder_case.store.get(folder_case.planned.key) != before
    assert folder_case.store.get(folder_case.published.key) == before


def test_nothing_is_published_in_an_empty_store(store: Store) -> None:
    said: list[str] = []
    assert len(find_published(store, "pets", RESOLUTION, fingerprint="a", software={}, log=said.append)) == 0
    assert said == []


def test_what_was_published_is_found_by_name_shards_of_a_long_list_too(
    faultless: Drawn, folder_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MAX_SHARD_BYTES", 32 * 32 * 4 * 10)
    before = night(faultless, folder_store, resolutions=(RESOLUTION,))
    (manifest,) = before.publish(shards_inline=3)
    assert len(read_manifest_head(folder_store, DATASET, RESOLUTION, manifest.fingerprint).shard_parts) == 3
    software = before.result.software

    def find(fingerprint: str) -> Published:
        return find_published(
            folder_store, DATASET, RESOLUTION, fingerprint=fingerprint, software=software, log=pytest.fail
        )

    found = find("another")
    shards = before.result.versions[0].shards
    assert len(found) == len(shards) == 8
    for shard in shards:
        key = before.key(shard.name, RESOLUTION)
        assert found.shard(shard.name) == PublishedShard(key, shard.inputs, shard.sha256)
    assert found.shard("test-00099.parquet") is None
    assert len(find(manifest.fingerprint)) == 0, "a version never copies from itself"


def test_what_a_task_gets_can_be_pickled(folder_case: Case) -> None:
    assert pickle.loads(pickle.dumps(folder_case.published)) == folder_case.published
