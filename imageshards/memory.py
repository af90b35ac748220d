"""Memory that this process has freed and its allocators keep: how much they may keep, and giving it back.

The flow wants it back between stages: it would be as large as the sum of what its stages kept. A worker wants it
kept from one image to the next. What concerns the C library's allocator happens with glibc alone.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import pyarrow as pa

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Of mallopt(3)."""

_ARENAS = 2
"""glibc gives threads heaps of their own, up to eight for each core, and each keeps what was freed in it. Two are no
slower here: threads of ours spend their time in code that allocates little, or wait for Python's lock."""


_KEPT_BYTES = 64 << 20
_LARGEST_KEPT_BYTES = 32 << 20
"""The most that glibc allows."""


@cache
def keep_freed() -> None:
    """Let the allocator keep what is freed, and Arrow use it too. The first call alone does something.

    A decoded picture is 0.5 MB. As a rule glibc gives that back to the system as soon as it is free, and has it again,
    zeroed page by page, for the next picture: 0.1 to 0.3 ms each time. Arrow's own allocator does likewise with the
    pages of a row group.
    """
    library = _c_library()
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        pa.default_memory_pool().release_unused()
        pa.set_memory_pool(pa.system_memory_pool())


def limit_heaps() -> None:
    """Let further threads share the heaps that there are. Idempotent."""
    library = _c_library()
    if hasattr(library, "mallopt"):
        library.mallopt(_M_ARENA_MAX, _ARENAS)


def release_freed() -> None:
    """Give the system back what Arrow and the C library keep for later. Some milliseconds."""
    pa.default_memory_pool().release_unused()
    library = _c_library()
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


@cache
def _c_library() -> Any:
    return ctypes.CDLL(None)
