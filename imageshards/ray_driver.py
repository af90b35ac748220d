"""The program that runs on the Ray cluster: `python -m imageshards.ray_driver --spec URI`.

The only module that imports Ray. Reads a job spec from the store, builds what is missing of its versions, and writes
the result into the store. Shards that an earlier, interrupted run finished are kept as they are.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version as package_version
from typing import Any

import ray
from ray._private.node import Node
from ray.exceptions import RayError, RayTaskError

from imageshards import worker
from imageshards.errors import ConfigError, ImageShardsError, RejectReason, StoreError, error_from_dict
from imageshards.executor import Executor, WorkerLostError
from imageshards.index import IndexInfo, read_index_info
from imageshards.job import JobResult, JobSpec, Population, VersionResult, count_population, driver_line
from imageshards.plan import Unit, fingerprint, plan_shards, plan_units, shard_name, shards_of, version_prefix
from imageshards.rejects import write_rejects
from imageshards.shard_file import REJECTS_NAME, ShardResult
from imageshards.shards import Build, Version
from imageshards.statistics import PixelSums
from imageshards.store import Store, StoreSpec, open_store

_TASKS_PER_CPU = 2
"""One that runs and one that waits, so that no CPU does."""

_LOCAL_OBJECT_STORE_BYTES = 100 << 20
"""Pixels never pass through Ray's object store, which takes 30 % of the memory unless told otherwise."""

_CLUSTER_SIZE_SECONDS = 1.0
"""How old the cluster's size may be: asking takes 0.4 ms, as much as all else that the driver does for a task."""

_PROGRESS_SECONDS = 1.0
_PROGRESS_SHARE = 0.01
"""A progress line at most each second, and at most each hundredth of the time gone by: a long job's log stays short."""

_SOFTWARE = ("imageshards", "numpy", "obstore", "pillow", "pyarrow", "ray", "simplejpeg")


class RayBackend:
    """Runs functions as Ray tasks of one CPU, without retries of Ray's own: those would loop on a poison image."""

    def __init__(self) -> None:
        self._tasks: dict[Any, Any] = {}
        self._slots = 0
        self._asked = -math.inf
        # Workers import while the driver plans: 0.3 s of each.
        self._warming = [self.submit(worker.warm_up) for _ in range(self.slots // _TASKS_PER_CPU)]

    @property
    def slots(self) -> int:
        """Two for each CPU that the cluster has just now; an autoscaler sees demand and the driver sees growth."""
        if time.monotonic() - self._asked > _CLUSTER_SIZE_SECONDS:
            self._asked = time.monotonic()
            self._slots = max(2, _TASKS_PER_CPU * int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
        return self._slots

    def submit(self, function: Callable[..., dict[str, Any]], *arguments: Any) -> Any:
        """See `executor.Backend`."""
        if function not in self._tasks:
            # Of 40 units on two nodes, SPREAD lost 2 % against an even split, Ray's default 10 to 25 %: it prefers the
            # driver's node, and units wait there while another node is free.
            self._tasks[function] = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")(function)
        return self._tasks[function].remote(*arguments)

    def wait(self, handles: Sequence[Any], timeout_seconds: float | None) -> Any | None:
        """See `executor.Backend`."""
        done, _ = ray.wait(list(handles), num_returns=1, timeout=timeout_seconds)
        return done[0] if done else None

    def fetch(self, handle: Any) -> Any:
        """See `executor.Backend`."""
        try:
            outcome = ray.get(handle)
        except RayTaskError:
            raise
        except RayError as error:
            lines = str(error).strip().splitlines() or [""]
            raise WorkerLostError(f"{type(error).__name__}: {lines[0][:300]}") from error
        if "error" in outcome:
            raise error_from_dict(outcome["error"])
        return outcome["ok"]

    def cancel(self, handle: Any) -> None:
        """See `executor.Backend`."""
        ray.cancel(handle, force=True)


def run_job(spec: JobSpec, backend: RayBackend) -> JobResult:
    """Build what is missing of a job's versions.

    Raises:
        ImageShardsError: The job failed; finished shards stay for the next run.
    """
    started = time.monotonic()
    raw_store, store = open_store(spec.raw_store), open_store(spec.store)
    info = read_index_info(raw_store, spec.index_key)
    population = count_population(raw_store, spec.index_key, keep_unlisted=spec.keep_unlisted)
    build = plan_build(spec, info, population)
    executor = Executor(backend, spec.raw_store, spec.store, log=_log)
    missing, finished = _split_units(spec, build, population, store)
    if spec.recipe.normalize == "dataset":
        build = _with_statistics(build, spec, population, executor)
    results: dict[int, list[ShardResult]] = {version.resolution: [] for version in build.versions}
    prefixes = {version.resolution: _prefix(build, version) for version in build.versions}
    progress = _Progress(sum(population.splits.values()) * len(build.versions))

    def collect(_: Unit, shards: list[ShardResult]) -> None:
        for shard in shards:
            _check_seen(prefixes[shard.resolution] + shard.name, store)
            results[shard.resolution].append(shard)
        progress.advance(sum(shard.samples + len(shard.rejects) for shard in shards))

    def keep(unit: Unit, shards: list[ShardResult]) -> None:
        if any(reject.reason == RejectReason.WORKER_CRASH for shard in shards for reject in shard.rejects):
            missing.append(unit)  # what killed a worker then may be well on one with more memory
        else:
            collect(unit, shards)

    executor.run(build, finished, keep, lambda attempt: (worker.run_inspect, attempt, spec.store))
    executor.build(build, missing, collect)
    versions = [
        _finish_version(build, version, tuple(sorted(results[version.resolution], key=lambda shard: shard.name)), store)
        for version in build.versions
    ]
    software = {name: package_version(name) for name in _SOFTWARE}
    return JobResult(tuple(versions), round(time.monotonic() - started, 3), software)


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
    present = {version.resolution: _names_in(_prefix(build, version), store) for version in build.versions}
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
        _log(f"{len(finished)} of {len(finished) + len(missing)} units were finished by an earlier run")
    return missing, finished


def _names_in(prefix: str, store: Store) -> set[str]:
    """The names of what lies in a folder, by one listing."""
    return {info.key.removeprefix(prefix) for info in store.list(prefix)}


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


def _finish_version(build: Build, version: Version, shards: tuple[ShardResult, ...], store: Store) -> VersionResult:
    write_rejects(store, _prefix(build, version) + REJECTS_NAME, shards)
    statistics = version.statistics
    measured = {"mean": list(statistics.mean), "std": list(statistics.std)} if statistics else None
    return VersionResult(version.resolution, version.fingerprint, shards, measured)


def _prefix(build: Build, version: Version) -> str:
    return version_prefix(build.dataset, version.resolution, version.fingerprint)


class _Progress:
    """Prints how far the job is, seldom enough."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._started = time.monotonic()
        self._next = 0.0

    def advance(self, images: int) -> None:
        self._done += images
        elapsed = time.monotonic() - self._started
        if elapsed >= self._next or self._done >= self._total:
            self._next = elapsed + max(_PROGRESS_SECONDS, elapsed * _PROGRESS_SHARE)
            _say(driver_line("progress", done=self._done, total=self._total, seconds=round(elapsed, 1)))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _log(message: str) -> None:
    _say(driver_line("log", message=message))


_NEEDLESS_SERVICES = ("start_monitor", "start_log_monitor", "start_api_server")
"""Ray's autoscaler, forwarding of logs and dashboard: three processes of Python, 4 s of CPU before the first task and
1 s at the end, that do nothing for one driver on one node. No option of `ray.init` leaves them out."""


def start_ray(address: str) -> None:
    """Join the cluster at an address, or start one for this process alone (`local`)."""
    if address == "local":
        for name in _NEEDLESS_SERVICES:
            if hasattr(Node, name):  # of another version of Ray that has none such, nothing is to be left out
                setattr(Node, name, lambda *_, **__: None)
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        ray.init(
            address="local",
            num_cpus=allowed if allowed and allowed < (os.cpu_count() or 1) else None,  # Ray counts all of the machine
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
        )
    else:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)


_parent_gone = threading.Event()


def _stop_with_parent() -> None:
    """End this process when its standard input ends: whoever started it is gone."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):  # not through the buffer: its lock would outlive the interpreter
            pass
        _parent_gone.set()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _stop_on_signal(number: int, _: Any) -> None:
    raise SystemExit(128 + number)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m imageshards.ray_driver", description=__doc__.partition("\n")[0])
    parser.add_argument("--spec", required=True, metavar="URI", help="the job spec: a path, file:// or s3:// address")
    parser.add_argument("--endpoint-url", help="where the S3 server of the spec's store is, unless it is AWS")
    parser.add_argument("--region", help="region of that server")
    parser.add_argument("--credentials-env", help="prefix of the environment variables that hold its credentials")
    parser.add_argument("--ray-address", default="auto", help="`auto` (the default), `local`, or the address of a head")
    parser.add_argument("--stop-with-parent", action="store_true", help="end when standard input does")
    return parser.parse_args(arguments)


def _read_spec(options: argparse.Namespace) -> tuple[JobSpec, Store]:
    folder, _, name = options.spec.rpartition("/")
    location = StoreSpec(
        url=folder, endpoint_url=options.endpoint_url, region=options.region, credentials_env=options.credentials_env
    )
    spec = JobSpec.from_json(open_store(location).get(name), uri=options.spec)
    return spec, open_store(spec.store)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job; exit status 0 when its result lies in the store, 1 after an error that stdout describes."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, _stop_on_signal)
    if options.stop_with_parent:
        _stop_with_parent()
    try:
        spec, store = _read_spec(options)
        start_ray(options.ray_address)
        signal.signal(signal.SIGTERM, _stop_on_signal)  # ray.init puts its own in place
        result = run_job(spec, RayBackend())
        store.put(spec.result_key, result.to_json())
    except ImageShardsError as error:
        _say(driver_line("error", error=error.to_dict()))
        return 1
    finally:
        ray.shutdown()
        if _parent_gone.is_set() and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)  # Ray's agents live on for a minute, and nobody else is left to end them
    return 0


if __name__ == "__main__":
    sys.exit(main())
