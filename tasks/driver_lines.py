"""Lines of the driver, and what becomes of them: progress, lines in the run's log, and the error that ended it."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from imageshards.errors import ImageShardsError, error_from_dict
from imageshards.job import parse_driver_line
from tasks.progress import StepProgress
from tasks.progress_artifact import ProgressArtifact

LINES_A_MINUTE = 60
"""So many of the lines that are not ours reach the run's log: a worker that complains endlessly does not fill it."""

LINE_CHARACTERS = 2000
"""Of each of them."""

_COLORS = re.compile(r"\x1b\[[0-9;]*m")
"""Ray colors what it passes on of its workers."""

_MINUTE_SECONDS = 60.0
_LEAST_SECRET_CHARACTERS = 8
"""Shorter ones would take ordinary words out of the log, and are no secrets."""


class Secrets:
    """Takes values that nobody may see out of a text. Ours never print them; what others print is not in our hands.

    Args:
        values: The secrets.
    """

    def __init__(self, values: Iterable[str | None]) -> None:
        plain = {value for value in values if value and len(value) >= _LEAST_SECRET_CHARACTERS}
        self._hidden = plain | {json.dumps(value)[1:-1] for value in plain}

    def hide(self, text: str) -> str:
        """The text without the secrets."""
        for value in self._hidden:
            text = text.replace(value, "***")
        return text


class LineBudget:
    """Lets so many lines a minute through, and says how many it did not.

    Args:
        emit: Takes the lines.
        lines_a_minute: How many.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        emit: Callable[[str], None],
        *,
        lines_a_minute: int = LINES_A_MINUTE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._emit = emit
        self._lines_a_minute = lines_a_minute
        self._clock = clock
        self._minute_began = clock()
        self._taken = 0

    def take(self, line: str) -> None:
        """Let one line through, or count it."""
        if self._clock() - self._minute_began >= _MINUTE_SECONDS:
            self.close()
        self._taken += 1
        if self._taken <= self._lines_a_minute:
            self._emit(line[:LINE_CHARACTERS])

    def close(self) -> None:
        """Say what was left out of this minute, and begin another."""
        left_out = self._taken - self._lines_a_minute
        self._minute_began, self._taken = self._clock(), 0
        if left_out > 0:
            self._emit(f"… {left_out:,} lines left out, see the job's log in the Ray dashboard")


class DriverOutput:
    """Takes the driver's output line by line.

    Args:
        logger: Of the run.
        progress: Of the step, for terminal and log.
        secrets: What no line may show.
    """

    def __init__(
        self,
        logger: logging.Logger | logging.LoggerAdapter[Any],
        progress: StepProgress,
        secrets: Secrets,
    ) -> None:
        self._logger = logger
        self._progress = progress
        self._artifact = ProgressArtifact("preprocess-progress")
        self._secrets = secrets
        self._others = LineBudget(lambda line: logger.info("ray: %s", line))
        self.error: ImageShardsError | None = None

    def take(self, line: str) -> None:
        """Take one line of output."""
        line = self._secrets.hide(line)
        said = parse_driver_line(line)
        if said is None:
            if line.strip():
                self._others.take(_COLORS.sub("", line))
        elif said["kind"] == "progress":
            done, total = int(said["done"]), int(said["total"])
            self._progress(done, total)
            self._artifact.show(done, total, seconds=float(said["seconds"]), free=int(said.get("reused", 0)))
        elif said["kind"] == "error":
            self.error = error_from_dict(said["error"])
        else:
            level = logging.INFO if said.get("level") == "info" else logging.WARNING
            self._logger.log(level, "%s", said.get("message"))

    def close(self) -> None:
        """Say what was left out."""
        self._others.close()
