"""What a shard is made from: the values that all units of a run share, and a hash of all that its bytes follow from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from imageshards.index import IndexRow, row_digest
from imageshards.plan import Unit, bucket_of, shard_name, shards_of, version_prefix
from imageshards.recipe import Recipe
from imageshards.schema import FORMAT_VERSION
from imageshards.transform import ChannelStatistics


@dataclass(frozen=True, slots=True)
class Version:
    """One resolution of the dataset as it is being built.

    Attributes:
        resolution: Side of the square in px.
        fingerprint: Names the version, see `plan.fingerprint`.
        shards: How many shards each split has.
        statistics: Mean and standard deviation of the training images, for recipes that normalize by them.
    """

    resolution: int
    fingerprint: str
    shards: Mapping[str, int]
    statistics: ChannelStatistics | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """What every work unit of a run has in common.

    Attributes:
        dataset: Name of the dataset.
        index_key: The index in the raw store.
        class_names: By class id.
        recipe: What is done to pixels.
        versions: One for each resolution that is to be built.
        keep_unlisted: Whether images in no split become rows, of the split `unlisted`.
        poison: Image ids that killed their workers, with what is known of it: rejected unseen.
    """

    dataset: str
    index_key: str
    class_names: tuple[str, ...]
    recipe: Recipe
    versions: tuple[Version, ...]
    keep_unlisted: bool = False
    poison: Mapping[str, str] = field(default_factory=dict)

    def prefix(self, version: Version) -> str:
        """Folder of one of the versions, with a slash at its end."""
        return version_prefix(self.dataset, version.resolution, version.fingerprint)


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A shard that a unit is to put into a version.

    Attributes:
        version: The version.
        number: Its number among the shards of its split.
        name: File name.
        key: Where it goes.
        inputs: Hash of all that its bytes follow from; shards of equal inputs are equal.
    """

    version: Version
    number: int
    name: str
    key: str
    inputs: str


def planned_shards(build: Build, unit: Unit, rows: Sequence[IndexRow]) -> tuple[PlannedShard, ...]:
    """The shards of a unit, by resolution and number; `rows` are all of its images."""
    digests = [(row.sample_hash, _row_inputs(build, row)) for row in rows]
    return tuple(
        shard
        for version in build.versions
        if version.resolution in unit.resolutions
        for shard in _of_version(build, version, unit, digests)
    )


def _of_version(
    build: Build, version: Version, unit: Unit, digests: Sequence[tuple[int, bytes]]
) -> Iterator[PlannedShard]:
    shards = version.shards[unit.split]
    numbers = shards_of(unit, shards)
    inputs = {number: hashlib.sha256(_common_inputs(build, version, unit.split, number)) for number in numbers}
    for sample_hash, digest in digests:
        inputs[bucket_of(sample_hash, shards)].update(digest)
    for number in numbers:
        name = shard_name(unit.split, number)
        yield PlannedShard(version, number, name, build.prefix(version) + name, inputs[number].hexdigest())


def _common_inputs(build: Build, version: Version, split: str, number: int) -> bytes:
    statistics = version.statistics
    content = [
        FORMAT_VERSION,
        build.recipe.canonical(),
        version.resolution,
        build.class_names,
        [split, number, version.shards[split]],
        [statistics.mean, statistics.std] if statistics else None,
    ]
    return json.dumps(content).encode()


def _row_inputs(build: Build, row: IndexRow) -> bytes:
    return row_digest(row) + row.source_key.encode() + b"\0" + build.poison.get(row.image_id, "").encode()
