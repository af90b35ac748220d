"""This package's preprocessing step, as the driver runs it: worker start, planning, reading, trimaps, writing, digests.

The start of Ray itself is not timed; it is told besides.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from benchmarks.nodes_of_one_cpu import cluster
from benchmarks.stopwatch import Stopwatch
from imageshards.job import JobResult, JobSpec
from imageshards.ray_driver import RayBackend, start_ray
from imageshards.run_job import run_job


def main() -> None:
    """Run one job spec."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spec", type=Path, required=True, help="a job spec")
    parser.add_argument("--node-cpus", type=int, nargs="+", help="instead: a node for each of these CPUs")
    parser.add_argument("--folder", type=Path, required=True, help="for the files of a Ray of nodes")
    parser.add_argument("--result", type=Path, help="where to put the job's result")
    options = parser.parse_args()
    spec = JobSpec.from_json(options.spec.read_bytes(), uri=str(options.spec))
    started = time.perf_counter()
    with cluster(options.node_cpus, options.folder) if options.node_cpus else _local():
        ray_seconds = time.perf_counter() - started
        with Stopwatch() as stopwatch:
            result = run_job(spec, RayBackend())
            stopwatch.images = _images(result)
            stopwatch.facts = {"ray_seconds": ray_seconds, **_facts(result)}
        if options.result:
            options.result.write_bytes(result.to_json())


@contextmanager
def _local() -> Iterator[None]:
    start_ray("local")
    try:
        yield
    finally:
        ray.shutdown()


def _images(result: JobResult) -> int:
    """Images dealt with, rejects included, each once however many resolutions were built."""
    return sum(shard.samples + len(shard.rejects) for shard in result.versions[0].shards)


def _facts(result: JobResult) -> dict[str, object]:
    shards = [shard for version in result.versions for shard in version.shards]
    digests = sorted([shard.resolution, shard.name, shard.sha256] for shard in shards)
    return {
        "bytes": sum(shard.size_bytes for shard in shards),
        "digest": hashlib.sha256(json.dumps(digests).encode()).hexdigest(),
    }


if __name__ == "__main__":
    main()
