"""Looks at what lies in the stores, for `retention` to decide: versions, files of runs, unfinished uploads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from imageshards.errors import ConfigError, ObjectMissingError, StoreError
from imageshards.manifest import MANIFEST_NAME, read_manifest
from imageshards.plan import version_prefix
from imageshards.pointer import read_latest, read_left
from imageshards.retention import Condition, Kind, Leftover, VersionState
from imageshards.store import ObjectInfo, Store, check_key

_FINGERPRINT = re.compile("[0-9a-f]{32}")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found of one dataset.

    Attributes:
        versions: Every version's folder, by resolution and fingerprint.
        leftovers: What else runs left.
        problems: What could not be read, one sentence each.
    """

    versions: tuple[VersionState, ...]
    leftovers: tuple[Leftover, ...]
    problems: tuple[str, ...]


@dataclass(slots=True)
class _Tally:
    """What a listing says of one folder."""

    objects: int = 0
    size_bytes: int = 0
    touched_at: datetime = _LONG_AGO
    has_manifest: bool = False

    def add(self, info: ObjectInfo) -> None:
        self.objects += 1
        self.size_bytes += info.size_bytes
        self.touched_at = max(self.touched_at, info.modified_at or datetime.now(UTC))


def datasets_in(store: Store) -> list[str]:
    """The datasets that a store of finished data holds anything of, by name."""
    keys = (info.key for info in store.list("shards"))
    return sorted({parts[1] for parts in (key.split("/") for key in keys) if len(parts) > 2})


def survey(store: Store, raw_store: Store, dataset: str) -> Survey:
    """Look at everything that may be deleted of a dataset, raw objects apart. Lists, and reads each manifest.

    Args:
        store: The finished data.
        raw_store: The raw data; only unfinished uploads are looked for there.
        dataset: Name of the dataset.

    Raises:
        StoreError: The store cannot be listed.
        TransientError: A store is out of reach.
    """
    problems: list[str] = []
    versions = tuple(_versions(store, dataset, problems))
    leftovers = [*_runs(store, dataset), *_unfinished(store, f"shards/{dataset}", problems)]
    leftovers += _unfinished(store, "runs", problems)
    leftovers += _unfinished(raw_store, f"raw/{dataset}", problems, is_raw=True)
    return Survey(versions, tuple(leftovers), tuple(problems))


def _versions(store: Store, dataset: str, problems: list[str]) -> Iterator[VersionState]:
    by_resolution = _folders(store.list(f"shards/{dataset}"))
    for resolution, folders in sorted(by_resolution.items()):
        left = read_left(store, dataset, resolution)
        try:
            latest = read_latest(store, dataset, resolution)
            unknown = False
        except StoreError as error:
            problems.append(f"{error.message}. Until then no version at {resolution} px is deleted")
            latest, unknown = None, True
        for fingerprint, tally in sorted(folders.items()):
            state = VersionState(
                dataset,
                resolution,
                fingerprint,
                Condition.UNPUBLISHED,
                _touched_at(store, version_prefix(dataset, resolution, fingerprint), tally),
                tally.objects,
                tally.size_bytes,
                left_at=left.get(fingerprint),
                is_latest=unknown or fingerprint == latest,
            )
            yield _with_manifest(store, state, problems) if tally.has_manifest else state


def _folders(objects: Iterable[ObjectInfo]) -> dict[int, dict[str, _Tally]]:
    """Tallies by resolution and fingerprint; what lies elsewhere is not ours to delete."""
    folders: dict[int, dict[str, _Tally]] = {}
    for info in objects:
        _, _, resolution, fingerprint, *rest = [*info.key.split("/"), "", ""]
        if resolution.isdecimal() and _FINGERPRINT.fullmatch(fingerprint) and rest[:-2]:
            tally = folders.setdefault(int(resolution), {}).setdefault(fingerprint, _Tally())
            tally.add(info)
            tally.has_manifest |= rest[:-2] == [MANIFEST_NAME]
    return folders


def _touched_at(store: Store, prefix: str, tally: _Tally) -> datetime:
    """When something was written there last; in a folder a copied shard is as old as what it was copied from."""
    folder = store.local_path(prefix.removesuffix("/"))
    if folder is None or not folder.is_dir():
        return tally.touched_at
    return max(tally.touched_at, datetime.fromtimestamp(folder.stat().st_mtime, UTC))


def _with_manifest(store: Store, state: VersionState, problems: list[str]) -> VersionState:
    """The state of a version's folder with what its manifest says."""
    common = {field: getattr(state, field) for field in VersionState.__slots__}
    try:
        manifest = read_manifest(store, state.dataset, state.resolution, state.fingerprint)
        if manifest is None:  # gone since it was listed
            return state
        created_at = datetime.fromisoformat(manifest.created_at)
    except (StoreError, ValueError) as error:
        problems.append(f"{store.uri(state.prefix + MANIFEST_NAME)} cannot be used, so its version is kept: {error}")
        return VersionState(**{**common, "condition": Condition.DAMAGED})
    found = {
        "condition": Condition.PUBLISHED,
        "created_at": created_at if created_at.tzinfo else created_at.replace(tzinfo=UTC),
        "refers_to": frozenset(f"{shard.path.rpartition('/')[0]}/" for shard in manifest.shards),
        "index": manifest.index,
        "raw_store": manifest.raw_store,
    }
    return VersionState(**{**common, **found})


def _runs(store: Store, dataset: str) -> Iterator[Leftover]:
    """Folders of runs that are of this dataset, or do not tell of which."""
    tallies: dict[str, _Tally] = {}
    for info in store.list("runs"):
        name, _, file = info.key.removeprefix("runs/").partition("/")
        if file:
            tallies.setdefault(f"runs/{name}/", _Tally()).add(info)
    for prefix, tally in sorted(tallies.items()):
        if _dataset_of_run(store, prefix) in (dataset, None):
            yield Leftover(Kind.RUN, prefix, _touched_at(store, prefix, tally), tally.objects, tally.size_bytes)


def _dataset_of_run(store: Store, prefix: str) -> str | None:
    try:
        found = json.loads(store.get(f"{prefix}spec.json"))["dataset"]
    except (ObjectMissingError, ValueError, KeyError, TypeError):
        return None
    return str(found)


def _unfinished(store: Store, prefix: str, problems: list[str], *, is_raw: bool = False) -> list[Leftover]:
    try:
        return [
            Leftover(
                Kind.UNFINISHED,
                f"{store.uri(found.key)} ({found.token})",
                found.started_at,
                size_bytes=found.size_bytes or 0,
                unfinished=found,
                is_raw=is_raw,
            )
            for found in store.unfinished(prefix)
            if _can_be_ours(found.key)
        ]
    except StoreError as error:  # S3 has a permission of its own for it, and some servers do not tell
        problems.append(error.message)
        return []


def _can_be_ours(key: str) -> bool:
    try:
        check_key(key)
    except ConfigError:
        return False
    return True
