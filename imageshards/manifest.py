"""The manifest: what a finished version consists of. Written last and once, it is the commit point.

Readers go through a manifest, or through `pointer`, which leads to one, and never list a prefix.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from imageshards.errors import ConfigError, ObjectExistsError, ObjectMissingError, StoreError
from imageshards.plan import version_prefix
from imageshards.pointer import point_latest, read_latest
from imageshards.schema import FORMAT_VERSION
from imageshards.store import Store

MANIFEST_NAME = "manifest.json"

MAX_DUPLICATES = 1000
"""Pairs that a manifest names."""

SHARDS_INLINE = 4096
"""Shards that a manifest lists itself. The list of more lies beside it, in parts of this many: 1.2 MB each."""

_PART_DIGEST_DIGITS = 16


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArchiveSource(_Model):
    """One source archive: where it came from (no credentials in it) and what it was."""

    url: str
    sha256: str
    size_bytes: int


class ShardEntry(_Model):
    """One shard of a version; `inputs` is the hash of all that its bytes follow from."""

    path: str
    split: str
    rows: int
    size_bytes: int
    sha256: str
    inputs: str


class ShardPart(_Model):
    """A part of the list of shards: a JSON array in an object of its own, named after its content."""

    path: str
    shards: int
    sha256: str


_PART = TypeAdapter(tuple[ShardEntry, ...])


class PixelStatistics(_Model):
    """Mean and standard deviation per channel, in the units of the stored pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class CheckEntry(_Model):
    """A check that the version passed."""

    name: str
    passed: bool
    expected: str
    found: str
    examples: tuple[str, ...] = ()


class DuplicateEntry(_Model):
    """Two images that show the same picture, `exact` to the pixel or `near`."""

    first: str
    second: str
    first_split: str
    second_split: str
    kind: str
    distance: int


class Manifest(_Model):
    """What one version of one resolution of a dataset consists of.

    Attributes:
        format_version: Of the shards and of this file.
        dataset: Name of the dataset.
        resolution: Side of the square in px.
        fingerprint: Names the version: hash of index content, recipe, resolution, format version.
        sources: The archives, `images` and `annotations`.
        index: Key of the index in the raw store.
        index_digest: Hash of the index's content.
        raw_store: Address of the raw store; the rows' `source_key` lies there.
        recipe: What was done to pixels, in its canonical form.
        recipe_fingerprint: Hash of it.
        layout: Order of the axes in the image column.
        dtype: Type of a stored pixel value.
        channels: Channels of an image.
        encoding: `raw`, `jpeg`, `png` or `webp`.
        class_names: By label.
        images: Images in the archive; equals samples + rejects + left_out.
        samples: Rows without augmented copies.
        rows: Rows, augmented copies included.
        splits: Rows of each split.
        classes: Rows of each class in each split.
        rejects: Samples refused, by reason; `rejects.parquet` beside this file names each.
        left_out: Images left out, by rule.
        repairs: Samples accepted after a repair, by its name.
        members: Members of both archives by kind.
        duplicates: Pairs that show the same picture, the first `MAX_DUPLICATES`; those across splits come first.
        duplicate_pairs: All such pairs, by kind; `leak` counts those across splits.
        pixels: Statistics over all plain rows.
        normalization: Mean and std that a recipe with `normalize: dataset` measured and applied.
        shards: Every shard; in the file itself none where there are `shard_parts`.
        shard_parts: Where the list of shards lies if it is long. Empty once `read_manifest` has read them.
        checks: What was checked before this was published.
        created_at: Time of publication, UTC, ISO 8601.
        software: Versions of what built the shards.
    """

    format_version: int = FORMAT_VERSION
    dataset: str
    resolution: int
    fingerprint: str
    sources: Mapping[str, ArchiveSource]
    index: str
    index_digest: str
    raw_store: str
    recipe: Mapping[str, Any]
    recipe_fingerprint: str
    layout: str = "HWC"
    dtype: str
    channels: int
    encoding: str
    class_names: tuple[str, ...]
    images: int
    samples: int
    rows: int
    splits: Mapping[str, int]
    classes: Mapping[str, Mapping[str, int]]
    rejects: Mapping[str, int]
    left_out: Mapping[str, int]
    repairs: Mapping[str, int]
    members: Mapping[str, int]
    duplicates: tuple[DuplicateEntry, ...] = ()
    duplicate_pairs: Mapping[str, int] = {}
    pixels: PixelStatistics
    normalization: PixelStatistics | None = None
    shards: tuple[ShardEntry, ...]
    shard_parts: tuple[ShardPart, ...] = ()
    checks: tuple[CheckEntry, ...]
    created_at: str
    software: Mapping[str, str]

    @property
    def key(self) -> str:
        """Where the manifest lies in the store."""
        return manifest_key(self.dataset, self.resolution, self.fingerprint)

    def to_json(self) -> bytes:
        """The manifest as indented JSON with a stable order."""
        absent = None if self.shard_parts else {"shard_parts"}
        return self.model_dump_json(indent=1, exclude=absent).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, *, uri: str) -> Self:
        """Read a manifest.

        Raises:
            StoreError: It is damaged, or of a format version that this package does not read.
        """
        try:
            found = json.loads(data).get("format_version")
            if found != FORMAT_VERSION:
                raise StoreError(f"{uri}: expected format version {FORMAT_VERSION}, found {found}", found=found)
            return cls.model_validate_json(data)
        except (ValidationError, ValueError, AttributeError) as error:
            raise StoreError(f"{uri} is no manifest: {error}") from error


def manifest_key(dataset: str, resolution: int, fingerprint: str) -> str:
    """Where the manifest of a version lies."""
    return version_prefix(dataset, resolution, fingerprint) + MANIFEST_NAME


def read_manifest(store: Store, dataset: str, resolution: int, fingerprint: str) -> Manifest | None:
    """The manifest of a version with all its shards; None where it was not published.

    Raises:
        StoreError: It is damaged, or a part of its list of shards is, or is missing.
    """
    manifest = read_manifest_head(store, dataset, resolution, fingerprint)
    if manifest is None:
        return None
    return manifest.model_copy(update={"shards": tuple(iter_shards(store, manifest)), "shard_parts": ()})


def read_manifest_head(store: Store, dataset: str, resolution: int, fingerprint: str) -> Manifest | None:
    """The manifest of a version as it is stored; `iter_shards` gives its shards. None where it was not published.

    Raises:
        StoreError: It is damaged.
    """
    key = manifest_key(dataset, resolution, fingerprint)
    try:
        return Manifest.from_json(store.get(key), uri=store.uri(key))
    except ObjectMissingError:
        return None


def iter_shards(store: Store, manifest: Manifest) -> Iterator[ShardEntry]:
    """The shards of a manifest, one part of a long list in memory at a time.

    Raises:
        StoreError: A part is damaged or missing.
    """
    yield from manifest.shards
    for part in manifest.shard_parts:
        yield from _read_part(store, part, manifest)


def _read_part(store: Store, part: ShardPart, manifest: Manifest) -> tuple[ShardEntry, ...]:
    try:
        data = store.get(part.path)
        found = hashlib.sha256(data).hexdigest()
        if found != part.sha256:
            raise ValueError(f"expected sha256 {part.sha256}, found {found}")
        shards = _PART.validate_json(data)
        if len(shards) != part.shards:
            raise ValueError(f"expected {part.shards} shards, found {len(shards)}")
    except (ObjectMissingError, ValueError) as error:
        raise StoreError(
            f"{store.uri(part.path)}, a part of {store.uri(manifest.key)}, cannot be used: {error}; "
            "delete that manifest and run again, which keeps finished shards",
            key=part.path,
        ) from error
    return shards


def _in_parts(manifest: Manifest, shards_inline: int) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest as it is stored, and the objects that hold the list of its shards, by key, if that is long."""
    if len(manifest.shards) <= shards_inline:
        return manifest, {}
    prefix = version_prefix(manifest.dataset, manifest.resolution, manifest.fingerprint)
    parts: list[ShardPart] = []
    objects: dict[str, bytes] = {}
    for start in range(0, len(manifest.shards), shards_inline):
        shards = manifest.shards[start : start + shards_inline]
        data = _PART.dump_json(shards)
        digest = hashlib.sha256(data).hexdigest()
        # Named after its content: a run that comes second can never change what a published manifest refers to.
        key = f"{prefix}shards-{len(parts):05d}-{digest[:_PART_DIGEST_DIGITS]}.json"
        parts.append(ShardPart(path=key, shards=len(shards), sha256=digest))
        objects[key] = data
    return manifest.model_copy(update={"shards": (), "shard_parts": tuple(parts)}), objects


def current_manifest(store: Store, dataset: str, resolution: int) -> Manifest | None:
    """The manifest that the pointer to the current version leads to; None where nothing readable is published."""
    try:
        fingerprint = read_latest(store, dataset, resolution)
        return None if fingerprint is None else read_manifest(store, dataset, resolution, fingerprint)
    except (StoreError, ConfigError):  # a pointer may hold what is no key
        return None


def publish_manifest(store: Store, manifest: Manifest, *, shards_inline: int = SHARDS_INLINE) -> Manifest:
    """Commit a version: the parts of a long list of shards, its manifest, then the pointer.

    Idempotent: a version that another run published meanwhile is left as it is, for its shards are the same bytes.

    Args:
        store: Where the shards lie.
        manifest: With all its shards.
        shards_inline: How many the manifest lists itself, and how many go into a part where there are more.

    Returns:
        The manifest that counts: ours, or an earlier one.
    """
    stored, parts = _in_parts(manifest, shards_inline)
    for key, data in parts.items():
        store.put(key, data)
    try:
        store.put(stored.key, stored.to_json(), create=True)
    except ObjectExistsError:
        published = read_manifest(store, manifest.dataset, manifest.resolution, manifest.fingerprint)
        manifest = published or manifest
    point_latest(store, manifest)
    return manifest
