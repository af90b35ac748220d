"""How fast a version is validated, and in how much memory: `python -m benchmarks.validation`.

Builds two versions, one ten times as large as the other, as the pipeline does (upload, the driver's job on a local
Ray), then validates each in fresh processes held to one core and to two: every check on, the search for duplicates, the
checksums of the pages and the digests of the files included. Peak memory is that of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from benchmarks.archives import replicate, sample_archives
from imageshards.fetch import Source, fetch
from imageshards.index import read_index_info
from imageshards.job import JobResult, JobSpec
from imageshards.recipe import Recipe
from imageshards.run_job import run_job
from imageshards.store import open_store
from imageshards.upload import upload
from imageshards.validate import Subject, validate_version

_RESULT_KEY = "result.json"
_PATTERN_SIDE = 8
_PATTERN_LEVELS = 90
"""Of brightness: enough that copies of one photograph do not count as duplicates."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one process took to validate a version."""

    rows: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    idle_mb: float


def unlike(images: Path, target: Path) -> Path:
    """An archive of the same images, each under light of its own: copies of a photograph are no longer duplicates."""
    rng = np.random.default_rng(0)
    with tarfile.open(images) as source, tarfile.open(target, "w") as tar:
        for member in source:
            data = _relit(source.extractfile(member).read(), rng)  # type: ignore[union-attr]
            entry = tarfile.TarInfo(member.name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return target


def _relit(data: bytes, rng: np.random.Generator) -> bytes:
    """A JPEG with a random pattern of light and shade; what simplejpeg does not decode stays as it is."""
    try:
        pixels = simplejpeg.decode_jpeg(data)
    except ValueError:
        return data
    height, width = pixels.shape[:2]
    pattern = rng.integers(-_PATTERN_LEVELS, _PATTERN_LEVELS + 1, (_PATTERN_SIDE, _PATTERN_SIDE)).astype(np.int16)
    cell_height, cell_width = -(-height // _PATTERN_SIDE), -(-width // _PATTERN_SIDE)
    light = pattern.repeat(cell_height, 0).repeat(cell_width, 1)[:height, :width, None]
    return simplejpeg.encode_jpeg(np.clip(pixels + light, 0, 255).astype(np.uint8), quality=90)


def build(count: int, resolution: int, folder: Path) -> str:
    """Build a version of so many images; returns the URL of its store."""
    images, annotations = replicate(*sample_archives(folder / "sample"), count, folder)
    fetched = [fetch(Source(str(path)), folder) for path in (unlike(images, folder / "unlike.tar"), annotations)]
    store = open_store(str(folder / "store"))
    info = upload(*fetched, store, dataset="bench").index
    spec = JobSpec(
        dataset="bench",
        index_key=info.key,
        raw_store=store.spec,
        store=store.spec,
        resolutions=(resolution,),
        recipe=Recipe(),
        result_key=_RESULT_KEY,
    )
    from imageshards.ray_driver import RayBackend  # noqa: PLC0415 (200 MB that validation does without)

    result = run_job(spec, RayBackend())
    store.put("spec.json", spec.model_dump_json().encode())
    store.put(_RESULT_KEY, result.to_json())
    return store.url


def validate(url: str) -> Measured:
    """Validate the version in a store, in this process."""
    store = open_store(url)
    spec = JobSpec.from_json(store.get("spec.json"), uri=url)
    version = JobResult.from_json(store.get(_RESULT_KEY)).versions[0]
    subject = Subject(spec.dataset, read_index_info(store, spec.index_key), spec.recipe, version)
    idle_mb = _peak_mb()
    started, cpu_started = time.perf_counter(), time.process_time()
    findings = validate_version(subject, raw_store=store, store=store)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    failed = [check.sentence() for check in findings.checks if not check.passed]
    if failed:
        raise SystemExit("\n".join(failed))
    return Measured(findings.rows, seconds, cpu_seconds, _peak_mb(), idle_mb)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(url: str, cpus: int, repeats: int) -> Measured:
    """The fastest of some fresh processes, each held to so many cores."""
    allowed = sorted(os.sched_getaffinity(0))[:cpus]
    command = [sys.executable, "-m", "benchmarks.validation", "--store", url]
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            ["taskset", "-c", ",".join(map(str, allowed)), *command], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        runs.append(Measured(**json.loads(done.stdout)))
    return min(runs, key=lambda run: run.seconds)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=7400)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for the data; not built again where it is there")
    parser.add_argument("--store", help="validate what is there in this process, and print numbers as JSON")
    options = parser.parse_args()
    if options.store:
        sys.stdout.write(json.dumps(asdict(validate(options.store))) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="imageshards-bench-") as name:
        folder = options.keep or Path(name)
        counts = [options.images // 10, options.images]
        urls = _built(counts, options.resolution, folder)
        sys.stdout.write(
            f"| {options.resolution} px, raw | images | images/s | CPU ms an image | peak MB | of which idle |\n"
            "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        )
        for cpus in (1, 2):
            for count in counts:
                run = measure(urls[count], cpus, options.repeats)
                sys.stdout.write(
                    f"| {cpus} core{'s' * (cpus > 1)} | {run.rows:,} | {run.rows / run.seconds:,.0f} "
                    f"| {1000 * run.cpu_seconds / run.rows:.3f} | {run.peak_mb:.0f} | {run.idle_mb:.0f} |\n"
                )


def _built(counts: list[int], resolution: int, folder: Path) -> dict[int, str]:
    """URLs of the stores by number of images."""
    urls = {count: open_store(str(folder / f"{count}-{resolution}" / "store")).url for count in counts}
    missing = [count for count, url in urls.items() if not open_store(url).exists(_RESULT_KEY)]
    if missing:
        import ray  # noqa: PLC0415 (likewise)

        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20
        )
        try:
            for count in missing:
                place = folder / f"{count}-{resolution}"
                place.mkdir(parents=True, exist_ok=True)
                build(count, resolution, place)
        finally:
            ray.shutdown()
    return urls


if __name__ == "__main__":
    main()
