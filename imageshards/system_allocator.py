"""Arrow with the C library's allocator, in a process that imports this module before Arrow. Elsewhere nothing happens.

By itself Arrow takes one that gives the pages of each row group back to the system, and has them again, zeroed, for the
next: in a worker a fifth of all page faults, and 20 MB more. `pyarrow.set_memory_pool` does not reach what writes
Parquet; the choice is made once, when Arrow is loaded.
"""

from __future__ import annotations

import os
import sys

_VARIABLE = "ARROW_DEFAULT_MEMORY_POOL"

if "pyarrow" not in sys.modules and _VARIABLE not in os.environ:
    os.environ[_VARIABLE] = "system"
    try:
        import pyarrow as pa  # noqa: F401
    finally:
        del os.environ[_VARIABLE]  # it is not meant for the programs that this process starts
