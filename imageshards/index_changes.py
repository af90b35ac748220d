"""Which images differ between two indexes: added, gone, or changed, and in what.

Both are read side by side, by ranges of the hash of the image id, so memory holds one piece of each however long they
are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imageshards.columns import numbers, one_chunk, places_in, present, same, strings_at
from imageshards.index import read_index
from imageshards.index_parts import HashRange
from imageshards.plan import HASH_BITS
from imageshards.store import Store

PIECE_IMAGES = 1 << 16
"""Images that are compared at once. Measured with a million in each index: 3 s, and 170 MB more; half of it, 120 MB and
5 s."""

MAX_NAMED = 20
"""Images that are named of each sort; all are counted."""

KINDS: Mapping[str, tuple[str, ...]] = {
    "bytes": ("source_sha256",),
    "suffix": ("source_key",),
    "label": ("label", "class_name", "species"),
    "split": ("split",),
    "box": ("head_box", "head_box_frame"),
    "trimap": ("trimap_sha256",),
    "rule": ("left_out",),
}
"""In what an image can change, and the columns of the index that tell; of the key its suffix alone. Together they are
all that a row of a shard can depend on."""

COLUMNS = ("image_id", *(column for columns in KINDS.values() for column in columns))

_BEHIND_LAST_DOT = r"^.*\."


@dataclass(frozen=True, slots=True)
class ChangedImage:
    """An image that is in both indexes, but not the same.

    Attributes:
        image_id: Its id.
        kinds: In what it changed, out of `KINDS`.
    """

    image_id: str
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageChanges:
    """How the images of two indexes differ.

    Attributes:
        added: Images of the new index alone.
        changed: Images of both that differ.
        gone: Images of the old index alone.
        kinds: Changed images by what changed; one may count several times.
        first_added: The first `MAX_NAMED` by name.
        first_changed: Likewise.
        first_gone: Likewise.
    """

    added: int = 0
    changed: int = 0
    gone: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict)
    first_added: tuple[str, ...] = ()
    first_changed: tuple[ChangedImage, ...] = ()
    first_gone: tuple[str, ...] = ()

    def __add__(self, other: ImageChanges) -> ImageChanges:
        counts = Counter(self.kinds) + Counter(other.kinds)
        changed = sorted((*self.first_changed, *other.first_changed), key=lambda image: image.image_id)
        return ImageChanges(
            self.added + other.added,
            self.changed + other.changed,
            self.gone + other.gone,
            {kind: counts[kind] for kind in KINDS if counts[kind]},
            _first((*self.first_added, *other.first_added)),
            tuple(changed[:MAX_NAMED]),
            _first((*self.first_gone, *other.first_gone)),
        )


def compare_indexes(
    old_store: Store, old_key: str, store: Store, key: str, *, images: int, piece_images: int = PIECE_IMAGES
) -> ImageChanges:
    """Compare two indexes, piece by piece.

    Args:
        old_store: The raw store of the old index.
        old_key: The old index.
        store: The raw store of the new one.
        key: The new index.
        images: How many the longer one has, about; the number of pieces follows from it.
        piece_images: How many to compare at once, about.

    Raises:
        StoreError: An index is missing, or damaged.
        TransientError: A store is out of reach.
    """
    found = ImageChanges()
    for piece in hash_ranges(images, piece_images):
        old = read_index(old_store, old_key, columns=COLUMNS, hash_range=piece)
        new = read_index(store, key, columns=COLUMNS, hash_range=piece)
        found += compare_rows(old, new)
    return found


def hash_ranges(images: int, piece_images: int) -> Iterator[HashRange]:
    """Ranges of the sample hash, first and last, that cover all of it once and hold `piece_images` each, about."""
    pieces = max(1, -(-images // piece_images))
    edges = [(number << HASH_BITS) // pieces for number in range(pieces + 1)]
    for first, after in pairwise(edges):
        yield first, after - 1


def compare_rows(old: pa.Table, new: pa.Table) -> ImageChanges:
    """Compare `COLUMNS` of rows of two indexes."""
    old_ids, new_ids = one_chunk(old.column("image_id")), one_chunk(new.column("image_id"))
    places = places_in(new_ids, old_ids)
    stays = present(places)
    before, after = old.take(places.drop_null()), new.filter(pa.array(stays))
    differs = {kind: _differs(before, after, columns) for kind, columns in KINDS.items()}
    changed = np.flatnonzero(np.logical_or.reduce(list(differs.values())))
    named = sorted(zip(strings_at(after.column("image_id"), changed), changed, strict=True))[:MAX_NAMED]
    added = new_ids.filter(pa.array(~stays))
    gone = old_ids.filter(pa.array(~present(places_in(old_ids, new_ids))))
    return ImageChanges(
        len(added),
        len(changed),
        len(gone),
        {kind: count for kind in KINDS if (count := int(differs[kind].sum()))},
        _first(added.to_pylist()),
        tuple(ChangedImage(name, tuple(kind for kind in KINDS if differs[kind][row])) for name, row in named),
        _first(gone.to_pylist()),
    )


def _differs(before: pa.Table, after: pa.Table, columns: Iterable[str]) -> NDArray[np.bool_]:
    found = np.zeros(before.num_rows, bool)
    for name in columns:
        old, new = one_chunk(before.column(name)), one_chunk(after.column(name))
        if name == "source_key":
            old, new = (pc.replace_substring_regex(keys, _BEHIND_LAST_DOT, "") for keys in (old, new))
        found |= ~(_same_lists(old, new) if pa.types.is_fixed_size_list(old.type) else same(old, new))
    return found


def _same_lists(old: pa.Array, new: pa.Array) -> NDArray[np.bool_]:
    """Where two columns of short lists hold the same; what a box lacks is NaN, which equals itself here."""
    equal: NDArray[np.bool_] = present(old) == present(new)
    for place in range(old.type.list_size):
        first, second = (_element(lists, place) for lists in (old, new))
        equal &= (first == second) | (np.isnan(first) & np.isnan(second))
    return equal


def _element(lists: pa.Array, place: int) -> NDArray[Any]:
    return numbers(pc.list_element(lists, place).cast(pa.float64()), "float64", missing=np.nan)


def _first(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names)[:MAX_NAMED])
