"""A backend of real processes, one for each task, and work that kills its process: for the tests of the executor."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import Any

from imageshards import worker
from imageshards.errors import error_from_dict
from imageshards.executor import WorkerLostError
from imageshards.index import IndexRow
from imageshards.plan import Unit
from imageshards.reuse import PublishedShard
from imageshards.shard_inputs import Build
from imageshards.shards import unit_rows
from imageshards.store import StoreSpec, open_store

DEADLY = "pug_97"


def deadly_build(
    build: Build, unit: Unit, raw_store: StoreSpec, store: StoreSpec, published: Sequence[PublishedShard]
) -> dict[str, Any]:
    """Build a unit; an image of it kills the process, as one that crashes a decoder does."""
    if DEADLY not in build.poison and any(row.image_id == DEADLY for row in _rows(build, unit, raw_store)):
        os.kill(os.getpid(), signal.SIGKILL)
    return worker.run_build(build, unit, raw_store, store, published)


def deadly_probe(build: Build, unit: Unit, rows: Sequence[IndexRow], raw_store: StoreSpec) -> dict[str, Any]:
    """Try images; likewise."""
    if any(row.image_id == DEADLY for row in rows):
        os.kill(os.getpid(), signal.SIGKILL)
    return worker.run_probe(build, unit, rows, raw_store)


def _rows(build: Build, unit: Unit, raw_store: StoreSpec) -> list[IndexRow]:
    return unit_rows(build, unit, open_store(raw_store))


class Processes:
    """Runs each task in a process of its own, forked off a server that has imported the worker."""

    slots = 4

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["imageshards.worker"])
        self._processes: dict[connection.Connection, Any] = {}

    def submit(self, function: Callable[..., dict[str, Any]], *arguments: Any) -> connection.Connection:
        """See `executor.Backend`."""
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_run, args=(sender, function, arguments))
        process.start()
        sender.close()
        self._processes[receiver] = process
        return receiver

    def wait(self, handles: Sequence[connection.Connection], timeout_seconds: float | None) -> Any | None:
        """See `executor.Backend`."""
        done = connection.wait(handles, timeout_seconds)
        return done[0] if done else None

    def fetch(self, handle: connection.Connection) -> Any:
        """See `executor.Backend`."""
        process = self._processes.pop(handle)
        try:
            outcome = handle.recv()
        except EOFError:
            process.join()
            raise WorkerLostError(f"killed by signal {-process.exitcode}") from None
        process.join()
        if "error" in outcome:
            raise error_from_dict(outcome["error"])
        return outcome["ok"]

    def cancel(self, handle: connection.Connection) -> None:
        """See `executor.Backend`."""
        process = self._processes.pop(handle)
        process.kill()
        process.join()


def _run(sender: connection.Connection, function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    sender.send(function(*arguments))
