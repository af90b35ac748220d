"""An S3 server to measure on: the one the environment names, a Ceph that runs, or one that is started for the while."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from imageshards.store import StoreSpec

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

URL_VARIABLE = "IMAGESHARDS_BENCH_S3"
_SCRIPTS = Path(__file__).resolve().parents[2] / "shared" / "s3"
_CEPH = "http://127.0.0.1:7480"
_CEPH_KEYS = {"AWS_ACCESS_KEY_ID": "testkey", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_REGION": "us-east-1"}
_STOP_SECONDS = 60


@dataclass(frozen=True, slots=True)
class S3Place:
    """A prefix of its own on a server.

    Attributes:
        name: Of the server, for tables.
        url: `s3://bucket/prefix`.
        endpoint_url: The server, or None for AWS.
        environment: What a process needs to be let in.
    """

    name: str
    url: str
    endpoint_url: str | None
    environment: Mapping[str, str] = field(repr=False)

    def spec(self, prefix: str = "", *, endpoint_url: str | None = None) -> StoreSpec:
        """A store below the place, through another endpoint where one is given."""
        region = self.environment.get("AWS_REGION")
        url = f"{self.url.rstrip('/')}/{prefix}"
        return StoreSpec(url=url, endpoint_url=endpoint_url or self.endpoint_url, region=region)


@contextmanager
def s3_place(folder: Path, *, cpus: Sequence[int]) -> Iterator[S3Place | None]:
    """A place to measure on, emptied in the end; None where there is no server.

    `IMAGESHARDS_BENCH_S3` (`s3://bucket/prefix`, with AWS_* beside it) names one; else a Ceph on 127.0.0.1:7480 is
    used, or started by the scripts beside the repository.

    Args:
        folder: For the files of a server that is started.
        cpus: The CPUs it may use.
    """
    if url := os.environ.get(URL_VARIABLE):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        place = S3Place("S3", f"{url.rstrip('/')}/{_unique()}", endpoint, {})
        try:
            yield place
        finally:
            _empty(place)
    elif _answers():
        with _bucket() as place:
            yield place
    elif (_SCRIPTS / "ceph-up").exists():
        with _ceph(folder / "ceph", cpus), _bucket() as place:
            yield place
    else:
        yield None


@contextmanager
def _ceph(folder: Path, cpus: Sequence[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        subprocess.run([_SCRIPTS / "ceph-up", folder], check=True, stdout=subprocess.DEVNULL)
        os.sched_setaffinity(0, before)
        yield
    finally:
        os.sched_setaffinity(0, before)
        subprocess.run([_SCRIPTS / "ceph-down", folder], check=False, timeout=_STOP_SECONDS)


@contextmanager
def _bucket() -> Iterator[S3Place]:
    bucket = _unique()
    place = S3Place("Ceph", f"s3://{bucket}", _CEPH, {**_CEPH_KEYS, "AWS_ENDPOINT_URL": _CEPH})
    _client(place).create_bucket(Bucket=bucket)
    try:
        yield place
    finally:
        _empty(place)
        _client(place).delete_bucket(Bucket=bucket)


def _unique() -> str:
    return f"bench-{uuid.uuid4().hex[:16]}"


def _answers() -> bool:
    try:
        _client(S3Place("", "", _CEPH, _CEPH_KEYS)).list_buckets()
    except (BotoCoreError, ClientError):
        return False
    return True


def _client(place: S3Place) -> S3Client:
    return boto3.client(
        "s3",
        endpoint_url=place.endpoint_url,
        aws_access_key_id=place.environment.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=place.environment.get("AWS_SECRET_ACCESS_KEY"),
        region_name=place.environment.get("AWS_REGION"),
        config=Config(request_checksum_calculation="when_required", connect_timeout=2, retries={"max_attempts": 2}),
    )


def remove(place: S3Place, prefix: str) -> None:
    """Remove what lies below a prefix of a place."""
    _empty(S3Place(place.name, f"{place.url.rstrip('/')}/{prefix}", place.endpoint_url, place.environment))


def _empty(place: S3Place) -> None:
    client, where = _client(place), urlsplit(place.url)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=where.netloc, Prefix=where.path.lstrip("/"))
    for page in pages:
        if found := [{"Key": entry["Key"]} for entry in page.get("Contents", [])]:
            client.delete_objects(Bucket=where.netloc, Delete={"Objects": found, "Quiet": True})
