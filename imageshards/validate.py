"""Reads back what was written, from the store, and checks it against the index: nothing is published on trust."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imageshards.dataset_checks import (
    Index,
    Subject,
    accounting,
    column_values,
    copies,
    leakage,
    no_class_empty,
    reject_fraction,
    rejects_table,
    rows_by_class,
    same_annotations,
    split_of,
    summarize,
)
from imageshards.decode import decode
from imageshards.decoded import DecodePolicy
from imageshards.duplicates import Duplicate, Hashed, find_duplicates, leaks
from imageshards.errors import Check, ConfigError, SampleError, StoreError
from imageshards.index import NO_SPLIT_RULE, read_index, sample_hash
from imageshards.manifest import PixelStatistics
from imageshards.oxford_facts import Observed, check_facts
from imageshards.plan import bucket_of, shard_name, version_prefix
from imageshards.row_checks import RowChecker
from imageshards.schema import BINARY_COLUMNS, METADATA_KEY, shard_metadata, shard_schema
from imageshards.shard_file import Reject, ShardResult, concatenate_rejects, read_shard_result
from imageshards.statistics import PixelSums
from imageshards.store import Store

__all__ = ["Findings", "Subject", "validate_version"]

_SHARDS_AT_ONCE = 1


@dataclass(frozen=True, slots=True)
class Findings:
    """What validation found.

    Attributes:
        checks: Every check, passed or not.
        rows: Rows, augmented copies included.
        samples: Rows without augmented copies.
        splits: Rows of each split.
        classes: Rows of each class in each split.
        rejects: Samples refused, by reason.
        left_out: Images left out, by rule.
        repairs: Samples accepted after a repair, by its name.
        duplicates: Pairs of images that show the same picture; those across splits come first.
        pixels: Statistics over all plain rows; None where there are none.
        shards: What the store holds.
    """

    checks: tuple[Check, ...]
    rows: int
    samples: int
    splits: Mapping[str, int]
    classes: Mapping[str, Mapping[str, int]]
    rejects: Mapping[str, int]
    left_out: Mapping[str, int]
    repairs: Mapping[str, int]
    duplicates: tuple[Duplicate, ...]
    pixels: PixelStatistics | None
    shards: tuple[ShardResult, ...]

    @property
    def passed(self) -> bool:
        """Whether the version may be published."""
        return all(check.passed for check in self.checks)

    @property
    def duplicate_pairs(self) -> dict[str, int]:
        """Pairs of duplicates by kind, and `leak` for those across splits."""
        kinds = Counter(str(pair.kind) for pair in self.duplicates)
        return {"exact": kinds["exact"], "near": kinds["near"], "leak": len(leaks(self.duplicates))}


_INDEX_COLUMNS = [
    "image_id",
    "label",
    "class_name",
    "species",
    "split",
    "source_key",
    "source_sha256",
    "head_box",
    "trimap_key",
    "left_out",
]


@dataclass(slots=True)
class _ShardFindings:
    """What one shard holds, its pixels and trimaps aside.

    Attributes:
        rows: Columns other than pixels and trimap.
        sums: Over the pixels of plain rows.
        problems: Offending image ids, by check.
        file_problems: What is wrong with the file as a whole, by check.
        empty_trimaps: Plain rows whose trimap is background alone.
    """

    rows: pa.Table
    sums: PixelSums
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict)
    file_problems: Mapping[str, str] = field(default_factory=dict)
    empty_trimaps: Sequence[str] = ()


def validate_version(
    subject: Subject, *, raw_store: Store, store: Store, on_progress: Callable[[int], None] | None = None
) -> Findings:
    """Read a version back and check it.

    Args:
        subject: What to validate, and against what.
        raw_store: Where the index lies.
        store: Where the shards lie.
        on_progress: Called with the number of rows read so far.

    Raises:
        TransientError: The store is out of reach.
        StoreError: The store refuses, or a shard is missing.
    """
    index = {
        row["image_id"]: row for row in read_index(raw_store, subject.info.key, columns=_INDEX_COLUMNS).to_pylist()
    }
    shards: list[_ShardFindings] = []
    with ThreadPoolExecutor(_SHARDS_AT_ONCE, thread_name_prefix="validate") as pool:
        for found in pool.map(lambda shard: _read_shard(subject, index, shard, store), subject.version.shards):
            shards.append(found)
            if on_progress:
                on_progress(sum(shard.rows.num_rows for shard in shards))
    rows = pa.concat_tables([shard.rows for shard in shards])
    rejects = concatenate_rejects(subject.version.shards)
    duplicates, unsearched = _duplicates(subject, rows, raw_store)
    checks = [
        *_file_checks(shards),
        accounting(subject, index, rows, rejects),
        copies(subject, rows),
        same_annotations(index, rows),
        *_row_checks(shards),
        no_class_empty(subject, index, rows),
        rejects_table(subject, store, rejects),
        reject_fraction(subject, rows, rejects),
        leakage(subject, duplicates, unsearched),
        *_facts(subject, index, shards, rows, rejects),
    ]
    return _findings(subject, index, shards, rows, checks=tuple(checks), duplicates=duplicates)


def _read_shard(subject: Subject, index: Index, shard: ShardResult, store: Store) -> _ShardFindings:
    key = version_prefix(subject.dataset, subject.version.resolution, subject.version.fingerprint) + shard.name
    with tempfile.TemporaryDirectory(prefix="imageshards-") as folder:
        path = store.local_path(key)
        if path is None:
            path = Path(folder) / shard.name
            store.download(key, path)
        return _read_local_shard(subject, index, shard, path)


def _read_local_shard(subject: Subject, index: Index, shard: ShardResult, path: Path) -> _ShardFindings:
    schema = shard_schema(subject.recipe, subject.version.resolution)
    small = pa.schema([field for field in schema if field.name not in BINARY_COLUMNS])
    checker = RowChecker(subject.recipe, subject.version.resolution, index)
    tables = [small.empty_table()]
    try:
        found = read_shard_result(path, resolution=shard.resolution, name=shard.name)
        file = pq.ParquetFile(path, page_checksum_verification=True)
        if problem := _schema_problem(subject, shard, schema, file.schema_arrow):
            return _ShardFindings(tables[0], checker.sums, file_problems={"schema": problem})
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            checker.check(rows)
            tables.append(rows.select(small.names).replace_schema_metadata(None))
    except (StoreError, pa.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        return _ShardFindings(tables[0], checker.sums, file_problems={"shard-readable": f"{shard.name}: {error}"})
    differs = {} if found == shard else {"shard-digest": f"{shard.name}: expected {shard.sha256}, found {found.sha256}"}
    table = pa.concat_tables(tables)
    problems = {**checker.problems, "placement": _misplaced(subject, shard, table)}
    return _ShardFindings(table, checker.sums, problems, differs, checker.empty_trimaps)


def _misplaced(subject: Subject, shard: ShardResult, rows: pa.Table) -> list[str]:
    """Images that belong into another shard, or elsewhere in this one."""
    shards = sum(other.split == shard.split for other in subject.version.shards)
    problems, last = [], (0, 0, "")
    for image_id, split, copy in column_values(rows, "image_id", "split", "copy"):
        place = (copy, sample_hash(image_id), image_id)
        if shard.name != shard_name(split, bucket_of(place[1], shards)) or place < last:
            problems.append(image_id)
        last = max(place, last)
    return problems


def _schema_problem(subject: Subject, shard: ShardResult, expected: pa.Schema, found: pa.Schema) -> str | None:
    if not found.remove_metadata().equals(expected):
        names = [
            field.name for field in found if field.name not in expected.names or expected.field(field.name) != field
        ]
        return f"{shard.name}: columns {', '.join(names) or 'missing'}"
    metadata = shard_metadata(
        dataset=subject.dataset,
        recipe=subject.recipe,
        resolution=subject.version.resolution,
        class_names=subject.info.class_names,
        shard=shard.name,
        inputs=shard.inputs,
    )
    if (found.metadata or {}).get(METADATA_KEY) != metadata[METADATA_KEY]:
        return f"{shard.name}: file metadata"
    return None


def _file_checks(shards: Sequence[_ShardFindings]) -> list[Check]:
    expectations = {
        "shard-readable": "every shard a Parquet file that opens",
        "schema": "every shard with the schema and metadata of this format",
        "shard-digest": "every shard with the bytes that were written",
    }
    return [
        summarize(name, expected, [shard.file_problems[name] for shard in shards if name in shard.file_problems])
        for name, expected in expectations.items()
    ]


def _row_checks(shards: Sequence[_ShardFindings]) -> list[Check]:
    expectations = {
        **RowChecker.EXPECTATIONS,
        "placement": "every row in the shard of its split and its hash, plain rows before copies, by hash",
    }
    return [
        summarize(name, expected, [image_id for shard in shards for image_id in shard.problems.get(name, ())])
        for name, expected in expectations.items()
    ]


def _duplicates(subject: Subject, rows: pa.Table, raw_store: Store) -> tuple[tuple[Duplicate, ...], str | None]:
    """Pairs of plain rows that show the same picture; candidates are read from the raw store again.

    Returns:
        The pairs, those across splits first; and, where images are too much alike to be told apart, why there are none.
    """
    policy = DecodePolicy.from_recipe(subject.recipe)

    def read_pixels(key: str) -> NDArray[np.uint8] | None:
        try:
            return decode(raw_store.get(key), policy).pixels
        except SampleError:
            return None

    columns = ("image_id", "split", "perceptual_hash", "source_key", "copy")
    images = [Hashed(*values) for *values, copy in column_values(rows, *columns) if copy == 0]
    try:
        found = find_duplicates(images, read_pixels)
    except ConfigError as error:
        return (), error.message
    return tuple(sorted(found, key=lambda pair: (pair.first_split == pair.second_split, pair.first, pair.second))), None


def _facts(
    subject: Subject, index: Index, shards: Sequence[_ShardFindings], rows: pa.Table, rejects: Sequence[Reject]
) -> list[Check]:
    """Published facts of the original archives; nothing where the archives are others."""
    if subject.facts is None:
        return []
    described = column_values(rows, "image_id", "source_format", "repairs", "copy")
    observed = Observed(
        index=index,
        members=subject.info.members,
        rows={image_id: (source_format, repairs) for image_id, source_format, repairs, copy in described if copy == 0},
        rejects={reject.image_id: reject.reason for reject in rejects},
        empty_trimaps={image_id for shard in shards for image_id in shard.empty_trimaps},
    )
    return check_facts(subject.facts, observed)


def _findings(
    subject: Subject,
    index: Index,
    shards: Sequence[_ShardFindings],
    rows: pa.Table,
    *,
    checks: tuple[Check, ...],
    duplicates: tuple[Duplicate, ...],
) -> Findings:
    sums = PixelSums.zero(subject.recipe.channels)
    for shard in shards:
        sums = sums + shard.sums
    mean, std = sums.mean_and_std() if sums.count else ((), ())
    results = subject.version.shards
    plain = [repairs for copy, repairs in column_values(rows, "copy", "repairs") if copy == 0]
    left_out = Counter(row["left_out"] or NO_SPLIT_RULE for row in index.values() if not split_of(subject, row))
    return Findings(
        checks=checks,
        rows=rows.num_rows,
        samples=len(plain),
        splits=dict(sorted(Counter(split for (split,) in column_values(rows, "split")).items())),
        classes=rows_by_class(rows),
        rejects=dict(sorted(Counter(reject.reason for reject in concatenate_rejects(results)).items())),
        left_out=dict(sorted(left_out.items())),
        repairs=dict(sorted(Counter(name for repairs in plain for name in repairs).items())),
        duplicates=duplicates,
        pixels=PixelStatistics(mean=mean, std=std) if sums.count else None,
        shards=results,
    )
