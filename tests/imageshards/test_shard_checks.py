"""Which piece of the index goes with which shard: every image is looked for once, whatever the driver told of."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from imageshards.index import IndexInfo
from imageshards.job import VersionResult
from imageshards.plan import HASH_BITS, shard_name
from imageshards.recipe import Recipe
from imageshards.shard_checks import pieces_of
from imageshards.shard_file import ShardResult
from imageshards.subject import Subject

SPLITS = st.sampled_from(["test", "trainval", "unlisted"])
TOLD = st.lists(st.tuples(SPLITS, st.integers(0, 5)), max_size=12)


def subject_of(told: list[tuple[str, int]]) -> Subject:
    shards = tuple(ShardResult(32, shard_name(split, number), split, 1, 1, 1, "0", "0") for split, number in told)
    info = IndexInfo("key", "0", "pets", 1, (), {}, "0", "0")
    return Subject("pets", info, Recipe(), VersionResult(32, "f", shards))


@given(told=TOLD, sizes=st.dictionaries(SPLITS, st.integers(1, 100_000)))
def test_every_hash_of_every_split_is_in_one_piece_and_every_shard_in_one(told, sizes):
    pieces = pieces_of(subject_of(told), sizes, 8192)
    assert Counter(piece.shard.name for piece in pieces if piece.shard) == Counter(
        shard_name(split, number) for split, number in told
    )
    for split in {*sizes, *(split for split, _ in told)}:
        ranges = sorted(piece.unit.hash_range for piece in pieces if piece.unit and piece.unit.split == split)
        assert ranges[0][0] == 0
        assert all(after[0] == before[1] + 1 for before, after in pairwise(ranges))
        assert ranges[-1][1] == 2**HASH_BITS - 1


@given(told=TOLD)
def test_a_shard_is_checked_against_the_bucket_that_its_name_says(told):
    for piece in pieces_of(subject_of(told), {}, 8192):
        if piece.unit and piece.shard:
            assert piece.shard.name == shard_name(piece.unit.split, piece.unit.bucket)


def test_a_split_without_shards_is_read_in_pieces_of_limited_size():
    pieces = pieces_of(subject_of([]), {"test": 8192, "trainval": 8192 * 5}, 8192)
    assert Counter(piece.unit.split for piece in pieces if piece.unit) == {"test": 2, "trainval": 8}
