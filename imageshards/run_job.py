"""run_job: what the driver does, whatever its tasks run on.

Shards that an earlier, interrupted run of the same job finished are kept as they are; shards that the current version
has with the same inputs are copied; the rest is built.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version

from imageshards import worker
from imageshards.driver_output import Progress, log
from imageshards.errors import ConfigError, RejectReason, StoreError
from imageshards.executor import Backend, Executor
from imageshards.index import IndexInfo, read_index_info
from imageshards.job import JobResult, JobSpec, Population, VersionResult, count_population
from imageshards.plan import Unit, fingerprint, plan_shards, plan_units, shard_name, shards_of
from imageshards.rejects import write_rejects
from imageshards.reuse import MAKERS, Published, PublishedShard, find_published
from imageshards.shard_file import REJECTS_NAME, ShardResult
from imageshards.shard_inputs import Build, Version
from imageshards.statistics import PixelSums
from imageshards.store import Store, open_store

_SOFTWARE = sorted({*MAKERS, "obstore", "ray"})

_PROBLEMS_LOGGED = 5
"""Of old shards that could not be reused, at most so many are named in the log: all may be gone."""


def run_job(spec: JobSpec, backend: Backend) -> JobResult:
    """Build what is missing of a job's versions.

    Raises:
        ImageShardsError: The job failed; finished shards stay for the next run.
    """
    started = time.monotonic()
    raw_store, store = open_store(spec.raw_store), open_store(spec.store)
    info = read_index_info(raw_store, spec.index_key)
    population = count_population(raw_store, spec.index_key, keep_unlisted=spec.keep_unlisted)
    build = plan_build(spec, info, population)
    software = _software()
    executor = Executor(backend, spec.raw_store, spec.store, log=log)
    missing, finished = _split_units(spec, build, population, store)
    if spec.recipe.normalize == "dataset":
        build = _with_statistics(build, spec, population, executor)
    collected = _Collected(build, store, Progress(sum(population.splits.values()) * len(build.versions)))

    def keep(unit: Unit, shards: list[ShardResult]) -> None:
        if any(reject.reason == RejectReason.WORKER_CRASH for shard in shards for reject in shard.rejects):
            missing.append(unit)  # what killed a worker then may be well on one with more memory
        else:
            collected.take(unit, shards)

    executor.run(build, finished, keep, lambda attempt: (worker.run_inspect, attempt, spec.store))
    published = _published(build, store, software) if missing else {}
    executor.build(build, missing, collected.take, lambda unit: _published_of(unit, build, published))
    collected.log_reuse()
    versions = tuple(_finish_version(build, version, collected.shards_of(version), store) for version in build.versions)
    return JobResult(versions, round(time.monotonic() - started, 3), software)


def _software() -> dict[str, str]:
    """Versions of what is installed here; a cluster that never augments can do without torch."""
    found = {}
    for name in _SOFTWARE:
        with suppress(PackageNotFoundError):
            found[name] = package_version(name)
    return found


def plan_build(spec: JobSpec, info: IndexInfo, population: Population) -> Build:
    """What all units of a job have in common."""
    if not population.splits:
        raise ConfigError(f"the index {spec.index_key} holds no image that could become a row")
    versions = tuple(
        Version(
            resolution,
            fingerprint(info.digest, spec.recipe, resolution, keep_unlisted=spec.keep_unlisted),
            plan_shards(population.splits, spec.recipe, resolution),
        )
        for resolution in sorted(set(spec.resolutions))
    )
    return Build(spec.dataset, spec.index_key, info.class_names, spec.recipe, versions, spec.keep_unlisted)


def _split_units(spec: JobSpec, build: Build, population: Population, store: Store) -> tuple[list[Unit], list[Unit]]:
    """The units to build, each with the resolutions that it misses, and those whose shards all lie there."""
    present = {version.resolution: _names_in(build.prefix(version), store) for version in build.versions}
    missing: list[Unit] = []
    finished: list[Unit] = []
    for unit in plan_units(population.splits, spec.recipe, spec.resolutions):
        complete = [
            version.resolution
            for version in build.versions
            if version.resolution in unit.resolutions
            and all(
                shard_name(unit.split, number) in present[version.resolution]
                for number in shards_of(unit, version.shards[unit.split])
            )
        ]
        rest = tuple(resolution for resolution in unit.resolutions if resolution not in complete)
        missing += [replace(unit, resolutions=rest)] if rest else []
        finished += [replace(unit, resolutions=tuple(complete))] if complete else []
    if finished:
        log(f"{len(finished)} of {len(finished) + len(missing)} units were finished by an earlier run", level="info")
    return missing, finished


def _names_in(prefix: str, store: Store) -> set[str]:
    """The names of what lies in a folder, by one listing."""
    return {info.key.removeprefix(prefix) for info in store.list(prefix)}


def _with_statistics(build: Build, spec: JobSpec, population: Population, executor: Executor) -> Build:
    """The build with mean and standard deviation of its training images, measured in a pass of its own."""
    sums = {version.resolution: PixelSums.zero(spec.recipe.channels) for version in build.versions}

    def add(_: Unit, measured: dict[int, PixelSums]) -> None:
        for resolution, part in measured.items():
            sums[resolution] = sums[resolution] + part

    splits = {split: size for split, size in population.splits.items() if split == "trainval"}
    units = plan_units(splits, spec.recipe, spec.resolutions)
    executor.run(build, units, add, lambda attempt: (worker.run_measure, attempt, spec.raw_store))
    versions = tuple(replace(version, statistics=sums[version.resolution].statistics()) for version in build.versions)
    return replace(build, versions=versions, poison=dict(executor.poison))


def _published(build: Build, store: Store, software: Mapping[str, str]) -> dict[int, Published]:
    """What the current version of each resolution offers."""
    return {
        version.resolution: find_published(
            store, build.dataset, version.resolution, fingerprint=version.fingerprint, software=software, log=log
        )
        for version in build.versions
    }


def _published_of(unit: Unit, build: Build, published: Mapping[int, Published]) -> tuple[PublishedShard, ...]:
    """Those of one unit's names: shards of other names never have the same inputs."""
    found = (
        published[version.resolution].shard(shard_name(unit.split, number))
        for version in build.versions
        if version.resolution in unit.resolutions
        for number in shards_of(unit, version.shards[unit.split])
    )
    return tuple(shard for shard in found if shard is not None)


class _Collected:
    """The results of shards as they come in.

    Args:
        build: What is being built.
        store: Where the shards go.
        progress: Is told of each image.
    """

    def __init__(self, build: Build, store: Store, progress: Progress) -> None:
        self._store = store
        self._progress = progress
        self._prefixes = {version.resolution: build.prefix(version) for version in build.versions}
        self._shards: dict[int, list[ShardResult]] = {version.resolution: [] for version in build.versions}
        self._problems = 0

    def take(self, _: Unit, shards: list[ShardResult]) -> None:
        """The shards of a unit are there."""
        for shard in shards:
            _check_seen(self._prefixes[shard.resolution] + shard.name, self._store)
            self._shards[shard.resolution].append(shard)
            if shard.reuse_problem:
                self._problems += 1
                if self._problems <= _PROBLEMS_LOGGED:
                    log(f"{shard.name} of {shard.resolution} px was built, not copied: {shard.reuse_problem}")
        self._progress.advance(_images(shards), reused=_images([shard for shard in shards if shard.reused]))

    def shards_of(self, version: Version) -> tuple[ShardResult, ...]:
        """All shards of a version, by name."""
        return tuple(sorted(self._shards[version.resolution], key=lambda shard: shard.name))

    def log_reuse(self) -> None:
        """Say how many shards were copied."""
        for resolution, shards in self._shards.items():
            reused = sum(shard.reused for shard in shards)
            log(f"{reused} of {len(shards)} shards of {resolution} px reused", level="info")
        if self._problems > _PROBLEMS_LOGGED:
            log(f"{self._problems} shards in all were built because those of the version before could not be used")


def _images(shards: list[ShardResult]) -> int:
    return sum(shard.samples + len(shard.rejects) for shard in shards)


def _check_seen(key: str, store: Store) -> None:
    """Find out at the first shard, not in validation hours later, that nodes write into folders of their own.

    Raises:
        StoreError: A worker wrote a shard that is not in the driver's folder.
    """
    path = store.local_path(key)
    if path is not None and not path.is_file():
        raise StoreError(
            f"{store.uri(key)} was written on another node and is not to be seen on {socket.gethostname()}: a folder "
            "as a store needs a disk that all nodes of the Ray cluster share; use one, or s3://",
            key=key,
        )


def _finish_version(build: Build, version: Version, shards: tuple[ShardResult, ...], store: Store) -> VersionResult:
    write_rejects(store, build.prefix(version) + REJECTS_NAME, shards)
    statistics = version.statistics
    measured = {"mean": list(statistics.mean), "std": list(statistics.std)} if statistics else None
    return VersionResult(version.resolution, version.fingerprint, shards, measured)
