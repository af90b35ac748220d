"""How near the preprocessing step comes to bare decoding and resizing: `python -m benchmarks.throughput`.

Both run on the same files in one go, on all cores: the step as the driver runs it (Ray, reading, writing and all,
worker start included), and decode + resize in plain processes that read from memory and throw the result away. The
ratio is what counts: machines are shared, and differ.
"""

from __future__ import annotations

import argparse
import os
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import ray

from benchmarks.archives import replicate, sample_archives
from imageshards.decode import decode
from imageshards.errors import SampleError
from imageshards.fetch import Source, fetch
from imageshards.job import JobSpec
from imageshards.picture import Picture
from imageshards.ray_driver import RayBackend, run_job
from imageshards.recipe import Recipe
from imageshards.store import open_store
from imageshards.transform import prepare
from imageshards.upload import upload

RESOLUTION = 224
_CHUNK = 64


def bare(files: list[bytes]) -> int:
    """Decode and resize; the number of images that could be."""
    done = 0
    for data in files:
        try:
            pixels = decode(data).pixels
        except SampleError:
            continue
        prepare(Picture(pixels, None, None), Recipe(), resolution=RESOLUTION, image_id="x")
        done += 1
    return done


def measure_bare(images: Path, cpus: int) -> float:
    """Images per second of decode + resize in bare processes, their start not counted."""
    with tarfile.open(images) as tar:
        files = [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]  # type: ignore[union-attr]
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    with ProcessPoolExecutor(cpus, mp_context=get_context("spawn")) as pool:
        list(pool.map(bare, chunks[:cpus]))
        started = time.perf_counter()
        done = sum(pool.map(bare, chunks))
        return done / (time.perf_counter() - started)


def measure_step(images: Path, annotations: Path, folder: Path, cpus: int) -> float:
    """Images per second of the preprocessing step into a folder, worker start included, Ray's own start not."""
    store = open_store(str(folder))
    fetched = [fetch(Source(str(path)), folder) for path in (images, annotations)]
    info = upload(*fetched, store, dataset="bench").index
    spec = JobSpec(
        dataset="bench",
        index_key=info.key,
        raw_store=store.spec,
        store=store.spec,
        resolutions=(RESOLUTION,),
        recipe=Recipe(),
        result_key="result.json",
    )
    ray.init(
        address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20
    )
    try:
        started = time.perf_counter()
        result = run_job(spec, RayBackend())
        seconds = time.perf_counter() - started
    finally:
        ray.shutdown()
    return sum(shard.samples for shard in result.versions[0].shards) / seconds


def main() -> None:
    """Print both rates and their ratio as a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=7400)
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imageshards-bench-") as name:
        folder = Path(name)
        images, annotations = replicate(*sample_archives(folder / "sample"), options.images, folder)
        bare_rate = measure_bare(images, options.cpus)
        step_rate = measure_step(images, annotations, folder / "store", options.cpus)
    sys.stdout.write(
        f"| {options.images:,} images, {options.cpus} CPUs, {RESOLUTION} px | images/s | of bare |\n"
        "| --- | ---: | ---: |\n"
        f"| decode + resize in bare processes | {bare_rate:,.0f} | 100 % |\n"
        f"| preprocessing step into a folder | {step_rate:,.0f} | {step_rate / bare_rate:.0%} |\n"
    )


if __name__ == "__main__":
    main()
