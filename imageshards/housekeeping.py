"""Deletes what `retention` decided, in an order in which no reader and no crash ever meets a half version.

Of a version its manifest goes first: after that nobody finds the version, and if the rest stays behind, it is an
abandoned folder, which a later pass deletes. The caller sees to it that nobody writes the dataset meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from imageshards.errors import ConfigError, StoreError
from imageshards.manifest import manifest_key
from imageshards.pointer import read_latest
from imageshards.retention import (
    Condition,
    Kind,
    Leftover,
    RetentionPlan,
    RetentionPolicy,
    Verdict,
    VersionState,
    plan_retention,
)
from imageshards.retention_raw import references, stale_indexes
from imageshards.retention_survey import survey
from imageshards.store import ObjectInfo, Store

_KINDS = {Condition.PUBLISHED: Kind.VERSION, Condition.UNPUBLISHED: Kind.ABANDONED}
_BATCH = 1000
"""Raw objects that are deleted before the next are looked for."""


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that was deleted, or would be.

    Attributes:
        kind: What it is.
        name: Where it is; of several things, where they are.
        reason: Why, in a few words.
        objects: How many objects.
        size_bytes: Their sizes. In a folder, shards that another version shares free no space.
    """

    kind: Kind
    name: str
    reason: str
    objects: int
    size_bytes: int


@dataclass(slots=True)
class Cleaning:
    """What one pass over a dataset did, or would do.

    Attributes:
        dataset: Name of the dataset.
        dry_run: Whether nothing was deleted.
        removals: What was deleted, or would be.
        kept: The versions that stay, by their folder, and why.
        problems: What could not be read or deleted, one sentence each; none is a reason to stop.
    """

    dataset: str
    dry_run: bool
    removals: list[Removal] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def objects(self) -> int:
        """Objects deleted, or to be."""
        return sum(removal.objects for removal in self.removals)

    @property
    def size_bytes(self) -> int:
        """Their sizes."""
        return sum(removal.size_bytes for removal in self.removals)

    def to_dict(self) -> dict[str, Any]:
        """The pass as JSON-ready data."""
        return {**asdict(self), "objects": self.objects, "size_bytes": self.size_bytes}


def clean_dataset(  # noqa: PLR0913 (the last three are for tests, for logs and for the writer lock)
    store: Store,
    raw_store: Store,
    dataset: str,
    policy: RetentionPolicy,
    *,
    dry_run: bool,
    now: datetime | None = None,
    on_removal: Callable[[Removal], None] = lambda _: None,
    check_writer: Callable[[], None] = lambda: None,
) -> Cleaning:
    """Delete what the policy lets go of one dataset. Idempotent; a pass that broke off is finished by the next.

    Args:
        store: The finished data.
        raw_store: The raw data. Other stores of finished data may rely on it, of which nothing is known here: that is
            why raw objects go only if the policy says so.
        dataset: Name of the dataset.
        policy: What to keep.
        dry_run: Only find out what would go; nothing is written either.
        now: The time; default: now.
        on_removal: Called with each thing as soon as it is gone, or found to be one that would go.
        check_writer: Raises where this run has lost the right to write; called before anything is deleted: since the
            look another run may have begun to fill a folder that was abandoned.

    Raises:
        StoreError: A store cannot be listed, or the right to write is lost.
        TransientError: A store is out of reach; what was deleted stays so.
    """
    now = now or datetime.now(UTC)
    found = survey(store, raw_store, dataset)
    plan = plan_retention(found.versions, policy, now, leftovers=found.leftovers)
    cleaning = Cleaning(dataset, dry_run, kept=dict(_kept(plan)), problems=list(found.problems))
    work = _Pass(cleaning, store, raw_store, on_removal, check_writer)
    stuck = [verdict for verdict in plan.deletions if not work.remove(verdict)]
    if policy.delete_raw and any(isinstance(verdict.subject, VersionState) for verdict in stuck):
        cleaning.problems.append("no raw object is deleted: a version that was to go is still there, see above")
    elif policy.delete_raw:
        work.remove_raw(plan.kept_versions, not_before=now - timedelta(days=policy.grace_days))
    return cleaning


def _kept(plan: RetentionPlan) -> Iterator[tuple[str, str]]:
    for verdict in plan.verdicts:
        if isinstance(verdict.subject, VersionState) and not verdict.delete:
            yield verdict.subject.prefix, verdict.reason


@dataclass(frozen=True, slots=True)
class _Pass:
    """Obeys a plan, and keeps the accounts."""

    cleaning: Cleaning
    store: Store
    raw_store: Store
    on_removal: Callable[[Removal], None]
    check_writer: Callable[[], None]

    def remove(self, verdict: Verdict) -> bool:
        """Remove one thing, and tell whether it is gone; where not, that is noted, for others may go nevertheless."""
        subject = verdict.subject
        if isinstance(subject, Leftover):
            kind, name = subject.kind, subject.name
        else:
            kind, name = _KINDS[subject.condition], subject.prefix
        objects, size_bytes = subject.objects, subject.size_bytes
        if not self.cleaning.dry_run:
            self.check_writer()
            try:
                objects, size_bytes = self._delete(subject)
            except (StoreError, ConfigError) as error:  # others may have put there what is no key of ours
                self.cleaning.problems.append(error.message)
                self.cleaning.kept[name] = "it could not be deleted"
                return False
        self._account(Removal(kind, name, verdict.reason, objects, size_bytes))
        return True

    def remove_raw(self, versions: Sequence[VersionState], *, not_before: datetime) -> None:
        """Remove indexes, then raw objects: an upload that finds an index relies on all of what that refers to."""
        dataset, raw_store = self.cleaning.dataset, self.raw_store
        try:
            indexes = stale_indexes(raw_store, dataset, versions, not_before=not_before)
            with references(raw_store, indexes.kept) as referred:
                objects = referred.absent(raw_store, dataset, not_before=not_before)
                self._remove_all(Kind.INDEX, "no version that is kept refers to them", iter(indexes.stale))
                self._remove_all(Kind.RAW, "no index that is kept refers to them", objects)
        except (StoreError, ConfigError) as error:
            self.cleaning.problems.append(error.message)

    def _remove_all(self, kind: Kind, reason: str, stale: Iterator[ObjectInfo]) -> None:
        """Remove raw objects batch by batch, and account for them together."""
        objects = size_bytes = 0
        try:
            while batch := list(islice(stale, _BATCH)):
                if not self.cleaning.dry_run:
                    self.check_writer()
                    self.raw_store.delete_many(info.key for info in batch)
                objects += len(batch)
                size_bytes += sum(info.size_bytes for info in batch)
        finally:
            if objects:
                name = self.raw_store.uri(f"raw/{self.cleaning.dataset}")
                self._account(Removal(kind, name, reason, objects, size_bytes))

    def _delete(self, subject: VersionState | Leftover) -> tuple[int, int]:
        if isinstance(subject, VersionState):
            return _delete_version(self.store, subject)
        if subject.unfinished is None:
            return _delete_below(self.store, subject.name)
        (self.raw_store if subject.is_raw else self.store).discard(subject.unfinished)
        return subject.objects, subject.size_bytes

    def _account(self, removal: Removal) -> None:
        self.cleaning.removals.append(removal)
        self.on_removal(removal)


def _delete_version(store: Store, version: VersionState) -> tuple[int, int]:
    """Delete a version's folder as a whole, its manifest first; returns the number of objects and their bytes.

    Raises:
        StoreError: Since it was looked at, it became the current version, or was published.
    """
    key = manifest_key(version.dataset, version.resolution, version.fingerprint)
    if read_latest(store, version.dataset, version.resolution) == version.fingerprint:
        raise StoreError(f"{store.uri(key)} is kept: its version has become the current version meanwhile")
    if version.condition == Condition.UNPUBLISHED and store.exists(key):
        raise StoreError(f"{store.uri(key)} is kept: its version was published meanwhile")
    objects = list(store.list(version.prefix))
    store.delete(key)
    store.delete_many(info.key for info in objects if info.key != key)
    return len(objects), sum(info.size_bytes for info in objects)


def _delete_below(store: Store, prefix: str) -> tuple[int, int]:
    objects = list(store.list(prefix))
    store.delete_many(info.key for info in objects)
    return len(objects), sum(info.size_bytes for info in objects)
