"""What killed writers left: staged files of a folder, multipart uploads of S3. No listing of objects shows either."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageshards.errors import ObjectMissingError
from imageshards.store_errors import translate_boto

if TYPE_CHECKING:
    from imageshards.store_calls import VendorCalls
    from imageshards.store_s3 import S3Access
    from imageshards.store_spec import Location

_STAGED = re.compile(r"(?P<name>[^#]*)#(?P<number>[0-9]+)")
"""As object_store, and so obstore and `store_output`, names what it stages."""

PAGE_UPLOADS = 1000
"""Of one answer: the most that S3 allows."""

_PERMISSIONS = "s3:ListBucketMultipartUploads, s3:AbortMultipartUpload"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An object that was begun and has not appeared; its writer may still be at it.

    Attributes:
        key: What it was to become.
        token: Tells it from others of the same key: the number of a staged file, the id of an upload.
        started_at: When it was begun; of a staged file: last written or linked.
        size_bytes: Of a staged file; None where the server does not say.
    """

    key: str
    token: str
    started_at: datetime
    size_bytes: int | None


def staged_files(location: Location, prefix: str, calls: VendorCalls) -> Iterator[Unfinished]:
    """The staged files below a prefix of a folder, in no order.

    Args:
        location: The folder.
        prefix: A key, empty for all.
        calls: Turn errors into ours.
    """
    pending = [Path("/", location.path(prefix))]
    while pending:
        folder = pending.pop()
        for entry in calls.run("list", prefix, partial(_entries, folder)):
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
            elif match := _STAGED.fullmatch(entry.name):
                try:
                    found = entry.stat()
                except FileNotFoundError:  # its writer has finished
                    continue
                name = str(folder / match["name"])[1:]
                key = name[len(location.root) + 1 :] if location.root else name
                # A copy is staged as a hard link, which is as old as its source by mtime, and new by ctime.
                begun_at = datetime.fromtimestamp(max(found.st_mtime, found.st_ctime), UTC)
                yield Unfinished(key, match["number"], begun_at, found.st_size)


def remove_staged_file(location: Location, unfinished: Unfinished, calls: VendorCalls) -> None:
    """Remove a staged file; none there is fine."""
    path = Path("/", f"{location.path(unfinished.key)}#{unfinished.token}")
    calls.run("clean up", unfinished.key, lambda: path.unlink(missing_ok=True))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):  # never there, or just removed
        return []


def uploads(access: S3Access, location: Location, prefix: str, calls: VendorCalls) -> Iterator[Unfinished]:
    """The multipart uploads below a prefix of a bucket that are neither finished nor aborted.

    Args:
        access: To the bucket.
        location: The store in it.
        prefix: A key, empty for all.
        calls: Turn errors into ours.
    """
    path = location.path(prefix)
    asked: dict[str, Any] = {"Bucket": access.bucket, "Prefix": f"{path}/" if path else "", "MaxUploads": PAGE_UPLOADS}
    while asked:
        answer = _asked(access, calls, "list unfinished uploads in", prefix, "list_multipart_uploads", **asked)
        for upload in answer.get("Uploads", []):
            key = upload["Key"][len(location.root) + 1 :] if location.root else upload["Key"]
            yield Unfinished(key, upload["UploadId"], upload["Initiated"].astimezone(UTC), None)
        if not answer.get("IsTruncated"):
            return
        asked |= {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}


def abort_upload(access: S3Access, location: Location, unfinished: Unfinished, calls: VendorCalls) -> None:
    """Abort an upload, so that its parts are no longer kept; none there is fine."""
    named = {"Bucket": access.bucket, "Key": location.path(unfinished.key), "UploadId": unfinished.token}
    try:
        _asked(access, calls, "abort an unfinished upload of", unfinished.key, "abort_multipart_upload", **named)
    except ObjectMissingError as error:
        if error.context.get("code") != "NoSuchUpload":
            raise


def _asked(access: S3Access, calls: VendorCalls, action: str, key: str, operation: str, **arguments: Any) -> Any:
    """One request through boto3: obstore knows neither of the two."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 (0.3 s that readers and writers spare)

    try:
        return getattr(access.control_client(), operation)(**arguments)
    except (BotoCoreError, ClientError) as error:
        attempt = replace(calls.attempt(action, key), permissions=_PERMISSIONS)
        failure = translate_boto(error, attempt)
    raise failure  # not from within the handler: what botocore says may hold signed headers
