"""Arrow columns as numpy arrays, nulls and all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array; without a copy where it is one chunk."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def numbers(column: pa.ChunkedArray | pa.Array, dtype: str, *, missing: float = 0) -> NDArray[Any]:
    """A column of numbers or truth values, (N,) of `dtype`; `missing` where it is null."""
    array = one_chunk(column)
    if array.null_count:
        array = pc.fill_null(array, pa.scalar(missing, array.type))
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values.astype(dtype, copy=False)


def mask(column: pa.ChunkedArray | pa.Array) -> NDArray[np.bool_]:
    """A column of truth values, (N,) bool; false where it is null."""
    return numbers(column, "bool", missing=False)


def present(column: pa.ChunkedArray | pa.Array) -> NDArray[np.bool_]:
    """Where a column is not null, (N,) bool."""
    return mask(column.is_valid())


def same(first: pa.ChunkedArray | pa.Array, second: pa.ChunkedArray | pa.Array) -> NDArray[np.bool_]:
    """Where two columns hold the same, (N,) bool; null is the same as null."""
    return mask(pc.equal(one_chunk(first), one_chunk(second))) | (~present(first) & ~present(second))


def places_in(values: pa.ChunkedArray | pa.Array, among: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The first place of each value among others, int32; null where it is not among them."""
    return pc.index_in(one_chunk(values), value_set=one_chunk(among))


def strings_at(column: pa.ChunkedArray, positions: NDArray[Any]) -> list[str]:
    """The values at some positions."""
    return list(column.take(pa.array(positions, pa.int64())).to_pylist())
