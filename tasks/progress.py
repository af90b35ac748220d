"""Progress of a step, to whoever wants it: a bar on a terminal, seldom lines in the log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LOG_SECONDS = 15.0

_bars: list[Progress] = []
"""The terminal's bars, while `terminal_progress` is on; one process shows one run."""


class StepProgress:
    """How far one step is: moves its bar, and writes a log line now and then where there is no terminal.

    Args:
        step: What is being done, e.g. `download images.tar.gz`.
        unit: What is counted, e.g. `bytes`.
        logger: Takes the log lines.
    """

    def __init__(self, step: str, unit: str, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._step = step
        self._unit = unit
        self._logger = logger
        self._logged = time.monotonic()
        self._bar = _bars[-1].add_task(step, total=None) if _bars else None

    def __call__(self, done: int, total: int | None = None) -> None:
        """Say how far the step is."""
        if self._bar is not None and _bars:
            _bars[-1].update(self._bar, completed=done, total=total)
        elif time.monotonic() - self._logged >= LOG_SECONDS:
            self._logged = time.monotonic()
            self._logger.info("%s: %s of %s %s", self._step, f"{done:,}", f"{total:,}" if total else "?", self._unit)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None and _bars:
            _bars[-1].remove_task(self._bar)
            self._bar = None


@contextmanager
def step_progress(step: str, unit: str, logger: logging.Logger | logging.LoggerAdapter[Any]) -> Iterator[StepProgress]:
    """Progress of one step, taken away when it ends."""
    progress = StepProgress(step, unit, logger)
    try:
        yield progress
    finally:
        progress.close()


@contextmanager
def terminal_progress() -> Iterator[None]:
    """Show bars on standard error while this lasts, where that is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        _bars.append(bars)
        try:
            with _logs_above(bars.console):
                yield
        finally:
            _bars.remove(bars)


@contextmanager
def _logs_above(console: Console) -> Iterator[None]:
    """Let Prefect write its log lines through the console of the bars, which puts them above the bars."""
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    handlers = {
        handler for logger in loggers for handler in logger.handlers if isinstance(handler, PrefectConsoleHandler)
    }
    held = {handler: handler.console for handler in handlers}
    for handler in handlers:
        handler.console = console
    try:
        yield
    finally:
        for handler, own in held.items():
            handler.console = own
