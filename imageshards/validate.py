"""Reads back what was written, from the store, and checks it against the index: nothing is published on trust.

A shard at a time, beside the piece of the index that belongs to it; two of them at once, so that two cores are busy.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from imageshards.dataset_checks import (
    accounting,
    copies,
    file_checks,
    leakage,
    no_class_empty,
    reject_fraction,
    rejects_table,
)
from imageshards.duplicates import Duplicate
from imageshards.errors import Check
from imageshards.index import iter_index
from imageshards.index_buckets import IndexBuckets
from imageshards.job import Population, count_population
from imageshards.leak_search import Leakage, search_leaks
from imageshards.manifest import PixelStatistics
from imageshards.oxford_facts import OBSERVED_COLUMNS, Observed, check_facts
from imageshards.plan import version_prefix
from imageshards.row_checks import EXPECTATIONS, INDEX_COLUMNS
from imageshards.shard_checks import Piece, ShardFindings, check_piece, pieces_of
from imageshards.shard_file import Reject, ShardResult, concatenate_rejects
from imageshards.statistics import PixelSums
from imageshards.store import Store
from imageshards.subject import Offenders, Subject, summarize
from imageshards.tally import Tally, compare_strays, find_strays, wrong_copies

__all__ = ["Findings", "Subject", "validate_version"]

_SHARDS_AT_ONCE = 2
"""Each takes some 50 MB, whatever its size: a row group as it is read, and as it is decoded. Measured at 224 px: 1.8
times the speed of one on two cores."""

_INDEX_ROWS = 2048
"""Read of the index at once, and held beside the shards. 8192 take 2 µs an image where these take 6, but also 20 MB,
most of it what they keep Arrow's pool from giving back."""

_ROWS_A_PIECE = 8192
"""Of a split without shards."""


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
        duplicates: Pairs of images that show the same picture, the first `manifest.MAX_DUPLICATES`; those across splits
            come first.
        duplicate_pairs: All such pairs by kind, and `leak` for those across splits.
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
    duplicate_pairs: Mapping[str, int]
    pixels: PixelStatistics | None
    shards: tuple[ShardResult, ...]

    @property
    def passed(self) -> bool:
        """Whether the version may be published."""
        return all(check.passed for check in self.checks)


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
    population = count_population(raw_store, subject.info.key, keep_unlisted=subject.keep_unlisted)
    tally = Tally(PixelSums.zero(subject.recipe.channels))
    pieces = pieces_of(subject, population.splits, _ROWS_A_PIECE)
    _check_all(subject, pieces, tally, population, raw_store=raw_store, store=store, on_progress=on_progress)
    rejects = concatenate_rejects(subject.version.shards)
    strays = (
        find_strays(tally, iter_index(raw_store, subject.info.key, columns=INDEX_COLUMNS)) if tally.strays else None
    )
    if strays is not None:
        compare_strays(tally, strays, subject)
    index = IndexBuckets(raw_store, subject.info.key, columns=INDEX_COLUMNS, split_sizes=population.splits)
    leaks = search_leaks(subject, tally, index, raw_store)
    checks = [
        *file_checks(tally),
        accounting(population, tally, rejects),
        copies(subject, wrong_copies(tally, rejects, strays, subject.recipe)),
        *_row_checks(tally),
        no_class_empty(subject, population, tally),
        rejects_table(subject, store, rejects),
        reject_fraction(subject, tally, rejects),
        leakage(subject, leaks),
        *_facts(subject, tally, rejects, raw_store),
    ]
    return _findings(subject, population, tally, checks=tuple(checks), leaks=leaks)


def _check_all(
    subject: Subject,
    pieces: Iterable[Piece],
    tally: Tally,
    population: Population,
    *,
    raw_store: Store,
    store: Store,
    on_progress: Callable[[int], None] | None,
) -> None:
    """Every shard beside its piece of the index, into the tally."""
    index = IndexBuckets(
        raw_store,
        subject.info.key,
        columns=INDEX_COLUMNS,
        split_sizes=population.splits,
        rows_at_once=_INDEX_ROWS,
    )
    for piece, found in _in_order(lambda piece: _check_one(subject, piece, index, store), pieces):
        tally.add(piece, found)
        if on_progress:
            on_progress(tally.rows)


def _in_order(
    check: Callable[[Piece], ShardFindings], pieces: Iterable[Piece]
) -> Iterator[tuple[Piece, ShardFindings]]:
    """Check some pieces at once; what was found comes in their order, and never waits in numbers."""
    waiting: deque[tuple[Piece, Future[ShardFindings]]] = deque()
    left = iter(pieces)
    with ThreadPoolExecutor(_SHARDS_AT_ONCE, thread_name_prefix="validate") as pool:
        try:
            waiting.extend((piece, pool.submit(check, piece)) for piece in islice(left, _SHARDS_AT_ONCE + 1))
            while waiting:
                piece, found = waiting.popleft()
                yield piece, found.result()
                waiting.extend((piece, pool.submit(check, piece)) for piece in islice(left, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def _check_one(subject: Subject, piece: Piece, index: IndexBuckets, store: Store) -> ShardFindings:
    """One shard beside its piece of the index."""
    known = index.rows(piece.unit)
    try:
        with _local_file(subject, piece, store) as (path, sha256):
            return check_piece(subject, piece, known, path, sha256)
    finally:
        # Else what Arrow's pool keeps for later grows to 60 MB more, and stays while the report is written.
        pa.default_memory_pool().release_unused()


@contextmanager
def _local_file(subject: Subject, piece: Piece, store: Store) -> Iterator[tuple[Path | None, str | None]]:
    """The file of a shard, downloaded for a while where the store is no folder, and its digest where that is known."""
    if piece.shard is None:
        yield None, None
        return
    key = version_prefix(subject.dataset, subject.version.resolution, subject.version.fingerprint) + piece.shard.name
    path = store.local_path(key)
    if path is not None:
        yield path, None
        return
    with tempfile.TemporaryDirectory(prefix="imageshards-") as folder:
        path = Path(folder) / piece.shard.name
        yield path, store.download(key, path)


def _row_checks(tally: Tally) -> list[Check]:
    expectations = {
        **EXPECTATIONS,
        "placement": "every row in the shard of its split and its hash, plain rows before copies, by hash",
    }
    return [summarize(name, expected, tally.wrong.get(name, Offenders())) for name, expected in expectations.items()]


def _facts(subject: Subject, tally: Tally, rejects: Iterable[Reject], raw_store: Store) -> list[Check]:
    """Published facts of the original archives, which are small; nothing where the archives are others."""
    if subject.facts is None:
        return []
    index = iter_index(raw_store, subject.info.key, columns=OBSERVED_COLUMNS)
    observed = Observed(
        index={row["image_id"]: row for piece in index for row in piece.to_pylist()},
        members=subject.info.members,
        rows=tally.named,
        rejects={reject.image_id: reject.reason for reject in rejects},
        empty_trimaps=tally.empty_trimaps,
    )
    return check_facts(subject.facts, observed)


def _findings(
    subject: Subject, population: Population, tally: Tally, *, checks: tuple[Check, ...], leaks: Leakage
) -> Findings:
    mean, std = tally.sums.mean_and_std() if tally.sums.count else ((), ())
    classes: dict[str, dict[str, int]] = {}
    for (split, name), count in sorted(tally.classes.items(), key=str):
        classes.setdefault(split, {})[name] = count  # type: ignore[index]
    results = subject.version.shards
    reasons = [reject.reason for shard in results for reject in shard.rejects]
    return Findings(
        checks=checks,
        rows=tally.rows,
        samples=tally.samples,
        splits={split: sum(counts.values()) for split, counts in sorted(classes.items())},
        classes=classes,
        rejects={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        left_out=population.left_out,
        repairs=dict(sorted(tally.repairs.items())),
        duplicates=leaks.duplicates,
        duplicate_pairs=leaks.pairs,
        pixels=PixelStatistics(mean=mean, std=std) if tally.sums.count else None,
        shards=results,
    )
