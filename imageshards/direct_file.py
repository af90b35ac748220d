"""A file written past the page cache, where the system lets a program do so.

A shard is written once, from its start to its end, and is larger than what is worth keeping in memory: through the page
cache each byte is copied into pages that must be found first, and that push out the images still to be read. Written
directly, the device takes them out of this process's memory while it goes on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 1 << 20
"""Written at once; a quarter of it takes 1.7 times as long (an SSD behind virtio)."""

_BLOCKS_IN_FLIGHT = 16
"""Of all files of a process together: a row group is handed over in one go, and should not be waited for."""

_ALIGNMENT_BYTES = 4096
"""Of memory, offset and length: what devices ask for, or a multiple of it."""

_DIRECT = getattr(os, "O_DIRECT", 0)  # of Linux alone

_in_flight = threading.BoundedSemaphore(_BLOCKS_IN_FLIGHT)


class DirectFile:
    """A new file; blocks are written in the background while the next ones are filled.

    File systems that refuse direct writing (when the file is opened, or with the first block) get usual ones.

    Args:
        path: Where; must not exist.

    Raises:
        OSError: It cannot be created. Later calls raise what writing raised, be it for a block handed over before; from
            then on each one does.
    """

    def __init__(self, path: Path) -> None:
        self._file = _open(path)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="direct-file")
        self._writes: deque[Future[None]] = deque()
        self._block = _aligned_block()
        self._filled_bytes = 0

    def write(self, data: bytes) -> int:
        """Take some bytes; returns their number.

        Raises:
            ValueError: The file was ended.
        """
        if self._file.closed:
            raise ValueError(f"the file was ended: {self._file.name!r}")
        taken = np.frombuffer(data, np.uint8)
        start = 0
        while start < len(taken):
            part = taken[start : start + _BLOCK_BYTES - self._filled_bytes]
            self._block[self._filled_bytes : self._filled_bytes + len(part)] = part
            self._filled_bytes += len(part)
            start += len(part)
            if self._filled_bytes == _BLOCK_BYTES:
                self._hand_over()
        return len(taken)

    def close(self) -> None:
        """Write the rest and end the file."""
        try:
            while self._writes:
                self._forget_oldest()
            _stop_direct(self._file)  # the rest is no whole number of what a device takes
            _write_all(self._file, self._block[: self._filled_bytes])
        finally:
            self.abandon()

    def abandon(self) -> None:
        """End the file as it is. Idempotent, and all there is to do after a failure."""
        try:
            self._writer.shutdown()
        finally:
            self._file.close()

    def _hand_over(self) -> None:
        while self._writes and self._writes[0].done():
            self._forget_oldest()
        _in_flight.acquire()
        try:
            write = self._writer.submit(_write_all, self._file, self._block)
        except BaseException:
            _in_flight.release()
            raise
        write.add_done_callback(lambda _: _in_flight.release())
        self._writes.append(write)
        self._block, self._filled_bytes = _aligned_block(), 0

    def _forget_oldest(self) -> None:
        self._writes[0].result()  # one that failed stays, and is raised again
        self._writes.popleft()


def _open(path: Path) -> FileIO:
    try:
        return FileIO(path, "xb", opener=lambda name, flags: os.open(name, flags | _DIRECT, 0o666))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return FileIO(path, "wb")  # some file systems create it before they refuse


def _stop_direct(file: FileIO) -> None:
    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) & ~_DIRECT)


def _write_all(file: FileIO, block: NDArray[np.uint8]) -> None:
    start = 0
    while start < len(block):
        try:
            start += os.write(file.fileno(), block[start:].data)
        except OSError as error:
            if error.errno != errno.EINVAL or not fcntl.fcntl(file, fcntl.F_GETFL) & _DIRECT:
                raise
            _stop_direct(file)


def _aligned_block() -> NDArray[np.uint8]:
    memory = np.empty(_BLOCK_BYTES + _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[start : start + _BLOCK_BYTES]
