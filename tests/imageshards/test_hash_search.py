"""The search for near hashes: it misses no pair, reports none twice, and stays bounded where hashes are all alike."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imageshards import hash_search
from imageshards.duplicates import MAX_DISTANCE
from imageshards.errors import ConfigError
from imageshards.hash_search import LONGEST_DISTANCE, find_near


def brute_force(hashes: np.ndarray, max_distance: int) -> list[list[int]]:
    far = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    return [[int(i), int(j)] for i, j in np.argwhere(far <= max_distance) if i < j]


@st.composite
def crowded_hashes(draw: st.DrawFn) -> np.ndarray:
    """Hashes around a few centers, so that every distance occurs."""
    centers = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    flips = st.sets(st.integers(0, 63), max_size=LONGEST_DISTANCE)
    members = draw(st.lists(st.tuples(st.sampled_from(centers), flips), max_size=60))
    return np.array([center ^ sum(1 << bit for bit in bits) for center, bits in members], np.uint64)


def has_no_crowd(hashes: np.ndarray) -> bool:
    return np.unique(hashes, return_counts=True)[1].max(initial=0) <= 16


@given(hashes=crowded_hashes().filter(has_no_crowd), max_distance=st.integers(0, LONGEST_DISTANCE))
@example(hashes=np.array([], np.uint64), max_distance=3)
@example(hashes=np.array([7], np.uint64), max_distance=3)
@example(hashes=np.array([0, 2**64 - 1, 0], np.uint64), max_distance=0)
@settings(deadline=None)
def test_the_search_finds_what_brute_force_finds(hashes: np.ndarray, max_distance: int) -> None:
    assert find_near(hashes, max_distance).tolist() == brute_force(hashes, max_distance)


@pytest.mark.parametrize("agreeing", [1, 2, 3, 4])
@pytest.mark.parametrize("max_distance", [0, 5, 10])
def test_the_search_is_exact_however_many_bands_have_to_agree(
    monkeypatch: pytest.MonkeyPatch, agreeing: int, max_distance: int
) -> None:
    monkeypatch.setattr(hash_search, "_agreeing_bands", lambda *_: agreeing)
    rng = np.random.default_rng(0)
    centers = rng.integers(0, 2**64, 40, dtype=np.uint64)
    flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (400, 7), dtype=np.uint64), axis=1)
    hashes = np.repeat(centers, 10) ^ flips
    expected = brute_force(hashes, max_distance)
    assert len(expected) > (0 if max_distance else -1)
    assert find_near(hashes, max_distance).tolist() == expected


def test_the_search_finds_every_planted_pair_among_many() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 60_000, dtype=np.uint64)
    flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (500, MAX_DISTANCE), dtype=np.uint64), axis=1)
    hashes[-500:] = hashes[:500] ^ flips
    found = find_near(hashes, MAX_DISTANCE)
    assert {(i, 59_500 + i) for i in range(500)} <= set(map(tuple, found.tolist()))
    assert np.bitwise_count(hashes[found[:, 0]] ^ hashes[found[:, 1]]).max() <= MAX_DISTANCE
    assert (np.diff(found[:, 0] * 60_000 + found[:, 1]) > 0).all()


def test_sixteen_equal_hashes_give_all_their_pairs() -> None:
    assert len(find_near(np.full(16, 5, np.uint64), 0)) == 16 * 15 // 2


def test_more_than_sixteen_equal_hashes_are_paired_with_their_first_alone() -> None:
    hashes = np.array([3, *[5] * 17, 2**60, 4], np.uint64)
    assert find_near(hashes, 1).tolist() == [*([1, other] for other in range(2, 18)), [1, 19]]


def test_a_huge_group_of_equal_hashes_gives_no_more_pairs_than_members() -> None:
    found = find_near(np.full(300_000, 5, np.uint64), MAX_DISTANCE)
    assert len(found) == 299_999
    assert (found[:, 0] == 0).all()


def test_too_many_near_pairs_are_refused_with_what_to_do() -> None:
    alike = np.random.default_rng(0).integers(0, 2**20, 50_000, dtype=np.uint64)
    with pytest.raises(ConfigError, match="set a smaller one"):
        find_near(alike, MAX_DISTANCE)


@pytest.mark.parametrize("max_distance", [-1, LONGEST_DISTANCE + 1])
def test_a_distance_out_of_range_is_refused(max_distance: int) -> None:
    with pytest.raises(ConfigError, match="from 0 to 16"):
        find_near(np.zeros(2, np.uint64), max_distance)


@given(
    groups=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 5)), max_size=20),
    order=st.randoms(use_true_random=False),
)
@example(groups=[(0, 2), (2**64 - 1, 2)], order=random.Random(0))
def test_equal_hashes_are_found_among_single_ones_in_whatever_portions(groups, order) -> None:
    values = [value for value, times in groups for _ in range(times)]
    order.shuffle(values)
    hashes = np.array(values, np.uint64)
    expected = brute_force(hashes, 0) if has_no_crowd(hashes) else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hash_search, "_HASHES_AT_ONCE", 3)
        found = find_near(hashes, 0).tolist()
    assert expected is None or found == expected


def test_the_number_of_pairs_that_are_kept_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_search, "MAX_NEARLY_EQUAL", 10)
    monkeypatch.setattr(hash_search, "_MAX_PAIRS", 0)
    pairs_of_two = np.repeat(np.arange(100, dtype=np.uint64), 2)
    assert len(find_near(pairs_of_two[:160], 0)) == 80
    with pytest.raises(ConfigError, match="more than 80 pairs among 162 images"):
        find_near(pairs_of_two[:162], 0)
