"""What can go wrong, by what is to be done about it.

    ImageShardsError
    ├─ ConfigError        wrong before any work                     fail the run, no retry
    ├─ SourceError        checksum, archive format, unsafe member   fail the run, no retry
    ├─ StoreError         missing, exists, denied                   fail the task, no retry
    ├─ TransientError     unavailable, throttled, interrupted       retry
    ├─ SampleError        undecodable, too large, unsupported       reject the sample, go on
    └─ ValidationError    carries its failed checks                 fail the run, with the report

A message says what failed, on which object, what was expected and found, and what to do. Every class takes one message
and optional keyword context, so that it survives pickling between processes with its type and context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self


class ImageShardsError(Exception):
    """Base of everything this package raises on purpose.

    Args:
        message: What failed, where, expected and found, what to do.
        **context: Plain values (str, int, float, bool, None and lists or dicts of them) for logs and reports.
    """

    def __init__(self, message: str, **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.context = context

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.context)

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON-ready data; `error_from_dict` reads it back."""
        return {"type": type(self).__name__, "message": self.message, "context": self.context}


def _rebuild(cls: type[ImageShardsError], message: str, context: dict[str, Any]) -> ImageShardsError:
    return cls(message, **context)


class ConfigError(ImageShardsError):
    """Wrong before any work was done: a parameter, a recipe, a block."""


class SourceError(ImageShardsError):
    """The source cannot be trusted or read: checksum, archive format, unsafe member, foreign annotations."""


class StoreError(ImageShardsError):
    """The store refuses for good: missing object or bucket, existing object, denied access."""


class ObjectMissingError(StoreError):
    """No such object, or no such bucket."""


class ObjectExistsError(StoreError):
    """A create-if-absent write found the object there already."""


class TransientError(ImageShardsError):
    """Unavailable, throttled or interrupted: the same call may succeed later."""


class RejectReason(StrEnum):
    """Why a sample was refused. A closed list: reports and checks rely on it."""

    EMPTY = "empty"
    UNKNOWN_FORMAT = "unknown-format"
    UNDECODABLE = "undecodable"
    TRUNCATED = "truncated"
    TOO_LARGE = "too-large"
    TOO_SMALL = "too-small"
    BAD_ANNOTATION = "bad-annotation"
    WORKER_CRASH = "worker-crash"


class SampleError(ImageShardsError):
    """One sample is refused; the run goes on.

    Args:
        message: What is wrong with the sample.
        reason: A value of `RejectReason`.
        **context: See `ImageShardsError`.
    """

    def __init__(self, message: str, *, reason: str = RejectReason.UNDECODABLE, **context: Any) -> None:
        self.reason = RejectReason(reason)
        super().__init__(message, reason=str(self.reason), **context)


@dataclass(frozen=True, slots=True)
class Check:
    """One statement about a dataset, and whether it holds.

    Attributes:
        name: Short stable name, e.g. `row-count`.
        passed: Whether the statement holds.
        expected: What should have been found.
        found: What was found.
        examples: At most a handful of offending objects.
    """

    name: str
    passed: bool
    expected: str
    found: str
    examples: tuple[str, ...] = ()

    def sentence(self) -> str:
        """The check in one line, for messages and logs."""
        named = f" ({', '.join(self.examples)})" if self.examples else ""
        return f"{self.name}: expected {self.expected}, found {self.found}{named}"


class ValidationError(ImageShardsError):
    """What was written, or was to be published, does not pass its checks.

    Args:
        message: Which dataset failed, and what to do.
        checks: All checks that ran, as `Check` or its dictionary form.
        **context: See `ImageShardsError`.
    """

    def __init__(self, message: str, *, checks: Sequence[Check | dict[str, Any]] = (), **context: Any) -> None:
        self.checks = tuple(check if isinstance(check, Check) else _check_from_dict(check) for check in checks)
        super().__init__(message, checks=[asdict(check) for check in self.checks], **context)

    @classmethod
    def of(cls, subject: str, checks: Sequence[Check], **context: Any) -> Self:
        """The error for a subject whose checks did not all pass; the message lists those that failed."""
        failed = "; ".join(check.sentence() for check in checks if not check.passed)
        return cls(f"{subject} failed validation, nothing was published: {failed}", checks=checks, **context)


def _check_from_dict(data: dict[str, Any]) -> Check:
    return Check(**{**data, "examples": tuple(data.get("examples", ()))})


def error_from_dict(data: dict[str, Any]) -> ImageShardsError:
    """Read back what `ImageShardsError.to_dict` wrote; an unknown type becomes the base class."""
    cls = _by_name().get(str(data.get("type")), ImageShardsError)
    return cls(str(data.get("message", "unknown error")), **data.get("context", {}))


def _by_name() -> dict[str, type[ImageShardsError]]:
    found: dict[str, type[ImageShardsError]] = {}
    pending: list[type[ImageShardsError]] = [ImageShardsError]
    while pending:
        cls = pending.pop()
        found[cls.__name__] = cls
        pending.extend(cls.__subclasses__())
    return found
