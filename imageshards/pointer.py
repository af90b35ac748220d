"""`latest.json`: which version of a resolution readers get, and when it left the others.

It points at a manifest, and is the only data that is ever overwritten.
"""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from imageshards.errors import ObjectMissingError, StoreError
from imageshards.schema import FORMAT_VERSION
from imageshards.store import Store

if TYPE_CHECKING:
    from imageshards.manifest import Manifest

LEFT_KEPT = 100
"""Versions that a pointer remembers to have pointed at: more than anyone publishes within a grace period."""


def latest_key(dataset: str, resolution: int) -> str:
    """Where the pointer to the current version lies."""
    return f"shards/{dataset}/{resolution}/latest.json"


def read_latest(store: Store, dataset: str, resolution: int) -> str | None:
    """Fingerprint of the current version; None where nothing was published yet.

    Raises:
        StoreError: The pointer is damaged.
    """
    key = latest_key(dataset, resolution)
    try:
        return str(json.loads(store.get(key))["fingerprint"])
    except ObjectMissingError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{store.uri(key)} is no pointer to a manifest: {error}; publish to replace it") from error


def point_latest(store: Store, manifest: Manifest) -> bool:
    """Make a published version the current one; returns whether the pointer had to be written."""
    if is_current(store, manifest):
        return False
    pointer: dict[str, Any] = {
        "fingerprint": manifest.fingerprint,
        "manifest": manifest.key,
        "format_version": FORMAT_VERSION,
    }
    if left := _left_by_now(store, manifest):
        pointer["left"] = left
    store.put(latest_key(manifest.dataset, manifest.resolution), json.dumps(pointer, indent=1).encode() + b"\n")
    return True


def read_left(store: Store, dataset: str, resolution: int) -> dict[str, datetime]:
    """When the pointer last moved away from a version, by fingerprint, of the last `LEFT_KEPT`; readers may hold it.

    Empty where the pointer is missing or damaged.
    """
    try:
        left = json.loads(store.get(latest_key(dataset, resolution))).get("left", {})
        return {str(version): datetime.fromisoformat(moment).astimezone(UTC) for version, moment in left.items()}
    except (ObjectMissingError, ValueError, TypeError, AttributeError):
        return {}


def _left_by_now(store: Store, manifest: Manifest) -> dict[str, str]:
    """What `read_left` is to find once the pointer points at a version, oldest first."""
    dataset, resolution = manifest.dataset, manifest.resolution
    left = read_left(store, dataset, resolution)
    with contextlib.suppress(StoreError):  # a damaged pointer points nowhere
        left[read_latest(store, dataset, resolution) or ""] = datetime.now(UTC)
    left = {version: moment for version, moment in left.items() if version not in ("", manifest.fingerprint)}
    newest = sorted(left, key=lambda version: left[version])[-LEFT_KEPT:]
    return {version: left[version].isoformat() for version in newest}


def is_current(store: Store, manifest: Manifest) -> bool:
    """Whether a published version is the one that readers get."""
    try:
        return read_latest(store, manifest.dataset, manifest.resolution) == manifest.fingerprint
    except StoreError:
        return False
