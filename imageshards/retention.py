"""What may be deleted of a dataset's finished data, and what may not: pure decisions about what a look at it found.

A version that `latest.json` points at, or that a manifest in use refers to, is never deleted; nor is one whose manifest
cannot be read, for then nobody knows. Everything else waits for a grace period, as readers and writers may be at it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from imageshards.errors import ConfigError
from imageshards.plan import version_prefix
from imageshards.store_unfinished import Unfinished

GRACE_DAYS = 7.0
"""A training run that began with a version may read it that much longer, once there is a newer one."""

ABANDONED_DAYS = 1.0
"""Of what nobody wrote to: longer than any step of a run, its retries included."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What to keep.

    Attributes:
        keep_versions: Newest published versions to keep of each resolution; the current one stays if it is older, too.
            None: all.
        grace_days: How long a version stays after another became the current one.
        abandoned_days: How long what no run finished stays after it was last written to.
        delete_raw: Whether raw objects and indexes go that no version kept refers to.

    Raises:
        ConfigError: A number is out of range.
    """

    keep_versions: int | None = None
    grace_days: float = GRACE_DAYS
    abandoned_days: float = ABANDONED_DAYS
    delete_raw: bool = False

    def __post_init__(self) -> None:
        if self.keep_versions is not None and self.keep_versions < 1:
            raise ConfigError(f"keep_versions is a number of versions, 1 or more, found {self.keep_versions}")
        for name, days in (("grace_days", self.grace_days), ("abandoned_days", self.abandoned_days)):
            if not (math.isfinite(days) and days >= 0):
                raise ConfigError(f"{name} is a number of days, 0 or more, found {days}")


class Condition(StrEnum):
    """What a version's folder is."""

    PUBLISHED = "published"
    UNPUBLISHED = "unpublished"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class VersionState:
    """One version's folder, as it was found.

    Attributes:
        dataset: Name of the dataset.
        resolution: Side of the square in px.
        fingerprint: Names the version.
        condition: Whether it has a manifest that can be read.
        touched_at: When something in it was written last.
        objects: Objects in it.
        size_bytes: Their sizes.
        created_at: When it was published; None unless it is.
        left_at: When `latest.json` last pointed away from it, if that is known.
        is_latest: Whether `latest.json` points at it, or may do: it cannot be read.
        refers_to: Folders that hold what its manifest refers to, with a slash at their ends.
        index: Key of its index in the raw store; None unless published.
        raw_store: Address of that store, likewise.
    """

    dataset: str
    resolution: int
    fingerprint: str
    condition: Condition
    touched_at: datetime
    objects: int = 0
    size_bytes: int = 0
    created_at: datetime | None = None
    left_at: datetime | None = None
    is_latest: bool = False
    refers_to: frozenset[str] = frozenset()
    index: str | None = None
    raw_store: str | None = None

    @property
    def prefix(self) -> str:
        """Its folder, with a slash at the end."""
        return version_prefix(self.dataset, self.resolution, self.fingerprint)


class Kind(StrEnum):
    """What there may be to delete."""

    VERSION = "version"
    ABANDONED = "abandoned version"
    RUN = "files of a run"
    UNFINISHED = "unfinished upload"
    INDEX = "index"
    RAW = "raw objects"


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something of a run that did not finish, apart from versions.

    Attributes:
        kind: `Kind.RUN` or `Kind.UNFINISHED`.
        name: The folder, or the key that was to be written and its token.
        touched_at: When it was written to last.
        objects: Objects in it.
        size_bytes: Their sizes, as far as they are known.
        unfinished: What to discard, of an unfinished upload.
        is_raw: Whether it lies in the raw store.
    """

    kind: Kind
    name: str
    touched_at: datetime
    objects: int = 1
    size_bytes: int = 0
    unfinished: Unfinished | None = None
    is_raw: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of one thing, and why.

    Attributes:
        subject: The thing.
        delete: Whether it goes.
        reason: In a few words.
    """

    subject: VersionState | Leftover
    delete: bool
    reason: str


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """A verdict on everything that was found; of published versions the oldest first."""

    verdicts: tuple[Verdict, ...]

    @property
    def deletions(self) -> tuple[Verdict, ...]:
        """What goes."""
        return tuple(verdict for verdict in self.verdicts if verdict.delete)

    @property
    def kept_versions(self) -> tuple[VersionState, ...]:
        """The versions that stay."""
        return tuple(
            verdict.subject
            for verdict in self.verdicts
            if not verdict.delete and isinstance(verdict.subject, VersionState)
        )


def plan_retention(
    versions: Sequence[VersionState],
    policy: RetentionPolicy,
    now: datetime,
    *,
    leftovers: Sequence[Leftover] = (),
) -> RetentionPlan:
    """Decide what goes. What the plan leaves, a second plan leaves too, until time has passed.

    Args:
        versions: All versions of a dataset, of every resolution: one that is missing here could be thought newer.
        policy: What to keep.
        now: The time, aware of its zone.
        leftovers: What else was found.
    """
    by_resolution: dict[tuple[str, int], list[VersionState]] = {}
    for version in versions:
        by_resolution.setdefault((version.dataset, version.resolution), []).append(version)
    verdicts = [
        verdict for _, siblings in sorted(by_resolution.items()) for verdict in _judge_resolution(siblings, policy, now)
    ]
    verdicts = _without_referred(verdicts)
    for leftover in leftovers:
        old = now - leftover.touched_at > timedelta(days=policy.abandoned_days)
        verdicts.append(Verdict(leftover, old, _untouched(leftover.touched_at, now)))
    return RetentionPlan(tuple(verdicts))


def _judge_resolution(siblings: Sequence[VersionState], policy: RetentionPolicy, now: datetime) -> list[Verdict]:
    published = sorted(
        (
            version
            for version in siblings
            if version.created_at is not None and version.condition == Condition.PUBLISHED
        ),
        key=lambda version: (version.created_at, version.fingerprint),
        reverse=True,
    )
    verdicts = [
        _judge_published(version, rank, published[rank - 1].created_at if rank else None, policy, now)
        for rank, version in enumerate(published)
    ]
    others = [version for version in siblings if version not in published]
    return verdicts[::-1] + [_judge_other(version, policy, now) for version in others]


def _judge_published(
    version: VersionState, rank: int, next_created_at: datetime | None, policy: RetentionPolicy, now: datetime
) -> Verdict:
    if version.is_latest:
        return Verdict(version, False, "latest.json points at it, or cannot be read")
    if policy.keep_versions is None:
        return Verdict(version, False, "all published versions are kept")
    if rank < policy.keep_versions or next_created_at is None:
        return Verdict(version, False, f"number {rank + 1} of the newest {policy.keep_versions}")
    replaced_at = max(next_created_at, version.left_at or next_created_at)
    replaced = f"replaced {_ago(replaced_at, now)}"
    if now - replaced_at <= timedelta(days=policy.grace_days):
        return Verdict(version, False, f"{replaced}: within {policy.grace_days:g} days of grace")
    return Verdict(version, True, f"{replaced}; newer versions kept: {policy.keep_versions}")


def _judge_other(version: VersionState, policy: RetentionPolicy, now: datetime) -> Verdict:
    if version.condition != Condition.UNPUBLISHED:
        return Verdict(version, False, "its manifest cannot be read: look at it")
    if version.is_latest:
        return Verdict(version, False, "latest.json points at it, or cannot be read: run the flow again")
    old = now - version.touched_at > timedelta(days=policy.abandoned_days)
    return Verdict(version, old, f"no manifest, {_untouched(version.touched_at, now)}")


def _without_referred(verdicts: list[Verdict]) -> list[Verdict]:
    """The same, but nothing goes that a manifest which stays refers to; nor what that one refers to in turn."""
    while True:
        referred = {
            prefix
            for verdict in verdicts
            if not verdict.delete and isinstance(verdict.subject, VersionState)
            for prefix in verdict.subject.refers_to
        }
        spared = [
            Verdict(verdict.subject, False, "a version that is kept refers to it")
            if verdict.delete and isinstance(verdict.subject, VersionState) and verdict.subject.prefix in referred
            else verdict
            for verdict in verdicts
        ]
        if spared == verdicts:
            return verdicts
        verdicts = spared


def _untouched(touched_at: datetime, now: datetime) -> str:
    return f"last written to {_ago(touched_at, now)}"


def _ago(moment: datetime, now: datetime) -> str:
    hours = (now - moment).total_seconds() / 3600
    return f"{hours:.1f} hours ago" if hours < 48 else f"{hours / 24:.1f} days ago"
