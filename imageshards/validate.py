"""Reads back what was written, from the store, and checks it against the index: nothing is published on trust."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imageshards.decode import decode
from imageshards.decoded import DecodePolicy
from imageshards.duplicates import Duplicate, Hashed, find_duplicates, leaks
from imageshards.errors import Check, ConfigError, SampleError, StoreError
from imageshards.index import NO_SPLIT_RULE, UNLISTED_SPLIT, IndexInfo, read_index, sample_hash
from imageshards.job import VersionResult
from imageshards.manifest import PixelStatistics
from imageshards.oxford_facts import Facts, Observed, check_facts
from imageshards.plan import bucket_of, copies_of, shard_name, version_prefix
from imageshards.recipe import Recipe
from imageshards.row_checks import RowChecker
from imageshards.schema import BINARY_COLUMNS, METADATA_KEY, REJECTS_SCHEMA, shard_metadata, shard_schema
from imageshards.shard_file import REJECTS_NAME, Reject, ShardResult, concatenate_rejects, read_shard_result
from imageshards.statistics import PixelSums
from imageshards.store import Store

MAX_EXAMPLES = 5
_SHARDS_AT_ONCE = 1


@dataclass(frozen=True, slots=True)
class Subject:
    """What is validated, and against what.

    Attributes:
        dataset: Name of the dataset.
        info: The index.
        recipe: What was to be done to pixels.
        version: What the driver says it built.
        keep_unlisted: Whether images in no split were to become rows.
        max_reject_fraction: Highest share of rejects among samples and rejects, 0 to 1.
        max_leaks: Most pairs of duplicates across splits; None for any number, reported all the same.
        facts: Published facts of the archives, where there are any.
    """

    dataset: str
    info: IndexInfo
    recipe: Recipe
    version: VersionResult
    keep_unlisted: bool = False
    max_reject_fraction: float = 1.0
    max_leaks: int | None = None
    facts: Facts | None = None


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


_Index = Mapping[str, Mapping[str, Any]]
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
_COPIED_COLUMNS = ("label", "class_name", "species", "source_key", "source_sha256")
"""Columns that a row takes over from the index as they are."""


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
        _accounting(subject, index, rows, rejects),
        _copies(subject, rows),
        _annotations(index, rows),
        *_row_checks(shards),
        _no_class_empty(subject, index, rows),
        _rejects_table(subject, store, rejects),
        _reject_fraction(subject, rows, rejects),
        _leakage(subject, duplicates, unsearched),
        *_facts(subject, index, shards, rows, rejects),
    ]
    return _findings(subject, index, shards, rows, checks=tuple(checks), duplicates=duplicates)


def _read_shard(subject: Subject, index: _Index, shard: ShardResult, store: Store) -> _ShardFindings:
    key = version_prefix(subject.dataset, subject.version.resolution, subject.version.fingerprint) + shard.name
    with tempfile.TemporaryDirectory(prefix="imageshards-") as folder:
        path = store.local_path(key)
        if path is None:
            path = Path(folder) / shard.name
            store.download(key, path)
        return _read_local_shard(subject, index, shard, path)


def _read_local_shard(subject: Subject, index: _Index, shard: ShardResult, path: Path) -> _ShardFindings:
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
    for image_id, split, copy in _pairs(rows, "image_id", "split", "copy"):
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


def _check(name: str, expected: str, problems: Sequence[str], found: str | None = None) -> Check:
    shown = tuple(problems[:MAX_EXAMPLES])
    described = found if found is not None else f"{len(problems)} otherwise" if problems else "as expected"
    return Check(name, not problems, expected, described, shown)


def _file_checks(shards: Sequence[_ShardFindings]) -> list[Check]:
    expectations = {
        "shard-readable": "every shard a Parquet file that opens",
        "schema": "every shard with the schema and metadata of this format",
        "shard-digest": "every shard with the bytes that were written",
    }
    return [
        _check(name, expected, [shard.file_problems[name] for shard in shards if name in shard.file_problems])
        for name, expected in expectations.items()
    ]


def _row_checks(shards: Sequence[_ShardFindings]) -> list[Check]:
    expectations = {
        **RowChecker.EXPECTATIONS,
        "placement": "every row in the shard of its split and its hash, plain rows before copies, by hash",
    }
    return [
        _check(name, expected, [image_id for shard in shards for image_id in shard.problems.get(name, ())])
        for name, expected in expectations.items()
    ]


def _split_of(subject: Subject, row: Mapping[str, Any]) -> str | None:
    if row["left_out"]:
        return None
    return row["split"] or (UNLISTED_SPLIT if subject.keep_unlisted and row["label"] is not None else None)


def _accounting(subject: Subject, index: _Index, rows: pa.Table, rejects: Sequence[Reject]) -> Check:
    """Images = rows + rejects + left out, each once."""
    plain = [image_id for image_id, copy in _pairs(rows, "image_id", "copy") if copy == 0]
    seen = Counter([*plain, *(reject.image_id for reject in rejects)])
    wanted = {image_id for image_id, row in index.items() if _split_of(subject, row)}
    left_out = len(index) - len(wanted)
    problems = sorted({image_id for image_id, count in seen.items() if count > 1} | (seen.keys() ^ wanted))
    found = f"{len(plain)} rows + {len(rejects)} rejects + {left_out} left out"
    return _check("accounting", f"{len(index)} images, each once a row, a reject, or left out", problems, found)


def _copies(subject: Subject, rows: pa.Table) -> Check:
    """Each training image has its augmented copies, no other image has any."""
    found: dict[tuple[str, str], list[int]] = {}
    for image_id, split, copy in _pairs(rows, "image_id", "split", "copy"):
        found.setdefault((image_id, split), []).append(copy)
    problems = [
        image_id
        for (image_id, split), copies in found.items()
        if sorted(copies) != list(range(copies_of(subject.recipe, split) + 1))
    ]
    return _check("copies", f"{subject.recipe.augment.copies} copies of each training image, none of others", problems)


def _annotations(index: _Index, rows: pa.Table) -> Check:
    problems = []
    for image_id, split, *values in _pairs(rows, "image_id", "split", *_COPIED_COLUMNS):
        expected = index.get(image_id)
        if (
            expected is None
            or split != (expected["split"] or UNLISTED_SPLIT)
            or values != [expected[name] for name in _COPIED_COLUMNS]
        ):
            problems.append(image_id)
    return _check("annotations", "label, class, species, split and source of each row as the index has them", problems)


def _no_class_empty(subject: Subject, index: _Index, rows: pa.Table) -> Check:
    classes = _classes(rows)
    splits = {split for row in index.values() if (split := _split_of(subject, row))} - {UNLISTED_SPLIT}
    problems = [
        f"{split}/{name}"
        for split in sorted(splits)
        for name in subject.info.class_names
        if not classes.get(split, {}).get(name)
    ]
    return _check("no-class-empty", "rows of every class in every split", problems)


def _rejects_table(subject: Subject, store: Store, rejects: Sequence[Reject]) -> Check:
    key = version_prefix(subject.dataset, subject.version.resolution, subject.version.fingerprint) + REJECTS_NAME
    expected = f"{REJECTS_NAME} with the rejects of the shards: {len(rejects)}"
    try:
        table = pq.ParquetFile(pa.BufferReader(store.get(key))).read()
    except (pa.ArrowException, OSError, StoreError) as error:
        return Check("rejects-table", False, expected, str(error))
    if not table.schema.equals(REJECTS_SCHEMA):
        return Check("rejects-table", False, expected, f"columns {', '.join(table.schema.names)}")
    stored, wanted = Counter(Reject(**row) for row in table.to_pylist()), Counter(rejects)
    differing = {reject.image_id for reject in (stored - wanted) + (wanted - stored)}
    return _check("rejects-table", expected, sorted(differing), f"{stored.total()} rejects")


def _reject_fraction(subject: Subject, rows: pa.Table, rejects: Sequence[Reject]) -> Check:
    samples = sum(1 for (copy,) in _pairs(rows, "copy") if copy == 0)
    total = samples + len(rejects)
    fraction = len(rejects) / total if total else 0.0
    reasons = Counter(reject.reason for reject in rejects)
    found = f"{len(rejects)} of {total} ({fraction:.2%}): " + ", ".join(
        f"{n} {reason}" for reason, n in sorted(reasons.items())
    )
    passed = fraction <= subject.max_reject_fraction
    examples = () if passed else tuple(f"{reject.image_id}: {reject.reason}" for reject in rejects[:MAX_EXAMPLES])
    return Check(
        "reject-fraction", passed, f"at most {subject.max_reject_fraction:.2%} rejected", found.rstrip(": "), examples
    )


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
    images = [Hashed(*values) for *values, copy in _pairs(rows, *columns) if copy == 0]
    try:
        found = find_duplicates(images, read_pixels)
    except ConfigError as error:
        return (), error.message
    return tuple(sorted(found, key=lambda pair: (pair.first_split == pair.second_split, pair.first, pair.second))), None


def _leakage(subject: Subject, duplicates: Sequence[Duplicate], unsearched: str | None) -> Check:
    found = leaks(duplicates)
    passed = subject.max_leaks is None or (unsearched is None and len(found) <= subject.max_leaks)
    expected = "any number" if subject.max_leaks is None else f"at most {subject.max_leaks}"
    examples = tuple(f"{pair.first} ({pair.first_split}) and {pair.second} ({pair.second_split})" for pair in found)
    described = unsearched or f"{len(found)} across splits, {len(duplicates)} in all"
    return Check("leakage", passed, f"{expected} of duplicate pairs across splits", described, examples[:MAX_EXAMPLES])


def _facts(
    subject: Subject, index: _Index, shards: Sequence[_ShardFindings], rows: pa.Table, rejects: Sequence[Reject]
) -> list[Check]:
    """Published facts of the original archives; nothing where the archives are others."""
    if subject.facts is None:
        return []
    described = _pairs(rows, "image_id", "source_format", "repairs", "copy")
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
    index: _Index,
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
    plain = [repairs for copy, repairs in _pairs(rows, "copy", "repairs") if copy == 0]
    left_out = Counter(row["left_out"] or NO_SPLIT_RULE for row in index.values() if not _split_of(subject, row))
    return Findings(
        checks=checks,
        rows=rows.num_rows,
        samples=len(plain),
        splits=dict(sorted(Counter(split for (split,) in _pairs(rows, "split")).items())),
        classes=_classes(rows),
        rejects=dict(sorted(Counter(reject.reason for reject in concatenate_rejects(results)).items())),
        left_out=dict(sorted(left_out.items())),
        repairs=dict(sorted(Counter(name for repairs in plain for name in repairs).items())),
        duplicates=duplicates,
        pixels=PixelStatistics(mean=mean, std=std) if sums.count else None,
        shards=results,
    )


def _classes(rows: pa.Table) -> dict[str, dict[str, int]]:
    classes: dict[str, dict[str, int]] = {}
    for (split, name), count in sorted(Counter(_pairs(rows, "split", "class_name")).items(), key=str):
        classes.setdefault(split, {})[name] = count
    return classes


def _pairs(rows: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    """The values of some columns, row by row."""
    return list(zip(*(rows.column(name).to_pylist() for name in names), strict=True))
