"""Which image goes into which shard, and which shards one Ray task builds: pure functions of hashes and counts.

A split has a power of two of shards, and the leading bits of the hash of an image's id name its shard. So a changed
image changes one shard, and the shards of a small resolution are unions of those of a large one: one work unit decodes
each of its images once and writes whole shards of every resolution.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from imageshards.index import NO_SPLIT_RULE, UNLISTED_SPLIT, IndexRow
from imageshards.recipe import Recipe
from imageshards.schema import FORMAT_VERSION, image_size_bytes

MAX_SHARD_BYTES = 128 << 20
"""Shards come out at half of this to all of it."""

HASH_BITS = 64

_ENCODED_BYTES_PER_VALUE = {"jpeg": 0.15, "png": 0.70, "webp": 0.08}
"""Typical bytes per pixel and channel of photographs at quality 90; only the number of shards depends on it."""


@dataclass(frozen=True, slots=True)
class Unit:
    """The images that one Ray task turns into shards: one bucket of one split.

    Attributes:
        split: `trainval`, `test` or `unlisted`.
        bucket: Number of the bucket.
        buckets: How many buckets the split has, a power of two.
        resolutions: Which resolutions to build, side of the square in px.
    """

    split: str
    bucket: int
    buckets: int
    resolutions: tuple[int, ...]

    @property
    def hash_range(self) -> tuple[int, int]:
        """First and last sample hash of the bucket."""
        width = (1 << HASH_BITS) // self.buckets
        return self.bucket * width, (self.bucket + 1) * width - 1

    @property
    def name(self) -> str:
        """For logs: `trainval 3/8`."""
        return f"{self.split} {self.bucket}/{self.buckets}"


def split_of(row: IndexRow, *, keep_unlisted: bool) -> str | None:
    """The split whose shards the image goes to; None where a rule leaves it out."""
    if row.left_out:
        return None
    return row.split or (UNLISTED_SPLIT if keep_unlisted and row.label is not None else None)


def left_out_rule(row: IndexRow, *, keep_unlisted: bool) -> str | None:
    """The rule that leaves the image out; None where it goes into a split."""
    return None if split_of(row, keep_unlisted=keep_unlisted) else row.left_out or NO_SPLIT_RULE


def copies_of(recipe: Recipe, split: str) -> int:
    """Augmented copies of each image of a split: only training images get any."""
    return recipe.augment.copies if split == "trainval" else 0


def row_size_bytes(recipe: Recipe, resolution: int) -> int:
    """Bytes of one row, about: the image and its trimap."""
    image = image_size_bytes(recipe, resolution)
    if recipe.encoding != "raw":
        image = int(image * _ENCODED_BYTES_PER_VALUE[recipe.encoding])
    return image + resolution * resolution


def shard_count(rows: int, row_bytes: int) -> int:
    """Shards of a split: the smallest power of two that keeps a shard within `MAX_SHARD_BYTES` on average."""
    wanted = -(-rows * row_bytes // MAX_SHARD_BYTES)
    return 1 << max(wanted - 1, 0).bit_length()


def bucket_of(sample_hash: int, buckets: int) -> int:
    """The bucket of a hash: its leading bits."""
    return sample_hash * buckets >> HASH_BITS


def plan_shards(split_sizes: Mapping[str, int], recipe: Recipe, resolution: int) -> dict[str, int]:
    """How many shards each split has at one resolution; depends on nothing else that is built beside it."""
    row_bytes = row_size_bytes(recipe, resolution)
    return {
        split: shard_count(size * (1 + copies_of(recipe, split)), row_bytes)
        for split, size in sorted(split_sizes.items())
        if size
    }


def plan_units(split_sizes: Mapping[str, int], recipe: Recipe, resolutions: Iterable[int]) -> list[Unit]:
    """Work units that cover each shard of each resolution once, the largest first: a short one ends a run evenly.

    A recipe that augments gets a unit for each shard: its copies are laid one after another through the shard, and
    decoding is a small part of its cost.
    """

    def size(unit: Unit) -> float:
        images = split_sizes[unit.split] * (1 + copies_of(recipe, unit.split)) / unit.buckets
        return images * sum(side * side for side in unit.resolutions)

    return sorted(_units(split_sizes, recipe, resolutions), key=size, reverse=True)


def _units(split_sizes: Mapping[str, int], recipe: Recipe, resolutions: Iterable[int]) -> list[Unit]:
    counts = {resolution: plan_shards(split_sizes, recipe, resolution) for resolution in sorted(resolutions)}
    if recipe.augments:
        return [
            Unit(split, bucket, buckets, (resolution,))
            for resolution, by_split in counts.items()
            for split, buckets in by_split.items()
            for bucket in range(buckets)
        ]
    return [
        Unit(split, bucket, buckets, tuple(counts))
        for split in sorted(split for split, size in split_sizes.items() if size)
        for buckets in [min(by_split[split] for by_split in counts.values())]
        for bucket in range(buckets)
    ]


def shards_of(unit: Unit, shards: int) -> range:
    """The numbers of the shards that a unit builds, out of `shards` in its split at one resolution."""
    each = shards // unit.buckets
    return range(unit.bucket * each, (unit.bucket + 1) * each)


def shard_name(split: str, number: int) -> str:
    """File name of a shard."""
    return f"{split}-{number:05d}.parquet"


def fingerprint(index_digest: str, recipe: Recipe, resolution: int, *, keep_unlisted: bool) -> str:
    """What a version is made from and how: index content, recipe, resolution, format version. 32 hexadecimal digits."""
    content = [
        FORMAT_VERSION,
        index_digest,
        recipe.canonical(),
        resolution,
        *(["keep-unlisted"] if keep_unlisted else []),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def version_prefix(dataset: str, resolution: int, version: str) -> str:
    """Folder of one version of the finished dataset, with a slash at its end."""
    return f"shards/{dataset}/{resolution}/{version}/"
