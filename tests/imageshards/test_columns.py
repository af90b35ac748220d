"""Arrow columns as numpy arrays: nulls, slices, chunks and types as they are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from imageshards.columns import mask, numbers, places_in, present, same, strings_at

VALUES = st.lists(st.none() | st.integers(0, 100), max_size=30)
TYPES = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64(), pa.float32(), pa.float64()]


def chunked(values: list[int | None], type_: pa.DataType, cut: int) -> pa.ChunkedArray:
    """The values in two chunks, each a slice of a longer array."""
    longer = pa.array([7, *values, 7], type_)
    whole = longer.slice(1, len(values))
    return pa.chunked_array([whole.slice(0, cut), whole.slice(min(cut, len(values)))], type_)


@given(values=VALUES, cut=st.integers(0, 30), type_=st.sampled_from(TYPES))
def test_numbers_come_as_they_are_and_nulls_as_what_is_asked_for(values, cut, type_):
    column = chunked(values, type_, cut)
    assert numbers(column, "float64", missing=101).tolist() == [101 if value is None else value for value in values]
    assert present(column).tolist() == [value is not None for value in values]
    assert (
        numbers(column.combine_chunks(), "float64", missing=101).tolist()
        == numbers(column, "float64", missing=101).tolist()
    )


def test_float16_is_no_half_of_a_float64():
    values = np.array([0.5, 2.0, 3.0], np.float16)
    assert numbers(pa.array(values), "float32").tolist() == [0.5, 2.0, 3.0]


def test_the_whole_range_of_a_hash_comes_through():
    values = [0, 2**63, 2**64 - 1]
    assert numbers(pa.array(values, pa.uint64()), "uint64").tolist() == values


@given(values=st.lists(st.none() | st.booleans(), max_size=30), start=st.integers(0, 30))
def test_a_mask_is_false_where_it_is_null(values, start):
    assert mask(pa.array(values, pa.bool_()).slice(start)).tolist() == [bool(value) for value in values[start:]]


@given(pairs=st.lists(st.tuples(st.none() | st.integers(0, 2), st.none() | st.integers(0, 2)), max_size=30))
def test_null_is_the_same_as_null_and_as_nothing_else(pairs):
    first, second = (pa.array([pair[side] for pair in pairs], pa.int16()) for side in (0, 1))
    assert same(first, second).tolist() == [one == other for one, other in pairs]


def test_places_are_those_among_the_others():
    places = places_in(pa.chunked_array([["b"], ["x", "a"]]), pa.chunked_array([["a"], ["b"]]))
    assert places.to_pylist() == [1, None, 0]
    assert strings_at(pa.chunked_array([["a"], ["b"]]), np.array([1, 0])) == ["b", "a"]
