"""Shards that did not change since the version before: found in its manifest, checked, and copied by the store.

Two shards whose `inputs` are equal have the same bytes, if the same software made them. The driver looks up the shards
of the version that is published now; a worker computes the inputs of the shards that it is to build, and copies
those that are there already. Whatever is wrong with an old shard, the worker builds the new one instead.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from imageshards.download_cache import hash_file
from imageshards.errors import ConfigError, StoreError
from imageshards.manifest import Manifest, ShardEntry, iter_shards, read_manifest_head
from imageshards.plan import version_prefix
from imageshards.pointer import read_latest
from imageshards.shard_file import ShardResult, read_shard_result
from imageshards.shard_inputs import PlannedShard
from imageshards.store import Store

MAKERS = (
    *("imageshards", "numpy", "pillow", "pyarrow", "simplejpeg"),
    *("cykooz-resizer", "kornia-rs", "opencv-python-headless", "torch", "torchvision"),
)
"""Packages that the bytes of a shard come from. With another version of one, a version is built as a whole: it would
not be what its manifest says of its software otherwise, nor what the same run gives in an empty store."""

_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class PublishedShard:
    """A shard that may be copied: where it lies, and what its manifest says of it.

    Attributes:
        key: Where it lies.
        inputs: Hash of all that its bytes follow from.
        sha256: Digest of its bytes.
    """

    key: str
    inputs: str
    sha256: str


class Published:
    """What the current version of one resolution offers.

    Holds the digests of a shard, 64 bytes, and its name: the driver has one of these for each of very many.

    Args:
        manifest: Of the version; None where nothing is to be had.
        shards: Those that it lists.
    """

    def __init__(self, manifest: Manifest | None = None, shards: Iterable[ShardEntry] = ()) -> None:
        self._prefix = ""
        if manifest is not None:
            self._prefix = version_prefix(manifest.dataset, manifest.resolution, manifest.fingerprint)
        self._digests = {shard.path.removeprefix(self._prefix): _digests_of(shard) for shard in shards}

    def __len__(self) -> int:
        return len(self._digests)

    def shard(self, name: str) -> PublishedShard | None:
        """The shard of a file name; None where there is none such."""
        digests = self._digests.get(name)
        if digests is None:
            return None
        return PublishedShard(self._prefix + name, digests[:_DIGEST_BYTES].hex(), digests[_DIGEST_BYTES:].hex())


def _digests_of(shard: ShardEntry) -> bytes:
    try:
        return bytes.fromhex(shard.inputs) + bytes.fromhex(shard.sha256)
    except ValueError as error:
        raise StoreError(f"{shard.path}: its manifest holds what is no digest: {error}", key=shard.path) from error


def find_published(
    store: Store,
    dataset: str,
    resolution: int,
    *,
    fingerprint: str,
    software: Mapping[str, str],
    log: Callable[[str], None],
) -> Published:
    """The shards of the current version, if it is another one than that which is being built.

    A pointer or manifest that cannot be used means that nothing is reused, and is no error.

    Args:
        store: Where versions lie.
        dataset: Name of the dataset.
        resolution: Side of the square in px.
        fingerprint: The version that is being built.
        software: Versions of what builds it, the `MAKERS` among them.
        log: Is told why nothing is reused although a version is published.

    Raises:
        TransientError: The store is out of reach.
    """
    try:
        current = read_latest(store, dataset, resolution)
        if current is None or current == fingerprint:
            return Published()
        manifest = read_manifest_head(store, dataset, resolution, current)
        if manifest is None:
            problem = f"version {current}, which latest.json names, has no manifest"
        elif changed := _changed_makers(manifest.software, software):
            problem = f"version {current} was made by other software: {changed}"
        else:
            return Published(manifest, iter_shards(store, manifest))
    except (StoreError, ConfigError) as error:  # a pointer may hold what is no key
        problem = error.message
    log(f"no shard of {resolution} px is reused: {problem}")
    return Published()


def _changed_makers(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name} {before.get(name, 'none')}, now {now.get(name, 'none')}"
        for name in MAKERS
        if before.get(name) != now.get(name)
    )


@dataclass(frozen=True, slots=True)
class Reuse:
    """What could be copied of the shards of a unit.

    Attributes:
        results: What became of the shards that lie in the new version now, by key.
        problems: Why others, which seemed to be there, must be built, by key.
    """

    results: Mapping[str, ShardResult]
    problems: Mapping[str, str]


def reuse_shards(planned: Iterable[PlannedShard], published: Iterable[PublishedShard], store: Store) -> Reuse:
    """Copy the planned shards that are published already.

    Raises:
        TransientError: The store is out of reach.
    """
    by_inputs = {shard.inputs: shard for shard in published}
    results: dict[str, ShardResult] = {}
    problems: dict[str, str] = {}
    for shard in planned:
        source = by_inputs.get(shard.inputs)
        if source is None:
            continue
        try:
            results[shard.key] = _copy_checked(shard, source, store)
        except (StoreError, ConfigError) as error:  # a damaged manifest may hold what is no key
            problems[shard.key] = error.message
    return Reuse(results, problems)


def _copy_checked(shard: PlannedShard, source: PublishedShard, store: Store) -> ShardResult:
    """Copy a shard whose bytes are those that were published.

    It is read before it is copied, and the copy appears as a whole: a run that is killed in between leaves nothing that
    a restart would take for a finished shard and that is not one.
    """
    with _as_file(store, source.key) as (path, sha256):
        if sha256 != source.sha256:
            raise StoreError(f"{store.uri(source.key)}: expected sha256 {source.sha256}, found {sha256}")
        found = read_shard_result(path, resolution=shard.version.resolution, name=shard.name, sha256=sha256)
    if found.inputs != shard.inputs:
        raise StoreError(f"{store.uri(source.key)}: expected inputs {shard.inputs}, found {found.inputs}")
    store.copy(source.key, shard.key)
    copied = store.head(shard.key).size_bytes
    if copied != found.size_bytes:
        raise StoreError(f"{store.uri(shard.key)}: expected a copy of {found.size_bytes} bytes, found {copied}")
    return replace(found, reused=True)


def read_stored_shard(store: Store, key: str, *, resolution: int, name: str) -> ShardResult:
    """What a shard in a store says of itself, with the digest of its bytes.

    Raises:
        StoreError: It is missing, damaged, or no shard of ours.
        TransientError: The store is out of reach.
    """
    with _as_file(store, key) as (path, sha256):
        return read_shard_result(path, resolution=resolution, name=name, sha256=sha256)


@contextmanager
def _as_file(store: Store, key: str) -> Iterator[tuple[Path, str]]:
    """An object as a file of this machine, and the SHA-256 of its bytes."""
    path = store.local_path(key)
    if path is not None:
        try:
            sha256, _ = hash_file(path)
        except OSError as error:
            raise StoreError(f"cannot read {store.uri(key)}: {error.strerror}", key=key) from error
        yield path, sha256
        return
    with tempfile.TemporaryDirectory(prefix="imageshards-") as folder:
        path = Path(folder) / "shard.parquet"
        yield path, store.download(key, path)
