"""How a process that makes shards keeps its memory: what one image gave back, the next one takes."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

import pyarrow as pa

# glibc's <malloc.h>
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 64 << 20
_LARGEST_KEPT_BYTES = 32 << 20
"""The most that glibc allows."""


@cache
def reuse_freed_memory() -> None:
    """Let the allocator of this process keep what is freed; from the second call on, nothing.

    A decoded picture is 0.5 MB. As a rule glibc gives so much back to the system as soon as it is free, and has it
    again, zeroed page by page, for the next picture: 0.1 to 0.3 ms each time. Arrow's own allocator does likewise with
    row groups, so Arrow is told to use glibc's. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    pa.set_memory_pool(pa.system_memory_pool())
