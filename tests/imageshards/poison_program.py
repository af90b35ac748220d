"""Builds a small dataset on a real local Ray, with images that kill the process that touches them.

Usage: python poison_program.py FOLDER IMAGE_ID …   prints one JSON line: rejects, log, rows.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import ray

from imageshards import worker
from imageshards.executor import Executor
from imageshards.fetch import Source, fetch
from imageshards.index import read_index_info
from imageshards.job import JobSpec, count_population
from imageshards.plan import plan_units
from imageshards.ray_driver import RayBackend
from imageshards.recipe import Recipe
from imageshards.run_job import plan_build, run_job
from imageshards.sample import SampleSpec, write_sample
from imageshards.shards import unit_rows
from imageshards.store import open_store
from imageshards.upload import upload

FOLDER, POISON = Path(sys.argv[1]), frozenset(sys.argv[2:])


def deadly_build(build: Any, unit: Any, raw_store: Any, store: Any, published: Any) -> dict[str, Any]:
    """`run_build` in a world where some images kill."""
    rows = unit_rows(build, unit, open_store(raw_store))
    if any(row.image_id in POISON - build.poison.keys() for row in rows):
        os._exit(1)
    return worker.run_build(build, unit, raw_store, store, published)


def deadly_probe(build: Any, unit: Any, rows: Any, raw_store: Any) -> dict[str, Any]:
    """`run_probe` in the same world."""
    if any(row.image_id in POISON for row in rows):
        os._exit(1)
    return worker.run_probe(build, unit, rows, raw_store)


def main() -> None:
    sample = write_sample(FOLDER / "sample", SampleSpec(per_class=2, median_long_side_px=60))
    store = open_store(str(FOLDER / "store"))
    images, annotations = (fetch(Source(str(path)), FOLDER) for path in (sample.images, sample.annotations))
    key = upload(images, annotations, store, dataset="d").index.key
    spec = JobSpec(
        dataset="d",
        index_key=key,
        raw_store=store.spec,
        store=store.spec,
        resolutions=(32,),
        recipe=Recipe(),
        result_key="result.json",
    )
    population = count_population(store, key, keep_unlisted=False)
    build = plan_build(spec, read_index_info(store, key), population)
    log: list[str] = []
    results: list[Any] = []
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    executor = Executor(
        RayBackend(), store.spec, store.spec, log.append, build_function=deadly_build, probe_function=deadly_probe
    )
    executor.build(build, plan_units(population.splits, Recipe(), (32,)), lambda _, found: results.extend(found))
    again = run_job(spec, RayBackend()).versions[0].shards  # finds the shards, in a world where nothing kills
    ray.shutdown()
    told = {"rejects": rejects_of(results), "log": log, "rows": sum(result.rows for result in results)}
    print(json.dumps({**told, "again": rejects_of(again)}))  # noqa: T201


def rejects_of(results: Any) -> dict[str, str]:
    return {reject.image_id: reject.reason for result in results for reject in result.rejects}


if __name__ == "__main__":
    main()
