"""What obstore raises, as our errors. obstore tells most failures apart only in its message, so this reads the message.

The texts are those of obstore 0.12 (object_store 0.14): one useful line, then `Debug source:` and a dump. Only the HTTP
status, the S3 error code and its sentence are taken over: S3 echoes signed headers, the session token among them, in
the rest of some answers.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from typing import Any, TypeVar

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    JoinError,
    PreconditionError,
    UnauthenticatedError,
)

from imageshards.errors import (
    ImageShardsError,
    ObjectExistsError,
    ObjectMissingError,
    StoreError,
    TransientError,
)

E = TypeVar("E", bound=ImageShardsError)

VENDOR_ERRORS = (BaseError, OSError)
"""What obstore raises: its own tree, and FileNotFoundError."""

_PREFIX = re.compile(r"^Generic \w+ error: ")
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*(\w+)\s*</Code>")
_SENTENCE = re.compile(r"<Message>([^<]*)</Message>")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_TRIES = re.compile(r"after (\d+) retries")
_MAX_SENTENCE_CHARS = 200

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_TRANSIENT_CODES = frozenset(
    {
        "ConditionalRequestConflict",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_ADVICE = {
    "InvalidAccessKeyId": "the server does not know this access key: check the credentials and the endpoint",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key: check the credentials",
    "InvalidToken": "the session token is not valid: check the credentials",
    "RequestTimeTooSkewed": "the clock of this machine is wrong: set it",
    "QuotaExceeded": "the quota of the bucket or its owner is used up",
}
_PERMISSIONS = "s3:GetObject, s3:PutObject, s3:ListBucket"
_TRANSIENT_OS_ERRORS = frozenset({errno.EAGAIN, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY})


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was being done when it failed.

    Attributes:
        action: The verb of the message: `read`, `write`, `list`, …
        uri: The object or prefix it was done to.
        bucket: The S3 bucket, None for a folder.
        endpoint: The S3 endpoint, None where it is AWS.
        writes: Whether it creates something: a missing parent or bucket is then no missing object.
        permissions: What a bucket policy has to allow for it.
    """

    action: str
    uri: str
    bucket: str | None = None
    endpoint: str | None = None
    writes: bool = False
    permissions: str = _PERMISSIONS


def translate(error: Exception, attempt: Attempt) -> ImageShardsError:
    """The failure of an attempt as one of our errors: what failed, on which URI, what to do."""
    text = _PREFIX.sub("", str(error).partition("\n\nDebug source")[0])
    if isinstance(error, AlreadyExistsError | PreconditionError) and _code(text) not in _TRANSIENT_CODES:
        return _make(ObjectExistsError, attempt, "there is an object already")
    if isinstance(error, InvalidPathError):
        reason = f"a key there cannot be handled ({_first_line(text)})"
        return _make(StoreError, attempt, f"{reason}; move that object elsewhere")
    if isinstance(error, JoinError):
        return _make(TransientError, attempt, _first_line(text))
    return _translate_local(error, text, attempt) if attempt.bucket is None else _translate_s3(error, text, attempt)


def translate_boto(error: Exception, attempt: Attempt) -> ImageShardsError:
    """The failure of a request that boto3 made (a BotoCoreError or ClientError) as one of our errors."""
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        name = type(error).__name__
        if "Credential" in name or "Token" in name:
            return _make(StoreError, attempt, f"no credentials could be had ({name}): sign in again, or check the role")
        reason = f"there was no answer{_where(attempt)} ({name}): check endpoint_url, the network and the server"
        return _make(TransientError, attempt, reason)
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = answer.get("Error", {})
    code, sentence = said.get("Code") or None, " ".join((said.get("Message") or "").split())[:_MAX_SENTENCE_CHARS]
    told = f"{status}{f' {code}' if code else ''}{f': {sentence}' if sentence else ''}"
    kind, reason = _judge(status, code, told, attempt)
    return _make(kind, attempt, reason, status=status, code=code)


def _translate_local(error: Exception, text: str, attempt: Attempt) -> ImageShardsError:
    match = _OS_ERROR.search(text)
    number = int(match[1]) if match else getattr(error, "errno", None)
    if isinstance(error, FileNotFoundError) or _is_absent(number, attempt):
        return _make(ObjectMissingError, attempt, "there is no such object", errno=number)
    if number is None:
        return _make(StoreError, attempt, _first_line(text))
    if number in (errno.ENOSPC, errno.EDQUOT):
        advice = "free some space, or choose another folder"
    elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "check who may do that there"
    elif number in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        advice = "a file is in the place of a folder, or the other way round"
    else:
        advice = ""
    kind = TransientError if number in _TRANSIENT_OS_ERRORS else StoreError
    return _make(kind, attempt, _joined(os.strerror(number), advice), errno=number)


def _is_absent(number: int | None, attempt: Attempt) -> bool:
    """Below a file there is no object, and a folder is none; in S3, too, `a/b` may be absent beside `a`."""
    return number in (errno.ENOTDIR, errno.EISDIR) and not attempt.writes


def _translate_s3(error: Exception, text: str, attempt: Attempt) -> ImageShardsError:
    found = _STATUS.search(text)
    if found is None:
        return _without_answer(error, text, attempt)
    status, code = int(found[1]), _code(text)
    kind, reason = _judge(status, code, _answer(status, code, text), attempt)
    return _make(kind, attempt, reason, status=status, code=code)


def _judge(status: int, code: str | None, answer: str, attempt: Attempt) -> tuple[type[ImageShardsError], str]:
    if code == "NoSuchBucket":
        advice = "create it, or check the URL"
        return ObjectMissingError, f"the bucket {attempt.bucket!r} does not exist{_where(attempt)} ({answer}): {advice}"
    if code in _TRANSIENT_CODES or status in _TRANSIENT_STATUS:
        return TransientError, f"the server is busy or failing ({answer}): try again later"
    if code in _EXPIRED_CODES:
        return StoreError, f"the credentials have expired ({answer}): renew them"
    if status in (401, 403):
        advice = f"check the credentials and the bucket policy ({attempt.permissions})"
        return StoreError, f"access denied ({answer}): {_ADVICE.get(code or '', advice)}"
    if status == 404:
        # A HEAD request is answered without a code.
        return ObjectMissingError, f"there is no such object{'' if code else ', or no such bucket'} ({answer})"
    return StoreError, f"the server refused ({answer})"


def _without_answer(error: Exception, text: str, attempt: Attempt) -> ImageShardsError:
    """No HTTP status: no credentials, a configuration that allows no request, or a connection that failed."""
    dump, where = str(error), _where(attempt)
    tries = _TRIES.search(text)
    tried = f" after {int(tries[1]) + 1} tries" if tries else ""
    kind: type[ImageShardsError] = StoreError
    if isinstance(error, UnauthenticatedError):  # what boto3 said when it was asked for credentials
        why = _first_line(text).rpartition("credential provider: ")[2]
        reason = f"no credentials could be had ({why}): sign in again, or check the role"
    elif "redirect" in text:
        reason = "the bucket is in another region: set the store's region"
    elif "certificate" in dump:
        reason = f"the certificate{where} is not trusted: check endpoint_url"
    elif "InvalidContentType" in dump:
        reason = f"no TLS{where}: endpoint_url probably has to begin with http://"
    elif "HTTP error" not in text and "NoContentRange" not in dump:
        reason = _first_line(text)
    else:
        kind = TransientError
        reason = f"{_connection_failure(text, dump)}{where}{tried}: check endpoint_url, the network and the server"
    return _make(kind, attempt, reason)


def _connection_failure(text: str, dump: str) -> str:
    if "dns error" in dump:
        return "the host is not known"
    if "Connection refused" in dump:
        return "nothing listens"
    if "TimedOut" in dump:
        return "there was no answer in time"
    return f"the connection failed ({_first_line(text).rpartition(': ')[2]})"


def _make(kind: type[E], attempt: Attempt, reason: str, **context: Any) -> E:
    known = {name: value for name, value in context.items() if value is not None}
    return kind(f"cannot {attempt.action} {attempt.uri}: {reason}", uri=attempt.uri, **known)


def _where(attempt: Attempt) -> str:
    return f" at {attempt.endpoint}" if attempt.endpoint else " at AWS"


def _code(text: str) -> str | None:
    match = _CODE.search(text)
    return match[1] if match else None


def _answer(status: int, code: str | None, text: str) -> str:
    match = _SENTENCE.search(text)
    sentence = " ".join(match[1].split())[:_MAX_SENTENCE_CHARS] if match else ""
    return f"{status}{f' {code}' if code else ''}{f': {sentence}' if sentence else ''}"


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:_MAX_SENTENCE_CHARS]


def _joined(reason: str, advice: str) -> str:
    return f"{reason}: {advice}" if advice else reason
