"""Checks on a version as a whole: its rows and rejects against the index, its classes, its limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imageshards.duplicates import Duplicate, leaks
from imageshards.errors import Check, StoreError
from imageshards.index import UNLISTED_SPLIT, IndexInfo
from imageshards.job import VersionResult
from imageshards.oxford_facts import Facts
from imageshards.plan import copies_of, version_prefix
from imageshards.recipe import Recipe
from imageshards.schema import REJECTS_SCHEMA
from imageshards.shard_file import REJECTS_NAME, Reject
from imageshards.store import Store

MAX_EXAMPLES = 5


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


Index = Mapping[str, Mapping[str, Any]]


_COPIED_COLUMNS = ("label", "class_name", "species", "source_key", "source_sha256")
"""Columns that a row takes over from the index as they are."""


def summarize(name: str, expected: str, problems: Sequence[str], found: str | None = None) -> Check:
    """The check that holds where there are no problems; the first few are its examples."""
    shown = tuple(problems[:MAX_EXAMPLES])
    described = found if found is not None else f"{len(problems)} otherwise" if problems else "as expected"
    return Check(name, not problems, expected, described, shown)


def split_of(subject: Subject, row: Mapping[str, Any]) -> str | None:
    """The split that a row of the index goes to; None where a rule leaves it out."""
    if row["left_out"]:
        return None
    return row["split"] or (UNLISTED_SPLIT if subject.keep_unlisted and row["label"] is not None else None)


def accounting(subject: Subject, index: Index, rows: pa.Table, rejects: Sequence[Reject]) -> Check:
    """Images = rows + rejects + left out, each once."""
    plain = [image_id for image_id, copy in column_values(rows, "image_id", "copy") if copy == 0]
    seen = Counter([*plain, *(reject.image_id for reject in rejects)])
    wanted = {image_id for image_id, row in index.items() if split_of(subject, row)}
    left_out = len(index) - len(wanted)
    problems = sorted({image_id for image_id, count in seen.items() if count > 1} | (seen.keys() ^ wanted))
    found = f"{len(plain)} rows + {len(rejects)} rejects + {left_out} left out"
    return summarize("accounting", f"{len(index)} images, each once a row, a reject, or left out", problems, found)


def copies(subject: Subject, rows: pa.Table) -> Check:
    """Each training image has its augmented copies, no other image has any."""
    found: dict[tuple[str, str], list[int]] = {}
    for image_id, split, copy in column_values(rows, "image_id", "split", "copy"):
        found.setdefault((image_id, split), []).append(copy)
    problems = [
        image_id
        for (image_id, split), copies in found.items()
        if sorted(copies) != list(range(copies_of(subject.recipe, split) + 1))
    ]
    return summarize(
        "copies", f"{subject.recipe.augment.copies} copies of each training image, none of others", problems
    )


def same_annotations(index: Index, rows: pa.Table) -> Check:
    """What a row takes over from the index, as it stands there."""
    problems = []
    for image_id, split, *values in column_values(rows, "image_id", "split", *_COPIED_COLUMNS):
        expected = index.get(image_id)
        if (
            expected is None
            or split != (expected["split"] or UNLISTED_SPLIT)
            or values != [expected[name] for name in _COPIED_COLUMNS]
        ):
            problems.append(image_id)
    return summarize(
        "annotations", "label, class, species, split and source of each row as the index has them", problems
    )


def no_class_empty(subject: Subject, index: Index, rows: pa.Table) -> Check:
    """Each class of the list has rows in each split that has images."""
    classes = rows_by_class(rows)
    splits = {split for row in index.values() if (split := split_of(subject, row))} - {UNLISTED_SPLIT}
    problems = [
        f"{split}/{name}"
        for split in sorted(splits)
        for name in subject.info.class_names
        if not classes.get(split, {}).get(name)
    ]
    return summarize("no-class-empty", "rows of every class in every split", problems)


def rejects_table(subject: Subject, store: Store, rejects: Sequence[Reject]) -> Check:
    """The table of rejects in the store holds what the shards say."""
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
    return summarize("rejects-table", expected, sorted(differing), f"{stored.total()} rejects")


def reject_fraction(subject: Subject, rows: pa.Table, rejects: Sequence[Reject]) -> Check:
    """The share of rejects stays within the limit."""
    samples = sum(1 for (copy,) in column_values(rows, "copy") if copy == 0)
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


def leakage(subject: Subject, duplicates: Sequence[Duplicate], unsearched: str | None) -> Check:
    """The duplicates across splits stay within the limit, where there is one."""
    found = leaks(duplicates)
    passed = subject.max_leaks is None or (unsearched is None and len(found) <= subject.max_leaks)
    expected = "any number" if subject.max_leaks is None else f"at most {subject.max_leaks}"
    examples = tuple(f"{pair.first} ({pair.first_split}) and {pair.second} ({pair.second_split})" for pair in found)
    described = unsearched or f"{len(found)} across splits, {len(duplicates)} in all"
    return Check("leakage", passed, f"{expected} of duplicate pairs across splits", described, examples[:MAX_EXAMPLES])


def rows_by_class(rows: pa.Table) -> dict[str, dict[str, int]]:
    """Rows of each class in each split."""
    classes: dict[str, dict[str, int]] = {}
    for (split, name), count in sorted(Counter(column_values(rows, "split", "class_name")).items(), key=str):
        classes.setdefault(split, {})[name] = count
    return classes


def column_values(rows: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    """The values of some columns, row by row."""
    return list(zip(*(rows.column(name).to_pylist() for name in names), strict=True))
