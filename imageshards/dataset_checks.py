"""Checks on a version as a whole: its rows and rejects against the index, its classes, its limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from imageshards.errors import Check, StoreError
from imageshards.index import UNLISTED_SPLIT
from imageshards.job import Population
from imageshards.leak_search import Leakage
from imageshards.plan import version_prefix
from imageshards.schema import REJECTS_SCHEMA
from imageshards.shard_file import REJECTS_NAME, Reject
from imageshards.store import Store
from imageshards.subject import MAX_EXAMPLES, Offenders, Subject, offenders, summarize
from imageshards.tally import MAX_UNSETTLED, Tally, unaccounted


def accounting(population: Population, tally: Tally, rejects: Sequence[Reject]) -> Check:
    """Images = rows + rejects + left out, each once."""
    problems = offenders(unaccounted(tally))
    left_out = sum(population.left_out.values())
    images = sum(population.splits.values()) + left_out
    found = f"{tally.samples} rows + {len(rejects)} rejects + {left_out} left out"
    if tally.overflowed:
        problems.add([], 1)
        found += f"; more than {MAX_UNSETTLED} images not where they belong, not all of them looked for elsewhere"
    return summarize("accounting", f"{images} images, each once a row, a reject, or left out", problems, found)


def copies(subject: Subject, wrong: Sequence[str]) -> Check:
    """Each training image has its augmented copies, no other image has any."""
    count = subject.recipe.augment.copies
    return summarize("copies", f"{count} copies of each training image, none of others", offenders(wrong))


def no_class_empty(subject: Subject, population: Population, tally: Tally) -> Check:
    """Each class of the list has rows in each split that has images."""
    problems = [
        f"{split}/{name}"
        for split in sorted(population.splits.keys() - {UNLISTED_SPLIT})
        for name in subject.info.class_names
        if not tally.classes[split, name]
    ]
    return summarize("no-class-empty", "rows of every class in every split", offenders(problems))


def rejects_table(subject: Subject, store: Store, rejects: Sequence[Reject]) -> Check:
    """The table of rejects in the store holds what the shards say."""
    key = version_prefix(subject.dataset, subject.version.resolution, subject.version.fingerprint) + REJECTS_NAME
    expected = f"{REJECTS_NAME} with the rejects of the shards: {len(rejects)}"
    try:
        # With threads, one of Arrow's may still hold the buffer when Python ends, and aborts the process.
        table = pq.ParquetFile(pa.BufferReader(store.get(key))).read(use_threads=False)
    except (pa.ArrowException, OSError, StoreError) as error:
        return Check("rejects-table", False, expected, str(error))
    if not table.schema.equals(REJECTS_SCHEMA):
        return Check("rejects-table", False, expected, f"columns {', '.join(table.schema.names)}")
    stored, wanted = Counter(Reject(**row) for row in table.to_pylist()), Counter(rejects)
    differing = {reject.image_id for reject in (stored - wanted) + (wanted - stored)}
    return summarize("rejects-table", expected, offenders(sorted(differing)), f"{stored.total()} rejects")


def reject_fraction(subject: Subject, tally: Tally, rejects: Sequence[Reject]) -> Check:
    """The share of rejects stays within the limit."""
    total = tally.samples + len(rejects)
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


def leakage(subject: Subject, found: Leakage) -> Check:
    """The duplicates across splits stay within the limit, where there is one."""
    limit = subject.max_leaks
    leaks = found.pairs["leak"]
    passed = limit is None or (found.unsearched is None and leaks <= limit)
    expected = "any number" if limit is None else f"at most {limit}"
    examples = tuple(
        f"{pair.first} ({pair.first_split}) and {pair.second} ({pair.second_split})"
        for pair in found.duplicates
        if pair.first_split != pair.second_split
    )
    counted = f"{leaks} across splits, {found.pairs['exact'] + found.pairs['near']} in all"
    described = found.unsearched or ", ".join(filter(None, (counted, found.restriction)))
    return Check("leakage", passed, f"{expected} of duplicate pairs across splits", described, examples[:MAX_EXAMPLES])


def file_checks(tally: Tally) -> list[Check]:
    """Shards as files."""
    expectations = {
        "shard-readable": "every shard a Parquet file that opens",
        "schema": "every shard with the schema and metadata of this format",
        "shard-digest": "every shard with the bytes that were written",
    }
    return [
        summarize(name, expected, tally.file_problems.get(name, Offenders())) for name, expected in expectations.items()
    ]
