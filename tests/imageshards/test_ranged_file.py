"""Ranges of an object: read as a file, fetched together where they lie together."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from imageshards import ranged_file
from imageshards.ranged_file import RangedFile, join_ranges

ranges = st.lists(st.tuples(st.integers(0, 40 << 20), st.integers(1, 3 << 20)), max_size=12)


@given(ranges)
def test_joined_ranges_cover_what_was_asked_for_and_little_more(asked):
    joined = join_ranges(asked)
    assert joined == sorted(joined)
    assert all(any(s <= start and start + n <= s + length for s, length in joined) for start, n in asked)
    assert sum(length for _, length in joined) <= sum(n for _, n in asked) + ranged_file._MAX_GAP_BYTES * len(asked)
    assert len(joined) <= len(asked)


def test_neighbors_become_one_range_until_it_gets_long():
    mb = 1 << 20
    assert join_ranges([(0, mb), (mb, mb), (3 * mb, mb)]) == [(0, 2 * mb), (3 * mb, mb)]
    assert join_ranges([(number * mb, mb) for number in range(20)]) == [
        (0, 8 * mb),
        (8 * mb, 8 * mb),
        (16 * mb, 4 * mb),
    ]


def test_reads_as_a_file(new_store):
    store, data = new_store(), bytes(range(256)) * 40
    store.put("object", data)
    file = RangedFile(store, "object", len(data))
    assert file.seek(-10, io.SEEK_END) == len(data) - 10
    assert file.read() == data[-10:]
    assert file.read(5) == b""
    assert file.seek(100) == 100
    assert file.read(50) + file.read(50) == data[100:200]
    assert file.tell() == 200


def test_what_was_fetched_is_not_read_again(new_store):
    store, data = new_store(), bytes(range(256)) * 4000
    store.put("object", data)
    file = RangedFile(store, "object", len(data))
    file.fetch([(0, 100), (900_000, 1000), (50, 100)])
    store.delete("object")
    for start, length in [(0, 150), (20, 10), (900_500, 500)]:
        file.seek(start)
        assert file.read(length) == data[start : start + length]
