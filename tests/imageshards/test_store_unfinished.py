"""Unfinished uploads on real servers: several pages of them, denied access, a server that is not there."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imageshards.errors import ObjectMissingError, StoreError, TransientError
from imageshards.store import Credentials, Store, StoreSpec, Unfinished, open_store
from tests.conftest import S3Server

KEYS = Credentials("key", "secret-marker")


def begin_uploads(server: S3Server, bucket: str, keys: list[str]) -> None:
    for key in keys:
        server.client().create_multipart_upload(Bucket=bucket, Key=key)


def test_uploads_are_found_page_by_page(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageshards.store_unfinished.PAGE_UPLOADS", 2)
    bucket = s3_server.new_bucket()
    names = [f"prefix/a/{number}" for number in range(5)]
    begin_uploads(s3_server, bucket, [*names, "prefix/a/0", "prefix/ab", "other/a/0"])
    store = s3_server.store(bucket, "prefix")
    found = list(store.unfinished("a"))
    assert sorted(each.key for each in found) == ["a/0", "a/0", "a/1", "a/2", "a/3", "a/4"]
    assert len({each.token for each in found}) == 6
    for each in found:
        store.discard(each)
    assert [each.key for each in store.unfinished()] == ["ab"]
    whole = s3_server.store(bucket)
    assert sorted(each.key for each in whole.unfinished()) == ["other/a/0", "prefix/ab"]
    for each in whole.unfinished():
        whole.discard(each)


@pytest.mark.ceph
def test_an_upload_tells_when_it_was_begun(ceph: S3Server) -> None:
    bucket = ceph.new_bucket()
    begin_uploads(ceph, bucket, ["a"])
    store = ceph.store(bucket)
    [found] = store.unfinished()
    assert abs(datetime.now(UTC) - found.started_at) < timedelta(minutes=5)
    store.discard(found)


@pytest.mark.ceph
def test_denied_access_says_which_permissions_it_takes(ceph: S3Server) -> None:
    bucket = ceph.new_bucket()
    store = open_store(ceph.spec(bucket), credentials=KEYS)
    with pytest.raises(StoreError, match="does not know this access key") as caught:
        list(store.unfinished())
    assert "secret-marker" not in caught.value.message
    known = open_store(ceph.spec(bucket), credentials=Credentials(ceph.access_key_id, "wrong"))
    with pytest.raises(StoreError, match="the secret key does not belong"):
        known.discard(Unfinished("a", "token", datetime.now(UTC), None))


def test_a_missing_bucket_is_told(s3_server: S3Server) -> None:
    store = s3_server.store("no-such-bucket-here")
    with pytest.raises(ObjectMissingError, match="'no-such-bucket-here' does not exist"):
        list(store.unfinished())


def test_a_server_that_is_not_there_is_transient() -> None:
    store = open_store(StoreSpec(url="s3://bucket/a", endpoint_url="http://127.0.0.1:1"), credentials=KEYS)
    with pytest.raises(TransientError, match=r"cannot list unfinished uploads in s3://bucket/a: .*127\.0\.0\.1:1"):
        list(store.unfinished())


def test_a_staged_link_is_as_old_as_the_linking(folder_store: Store) -> None:
    folder_store.put("a", b"x")
    path = Path(str(folder_store.local_path("a")))
    os.utime(path, (0, 0))
    os.link(path, path.with_name("b#7"))
    [found] = folder_store.unfinished()
    assert (found.key, found.token, found.size_bytes) == ("b", "7", 1)
    assert datetime.now(UTC) - found.started_at < timedelta(minutes=5)
    folder_store.discard(found)
    assert path.read_bytes() == b"x"


def test_only_what_is_named_like_a_staged_file_is_one(folder_store: Store) -> None:
    for key in ("a#b", "a#1#b", "b/c"):
        folder_store.put(key, b"x")
    assert list(folder_store.unfinished()) == []
