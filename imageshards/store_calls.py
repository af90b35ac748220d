"""Calls of a store's vendor: from a process that may make them, with the vendor's errors turned into ours."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import obstore
from obstore.store import MemoryStore

from imageshards.errors import ConfigError, ImageShardsError
from imageshards.store_errors import VENDOR_ERRORS, Attempt, translate
from imageshards.store_spec import Location

T = TypeVar("T")

_runtime_owner: list[int] = []
"""The process whose threads serve obstore; empty before the first use."""
_starting = threading.Lock()

_IO_THREADS_VARIABLE = "TOKIO_WORKER_THREADS"
"""Read by tokio, on which obstore runs, when its threads start."""
_IO_THREADS = "1"
"""By itself it starts one for each CPU. They wake each other for every request, a tenth of the CPU time of an upload;
and each worker on a node of 64 CPUs would have 64 of them. Requests are made on the caller's own thread.
"""


class VendorCalls:
    """Makes the calls for one store.

    Args:
        location: Where the store is, for messages.
        endpoint: The S3 endpoint, None where it is AWS or a folder; likewise.
    """

    def __init__(self, location: Location, endpoint: str | None) -> None:
        self._location = location
        self._endpoint = endpoint

    def run(self, action: str, key: str, call: Callable[[], T], *, writes: bool = False) -> T:
        """Make a call, and raise its failure as one of ours.

        Args:
            action: The verb of the message.
            key: The object or prefix; empty for the store itself.
            call: The call.
            writes: See `Attempt`.
        """
        refuse_forked_process()
        try:
            return call()
        except VENDOR_ERRORS as error:
            failure = self._translated(error, action, key, writes=writes)
        # Not from within the handler: the vendor's text may hold signed headers, and would be printed as the context.
        raise failure

    @contextlib.contextmanager
    def guard(self, action: str, key: str, *, writes: bool) -> Iterator[None]:
        """`run` for a block."""
        refuse_forked_process()
        failure = None
        try:
            yield
        except VENDOR_ERRORS as error:
            failure = self._translated(error, action, key, writes=writes)
        if failure:
            raise failure

    def attempt(self, action: str, key: str, *, writes: bool = False) -> Attempt:
        """What is being done, for a message."""
        uri = self._location.uri(key) if key else self._location.url
        return Attempt(action, uri, self._location.bucket, self._endpoint, writes)

    def _translated(self, error: Exception, action: str, key: str, *, writes: bool) -> ImageShardsError:
        return translate(error, self.attempt(action, key, writes=writes))


def refuse_forked_process() -> None:
    """Raise where obstore would hang for ever: its threads do not survive a fork, and a new store gets none either.

    Raises:
        ConfigError: This process was forked from one that had used a store.
    """
    if not _runtime_owner:
        _start_runtime()
    elif _runtime_owner[0] != os.getpid():
        raise ConfigError(
            "this process was forked from one that had used a store, and cannot use any: start processes with "
            "multiprocessing's 'spawn' (DataLoader(multiprocessing_context='spawn'))"
        )


def _start_runtime() -> None:
    """Start obstore's threads, as many as the environment says, or one."""
    with _starting:
        if _runtime_owner:
            return
        chosen = _IO_THREADS_VARIABLE in os.environ
        os.environ.setdefault(_IO_THREADS_VARIABLE, _IO_THREADS)
        try:
            obstore.put(MemoryStore(), "any", b"")  # they start with the first request, whatever it is
        finally:
            if not chosen:
                del os.environ[_IO_THREADS_VARIABLE]  # it is not meant for the programs that this process starts
        _runtime_owner.append(os.getpid())
