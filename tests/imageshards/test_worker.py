"""What a Ray task runs: plain values in, plain values out, errors of ours as data with their type."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from imageshards import plan, worker
from imageshards.errors import ObjectMissingError, StoreError, error_from_dict
from imageshards.index import index_rows, read_index
from imageshards.recipe import Recipe
from imageshards.shards import unit_rows
from imageshards.store import Store, open_store
from tests.imageshards.small_dataset import build_drawn, plan_drawn, tree


@pytest.fixture
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr(plan, "MAX_SHARD_BYTES", 32 * 32 * 4 * 32)


@pytest.fixture
def out(tmp_path) -> Store:
    return open_store(str(tmp_path / "out"))


def test_building_gives_the_results_and_writes_the_shards(small_shards, drawn, out, tmp_path):
    build, units = plan_drawn(drawn)
    results = [worker.run_build(build, unit, drawn.store.spec, out.spec) for unit in units]
    found = [shard for result in results for shard in result["ok"]]
    expected = build_drawn(drawn, open_store(str(tmp_path / "expected")))
    assert sorted(found, key=lambda shard: shard.name) == list(expected.shards)
    assert {key: data for key, data in tree(expected.store).items() if "rejects" not in key} == tree(out)


def test_all_that_crosses_the_process_boundary_can_be_pickled(drawn, out):
    build, units = plan_drawn(drawn)
    rows = unit_rows(build, units[0], drawn.store)
    arguments = (build, units[0], rows, drawn.store.spec, out.spec)
    assert pickle.loads(pickle.dumps(arguments)) == arguments
    for result in (
        worker.run_build(build, units[0], drawn.store.spec, out.spec),
        worker.run_measure(build, units[0], drawn.store.spec),
        worker.run_probe(build, units[0], rows, drawn.store.spec),
        worker.run_inspect(build, units[0], out.spec),
    ):
        assert pickle.loads(pickle.dumps(result)) == result
        assert list(result) == ["ok"]


@pytest.mark.parametrize("function", [worker.run_build, worker.run_measure, worker.run_probe, worker.run_inspect])
def test_functions_travel_by_name(function):
    assert pickle.loads(pickle.dumps(function)) is function


def test_inspecting_finished_shards_tells_what_building_told(small_shards, drawn, out):
    built = build_drawn(drawn, out, resolutions=(24, 32))
    found = [shard for unit in built.units for shard in worker.run_inspect(built.build, unit, out.spec)["ok"]]
    for resolution, version in built.versions.items():
        ours = [shard for shard in found if shard.resolution == resolution]
        assert sorted(ours, key=lambda shard: shard.name) == list(version.shards)


def test_inspecting_looks_at_the_resolutions_of_the_unit_alone(drawn, out):
    built = build_drawn(drawn, out, resolutions=(24, 32))
    unit = replace(built.units[0], resolutions=(24,))
    assert {shard.resolution for shard in worker.run_inspect(built.build, unit, out.spec)["ok"]} == {24}


def test_inspecting_a_missing_shard_is_an_error_of_ours(drawn, out):
    built = build_drawn(drawn, out)
    out.delete(built.key(built.shards[0].name))
    errors = [worker.run_inspect(built.build, unit, out.spec).get("error") for unit in built.units]
    (error,) = (error_from_dict(error) for error in errors if error)
    assert isinstance(error, StoreError)
    assert built.shards[0].name in error.message


def test_inspecting_a_damaged_shard_is_an_error_of_ours(drawn, out):
    built = build_drawn(drawn, out)
    for shard in built.shards:
        out.put(built.key(shard.name), out.get(built.key(shard.name))[:-9])
    for unit in built.units:
        error = error_from_dict(worker.run_inspect(built.build, unit, out.spec)["error"])
        assert isinstance(error, StoreError)
        assert "delete it and run again" in error.message


def test_an_error_of_ours_comes_back_with_its_type(drawn, out):
    build, units = plan_drawn(drawn)
    elsewhere = replace(build, index_key="raw/oxford-iiit-pet/index/none.parquet")
    rows = unit_rows(build, units[0], drawn.store)
    gone = [replace(rows[0], source_key="raw/gone.jpg")]
    for result in (
        worker.run_build(elsewhere, units[0], drawn.store.spec, out.spec),
        worker.run_measure(elsewhere, units[0], drawn.store.spec),
        worker.run_probe(build, units[0], gone, drawn.store.spec),
    ):
        error = error_from_dict(result["error"])
        assert type(error) is ObjectMissingError
        assert "cannot" in error.message or "gone" in error.message


def test_a_raw_folder_that_this_node_does_not_have_is_an_error_that_says_what_a_cluster_needs(drawn, out, tmp_path):
    build, units = plan_drawn(drawn)
    elsewhere = open_store(str(tmp_path / "elsewhere")).spec
    for result in (
        worker.run_build(build, units[0], elsewhere, out.spec),
        worker.run_measure(build, units[0], elsewhere),
        worker.run_probe(build, units[0], [], elsewhere),
    ):
        error = error_from_dict(result["error"])
        assert type(error) is StoreError
        assert "elsewhere/raw is not there on " in error.message
        assert "all nodes of the Ray cluster share" in error.message
    assert tree(out) == {}


def test_measuring_gives_sums_for_each_resolution(drawn):
    build, units = plan_drawn(drawn, recipe=Recipe(color="gray"), resolutions=(24, 32))
    for unit in units:
        samples = len(unit_rows(build, unit, drawn.store)) - (unit.split == "trainval")  # one is rejected
        sums = worker.run_measure(build, unit, drawn.store.spec)["ok"]
        assert {resolution: part.count for resolution, part in sums.items()} == {
            24: samples * 24 * 24,
            32: samples * 32 * 32,
        }


def test_probing_gives_nothing_and_writes_nothing(drawn, out):
    build, units = plan_drawn(drawn)
    before = tree(drawn.store)
    rows = index_rows(read_index(drawn.store, drawn.info.key))
    listed = [row for row in rows if row.split == units[0].split]
    assert worker.run_probe(build, units[0], listed, drawn.store.spec) == {"ok": None}
    assert tree(drawn.store) == before
    assert tree(out) == {}
