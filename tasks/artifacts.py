"""Artifacts are for whoever looks: one that cannot be left is a warning in the log, and ends no work."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger


@contextmanager
def artifact_or_warning(what: str) -> Iterator[None]:
    """Leave an artifact, if that can be done: the server may be away for a while, hours into a run that goes well.

    Args:
        what: The artifact, for the warning.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 (whatever Prefect's client may raise: what was to be shown is done)
        lines = str(error).splitlines()
        _logger().warning("%s could not be left: %s: %s", what, type(error).__name__, lines[0] if lines else "")


def _logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger(__name__)
