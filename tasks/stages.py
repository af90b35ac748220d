"""One structured log line for each stage of a run, and all of them together for the run's report.

A line is logfmt, for people and for whatever collects logs alike:

    stage=upload outcome=done seconds=3.21 images=222 written=444 bytes=12345678
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from prefect import get_run_logger

from imageshards.memory import release_freed

DONE, FAILED, INTERRUPTED = "done", "failed", "interrupted"

_BARE = re.compile(r"[A-Za-z0-9._:/+-]+")
"""What needs no quotes in logfmt."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage did, once it has ended.

    Attributes:
        name: E.g. `upload`.
        outcome: `done`, `failed` or `interrupted`.
        seconds: How long it took.
        facts: Counts and words, in the order in which they were told; `images` and `bytes` among them where known.
    """

    name: str
    outcome: str
    seconds: float
    facts: dict[str, int | str]

    def fields(self) -> dict[str, int | float | str]:
        """The stage as flat data."""
        return {"stage": self.name, "outcome": self.outcome, "seconds": round(self.seconds, 2), **self.facts}

    def line(self) -> str:
        """The stage in one line of logfmt; no value can break out of it."""
        return " ".join(f"{key}={_value(value)}" for key, value in self.fields().items())

    def number(self, fact: str) -> int | None:
        """A count that the stage told; None where it told none."""
        found = self.facts.get(fact)
        return found if isinstance(found, int) else None


@dataclass(slots=True)
class StageReport:
    """What a running stage tells of itself."""

    facts: dict[str, int | str] = field(default_factory=dict)

    def count(self, **numbers: int) -> None:
        """Tell counts: `images=222`, `bytes=12345678`. The last word on each counts."""
        self.facts.update(numbers)

    def note(self, **words: str) -> None:
        """Tell something that is no count: `status="cached"`. Never a secret: it is logged."""
        self.facts.update(words)


_collected: ContextVar[list[Stage] | None] = ContextVar("stages", default=None)
"""The list of the run that is under way. Prefect copies the context into the threads of submitted tasks, so that these
append to the same list."""


@contextmanager
def collect_stages() -> Iterator[list[Stage]]:
    """Collect the stages that end while this lasts, those of submitted tasks included, in the order of their end."""
    stages: list[Stage] = []
    token = _collected.set(stages)
    try:
        yield stages
    finally:
        _collected.reset(token)


@contextmanager
def stage(name: str, **facts: int | str) -> Iterator[StageReport]:
    """Time a stage of a run, and log its line when it ends, however it ends.

    Args:
        name: E.g. `upload`.
        **facts: What is known beforehand, e.g. `resolution=224`.
    """
    report = StageReport(dict(facts))
    started = time.monotonic()
    outcome = DONE
    try:
        yield report
    except BaseException as error:
        outcome = FAILED if isinstance(error, Exception) else INTERRUPTED
        report.note(error=type(error).__name__)
        raise
    finally:
        ended = Stage(name, outcome, time.monotonic() - started, report.facts)
        release_freed()  # else it is on top of what the next stage takes: 60 MB after an upload
        collected = _collected.get()
        if collected is not None:
            collected.append(ended)
        level = logging.INFO if outcome == DONE else logging.WARNING
        # Prefect's JSON formatter writes what is in `extra`, too.
        get_run_logger().log(level, "%s", ended.line(), extra={"imageshards_stage": ended.fields()})


def _value(value: float | str) -> str:
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)
