"""Pairs of 64-bit hashes that differ in few bits: exact, and faster than comparing each with each."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from imageshards.errors import ConfigError

LONGEST_DISTANCE = 16
"""Of a search. At 14, 24 in a million pairs of unrelated photographs agree."""

_MAX_EQUAL = 16
"""Hashes of one group whose pairs are all reported, see `find_near`."""
_MAX_PAIRS, _MAX_PAIRS_EACH = 1_000_000, 8
"""Altogether, and for each of the first `MAX_NEARLY_EQUAL` hashes. Groups of 16 equal hashes make 7.5 for each."""

MAX_NEARLY_EQUAL = 1_000_000
"""Hashes among which near ones are searched: 58 s on one core and 130 bytes a hash. Ten times as many would take half
an hour, and hashes of unrelated photographs within 10 bits come by the million, all to be read again. Among more, only
equal ones are searched, by sorting: 9 bytes a hash, 2 s for 20 million."""

_SORTING_WORK = 64
"""Comparisons of two hashes that take as long as sorting one in, measured."""
_HASHES_AT_ONCE = 1 << 20
_DROPPED_BELOW = 0.8
"""Share of hashes still to be compared."""


def find_near(hashes: NDArray[np.uint64], max_distance: int) -> NDArray[np.int64]:
    """All pairs of hashes that differ in few bits: exact, in memory that grows with the hashes and the pairs found.

    More than 16 equal hashes would give pairs without number. They are reported as pairs of the first of them with each
    other one, and the first stands for all of them in pairs with other hashes: a group stays connected.

    Args:
        hashes: (N,) uint64.
        max_distance: Bits in which two may differ, 0 to 16.

    Returns:
        (M, 2) int64 indices, the lower first in a pair, pairs in ascending order.

    Raises:
        ConfigError: `max_distance` is out of range, or more than a million pairs, and 8 for each of the first million
            hashes, lie within it.
    """
    if not 0 <= max_distance <= LONGEST_DISTANCE:
        raise ConfigError(f"max_distance must be from 0 to {LONGEST_DISTANCE}, found {max_distance}")
    positions = np.arange(len(hashes)) if max_distance else _repeated(hashes)
    return positions[_near_pairs(hashes[positions], max_distance)]


def _repeated(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where the hashes are that occur more than once, ascending."""
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    found = [np.empty(0, np.int64)]
    for start in range(0, len(hashes) if len(twice) else 0, _HASHES_AT_ONCE):
        part = hashes[start : start + _HASHES_AT_ONCE]
        candidates = twice[np.searchsorted(twice, part).clip(max=len(twice) - 1)]
        found.append(start + np.flatnonzero(candidates == part))
    return np.concatenate(found)


def _near_pairs(hashes: NDArray[np.uint64], max_distance: int) -> NDArray[np.int64]:
    """`find_near` among hashes that all come into question."""
    positions = np.arange(len(hashes))
    _, firsts, group, sizes = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    leader = firsts[group]
    follows = (sizes[group] > _MAX_EQUAL) & (leader != positions)
    searched = positions[~follows]
    pairs = np.concatenate(
        [searched[_search(hashes[searched], max_distance)], np.column_stack([leader, positions])[follows]]
    )
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _search(hashes: NDArray[np.uint64], max_distance: int) -> NDArray[np.int64]:
    """Pairs by pigeonhole: cut into `max_distance + n` bands of bits, two near hashes agree in at least n bands.

    1 million random hashes take 13 s at distance 8 and 58 s at distance 10, on one core.
    """
    agreeing = _agreeing_bands(len(hashes), max_distance)
    bands = max_distance + agreeing
    masks = [sum(1 << bit for bit in range(band, 64, bands)) for band in range(bands)]
    found = np.empty(0, np.int64)
    for chosen in itertools.combinations(masks, agreeing):
        found = np.union1d(found, _near_in_buckets(hashes, np.uint64(sum(chosen)), max_distance))
        _refuse_too_many(len(found), len(hashes), max_distance)
    return np.column_stack(np.divmod(found, max(1, len(hashes))))


def _agreeing_bands(count: int, max_distance: int) -> int:
    """The number with the least work: more bands make smaller buckets, but more ways to choose among them."""

    def work(agreeing: int) -> float:
        bands = max_distance + agreeing
        bucket_size = count / 2 ** (64 * agreeing / bands)
        return math.comb(bands, agreeing) * (_SORTING_WORK + bucket_size / 2)

    return min(range(1, 5), key=work)


def _near_in_buckets(hashes: NDArray[np.uint64], mask: np.uint64, max_distance: int) -> NDArray[np.int64]:
    """Near pairs, all those in one bucket among them, each as lower index times N plus higher index.

    A bucket holds the hashes that agree in the bits of the mask. Sorted, each hash is compared to the next one, the one
    after that, and so on up to the size of the bucket; buckets that are done with are dropped now and then.
    """
    count = len(hashes)
    order = np.argsort(hashes & mask)
    hashes = hashes[order]
    starts = np.flatnonzero(np.diff(hashes & mask, prepend=~(hashes & mask)[:1]))
    sizes = np.diff(starts, append=count)
    sizes = np.repeat(sizes, sizes)
    found = [np.empty(0, np.int64)]
    for step in range(1, int(sizes.max(initial=0))):
        pending = sizes > step
        if np.count_nonzero(pending) < _DROPPED_BELOW * len(sizes):
            order, hashes, sizes = order[pending], hashes[pending], sizes[pending]
        near = np.flatnonzero(np.bitwise_count(hashes[:-step] ^ hashes[step:]) <= max_distance)
        if len(near):
            pair = order[near], order[near + step]
            found.append(np.minimum(*pair) * count + np.maximum(*pair))
            _refuse_too_many(sum(map(len, found)), count, max_distance)
    return np.concatenate(found)


def _refuse_too_many(pairs: int, count: int, max_distance: int) -> None:
    limit = _MAX_PAIRS + _MAX_PAIRS_EACH * min(count, MAX_NEARLY_EQUAL)
    if pairs > limit:
        raise ConfigError(
            f"more than {limit:,} pairs among {count:,} images lie within max_distance {max_distance}: the images look "
            "too much alike for it; set a smaller one",
            max_distance=max_distance,
        )
