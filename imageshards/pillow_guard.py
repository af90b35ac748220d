"""Pillow and the C libraries behind it, kept silent and within bounds while they decode.

Their switches are global to the process. All of them are thrown inside of `guarded_pillow`, under one lock, and thrown
back when it ends: threads decode one after the other, and code that uses Pillow elsewhere finds it as it was.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import AvifImagePlugin, Image, ImageFile
from PIL import _imaging as pillow_core

_LOCK = threading.Lock()
_SILENT = logging.NullHandler()
_PILLOW_LOGGER = logging.getLogger("PIL")

_MAX_ERRORS = 10

_ErrorHandler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
"""libtiff's TIFFErrorHandler: (module, format, va_list); the list is never touched."""


@dataclass
class Complaints:
    """What the decoders said while they worked.

    Attributes:
        warnings: Python warnings of Pillow: something about the file's metadata.
        errors: libtiff's errors. It reports some and still returns pixels, as of a damaged fax line.
    """

    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextmanager
def guarded_pillow(*, load_truncated: bool) -> Iterator[Complaints]:
    """Let Pillow decode: nothing is printed, its own limits give way to ours, AVIF uses one thread.

    Args:
        load_truncated: Let Pillow return what is left of a damaged image.

    Yields:
        The complaints, complete when the block ends.
    """
    complaints = Complaints()
    with (
        _LOCK,
        warnings.catch_warnings(record=True) as caught,
        _libtiff_errors(complaints.errors),
        _settings(
            (ImageFile, "LOAD_TRUNCATED_IMAGES", load_truncated),
            (Image, "MAX_IMAGE_PIXELS", None),
            (AvifImagePlugin, "DEFAULT_MAX_THREADS", 1),
            (_PILLOW_LOGGER, "propagate", False),
        ),
    ):
        warnings.simplefilter("always")
        _PILLOW_LOGGER.addHandler(_SILENT)
        try:
            yield complaints
        finally:
            _PILLOW_LOGGER.removeHandler(_SILENT)
            complaints.warnings.extend(str(warning.message) for warning in caught)


@contextmanager
def _settings(*wanted: tuple[Any, str, Any]) -> Iterator[None]:
    found = [(owner, name, getattr(owner, name)) for owner, name, _ in wanted]
    try:
        for owner, name, value in wanted:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in found:
            setattr(owner, name, value)


@contextmanager
def _libtiff_errors(errors: list[str]) -> Iterator[None]:
    """Collect what libtiff would print to file descriptor 2; Pillow silences its warnings only."""
    if _set_error_handler is None:
        yield
        return

    def collect(module: bytes | None, message: bytes | None, _arguments: int | None) -> None:
        if len(errors) < _MAX_ERRORS:
            errors.append(b": ".join(part for part in (module, message) if part).decode("ascii", "replace"))

    handler = _ErrorHandler(collect)
    before = _set_error_handler(ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        _set_error_handler(before)


def _find_set_error_handler() -> Callable[..., Any] | None:
    """TIFFSetErrorHandler of the libtiff that Pillow loaded; None in a build that hides it: then libtiff may print."""
    try:
        function = ctypes.CDLL(pillow_core.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p]
    function.restype = ctypes.c_void_p
    return function


_set_error_handler = _find_set_error_handler()
