"""The search of a whole version for images that show the same picture, those across splits above all.

Of each image 16 bytes are held: its perceptual hash, and its sample hash, by which the index tells who it is.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from imageshards.columns import numbers, strings_at
from imageshards.decode import decode
from imageshards.decoded import DecodePolicy
from imageshards.duplicates import MAX_DISTANCE, Duplicate, Hashed, find_duplicates, reach
from imageshards.errors import ConfigError, SampleError
from imageshards.index_buckets import IndexBuckets
from imageshards.manifest import MAX_DUPLICATES
from imageshards.store import Store
from imageshards.subject import Subject
from imageshards.tally import Tally


@dataclass(frozen=True, slots=True)
class Leakage:
    """Pairs of plain rows that show the same picture.

    Attributes:
        duplicates: The first `MAX_DUPLICATES` of them by name; those across splits come first.
        pairs: How many there are: `exact`, `near`, and `leak` for those across splits.
        unsearched: Where images are too much alike to be told apart, why there are none.
        restriction: Where there are too many images for the whole search, what was searched.
    """

    duplicates: tuple[Duplicate, ...] = ()
    pairs: Mapping[str, int] = field(default_factory=lambda: {"exact": 0, "near": 0, "leak": 0})
    unsearched: str | None = None
    restriction: str | None = None


def search_leaks(subject: Subject, tally: Tally, index: IndexBuckets, raw_store: Store) -> Leakage:
    """Find the pairs; candidates are read from the raw store again, unless their files are the same.

    Args:
        subject: What is validated.
        tally: All shards; their hashes are joined.
        index: Tells who the candidates are.
        raw_store: Where the images lie.

    Raises:
        TransientError: The raw store is out of reach.
        StoreError: It refuses.
    """
    hashes = np.concatenate([np.empty(0, np.uint64), *tally.hashes])
    tally.hashes = [hashes]
    distance = reach(len(hashes))
    restriction = None if distance == MAX_DISTANCE else f"by equal hashes alone, as there are {len(hashes):,} images"
    policy = DecodePolicy.from_recipe(subject.recipe)

    def read_pixels(key: str) -> NDArray[np.uint8] | None:
        try:
            return decode(raw_store.get(key), policy).pixels
        except SampleError:
            return None

    counts = Counter({"exact": 0, "near": 0, "leak": 0})

    def counted(found: Iterator[Duplicate]) -> Iterator[Duplicate]:
        for pair in found:
            counts[pair.kind] += 1
            counts["leak"] += pair.first_split != pair.second_split
            yield pair

    found = find_duplicates(
        hashes,
        lambda positions: _describe(positions, hashes[positions], tally, index),
        read_pixels,
        max_distance=distance,
    )
    try:
        first = heapq.nsmallest(MAX_DUPLICATES, counted(found), key=_leaks_first)
    except ConfigError as error:
        return Leakage(unsearched=error.message)
    return Leakage(tuple(first), dict(counts), restriction=restriction)


def _leaks_first(pair: Duplicate) -> tuple[bool, str, str]:
    return pair.first_split == pair.second_split, pair.first, pair.second


def _describe(
    positions: NDArray[np.int64], hashes: NDArray[np.uint64], tally: Tally, index: IndexBuckets
) -> list[Hashed]:
    """The images at some positions among all hashes, ascending; only their pieces of the index are read."""
    ends = np.cumsum([len(places) for places in tally.places])
    images: list[Hashed] = []
    for number in np.unique(np.searchsorted(ends, positions, side="right")):
        start, end = ends[number] - len(tally.places[number]), ends[number]
        here = slice(*np.searchsorted(positions, (start, end)))
        unit = tally.units[number]
        piece = index.rows(unit)
        places = tally.places[number][positions[here] - start]
        rows = np.searchsorted(numbers(piece.column("sample_hash"), "uint64"), places)
        described = (strings_at(piece.column(name), rows) for name in ("image_id", "source_key", "source_sha256"))
        images += [
            Hashed(image_id, unit.split, perceptual_hash, source_key, source_sha256)
            for image_id, source_key, source_sha256, perceptual_hash in zip(
                *described, hashes[here].tolist(), strict=True
            )
        ]
    return images
