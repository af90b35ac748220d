"""build_unit: one work unit — fetch its images, decode each once, write its shards of every resolution."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from imageshards.encode import encode
from imageshards.errors import SampleError
from imageshards.fetch_ahead import fetchers
from imageshards.index import UNLISTED_SPLIT, IndexRow, index_rows, read_index
from imageshards.oxford_pets import Box
from imageshards.plan import Unit, bucket_of, copies_of
from imageshards.recipe import Recipe
from imageshards.reuse import PublishedShard, reuse_shards
from imageshards.samples import Sample, Samples, read_samples
from imageshards.schema import shard_metadata
from imageshards.shard_file import Reject, ShardResult, ShardWriter
from imageshards.shard_inputs import Build, PlannedShard, planned_shards
from imageshards.statistics import PixelSums
from imageshards.store import Store
from imageshards.transform import ChannelStatistics, Prepared, prepare, prepare_unnormalized


def unit_rows(build: Build, unit: Unit, raw_store: Store) -> list[IndexRow]:
    """The images of a unit, ordered by the hash of their id."""
    split = None if unit.split == UNLISTED_SPLIT else unit.split
    table = read_index(raw_store, build.index_key, split=split, hash_range=unit.hash_range)
    rows = [row for row in index_rows(table) if not row.left_out]
    return [row for row in rows if row.label is not None] if split is None else rows


def build_unit(
    build: Build, unit: Unit, *, raw_store: Store, store: Store, published: Sequence[PublishedShard] = ()
) -> list[ShardResult]:
    """Build the shards of a unit. Each is put into the store atomically; the same unit gives the same bytes.

    Shards that are published already are copied, and only the images of the others are touched.

    Args:
        build: The run.
        unit: Which images, and at which resolutions.
        raw_store: Where the images lie.
        store: Where the shards go.
        published: Shards of the version before that may be the same.

    Returns:
        One result for each shard, by resolution and number.

    Raises:
        StoreError: A raw object is missing or is not what the index says, or the store refuses.
        TransientError: A store is out of reach.
    """
    rows = unit_rows(build, unit, raw_store)
    planned = planned_shards(build, unit, rows)
    reuse = reuse_shards(planned, published, store)
    missing = [shard for shard in planned if shard.key not in reuse.results]
    by_version = [list(shards) for _, shards in groupby(missing, lambda shard: shard.version.resolution)]
    results = dict(reuse.results)
    with fetchers(raw_store) as pool, ExitStack() as stack:
        outputs = [stack.enter_context(_Output(build, unit.split, shards, store)) for shards in by_version]
        for copy in range(copies_of(build.recipe, unit.split) + 1):
            for row, samples, needing in _read_needed(build, rows, unit, outputs, raw_store, pool):
                for output in needing:
                    output.take(row, samples, copy)
        for output in outputs:
            results |= output.finish()
    return [replace(results[shard.key], reuse_problem=reuse.problems.get(shard.key)) for shard in planned]


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


def _read_needed(
    build: Build,
    rows: Sequence[IndexRow],
    unit: Unit,
    outputs: Sequence[_Output],
    raw_store: Store,
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[IndexRow, Samples | SampleError, tuple[_Output, ...]]]:
    """Each image that some outputs need, made for them alone.

    Shards are runs of rows, so there are few runs of rows that the same outputs need; as a rule one.
    """
    for needing, run in groupby(rows, lambda row: tuple(output for output in outputs if output.needs(row))):
        if needing:
            narrowed = replace(unit, resolutions=tuple(output.resolution for output in needing))
            for row, samples in _read(build, list(run), narrowed, raw_store, pool):
                yield row, samples, needing


class _Output:
    """Some shards of one unit at one resolution, one open at a time, in the order of their buckets."""

    def __init__(self, build: Build, split: str, shards: Sequence[PlannedShard], store: Store) -> None:
        self._build = build
        self._split = split
        self._version = shards[0].version
        self._store = store
        self._numbers = frozenset(shard.number for shard in shards)
        self._pending = deque(shards)
        self._shard: PlannedShard | None = None
        self._writer: ShardWriter | None = None
        self._results: dict[str, ShardResult] = {}

    @property
    def resolution(self) -> int:
        """Side of the square in px."""
        return self._version.resolution

    def needs(self, row: IndexRow) -> bool:
        """Whether an image goes into one of these shards."""
        return self._number_of(row) in self._numbers

    def _number_of(self, row: IndexRow) -> int:
        return bucket_of(row.sample_hash, self._version.shards[self._split])

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._writer is not None:
            self._writer.__exit__(*error)

    def take(self, row: IndexRow, samples: Samples | SampleError, copy: int) -> None:
        """Write a row for this resolution's sample, or note why there is none."""
        writer = self._writer_of(self._number_of(row))
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

    def finish(self) -> dict[str, ShardResult]:
        """Close and store what is open, and the shards that no image fell into; all results by key."""
        while self._pending or self._writer is not None:
            self._close()
            if self._pending:
                self._open()
        return self._results

    def _refuse(self, writer: ShardWriter, row: IndexRow, error: SampleError, copy: int) -> None:
        if copy == 0:
            writer.reject(_reject(row, self._split, error))

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
        while self._writer is None or self._shard is None or self._shard.number != number:
            self._close()
            self._open()
        return self._writer

    def _open(self) -> None:
        self._shard = self._pending.popleft()
        metadata = shard_metadata(
            dataset=self._build.dataset,
            recipe=self._build.recipe,
            resolution=self.resolution,
            class_names=self._build.class_names,
            shard=self._shard.name,
            inputs=self._shard.inputs,
        )
        self._writer = ShardWriter(
            self._store.open_output(self._shard.key),
            name=self._shard.name,
            recipe=self._build.recipe,
            resolution=self.resolution,
            split=self._split,
            metadata=metadata,
        )

    def _close(self) -> None:
        if self._writer is None or self._shard is None:
            return
        self._results[self._shard.key] = self._writer.finish()
        self._writer = self._shard = None


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
