"""Builds an augmented dataset on a real local Ray. Usage: workers_program.py FOLDER CPUS [reversed]."""

from __future__ import annotations

import sys
from pathlib import Path

import ray

from imageshards.executor import Executor
from imageshards.fetch import Source, fetch
from imageshards.index import read_index_info
from imageshards.job import JobSpec, count_population
from imageshards.plan import plan_units
from imageshards.ray_driver import RayBackend, plan_build
from imageshards.recipe import Augment, Recipe
from imageshards.sample import SampleSpec, write_sample
from imageshards.store import open_store
from imageshards.upload import upload

FOLDER, CPUS, REVERSED = Path(sys.argv[1]), int(sys.argv[2]), len(sys.argv) > 3
RESOLUTIONS = (32, 48, 64)

RECIPE = Recipe(
    augment=Augment(
        copies=2,
        seed=7,
        horizontal_flip=0.5,
        rotation_degrees=20,
        crop_scale=(0.5, 1.0),
        brightness=(0.7, 1.3),
        hue=0.1,
        noise_sigma=(0.0, 0.1),
    )
)


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
        resolutions=RESOLUTIONS,
        recipe=RECIPE,
        result_key="result.json",
    )
    population = count_population(store, key, keep_unlisted=False)
    build = plan_build(spec, read_index_info(store, key), population)
    units = plan_units(population.splits, RECIPE, RESOLUTIONS)
    ray.init(
        address="local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20
    )
    executor = Executor(RayBackend(), store.spec, store.spec, lambda _: None)
    executor.build(build, reversed(units) if REVERSED else units, lambda _, __: None)
    ray.shutdown()


if __name__ == "__main__":
    main()
