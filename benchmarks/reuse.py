"""What a night costs in which one image changed: `python -m benchmarks.reuse`.

Builds and publishes a version on a local Ray, changes one image, and builds the next version twice: beside the first,
whose shards it may copy, and in an empty store. Only the driver's job is timed; Ray runs already. Both must come out
the same to the byte.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import ray
from PIL import Image

from benchmarks.archives import add_member, replicate, sample_archives
from imageshards.draft import draft_manifest
from imageshards.fetch import Source, fetch
from imageshards.index import IndexInfo, read_index_info
from imageshards.job import JobResult, JobSpec
from imageshards.manifest import ArchiveSource, publish_manifest
from imageshards.plan import version_prefix
from imageshards.ray_driver import RayBackend
from imageshards.recipe import Recipe
from imageshards.run_job import run_job
from imageshards.store import Store, open_store
from imageshards.upload import upload
from imageshards.validate import Subject, validate_version

_DATASET = "bench"
_JPEG_QUALITY = 75
_OBJECT_STORE_BYTES = 100 << 20

_HEAD = """| {resolution} px, raw | seconds | images/s | shards reused |
| --- | ---: | ---: | ---: |
"""


def with_one_changed(images: Path, target: Path) -> Path:
    """The same archive, its first JPEG compressed anew."""
    changed = False
    with tarfile.open(images) as source, tarfile.open(target, "w") as tar:
        for member in source:
            data = source.extractfile(member).read()  # type: ignore[union-attr]
            if not changed and data.startswith(b"\xff\xd8"):
                data, changed = _compressed_anew(data), True
            add_member(tar, member.name, data)
    return target


def _compressed_anew(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def indexes(count: int, folder: Path, store: Store) -> list[str]:
    """Upload so many images, and the same with one of them changed; returns the keys of both indexes."""
    images, annotations = replicate(*sample_archives(folder / "sample"), count, folder)
    sources = [(images, annotations), (with_one_changed(images, folder / "changed.tar"), annotations)]
    return [
        upload(*(fetch(Source(str(path)), folder) for path in archives), store, dataset=_DATASET).index.key
        for archives in sources
    ]


def build(index_key: str, raw_store: Store, store: Store, resolution: int) -> JobResult:
    """Run the job that builds an index."""
    spec = JobSpec(
        dataset=_DATASET,
        index_key=index_key,
        raw_store=raw_store.spec,
        store=store.spec,
        resolutions=(resolution,),
        recipe=Recipe(),
        result_key="result.json",
    )
    return run_job(spec, RayBackend())


def publish(result: JobResult, info: IndexInfo, raw_store: Store, store: Store) -> None:
    """Make what was built the current version."""
    (version,) = result.versions
    subject = Subject(_DATASET, info, Recipe(), version)
    findings = validate_version(subject, raw_store=raw_store, store=store)
    archive = ArchiveSource(url="none", sha256="0" * 64, size_bytes=0)
    manifest = draft_manifest(
        subject,
        findings,
        archives={"images": archive, "annotations": archive},
        raw_store_url=raw_store.url,
        built=result,
        created_at=datetime.now(UTC),
    )
    publish_manifest(store, manifest)


def line(name: str, result: JobResult) -> str:
    """One row of the table."""
    (version,) = result.versions
    images = sum(shard.samples + len(shard.rejects) for shard in version.shards)
    return f"| {name} | {result.seconds:.2f} | {images / result.seconds:,.0f} | {result.reused} of {result.shards} |\n"


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=7400)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--cpus", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imageshards-bench-") as name:
        folder = Path(name)
        raw, out, empty = (open_store(str(folder / each)) for each in ("raw", "out", "empty"))
        first, second = indexes(options.images, folder, raw)
        ray.init(
            address="local",
            num_cpus=options.cpus,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=_OBJECT_STORE_BYTES,
        )
        try:
            publish(build(first, raw, out, options.resolution), read_index_info(raw, first), raw, out)
            reusing = build(second, raw, out, options.resolution)
            from_nothing = build(second, raw, empty, options.resolution)
        finally:
            ray.shutdown()
        _compare(reusing, out, empty)
    sys.stdout.write(_HEAD.format(resolution=options.resolution))
    sys.stdout.write(line("from nothing", from_nothing) + line("one image changed", reusing))


def _compare(result: JobResult, *stores: Store) -> None:
    (version,) = result.versions
    prefix = version_prefix(_DATASET, version.resolution, version.fingerprint)
    for shard in version.shards:
        one, other = (store.get(prefix + shard.name) for store in stores)
        if one != other:
            raise SystemExit(f"{shard.name} differs from the one that an empty store gets")


if __name__ == "__main__":
    main()
