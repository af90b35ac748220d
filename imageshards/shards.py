"""build_unit: one work unit — fetch its images, decode each once, write its shards of every resolution."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imageshards.encode import encode
from imageshards.errors import SampleError
from imageshards.fetch_ahead import fetchers
from imageshards.index import UNLISTED_SPLIT, IndexRow, index_rows, read_index, row_digest
from imageshards.oxford_pets import Box
from imageshards.plan import Unit, bucket_of, copies_of, shard_name, shards_of, version_prefix
from imageshards.recipe import Recipe
from imageshards.samples import Sample, Samples, read_samples
from imageshards.schema import FORMAT_VERSION, shard_metadata
from imageshards.shard_file import Reject, ShardResult, ShardWriter
from imageshards.statistics import PixelSums
from imageshards.store import Store
from imageshards.transform import ChannelStatistics, Prepared, prepare, prepare_unnormalized


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


def unit_rows(build: Build, unit: Unit, raw_store: Store) -> list[IndexRow]:
    """The images of a unit, ordered by the hash of their id."""
    split = None if unit.split == UNLISTED_SPLIT else unit.split
    table = read_index(raw_store, build.index_key, split=split, hash_range=unit.hash_range)
    rows = [row for row in index_rows(table) if not row.left_out]
    return [row for row in rows if row.label is not None] if split is None else rows


def build_unit(build: Build, unit: Unit, *, raw_store: Store, store: Store) -> list[ShardResult]:
    """Build the shards of a unit. Each is put into the store atomically; the same unit gives the same bytes.

    Args:
        build: The run.
        unit: Which images, and at which resolutions.
        raw_store: Where the images lie.
        store: Where the shards go.

    Returns:
        One result for each shard, by resolution and name.

    Raises:
        StoreError: A raw object is missing or is not what the index says, or the store refuses.
        TransientError: A store is out of reach.
    """
    versions = [version for version in build.versions if version.resolution in unit.resolutions]
    rows = unit_rows(build, unit, raw_store)
    copies = copies_of(build.recipe, unit.split)
    results: list[ShardResult] = []
    with fetchers(raw_store) as pool, ExitStack() as stack:
        outputs = [stack.enter_context(_Output(build, version, unit, rows, store)) for version in versions]
        for copy in range(copies + 1):
            for row, samples in _read(build, rows, unit, raw_store, pool):
                for output in outputs:
                    output.take(row, samples, copy)
        for output in outputs:
            results.extend(output.finish())
    return results


def measure_unit(build: Build, unit: Unit, *, raw_store: Store) -> dict[int, PixelSums]:
    """Sum the pixels of a unit's plain images before normalization, by resolution; rejects are passed over."""
    versions = [version for version in build.versions if version.resolution in unit.resolutions]
    sums = {version.resolution: PixelSums.zero(build.recipe.channels) for version in versions}
    rows = unit_rows(build, unit, raw_store)
    with fetchers(raw_store) as pool:
        for row, samples in _read(build, rows, unit, raw_store, pool):
            if isinstance(samples, SampleError):
                continue  # noted as a reject when the shards are built
            for version in versions:
                picture = samples[version.resolution].picture
                try:
                    prepared = prepare_unnormalized(
                        picture, build.recipe, resolution=version.resolution, image_id=row.image_id
                    )
                except SampleError:
                    continue  # likewise
                sums[version.resolution] += PixelSums.of(prepared.pixels)
    return sums


def probe_images(build: Build, unit: Unit, rows: Sequence[IndexRow], *, raw_store: Store) -> None:
    """Do all that `build_unit` does with these images, and write nothing."""
    statistics = ChannelStatistics((0.0,) * build.recipe.channels, (1.0,) * build.recipe.channels)
    with fetchers(raw_store) as pool:
        for row, samples in _read(build, rows, unit, raw_store, pool):
            if isinstance(samples, SampleError):
                continue
            for resolution in unit.resolutions:
                for copy in range(copies_of(build.recipe, unit.split) + 1):
                    try:
                        prepared = prepare(
                            samples[resolution].picture,
                            build.recipe,
                            resolution=resolution,
                            image_id=row.image_id,
                            copy=copy,
                            statistics=statistics,
                        )
                    except SampleError:
                        continue
                    _stored_form(prepared, build.recipe)


def _read(
    build: Build, rows: Sequence[IndexRow], unit: Unit, raw_store: Store, pool: ThreadPoolExecutor
) -> Iterator[tuple[IndexRow, Samples | SampleError]]:
    return read_samples(
        rows,
        unit.split,
        build.recipe,
        resolutions=unit.resolutions,
        poison=build.poison,
        store=raw_store,
        pool=pool,
    )


class _Output:
    """The shards of one unit at one resolution, one open at a time, in the order of their buckets."""

    def __init__(self, build: Build, version: Version, unit: Unit, rows: Sequence[IndexRow], store: Store) -> None:
        self._rows = rows
        self._build = build
        self._version = version
        self._unit = unit
        self._store = store
        self._pending = deque(shards_of(unit, version.shards[unit.split]))
        self._writer: ShardWriter | None = None
        self._number = -1
        self._results: list[ShardResult] = []

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._writer is not None:
            self._writer.__exit__(*error)

    def take(self, row: IndexRow, samples: Samples | SampleError, copy: int) -> None:
        """Write a row for this resolution's sample, or note why there is none."""
        writer = self._writer_of(bucket_of(row.sample_hash, self._version.shards[self._unit.split]))
        if isinstance(samples, SampleError):
            self._refuse(writer, row, samples, copy)
            return
        sample = samples[self._version.resolution]
        try:
            prepared = self._prepare(row, sample, copy)
        except SampleError as error:
            self._refuse(writer, row, error, copy)
            return
        image = _stored_form(prepared, self._build.recipe)
        writer.append(_columns(sample.columns, prepared, copy), image=image, trimap=prepared.trimap)

    def finish(self) -> list[ShardResult]:
        """Close and store what is open, and the shards that no image fell into."""
        while self._pending or self._writer is not None:
            self._close()
            if self._pending:
                self._open()
        return self._results

    def _refuse(self, writer: ShardWriter, row: IndexRow, error: SampleError, copy: int) -> None:
        if copy == 0:
            writer.reject(_reject(row, self._unit.split, error))

    def _prepare(self, row: IndexRow, sample: Sample, copy: int) -> Prepared:
        return prepare(
            sample.picture,
            self._build.recipe,
            resolution=self._version.resolution,
            image_id=row.image_id,
            copy=copy,
            statistics=self._version.statistics,
        )

    def _writer_of(self, number: int) -> ShardWriter:
        while self._writer is None or self._number != number:
            self._close()
            self._open()
        return self._writer

    def _open(self) -> None:
        self._number = self._pending.popleft()
        name = shard_name(self._unit.split, self._number)
        metadata = shard_metadata(
            dataset=self._build.dataset,
            recipe=self._build.recipe,
            resolution=self._version.resolution,
            class_names=self._build.class_names,
            shard=name,
            inputs=self._inputs_digest(),
        )
        prefix = version_prefix(self._build.dataset, self._version.resolution, self._version.fingerprint)
        self._writer = ShardWriter(
            self._store.open_output(prefix + name),
            name=name,
            recipe=self._build.recipe,
            resolution=self._version.resolution,
            split=self._unit.split,
            metadata=metadata,
        )

    def _inputs_digest(self) -> str:
        """Hash of all that the bytes of the open shard follow from; equal inputs mean that a shard can be reused."""
        shards = self._version.shards[self._unit.split]
        statistics = self._version.statistics
        content = [
            FORMAT_VERSION,
            self._build.recipe.canonical(),
            self._version.resolution,
            self._build.class_names,
            [self._unit.split, self._number, shards],
            [statistics.mean, statistics.std] if statistics else None,
        ]
        digest = hashlib.sha256(json.dumps(content).encode())
        for row in self._rows:
            if bucket_of(row.sample_hash, shards) == self._number:
                digest.update(row_digest(row))
                digest.update(row.source_key.encode() + b"\0" + self._build.poison.get(row.image_id, "").encode())
        return digest.hexdigest()

    def _close(self) -> None:
        if self._writer is None:
            return
        self._results.append(self._writer.finish())
        self._writer = None


def _stored_form(prepared: Prepared, recipe: Recipe) -> Any:
    """What goes into the image column: the pixels, or the bytes of an image file."""
    return prepared.pixels if recipe.encoding == "raw" else encode(prepared.pixels, recipe)


def _columns(columns: Mapping[str, Any], prepared: Prepared, copy: int) -> dict[str, Any]:
    head_box, visible = prepared.head_box, prepared.head_box_visible
    if head_box is not None and not _has_area(head_box, visible):
        head_box, visible = None, 0.0
    return {
        **columns,
        "copy": copy,
        "head_box": head_box,
        "head_box_visible": visible,
        "upscaled": prepared.upscaled,
    }


def _has_area(box: Box, visible: float | None) -> bool:
    """Whether a box is more than a sliver that float32, in which it is stored, does not hold."""
    xmin, ymin, xmax, ymax, share = np.array([*box, visible or 0.0], np.float32).tolist()
    return bool(xmin < xmax and ymin < ymax and share > 0)


def _reject(row: IndexRow, split: str, error: SampleError) -> Reject:
    return Reject(
        row.image_id, row.source_key, row.source_sha256, split, row.class_name, str(error.reason), error.message
    )
