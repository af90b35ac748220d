"""A folder as a store: what it takes beside obstore."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from imageshards.errors import StoreError


def read_file(path: str) -> bytes:
    """The bytes of a file."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (of each image: Path.read_bytes takes twice as long)
        return file.readall()


def remove_empty_folders(path: Path, key: str) -> None:
    """Remove the folders above an object that is gone, as long as they are empty, but not the store itself.

    Args:
        path: The file that was the object.
        key: The object.
    """
    for folder in list(path.parents)[: key.count("/")]:
        with contextlib.suppress(OSError):  # not empty, or another process was faster
            folder.rmdir()


def check_folder(folder: Path, url: str) -> None:
    """Find out whether a folder can be a store.

    Args:
        folder: The folder, which need not exist yet.
        url: The store, for messages.

    Raises:
        StoreError: It is a file, cannot be read, or cannot be created.
    """
    reason = None
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not existing.is_dir():
        reason = f"{existing} is not a folder"
    elif existing == folder and not os.access(folder, os.R_OK | os.X_OK):
        reason = "permission denied: check who may read there"
    elif existing != folder and not os.access(existing, os.W_OK | os.X_OK):
        reason = f"it does not exist, and {existing} does not let it be created"
    if reason:
        raise StoreError(f"cannot access {url}: {reason}", uri=url)
