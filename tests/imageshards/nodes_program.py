"""Builds an augmented dataset on a Ray node of one CPU, then on two such nodes in the opposite order.

Usage: nodes_program.py FOLDER. The shards go to FOLDER/1 and FOLDER/2; prints for both how many units each node built.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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
from imageshards.plan import Unit, plan_units
from imageshards.ray_driver import RayBackend
from imageshards.recipe import Augment, Recipe
from imageshards.run_job import plan_build
from imageshards.sample import SampleSpec, write_sample
from imageshards.shard_inputs import Build
from imageshards.store import StoreSpec, open_store
from imageshards.upload import upload

FOLDER = Path(sys.argv[1])
RESOLUTIONS = (32, 48, 64)
MEETING_SECONDS = 120
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


def meeting_build(folder: Path, nodes: int) -> Callable[..., dict[str, Any]]:
    """`run_build`, begun on no node before all nodes are at it: a quick one cannot do the work of all."""

    def build_there(build: Any, unit: Any, *where: Any) -> dict[str, Any]:
        node = folder / ray.get_runtime_context().get_node_id()
        node.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + MEETING_SECONDS
        while len(list(folder.iterdir())) < nodes and time.monotonic() < deadline:
            time.sleep(0.01)
        (node / f"{unit.name} {unit.resolutions}".replace("/", " of ")).touch()
        return worker.run_build(build, unit, *where)

    return build_there


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster that this process joined. Ray's files, its note of the last cluster among them, lie apart."""
    with tempfile.TemporaryDirectory(prefix="rayt-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.environ["RAY_TMPDIR"] = folder  # short: the path of a socket has at most 107 characters
        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        try:
            ray.init(address=cluster.address, log_to_driver=False)
            yield cluster
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
    with running_cluster() as cluster:
        one = run(1, build, units, store.spec)
        cluster.add_node(**NODE)
        two = run(2, build, list(reversed(units)), store.spec)
    print(json.dumps([one, two]))  # noqa: T201


def run(nodes: int, build: Build, units: Sequence[Unit], raw_store: StoreSpec) -> list[int]:
    """Build all units; how many each node built."""
    notes = FOLDER / f"notes-{nodes}"
    out = open_store(str(FOLDER / str(nodes))).spec
    executor = Executor(RayBackend(), raw_store, out, lambda _: None, build_function=meeting_build(notes, nodes))
    executor.build(build, units, lambda _, __: None)
    return sorted(len(list(node.iterdir())) for node in notes.iterdir())


if __name__ == "__main__":
    main()
