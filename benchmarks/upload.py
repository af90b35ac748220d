"""What the upload costs: `python -m benchmarks.upload [--images N] [--store URL]`.

Uploads a tar.gz of photographs with their annotations into an S3 store (the one `benchmarks.s3` finds) or a folder, and
beside it puts the same photographs with obstore and with boto3 alone, from memory: nothing read, unpacked or hashed.
Each runs in a process of its own, whose CPU time and peak memory are counted; the server's are not.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
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
_PUTS = 2000


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
    files = [(member.name, data) for member, data in itertools.islice(members(folder / "images.tar.gz"), _PUTS) if data]

    def work() -> tuple[int, int]:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda file: put(*file), files))
        return len(files), sum(len(data) for _, data in files)

    return _measured(work)


def _measured(work: Callable[[], tuple[int, int]]) -> dict[str, Any]:
    started, cpu = time.perf_counter(), time.process_time()
    objects, size_bytes = work()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "objects": objects,
        "bytes": size_bytes,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mb": peak,
    }


_STEPS: Mapping[str, Callable[[StoreSpec, Path], dict[str, Any]]] = {
    "upload": run_upload,
    "obstore alone": run_obstore,
    "boto3 alone": run_boto3,
}


def measure(step: str, store: StoreSpec, folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a step in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.upload", "--step", step, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--spec", store.model_dump_json()],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def table(runs: Iterable[tuple[str, dict[str, Any]]], cpus: int) -> str:
    """The measurements as a Markdown table."""
    head = ("", "objects", "KB each", "objects/s", "CPU ms an object", f"of {cpus} CPUs used", "peak memory, MB")
    return markdown(head, (_cells(name, run, cpus) for name, run in runs))


def _cells(name: str, run: dict[str, Any], cpus: int) -> Sequence[str]:
    return (
        name,
        f"{run['objects']:,}",
        f"{run['bytes'] / run['objects'] / 1000:.0f}",
        f"{run['objects'] / run['seconds']:,.0f}",
        f"{1000 * run['cpu_seconds'] / run['objects']:.2f}",
        f"{run['cpu_seconds'] / run['seconds'] / cpus:.0%}",
        f"{run['peak_mb']:,.0f}",
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
        runs = []
        with nullcontext() if options.store else s3_place(folder, cpus=cpus) as place:
            spec = place.spec("upload") if place else StoreSpec(url=options.store) if options.store else None
            environment = place.environment if place else {}
            if spec:
                steps = list(_STEPS) if spec.url.startswith("s3://") else ["upload"]
                where = place.name if place else spec.url
                runs += [(f"{step}, {where}", measure(step, spec, folder, environment)) for step in steps]
        if not options.store:
            runs.append(("upload, a folder", measure("upload", StoreSpec(url=str(folder / "store")), folder, {})))
        sys.stdout.write(f"{machine(cpus)}\n\n{table(runs, len(cpus))}")


if __name__ == "__main__":
    main()
