"""What the upload costs: `python -m benchmarks.upload [--images N] [--runs N] [--store URL]`.

Uploads a tar.gz of photographs with their annotations into an S3 store (the one `benchmarks.s3` finds) or a folder, and
beside it puts some of the same files with obstore and with boto3 alone, from memory: nothing read, unpacked or hashed.
Each runs in a process of its own, whose CPU time and peak memory are counted; the server's are not. How busy the CPUs
were is what the kernel says of all that ran on them, the server among it: where they were not, the pass waited. A
server that is started for the while has the same CPUs as the upload.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import boto3
import obstore
from botocore.config import Config

from benchmarks.archives import replicate, sample_archives
from benchmarks.s3 import s3_place
from benchmarks.table import machine, markdown
from imageshards.archive import members
from imageshards.fetch import Source, fetch
from imageshards.store import StoreSpec, open_store
from imageshards.store_s3 import S3Access
from imageshards.upload import upload

_THREADS = 16
_PUTS = {"images.tar.gz": 800, "annotations.tar.gz": 1200}
"""In the proportion of the upload: a small object takes a client less time than a photograph of 100 KB."""

_STAT_IDLE = slice(4, 6)
_STAT_ALL = slice(1, 9)
"""Of a CPU's line in /proc/stat: idle and waiting for a disk; all but the time of guests, which is there twice."""


def run_upload(store: StoreSpec, folder: Path) -> dict[str, Any]:
    """The whole pass, index included; reading the archives once for their digests, as a download does, is not timed."""
    archives = [fetch(Source(str(folder / name)), folder) for name in ("images.tar.gz", "annotations.tar.gz")]
    opened = open_store(store)

    def work() -> tuple[int, int]:
        done = upload(archives[0], archives[1], opened, dataset="bench")
        return done.written, done.written_bytes

    return _measured(work)


def run_obstore(store: StoreSpec, folder: Path) -> dict[str, Any]:
    """Bare puts with obstore, create-if-absent."""
    where = urlsplit(store.url)
    client = S3Access.of(store, where.netloc, None).client()
    prefix = where.path.strip("/")
    return _puts(folder, lambda name, data: obstore.put(client, f"{prefix}/obstore/{name}", data, mode="create"))


def run_boto3(store: StoreSpec, folder: Path) -> dict[str, Any]:
    """Bare puts with boto3."""
    where = urlsplit(store.url)
    client = boto3.client(
        "s3",
        endpoint_url=store.endpoint_url,
        region_name=store.region,
        config=Config(max_pool_connections=_THREADS, request_checksum_calculation="when_required"),
    )
    prefix = where.path.strip("/")
    return _puts(
        folder, lambda name, data: client.put_object(Bucket=where.netloc, Key=f"{prefix}/boto3/{name}", Body=data)
    )


def _puts(folder: Path, put: Callable[[str, bytes], Any]) -> dict[str, Any]:
    some = (itertools.islice(members(folder / name), count) for name, count in _PUTS.items())
    files = [(member.name, data) for member, data in itertools.chain.from_iterable(some) if data]

    def work() -> tuple[int, int]:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda file: put(*file), files))
        return len(files), sum(len(data) for _, data in files)

    return _measured(work)


def _measured(work: Callable[[], tuple[int, int]]) -> dict[str, Any]:
    cpus = os.sched_getaffinity(0)
    started, cpu, (idle, ticks) = time.perf_counter(), time.process_time(), _idle_and_all(cpus)
    objects, size_bytes = work()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    idle_after, ticks_after = _idle_and_all(cpus)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "objects": objects,
        "bytes": size_bytes,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "busy": 1 - (idle_after - idle) / max(1, ticks_after - ticks),
        "peak_mb": peak,
    }


def _idle_and_all(cpus: Set[int]) -> tuple[int, int]:
    """Ticks that the CPUs were idle, and all of their ticks, since the machine started."""
    names = {f"cpu{cpu}" for cpu in cpus}
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    mine = [words for words in lines if words and words[0] in names]
    return tuple(sum(sum(map(int, words[part])) for words in mine) for part in (_STAT_IDLE, _STAT_ALL))  # type: ignore[return-value]


_STEPS: Mapping[str, Callable[[StoreSpec, Path], dict[str, Any]]] = {
    "upload": run_upload,
    "obstore alone": run_obstore,
    "boto3 alone": run_boto3,
}


def measure(
    step: str, store: StoreSpec, folder: Path, *, runs: int, environment: Mapping[str, str]
) -> Sequence[Mapping[str, Any]]:
    """Run a step so many times, each in a process and a part of the store of its own."""
    command = [sys.executable, "-m", "benchmarks.upload", "--step", step, "--folder", str(folder)]
    measured = []
    for number in range(runs):
        part = store.model_copy(update={"url": f"{store.url.rstrip('/')}/{number}"})
        done = subprocess.run(
            [*command, "--spec", part.model_dump_json()],
            check=True,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        measured.append(json.loads(done.stdout))
    return measured


def table(runs: Iterable[tuple[str, Sequence[Mapping[str, Any]]]], cpus: int) -> str:
    """The measurements as a Markdown table; medians, for CPU time with the least and the most."""
    head = (
        "",
        "objects",
        "KB each",
        "objects/s",
        "client's CPU, ms an object",
        f"client's share of {cpus} CPUs",
        f"{cpus} CPUs busy",
        "peak memory, MB",
        "runs",
    )
    return markdown(head, (_cells(name, measured, cpus) for name, measured in runs))


def _cells(name: str, runs: Sequence[Mapping[str, Any]], cpus: int) -> Sequence[str]:
    costs = sorted(1000 * run["cpu_seconds"] / run["objects"] for run in runs)
    spread = f" ({costs[0]:.2f} to {costs[-1]:.2f})" if len(costs) > 1 else ""
    return (
        name,
        f"{runs[0]['objects']:,}",
        f"{runs[0]['bytes'] / runs[0]['objects'] / 1000:.0f}",
        f"{median(run['objects'] / run['seconds'] for run in runs):,.0f}",
        f"{median(costs):.2f}{spread}",
        f"{median(run['cpu_seconds'] / run['seconds'] for run in runs) / cpus:.0%}",
        f"{median(run['busy'] for run in runs):.0%}",
        f"{max(run['peak_mb'] for run in runs):,.0f}",
        str(len(runs)),
    )


def make_archives(count: int, folder: Path) -> None:
    """Write images.tar.gz and annotations.tar.gz into the folder."""
    for path in replicate(*sample_archives(folder / "sample"), count, folder):
        with path.open("rb") as source, gzip.open(f"{path}.gz", "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        path.unlink()


def main() -> None:
    """Print a Markdown table, or with --step the numbers of one step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=7400)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--store", help="where to upload to; default: an S3 server where one is found, and a folder")
    parser.add_argument("--step", choices=_STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--spec", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run = _STEPS[options.step](StoreSpec.model_validate_json(options.spec), options.folder)
        sys.stdout.write(json.dumps(run))
        return
    cpus = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="imageshards-bench-") as name:
        folder = Path(name)
        make_archives(options.images, folder)
        measured = []
        with nullcontext() if options.store else s3_place(folder, cpus=cpus) as place:
            spec = place.spec("upload") if place else StoreSpec(url=options.store) if options.store else None
            environment = place.environment if place else {}
            if spec:
                steps = list(_STEPS) if spec.url.startswith("s3://") else ["upload"]
                where = place.name if place else spec.url
                for step in steps:
                    runs = measure(step, spec, folder, runs=options.runs, environment=environment)
                    measured.append((f"{step}, {where}", runs))
        if not options.store:
            spec = StoreSpec(url=str(folder / "store"))
            measured.append(("upload, a folder", measure("upload", spec, folder, runs=options.runs, environment={})))
        sys.stdout.write(f"{machine(cpus)}\n\n{table(measured, len(cpus))}")


if __name__ == "__main__":
    main()
