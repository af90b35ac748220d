"""The part of a measured program that is timed; talks to the harness that started it (`measure`).

Standard library only: programs of other environments import it, too.
"""

from __future__ import annotations

import json
import os
import sys
import time
from types import TracebackType
from typing import Any, Self

PREFIX = "imageshards-bench:"
"""Starts each line on stdout that is meant for the harness; the rest of the line is JSON."""

HARNESS_VARIABLE = "IMAGESHARDS_BENCH_HARNESS"
"""Set by the harness: there is someone who answers on standard input."""


class Stopwatch:
    """Times its `with` block. Before and after it the harness takes stock of the whole process tree; that is not timed.

    Attributes:
        images: How many images the block dealt with; to be set before its end.
        facts: Whatever else the harness is to know, JSON-ready.
    """

    def __init__(self) -> None:
        self.images = 0
        self.facts: dict[str, Any] = {}
        self._started = 0.0

    def __enter__(self) -> Self:
        _tell({"event": "start"})
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._started
        if kind is None:
            _tell({"event": "stop", "seconds": seconds, "images": self.images, "facts": self.facts})


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(f"{PREFIX} {json.dumps(message)}\n")
    sys.stdout.flush()
    if HARNESS_VARIABLE in os.environ:
        sys.stdin.readline()
