"""What all benchmarks do: tell how far they are, and clean up after themselves."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def say(line: str) -> None:
    """A line on standard error."""
    sys.stderr.write(f"bench: {line}\n")
    sys.stderr.flush()


@contextmanager
def work_folder(parent: Path | None) -> Iterator[Path]:
    """A temporary folder that goes in the end, also after an interrupt or SIGTERM."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="isb-", dir=parent, ignore_cleanup_errors=True) as name:
        yield Path(name)
