"""What a Ray task runs. Knows no Ray; imported by workers, so that functions travel by name and never by value.

Each function takes plain values and returns `{"ok": …}` or `{"error": …}`: an error of ours crosses the process
boundary as data, with its type, whatever Ray would have made of it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from imageshards.collector import collector_paused

with collector_paused():
    from imageshards import system_allocator  # noqa: F401 (before whatever imports Arrow)
    from imageshards.errors import ImageShardsError, SampleError, StoreError
    from imageshards.index import IndexRow
    from imageshards.memory import keep_freed
    from imageshards.plan import Unit, shard_name, shards_of
    from imageshards.reuse import PublishedShard, read_stored_shard
    from imageshards.shard_file import ShardResult
    from imageshards.shard_inputs import Build
    from imageshards.shards import build_unit, measure_unit, probe_images
    from imageshards.store import Store, StoreSpec, open_store


def warm_up() -> dict[str, Any]:
    """Nothing: a worker imports this module for it, and that is what takes time."""
    return {"ok": None}


def run_build(
    build: Build, unit: Unit, raw_store: StoreSpec, store: StoreSpec, published: Sequence[PublishedShard] = ()
) -> dict[str, Any]:
    """Build the shards of a unit, or copy those that are published; the results of `build_unit`."""
    keep_freed()
    return _outcome(
        lambda: build_unit(build, unit, raw_store=_raw_store(raw_store), store=_store(store), published=published)
    )


def run_measure(build: Build, unit: Unit, raw_store: StoreSpec) -> dict[str, Any]:
    """Sum the pixels of a unit; the results of `measure_unit`."""
    return _outcome(lambda: measure_unit(build, unit, raw_store=_raw_store(raw_store)))


def run_probe(build: Build, unit: Unit, rows: Sequence[IndexRow], raw_store: StoreSpec) -> dict[str, Any]:
    """Do all that a unit does with these images, and write nothing."""
    return _outcome(lambda: probe_images(build, unit, rows, raw_store=_raw_store(raw_store)))


def run_inspect(build: Build, unit: Unit, store: StoreSpec) -> dict[str, Any]:
    """Read what finished shards of a unit, found on a restart, say of themselves."""
    return _outcome(lambda: inspect_unit(build, unit, _store(store)))


def inspect_unit(build: Build, unit: Unit, store: Store) -> list[ShardResult]:
    """The results of the shards of a unit that lie in the store already."""
    return [
        read_stored_shard(store, build.prefix(version) + name, resolution=version.resolution, name=name)
        for version in build.versions
        if version.resolution in unit.resolutions
        for name in (shard_name(unit.split, number) for number in shards_of(unit, version.shards[unit.split]))
    ]


def _outcome(call: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"ok": call()}
    except SampleError:
        raise
    except ImageShardsError as error:
        return {"error": error.to_dict()}


@lru_cache(maxsize=8)
def _store(spec: StoreSpec) -> Store:
    return open_store(spec)


@lru_cache(maxsize=8)
def _raw_store(spec: StoreSpec) -> Store:
    store = _store(spec)
    folder = store.local_path("raw")
    if folder is not None and not folder.is_dir():
        raise StoreError(
            f"{folder} is not there on {socket.gethostname()}: a folder as a store needs a disk that all nodes of the "
            "Ray cluster share; use one, or s3://",
            uri=store.url,
        )
    return store
