"""What changed since the version before: the manifests compared, the indexes, and the tables of rejects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imageshards.columns import one_chunk
from imageshards.errors import ObjectMissingError, StoreError
from imageshards.index import read_index_info
from imageshards.index_changes import MAX_NAMED, ImageChanges, compare_indexes
from imageshards.manifest import Manifest
from imageshards.plan import version_prefix
from imageshards.schema import REJECTS_SCHEMA
from imageshards.shard_file import REJECTS_NAME
from imageshards.store import Store
from imageshards.version_changes import (
    Changes,
    ClassCount,
    Count,
    Drift,
    RecipeChange,
    RejectChange,
    RejectChanges,
)

__all__ = ["Changes", "compare_versions"]

_UNITS = ("dtype", "color", "normalize", "mean", "std")
"""The keys of a recipe that say what a stored pixel value means."""

_SEPARATOR = "\x1f"


def compare_versions(
    old: Manifest | None, new: Manifest, *, raw_store: Store, store: Store, old_raw_store: Store | None = None
) -> Changes:
    """How a version differs from the one before, of the same dataset and resolution.

    What cannot be read any more is not compared, and the answer says so. Memory holds a piece of both indexes, and the
    ids of all rejects.

    Args:
        old: The version before; None where there is none.
        new: This one, published or about to be; its table of rejects lies in the store.
        raw_store: Where the index of the new one lies.
        store: Where both versions lie.
        old_raw_store: Where the index of the old one lies; the same raw store by default.

    Raises:
        TransientError: A store is out of reach.
    """
    changes = Changes(
        dataset=new.dataset,
        resolution=new.resolution,
        old=old.fingerprint if old else None,
        new=new.fingerprint,
        counts=tuple(_counts(old, new)),
    )
    if old is None:
        return changes
    problems: list[str] = []
    changes = replace(
        changes,
        old_created_at=old.created_at,
        images=_images(old, new, old_raw_store or raw_store, raw_store, problems),
        rejects=_rejects(old, new, store, problems),
        classes=tuple(_classes(old, new)),
        pixels=tuple(_pixels(old, new, problems)),
        recipe=tuple(_recipe(old, new)),
    )
    return replace(changes, not_compared=tuple(problems))


def _counts(old: Manifest | None, new: Manifest) -> Iterable[Count]:
    before, now = _numbers(old) if old else None, _numbers(new)
    for name in dict.fromkeys([*now, *(before or ())]):
        yield Count(name, before.get(name, 0) if before is not None else None, now.get(name, 0))


def _numbers(manifest: Manifest) -> dict[str, int]:
    """What a manifest counts, by names for people."""
    named = {
        "rows in": manifest.splits,
        "rejected:": manifest.rejects,
        "left out:": manifest.left_out,
        "repaired:": manifest.repairs,
        "duplicate pairs:": manifest.duplicate_pairs,
    }
    counts = {"images": manifest.images, "samples": manifest.samples, "rows": manifest.rows}
    return counts | {f"{sort} {name}": count for sort, of in named.items() for name, count in sorted(of.items())}


def _images(old: Manifest, new: Manifest, old_store: Store, store: Store, problems: list[str]) -> ImageChanges | None:
    if old.index_digest == new.index_digest:
        return ImageChanges()
    problem = _index_problem(old, old_store)
    if problem is None:
        try:
            return compare_indexes(old_store, old.index, store, new.index, images=max(old.images, new.images))
        except StoreError as error:
            problem = str(error)
    problems.append(f"images: {problem}")
    return None


def _index_problem(old: Manifest, store: Store) -> str | None:
    """Why the index of the version before cannot be compared with; None where it can."""
    uri = store.uri(old.index)
    try:
        digest = read_index_info(store, old.index).digest
    except ObjectMissingError:
        return f"the index of the version before, {uri}, is no longer there"
    except StoreError as error:  # its own advice, to delete it, is for the index of a new version
        return f"the index of the version before, {uri}, cannot be read: {error.__cause__ or error}"
    if digest != old.index_digest:
        return f"{uri} is no longer the index of the version before: expected digest {old.index_digest}, found {digest}"
    return None


def _rejects(old: Manifest, new: Manifest, store: Store, problems: list[str]) -> RejectChanges | None:
    try:
        before, now = _reject_table(old, store), _reject_table(new, store)
    except (StoreError, pa.ArrowException, OSError) as error:
        problems.append(f"rejects: {error}")
        return None
    return RejectChanges(new=_not_in(before, now), gone=_not_in(now, before))


def _reject_table(manifest: Manifest, store: Store) -> pa.Table:
    """Image id and reason of each reject, and `pair`, which is both in one."""
    columns = ["image_id", "reason"]
    if manifest.rejects:
        key = version_prefix(manifest.dataset, manifest.resolution, manifest.fingerprint) + REJECTS_NAME
        # With threads, one of Arrow's may still hold the buffer when Python ends, and aborts the process.
        with pq.ParquetFile(pa.BufferReader(store.get(key))) as file:
            table = file.read(columns=columns, use_threads=False)
    else:
        table = pa.schema([REJECTS_SCHEMA.field(name) for name in columns]).empty_table()
    return table.append_column("pair", pc.binary_join_element_wise(*(table[name] for name in columns), _SEPARATOR))


def _not_in(others: pa.Table, rejects: pa.Table) -> RejectChange:
    """The rejects that are not among others."""
    known = pc.is_in(one_chunk(rejects["pair"]), value_set=one_chunk(others["pair"]))
    found = rejects.filter(pc.invert(known))
    reasons = Counter(found["reason"].to_pylist())
    named = sorted(zip(found["image_id"].to_pylist(), found["reason"].to_pylist(), strict=True))[:MAX_NAMED]
    return RejectChange(found.num_rows, dict(sorted(reasons.items())), tuple(named))


def _classes(old: Manifest, new: Manifest) -> Iterable[ClassCount]:
    for split in sorted({*old.classes, *new.classes}):
        before, now = old.classes.get(split, {}), new.classes.get(split, {})
        for name in sorted({*before, *now}):
            if before.get(name, 0) != now.get(name, 0):
                yield ClassCount(split, name, before.get(name, 0), now.get(name, 0))


def _pixels(old: Manifest, new: Manifest, problems: list[str]) -> Iterable[Drift]:
    different = [key for key in _UNITS if old.recipe.get(key) != new.recipe.get(key)]
    if different:
        problems.append(f"pixel values: they are stored in other units, for the recipe changed {', '.join(different)}")
        return
    if not old.pixels.mean or not new.pixels.mean:
        return
    rows = zip(old.pixels.mean, new.pixels.mean, old.pixels.std, new.pixels.std, strict=True)
    for channel, (old_mean, new_mean, old_std, new_std) in enumerate(rows):
        shift = (new_mean - old_mean) / old_std if old_std else None
        yield Drift(channel, old_mean, new_mean, old_std, new_std, shift)


def _recipe(old: Manifest, new: Manifest) -> Iterable[RecipeChange]:
    before, now = _flat(old.recipe), _flat(new.recipe)
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            yield RecipeChange(key, before.get(key), now.get(key))


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The keys of a recipe with those of nested ones, e.g. `augment.copies`."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
