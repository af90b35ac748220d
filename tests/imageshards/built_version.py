"""A small version of the dataset, built and validated without Ray, for tests of what is made from finished shards."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imageshards.draft import draft_manifest
from imageshards.fetch import Fetched
from imageshards.index import IndexInfo
from imageshards.job import VersionResult, count_population
from imageshards.manifest import ArchiveSource, CheckEntry, Manifest, PixelStatistics
from imageshards.oxford_pets import DATASET
from imageshards.plan import fingerprint, plan_shards, plan_units, version_prefix
from imageshards.recipe import Recipe
from imageshards.sample import SampleSpec, write_sample
from imageshards.schema import REJECTS_SCHEMA
from imageshards.shard_file import REJECTS_NAME, ShardResult, concatenate_rejects
from imageshards.shard_inputs import Build, Version
from imageshards.shards import build_unit, measure_unit
from imageshards.sources import sources_of
from imageshards.statistics import PixelSums
from imageshards.store import Store, open_store
from imageshards.upload import upload
from imageshards.validate import Subject, validate_version

CREATED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SMALL = SampleSpec(per_class=2, median_long_side_px=120)
RESOLUTION = 64
DEFAULT_RECIPE = Recipe()


@dataclass(frozen=True)
class BuiltVersion:
    """A version whose shards and rejects lie in the store, and the manifest that would be published."""

    manifest: Manifest
    store: Store

    @property
    def prefix(self) -> str:
        return version_prefix(self.manifest.dataset, self.manifest.resolution, self.manifest.fingerprint)


def uploaded_sample(folder: Path, spec: SampleSpec = SMALL) -> tuple[IndexInfo, Mapping[str, Fetched], Store]:
    """Draw a sample and upload it into a store below the folder."""
    sample = write_sample(folder / "sample", spec)
    return uploaded_archives(folder, sample.images, sample.annotations)


def uploaded_archives(folder: Path, images: Path, annotations: Path) -> tuple[IndexInfo, Mapping[str, Fetched], Store]:
    """Upload two archives into a store below the folder."""
    archives = {"images": fetched(images), "annotations": fetched(annotations)}
    store = open_store(str(folder / "store"))
    return upload(archives["images"], archives["annotations"], store, dataset=DATASET).index, archives, store


def fetched(path: Path) -> Fetched:
    data = path.read_bytes()
    url = f"https://example.org/{path.name}"
    return Fetched(path, hashlib.sha256(data).hexdigest(), len(data), url, "local")


def build_version(
    info: IndexInfo,
    archives: Mapping[str, Fetched],
    store: Store,
    *,
    recipe: Recipe = DEFAULT_RECIPE,
    resolution: int = RESOLUTION,
    keep_unlisted: bool = False,
) -> BuiltVersion:
    """Build, validate and draft one version; raw data and shards lie in one store."""
    population = count_population(store, info.key, keep_unlisted=keep_unlisted)
    version = Version(
        resolution,
        fingerprint(info.digest, recipe, resolution, keep_unlisted=keep_unlisted),
        plan_shards(population.splits, recipe, resolution),
    )
    build = Build(DATASET, info.key, info.class_names, recipe, (version,), keep_unlisted)
    units = plan_units(population.splits, recipe, [resolution])
    if recipe.normalize == "dataset":
        sums = PixelSums.zero(recipe.channels)
        for unit in units:
            if unit.split == "trainval":
                sums = sums + measure_unit(build, unit, raw_store=store)[resolution]
        version = Version(version.resolution, version.fingerprint, version.shards, sums.statistics())
        build = Build(DATASET, info.key, info.class_names, recipe, (version,), keep_unlisted)
    results = [result for unit in units for result in build_unit(build, unit, raw_store=store, store=store)]
    results.sort(key=lambda result: result.name)
    _put_rejects(store, version_prefix(DATASET, resolution, version.fingerprint), results)
    return BuiltVersion(_draft(info, archives, store, build, version, results), store)


def _put_rejects(store: Store, prefix: str, results: Sequence[ShardResult]) -> None:
    put_rejects(store, prefix, [asdict(reject) for reject in concatenate_rejects(results)])


def put_rejects(store: Store, prefix: str, rejects: Sequence[Mapping[str, Any]]) -> None:
    """Write a rejects.parquet."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rejects), schema=REJECTS_SCHEMA), buffer, compression="zstd")
    store.put(prefix + REJECTS_NAME, buffer.getvalue())


def _draft(
    info: IndexInfo,
    archives: Mapping[str, Fetched],
    store: Store,
    build: Build,
    version: Version,
    results: Sequence[ShardResult],
) -> Manifest:
    measured = version.statistics
    statistics = {"mean": list(measured.mean), "std": list(measured.std)} if measured else None
    built = VersionResult(version.resolution, version.fingerprint, tuple(results), statistics)
    subject = Subject(DATASET, info, build.recipe, built, keep_unlisted=build.keep_unlisted)
    findings = validate_version(subject, raw_store=store, store=store)
    return draft_manifest(
        subject,
        findings,
        archives=sources_of(archives),
        raw_store_url=store.url,
        built=SimpleNamespace(software={"imageshards": "0.1.0", "pillow": "13.0.0"}),  # type: ignore[arg-type]
        created_at=CREATED_AT,
    )


def plain_manifest(*, recipe: Recipe = DEFAULT_RECIPE, resolution: int = RESOLUTION, **fields: Any) -> Manifest:
    """A manifest without shards, for what looks at nothing else."""
    defaults: dict[str, Any] = {
        "dataset": DATASET,
        "resolution": resolution,
        "fingerprint": "f" * 32,
        "sources": {
            name: ArchiveSource(url=f"https://example.org/{name}.tar.gz", sha256=digit * 64, size_bytes=1000)
            for name, digit in (("images", "1"), ("annotations", "2"))
        },
        "index": "raw/index.parquet",
        "index_digest": "3" * 64,
        "raw_store": "file:///raw",
        "recipe": json.loads(recipe.canonical()),
        "recipe_fingerprint": recipe.fingerprint(),
        "dtype": recipe.dtype,
        "channels": recipe.channels,
        "encoding": recipe.encoding,
        "class_names": ("Abyssinian", "pug"),
        "images": 12,
        "samples": 9,
        "rows": 9,
        "splits": {"test": 4, "trainval": 5},
        "classes": {"test": {"Abyssinian": 2, "pug": 2}, "trainval": {"Abyssinian": 1, "pug": 4}},
        "rejects": {"truncated": 1},
        "left_out": {"no-split": 2},
        "repairs": {"misnamed": 1},
        "members": {"image": 12, "trimap": 12},
        "pixels": PixelStatistics(mean=(120.0,) * recipe.channels, std=(60.0,) * recipe.channels),
        "shards": (),
        "checks": (CheckEntry(name="accounting", passed=True, expected="12 images", found="9 + 1 + 2"),),
        "created_at": CREATED_AT.isoformat(),
        "software": {"imageshards": "0.1.0"},
    }
    return Manifest(**{**defaults, **fields})


def copy_version(built: BuiltVersion, target: Store) -> None:
    """Copy everything of a version, raw data included, into another store."""
    for info in built.store.list():
        target.put(info.key, built.store.get(info.key))
