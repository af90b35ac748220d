"""Raw objects and indexes that no index or version in use refers to. Nothing is looked for unless it is asked for.

References are collected in a scratch database, and the listing is held against it, so memory stays the same however
many images there are. Lists and boxes (everything of the annotations but trimaps) are left alone: an index holds what
they say, not their names.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import PurePosixPath

from imageshards.errors import StoreError
from imageshards.index import iter_index
from imageshards.retention import Condition, VersionState
from imageshards.store import ObjectInfo, Store

_SET_UP = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -16384;
CREATE TABLE referred (key TEXT PRIMARY KEY) WITHOUT ROWID;
BEGIN;
"""


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """Which indexes stay and which go.

    Attributes:
        kept: Keys of indexes that stay; what they refer to stays, too.
        stale: Objects of indexes that go, parts after what names them.
    """

    kept: tuple[str, ...]
    stale: tuple[ObjectInfo, ...]


def plan_indexes(objects: Sequence[ObjectInfo], in_use: frozenset[str], *, not_before: datetime) -> IndexPlan:
    """Decide about indexes: those in use, the newest and the young ones stay.

    Args:
        objects: All objects of the folder of indexes.
        in_use: Keys of the indexes that versions refer to.
        not_before: What was written since stays.
    """
    heads = [info for info in objects if _head_key(info.key) == info.key]
    newest = max(heads, key=_age_key).key if heads else None
    kept = {info.key for info in heads if info.key in in_use or info.key == newest or _is_young(info, not_before)}
    stale = [info for info in objects if _head_key(info.key) not in kept and not _is_young(info, not_before)]
    stale.sort(key=lambda info: (info.key != _head_key(info.key), info.key))
    return IndexPlan(tuple(sorted(kept)), tuple(stale))


def stale_indexes(
    raw_store: Store, dataset: str, versions: Sequence[VersionState], *, not_before: datetime
) -> IndexPlan:
    """Which indexes no version refers to that is kept.

    Args:
        raw_store: The raw data.
        dataset: Name of the dataset.
        versions: Those that are kept.
        not_before: What was written since stays.

    Raises:
        StoreError: What is in use cannot be told: a version's manifest is damaged, or its index is missing; or no
            version refers to this store at all, which may then be the wrong one.
    """
    if damaged := [version.prefix for version in versions if version.condition == Condition.DAMAGED]:
        raise StoreError(
            f"no raw object is deleted: what {', '.join(damaged[:3])} refers to cannot be told; mend or delete it first"
        )
    published = [version for version in versions if version.index is not None]
    objects = list(raw_store.list(f"raw/{dataset}/index"))
    present = {info.key for info in objects}
    missing = [version for version in published if version.index not in present]
    if lost := [version for version in missing if version.raw_store == raw_store.url]:
        raise StoreError(
            f"no raw object is deleted: {lost[0].prefix} refers to {raw_store.uri(str(lost[0].index))}, which is "
            "missing, so what it refers to cannot be told; run the flow again, which writes it"
        )
    in_use = frozenset(str(version.index) for version in published) & present
    if not in_use:
        raise StoreError(
            f"no raw object is deleted: no version that is kept refers to {raw_store.url}; check that the store and "
            "the raw store belong together"
        )
    return plan_indexes(objects, in_use, not_before=not_before)


class References:
    """What indexes refer to; made by `references`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def absent(self, raw_store: Store, dataset: str, *, not_before: datetime) -> Iterator[ObjectInfo]:
        """Images and trimaps in the store that no index refers to, one after another.

        Args:
            raw_store: The raw data.
            dataset: Name of the dataset.
            not_before: What was written since is left out: it may belong to an index that is being made.
        """
        for kind in ("images", "annotations"):
            for info in raw_store.list(f"raw/{dataset}/{kind}"):
                if kind == "annotations" and not _is_trimap(info.key):
                    continue
                if not _is_young(info, not_before) and not self._hold(info.key):
                    yield info

    def _hold(self, key: str) -> bool:
        return self._database.execute("SELECT 1 FROM referred WHERE key = ?", (key,)).fetchone() is not None


@contextmanager
def references(raw_store: Store, indexes: Iterable[str]) -> Iterator[References]:
    """Read what indexes refer to.

    Args:
        raw_store: The raw data.
        indexes: Keys of all indexes that count.

    Raises:
        StoreError: An index cannot be read, so what it refers to cannot be told; or there is no room.
    """
    try:
        with closing(sqlite3.connect("", isolation_level=None)) as database:
            database.executescript(_SET_UP)
            for index in indexes:
                for table in iter_index(raw_store, index, columns=["source_key", "trimap_key"]):
                    keys = chain.from_iterable(column.to_pylist() for column in table.columns)
                    rows = ((key,) for key in keys if key)
                    database.executemany("INSERT OR IGNORE INTO referred VALUES (?)", rows)
            yield References(database)
    except sqlite3.Error as error:
        raise StoreError(
            f"the scratch database cannot be used: {error}; it takes about 150 bytes an image: let TMPDIR "
            "name a folder on a disk with more room"
        ) from error


def _is_trimap(key: str) -> bool:
    path = PurePosixPath(key)
    return path.parent.name == "trimaps" and path.suffix == ".png"


def _head_key(key: str) -> str:
    """The key of the index that an object of the folder is, or is a part of."""
    path = PurePosixPath(key)
    return key if path.parent.name == "index" else f"{path.parent}.parquet"


def _is_young(info: ObjectInfo, not_before: datetime) -> bool:
    return info.modified_at is None or info.modified_at >= not_before


def _age_key(info: ObjectInfo) -> tuple[datetime, str]:
    return info.modified_at or datetime.max.replace(tzinfo=UTC), info.key
