"""What the flow hands to the program on the Ray cluster, and what it gets back: two JSON objects in the store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imageshards.errors import ConfigError
from imageshards.index import NO_SPLIT_RULE, UNLISTED_SPLIT, iter_index
from imageshards.recipe import MAX_RESOLUTION, Recipe
from imageshards.shard_file import ShardResult
from imageshards.store import Store, StoreSpec

SPEC_VERSION = 1

LINE_PREFIX = "imageshards-driver:"
"""Starts each line of the driver's output that is meant for the waiting task; the rest of the line is JSON."""


class JobSpec(BaseModel):
    """Everything the driver needs to know. Holds no secret: nodes get their credentials from role or environment.

    Attributes:
        spec_version: Version of this form; the driver refuses another.
        dataset: Name of the dataset.
        index_key: The index in the raw store.
        raw_store: Where the images lie.
        store: Where the shards go.
        resolutions: Which to build, side of the square in px.
        recipe: What is done to pixels.
        keep_unlisted: Whether images in no split become rows.
        result_key: Where in the store the result goes.
        lease: Id of the run that holds the dataset's writer lock in the store; the driver ends itself when that run
            holds it no longer. None where there is no lock.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec_version: int = SPEC_VERSION
    dataset: str
    index_key: str
    raw_store: StoreSpec
    store: StoreSpec
    resolutions: Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_RESOLUTION)], ...], Field(min_length=1)]
    recipe: Recipe
    keep_unlisted: bool = False
    result_key: str
    lease: str | None = None

    @classmethod
    def from_json(cls, data: bytes, *, uri: str) -> Self:
        """Read a spec.

        Raises:
            ConfigError: It is no spec of this version.
        """
        try:
            found = json.loads(data).get("spec_version")
            if found != SPEC_VERSION:
                raise ConfigError(
                    f"{uri} is a spec of version {found}, this driver reads version {SPEC_VERSION}: "
                    "use the same version of imageshards on both sides"
                )
            return cls.model_validate_json(data)
        except (ValidationError, ValueError, AttributeError) as error:
            raise ConfigError(f"{uri} is no job spec: {error}") from error


@dataclass(frozen=True, slots=True)
class VersionResult:
    """What the driver built of one resolution.

    Attributes:
        resolution: Side of the square in px.
        fingerprint: Names the version.
        shards: Every shard of the version, by name.
        statistics: Mean and standard deviation used to normalize, for recipes that measure them.
    """

    resolution: int
    fingerprint: str
    shards: tuple[ShardResult, ...]
    statistics: Mapping[str, list[float]] | None = None

    @property
    def reused(self) -> int:
        """How many of the shards were copied from the version before."""
        return sum(shard.reused for shard in self.shards)


@dataclass(frozen=True, slots=True)
class JobResult:
    """What the driver built."""

    versions: tuple[VersionResult, ...]
    seconds: float
    software: Mapping[str, str]

    @property
    def shards(self) -> int:
        """How many shards there are, of all versions."""
        return sum(len(version.shards) for version in self.versions)

    @property
    def reused(self) -> int:
        """How many of them were copied from the versions before."""
        return sum(version.reused for version in self.versions)

    def to_json(self) -> bytes:
        """The result as JSON."""
        versions = [
            {
                "resolution": version.resolution,
                "fingerprint": version.fingerprint,
                "statistics": version.statistics,
                "shards": version.shards,
            }
            for version in self.versions
        ]
        content = {"versions": versions, "seconds": self.seconds, "software": dict(self.software)}
        # Shards become dictionaries one at a time: those of all take three times the memory of the text.
        return json.dumps(content, sort_keys=True, default=ShardResult.to_dict).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read back what `to_json` wrote."""
        content = json.loads(data)
        versions = tuple(
            VersionResult(
                version["resolution"],
                version["fingerprint"],
                tuple(ShardResult.from_dict(shard) for shard in version["shards"]),
                version["statistics"],
            )
            for version in content["versions"]
        )
        return cls(versions, content["seconds"], content["software"])


@dataclass(frozen=True, slots=True)
class Population:
    """How many images of an index go where.

    Attributes:
        splits: Images of each split that are to become rows or rejects.
        left_out: Images left out, by rule.
    """

    splits: Mapping[str, int]
    left_out: Mapping[str, int]


def count_population(raw_store: Store, index_key: str, *, keep_unlisted: bool) -> Population:
    """Count the images of an index by split, and by the rule that leaves them out; reads the index piece by piece."""
    splits: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for table in iter_index(raw_store, index_key, columns=["split", "left_out", "label"]):
        left_out += _counts(table["left_out"])
        kept = table.filter(pc.is_null(table["left_out"]))
        splits += _counts(kept["split"])
        nowhere = kept.filter(pc.is_null(kept["split"]))
        labelled = pc.count(nowhere["label"]).as_py() if keep_unlisted else 0
        splits += Counter({UNLISTED_SPLIT: labelled})
        left_out += Counter({NO_SPLIT_RULE: nowhere.num_rows - labelled})
    return Population(dict(sorted(splits.items())), dict(sorted(left_out.items())))


def _counts(column: pa.ChunkedArray) -> Counter[str]:
    """How often each value occurs; nulls are left aside. Not by `group_by`: it imports pyarrow.dataset, 60 MB."""
    counts = pc.value_counts(column.drop_null())
    return Counter(dict(zip(*(counts.field(name).to_pylist() for name in ("values", "counts")), strict=True)))


def driver_line(kind: str, **content: Any) -> str:
    """One line for the waiting task."""
    return f"{LINE_PREFIX} {json.dumps({'kind': kind, **content}, sort_keys=True)}"


def parse_driver_line(line: str) -> dict[str, Any] | None:
    """What a line of the driver's output tells the waiting task; None for an ordinary line."""
    _, prefix, content = line.partition(LINE_PREFIX)
    if not prefix:
        return None
    try:
        parsed = json.loads(content)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None
