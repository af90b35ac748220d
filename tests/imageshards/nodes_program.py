"""Builds an augmented dataset on a Ray cluster of nodes of one CPU. Usage: nodes_program.py FOLDER NODES [reversed].

Prints how many units each node built, as a JSON list.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from imageshards import plan, worker
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

FOLDER, NODES, REVERSED = Path(sys.argv[1]), int(sys.argv[2]), len(sys.argv) > 3
RESOLUTIONS = (32, 48, 64)
MEETING_SECONDS = 60
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}

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


def meeting_build(build: Any, unit: Any, raw_store: Any, store: Any) -> dict[str, Any]:
    """`run_build`, begun on no node before all nodes are at it: a quick one cannot do the work of all."""
    node = FOLDER / "nodes" / ray.get_runtime_context().get_node_id()
    node.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + MEETING_SECONDS
    while len(list(node.parent.iterdir())) < NODES and time.monotonic() < deadline:
        time.sleep(0.01)
    (node / f"{unit.name} {unit.resolutions}".replace("/", " of ")).touch()
    return worker.run_build(build, unit, raw_store, store)


@contextmanager
def running_cluster() -> Iterator[None]:
    """The nodes, and this process joined to them. Ray's files, its note of the last cluster among them, lie apart."""
    with tempfile.TemporaryDirectory(prefix="rayt-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.environ["RAY_TMPDIR"] = folder  # short: the path of a socket has at most 107 characters
        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        for _ in range(NODES - 1):
            cluster.add_node(**NODE)
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()
            cluster.shutdown()


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
    plan.MAX_SHARD_BYTES = 1 << 20
    population = count_population(store, key, keep_unlisted=False)
    build = plan_build(spec, read_index_info(store, key), population)
    units = plan_units(population.splits, RECIPE, RESOLUTIONS)
    with running_cluster():
        executor = Executor(RayBackend(), store.spec, store.spec, lambda _: None, build_function=meeting_build)
        executor.build(build, reversed(units) if REVERSED else units, lambda _, __: None)
    built = Counter(path.parent.name for path in (FOLDER / "nodes").glob("*/*"))
    print(json.dumps(sorted(built.values())))  # noqa: T201


if __name__ == "__main__":
    main()
