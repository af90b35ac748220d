"""Where a store is: its URL, its endpoint, the rules for keys. Pure values, no I/O, no secret.

A store's URL is a folder (`data`, `/abs/folder`, `~/folder`, `file:///abs/folder`) or `s3://bucket/prefix`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, field_validator

from imageshards.errors import ConfigError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html"""

# Strict, because obstore panics on an endpoint that is no URI.
_ENDPOINT = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?(?:/[A-Za-z0-9._~/-]*)?")
_ENV_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Control characters (C0, DEL, C1), the backslash, and what no XML listing can carry: surrogates and noncharacters.
_FORBIDDEN_IN_KEY = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\\\\ud800-\udfff\ufffe\uffff]")
_BAD_SEGMENT = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")
_DRIVE_LETTER = re.compile(r"(?:^|/)[A-Za-z][:|](?:/|$)")
_STAGING_NAME = re.compile(r"(?:^|/)[^/#]*#[0-9]+$")


class StoreSpec(BaseModel):
    """Which store, without any secret: it may travel in job specs, logs and manifests.

    Attributes:
        url: A folder or `s3://bucket/prefix`.
        endpoint_url: The S3 server, where it is not AWS; default: AWS_ENDPOINT_URL_S3, then AWS_ENDPOINT_URL.
        region: Default: AWS_REGION, AWS_DEFAULT_REGION, that of the AWS profile the credentials are from, `us-east-1`.
        credentials_env: A prefix P. Where P + "AWS_ACCESS_KEY_ID" is set in the environment of the process that opens
            the store, the credentials come from there (and from P + "AWS_SECRET_ACCESS_KEY", P + "AWS_SESSION_TOKEN").

    Raises:
        ConfigError: Unknown scheme, impossible bucket name or prefix, credentials in a URL.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str
    endpoint_url: str | None = None
    region: str | None = None
    credentials_env: str | None = None

    @field_validator("url")
    @classmethod
    def _url_is_supported(cls, url: str) -> str:
        Location.of(url)
        return url

    @field_validator("endpoint_url")
    @classmethod
    def _endpoint_is_plain(cls, endpoint_url: str | None) -> str | None:
        return None if endpoint_url is None else check_endpoint(endpoint_url)

    @field_validator("region")
    @classmethod
    def _region_is_named(cls, region: str | None) -> str | None:
        if region is not None and not region.strip():
            raise ConfigError("the region of a store is empty: leave it out, or name one such as us-east-1")
        return region

    @field_validator("credentials_env")
    @classmethod
    def _prefix_is_a_name(cls, prefix: str | None) -> str | None:
        if prefix is not None and not _ENV_PREFIX.fullmatch(prefix):
            # The value is not shown: a key put here by mistake would end up in the log.
            raise ConfigError("credentials_env must be the start of an environment variable's name, such as RAW_")
        return prefix


@dataclass(frozen=True, slots=True)
class Location:
    """A store's URL, taken apart.

    Attributes:
        bucket: The S3 bucket; None for a folder.
        root: What precedes every key: the prefix in the bucket, or the folder's absolute path; without slashes at its
            ends, empty for a whole bucket.
    """

    bucket: str | None
    root: str

    @classmethod
    def of(cls, url: str) -> Location:
        """Parse a store's URL; a relative folder is taken from the working directory.

        Raises:
            ConfigError: Not a store that is supported, or not a possible one.
        """
        scheme = _SCHEME.match(url)
        if not url.strip():
            raise ConfigError("the URL of a store is empty: give a folder or s3://bucket/prefix")
        if scheme is None:
            return cls._of_folder(url, Path(url))
        if scheme[1].lower() == "file":
            return cls._of_folder(url, Path(_file_url_path(url)))
        if url[:5].lower() == "s3://":
            return cls._of_s3(url[5:])
        shown = f"{scheme[1]}:…" if "@" in url else url  # what comes before an @ may be a password
        raise ConfigError(
            f"{shown!r} is not a store that is supported: give a folder, file:///absolute/path or s3://bucket/prefix "
            f"(a folder whose name begins so is written ./{scheme[1]}:…)"
        )

    @classmethod
    def _of_folder(cls, url: str, path: Path) -> Location:
        try:
            absolute = os.path.abspath(path.expanduser())  # noqa: PTH100 - resolve() would follow symlinks, too
        except RuntimeError as error:
            raise ConfigError(f"cannot tell which folder {url!r} means: {error}") from error
        if _FORBIDDEN_IN_KEY.search(absolute):
            raise ConfigError(f"the folder {url!r} has a control character or a backslash in its name")
        return cls(None, absolute.strip("/"))

    @classmethod
    def _of_s3(cls, rest: str) -> Location:
        bucket, _, prefix = rest.partition("/")
        if "@" in bucket or ":" in bucket:  # a secret key may well have a slash in it
            raise ConfigError(
                "an s3:// URL must not carry credentials (user:password@…): use the environment, an AWS profile, "
                "a role or a dataset-store block"
            )
        if not _BUCKET.fullmatch(bucket):
            raise ConfigError(
                f"{bucket!r} is not a possible bucket name: 3 to 63 characters out of a-z, 0-9, '-' and '.', with a "
                "letter or digit at both ends"
            )
        prefix = prefix.rstrip("/")
        return cls(bucket, check_key(prefix) if prefix else "")

    @property
    def url(self) -> str:
        """The canonical URL: absolute, and the same for every spelling."""
        return self.uri("").rstrip("/") if self.root or self.bucket else "file:///"

    def uri(self, key: str) -> str:
        """The URI of one object. S3 keys are written as they are, folders percent-encoded like any file URL."""
        path = self.path(key)
        return f"s3://{self.bucket}/{path}" if self.bucket else f"file:///{quote(path)}"

    def path(self, key: str) -> str:
        """The key below the bucket, or below `/`."""
        return f"{self.root}/{key}" if self.root and key else self.root or key


def check_key(key: str) -> str:
    """Return the key, a posix relative path that every backend can hold and list.

    Raises:
        ConfigError: Empty, absolute, with `.`, `..` or empty segments, with a backslash or control character; with a
            segment like a drive letter (`C:`); or named like the staging files of folders (`name#1`), which no listing
            shows.
    """
    if _BAD_SEGMENT.search(key) or _FORBIDDEN_IN_KEY.search(key):
        raise ConfigError(
            f"{key!r} is not a possible key: a relative path is needed, without empty, '.' or '..' segments, "
            "backslashes and control characters"
        )
    if _DRIVE_LETTER.search(key):
        raise ConfigError(
            f"{key!r} is not a possible key: in a folder, a letter with ':' or '|' would be taken for a drive's name"
        )
    if _STAGING_NAME.search(key):
        raise ConfigError(
            f"{key!r} is not a possible key: names that end in '#' and digits are staging files in folders"
        )
    return key


def check_endpoint(endpoint_url: str) -> str:
    """Return the endpoint without a trailing slash.

    Raises:
        ConfigError: Not `http(s)://host[:port]`, or with credentials in it.
    """
    if "@" in endpoint_url:
        raise ConfigError("an endpoint URL must not carry credentials (user:password@…)")
    if not _ENDPOINT.fullmatch(endpoint_url):
        raise ConfigError(f"{endpoint_url!r} is not an endpoint: http://host:port or https://host is expected")
    return endpoint_url.rstrip("/")


def _file_url_path(url: str) -> str:
    rest = url[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        rest = slash + path if host in ("", "localhost") else ""
    if not rest.startswith("/"):
        raise ConfigError(f"{url!r} is not a folder of this machine: file:///absolute/path is expected")
    return unquote(rest)
