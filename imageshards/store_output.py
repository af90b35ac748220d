"""An object written bit by bit that appears when complete: a hidden file that is renamed, or parts of an upload."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from imageshards.direct_file import DirectFile

if TYPE_CHECKING:
    from obstore import WritableFile

Guard = Callable[[], AbstractContextManager[None]]
"""Makes a context within which the vendor's errors are raised as ours."""


class Output(Protocol):
    """Where an object is written. Exactly one of `commit` and `discard` ends it."""

    @property
    def target(self) -> Any:
        """A writable file object, as `pyarrow.parquet.ParquetWriter` takes it."""

    def guard(self) -> AbstractContextManager[None]:
        """Within it, failures of writing to the target are raised as errors of this package."""

    def commit(self) -> tuple[int, str]:
        """Make the object appear; returns its size in bytes and its SHA-256, in hex."""

    def discard(self) -> None:
        """Leave nothing behind; after `commit` it does nothing."""


class FolderOutput:
    """A file beside the one that it becomes, under a name that no listing shows.

    Args:
        path: What it becomes.
        token: Tells concurrent writers of one object apart; digits.
        guard: Makes a context that translates errors.
    """

    def __init__(self, path: Path, token: int, guard: Guard) -> None:
        self._path = path
        self._staged = path.with_name(f"{path.name}#{token}")  # as object_store, and so obstore, names what it stages
        self._guard = guard
        with guard():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = DirectFile(self._staged)
        self._sink = _HashingSink(self._file.write)

    @property
    def target(self) -> _HashingSink:
        """The file object to write to."""
        return self._sink

    def guard(self) -> AbstractContextManager[None]:
        """See `Output`."""
        return self._guard()

    def commit(self) -> tuple[int, str]:
        """See `Output`."""
        with self._guard():
            self._file.close()
            self._staged.replace(self._path)
        return self._sink.size_bytes, self._sink.digest.hexdigest()

    def discard(self) -> None:
        """See `Output`."""
        with contextlib.suppress(OSError):
            self._file.abandon()
        with contextlib.suppress(OSError):
            self._staged.unlink(missing_ok=True)


class StreamOutput:
    """Parts that go to the server while later ones are being made.

    Args:
        file: The upload.
        guard: Makes a context that translates errors.
    """

    def __init__(self, file: WritableFile, guard: Guard) -> None:
        self._guard = guard
        self._file = file
        self._sink = _HashingSink(file.write)
        self._open = True

    @property
    def target(self) -> _HashingSink:
        """The file object to write to."""
        return self._sink

    def guard(self) -> AbstractContextManager[None]:
        """See `Output`."""
        return self._guard()

    def commit(self) -> tuple[int, str]:
        """See `Output`."""
        with self._guard():
            self._file.close()
            self._open = False
        return self._sink.size_bytes, self._sink.digest.hexdigest()

    def discard(self) -> None:
        """See `Output`."""
        if self._open:
            self._open = False
            with contextlib.suppress(Exception), self._guard():
                why = InterruptedError("the object was not finished")
                self._file.__exit__(type(why), why, None)  # aborts the upload, so that no part stays


class _HashingSink:
    """What pyarrow needs of a file; closing it does not end the object."""

    closed = False

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self._write = write
        self.digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self._write(data)
        self.size_bytes += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size_bytes

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False
