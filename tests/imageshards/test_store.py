"""Facts about stores beyond the contract: URLs, credentials, what each failure of a backend becomes."""

from __future__ import annotations

import copy
import dataclasses
import http.server
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pydantic
import pytest

from imageshards import store_s3
from imageshards.errors import (
    ConfigError,
    ImageShardsError,
    ObjectExistsError,
    ObjectMissingError,
    StoreError,
    TransientError,
)
from imageshards.store import Credentials, Store, StoreSpec, open_store
from imageshards.store_s3 import S3Access
from imageshards.store_spec import Location

if TYPE_CHECKING:
    from tests.conftest import S3Server

SECRET = "s3cr3t-do-not-show"
TOKEN = "t0k3n-do-not-show"
KEYS = Credentials("key-id", SECRET, TOKEN)

OPERATIONS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get("a"),
    "get_range": lambda store: store.get_range("a", 0, 1),
    "put": lambda store: store.put("a", b"x"),
    "create": lambda store: store.put("a", b"x", create=True),
    "put in parts": lambda store: store.put("a", bytes(9 * 1024**2)),
    "head": lambda store: store.head("a"),
    "list": lambda store: list(store.list("a")),
    "copy": lambda store: store.copy("a", "b"),
    "delete": lambda store: store.delete("a"),
    "check_access": lambda store: store.check_access(),
}


def failure_of(call: Callable[[], object]) -> ImageShardsError:
    with pytest.raises(ImageShardsError) as caught:
        call()
    error = caught.value
    assert "\n" not in error.message
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(error.to_dict()) + repr(error.__context__)
    shown += repr(pickle.loads(pickle.dumps(error)).to_dict())
    # This test's own code is part of a traceback; it names the constants, never their values.
    assert SECRET not in shown
    assert TOKEN not in shown
    return error


# --- URLs


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("data", "file:///home/me/project/data"),
        ("./data/", "file:///home/me/project/data"),
        ("../a/./b//c", "file:///home/me/a/b/c"),
        ("/abs/folder", "file:///abs/folder"),
        ("/", "file:///"),
        ("file:///abs/fol%20der", "file:///abs/fol%20der"),
        ("file://localhost/abs", "file:///abs"),
        ("file:/abs", "file:///abs"),
        ("FILE:///abs", "file:///abs"),
        ("/a b/50%/ü#?", "file:///a%20b/50%25/%C3%BC%23%3F"),
        ("~/data", "file:///home/me/data"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("S3://bucket/a b/50%/ü#?/", "s3://bucket/a b/50%/ü#?"),
        ("./s3:/bucket", "file:///home/me/project/s3%3A/bucket"),
    ],
)
def test_every_spelling_of_a_store_has_one_url(url: str, canonical: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getcwd", lambda: "/home/me/project")
    monkeypatch.setenv("HOME", "/home/me")
    location = Location.of(url)
    assert location.url == canonical
    assert Location.of(canonical) == location


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("gs://bucket", r"folder, file:///absolute/path or s3://bucket/prefix"),
        ("az://container", "not a store that is supported"),
        ("http://host/bucket", "not a store that is supported"),
        ("s3:bucket", "not a store that is supported"),
        ("s3:/bucket", "not a store that is supported"),
        ("file://host/abs", "not a folder of this machine"),
        ("file:relative", "not a folder of this machine"),
        ("s3://", "not a possible bucket name"),
        ("s3://ab", "3 to 63 characters"),
        ("s3://" + "a" * 64, "3 to 63 characters"),
        ("s3://Bucket", "not a possible bucket name"),
        ("s3://buck_et", "not a possible bucket name"),
        ("s3://-bucket", "not a possible bucket name"),
        ("s3://a..b", "not a possible bucket name"),
        ("s3://192.168.0.1", "not a possible bucket name"),
        ("s3://bucket/a//b", "not a possible key"),
        ("s3://bucket/../b", "not a possible key"),
        ("s3://bucket/a\\b", "not a possible key"),
        ("/a\nb", "control character"),
        ("~no-such-user-here/data", "cannot tell which folder"),
    ],
)
def test_a_url_that_cannot_be_a_store_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_store(url)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StoreSpec(url=f"s3://user:{SECRET}@bucket/prefix"),
        lambda: StoreSpec(url=f"s3://user:{SECRET}/rest@bucket/prefix"),
        lambda: StoreSpec(url=f"https://user:{SECRET}@host/bucket"),
        lambda: StoreSpec(url="s3://bucket", endpoint_url=f"https://user:{SECRET}@host"),
        lambda: StoreSpec(url="s3://bucket", credentials_env=f"{SECRET}!"),
    ],
)
def test_credentials_in_the_wrong_place_are_refused_and_not_repeated(make: Callable[[], StoreSpec]) -> None:
    assert isinstance(failure_of(make), ConfigError)


def test_a_spec_knows_no_secret_field_and_does_not_repeat_it() -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        StoreSpec.model_validate({"url": "s3://bucket", "secret_access_key": SECRET})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["", "host:9000", "ftp://host", "http://", "http://ho st", "http://host?x", "http://h:p"]
)
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        StoreSpec(url="s3://bucket", endpoint_url=endpoint)


@pytest.mark.parametrize("endpoint", ["http://h:9000", "https://s3.example.org/", "http://[::1]:7480", "http://h/base"])
def test_an_endpoint_is_a_url(endpoint: str) -> None:
    assert StoreSpec(url="s3://bucket", endpoint_url=endpoint).endpoint_url == endpoint.rstrip("/")


def test_to_open_a_folder_makes_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "new"))
    store.check_access()
    assert not store.exists("a")
    assert list(tmp_path.iterdir()) == []


# --- endpoint, region, credentials


@pytest.fixture
def keys_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "env-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "env-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "env-token")


def access(credentials: Credentials | None = None, **spec: str) -> S3Access:
    return S3Access.of(StoreSpec(url="s3://bucket", **spec), "bucket", credentials)


def keys_of(found: S3Access) -> tuple[str, str, str | None]:
    given = found.provider()
    assert isinstance(given, dict)
    return given["access_key_id"], given["secret_access_key"], given.get("token")


@pytest.mark.usefixtures("keys_in_environment")
def test_the_endpoint_is_the_specs_then_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert access().endpoint is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general:1/")
    assert access().endpoint == "http://general:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://service:2")
    assert access().endpoint == "http://service:2"
    assert access(endpoint_url="http://spec:3").endpoint == "http://spec:3"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "nonsense")
    with pytest.raises(ConfigError, match="endpoint"):
        access()


@pytest.mark.usefixtures("keys_in_environment")
def test_the_region_is_the_specs_then_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert access().region == "us-east-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert access().region == "eu-west-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert access().region == "eu-west-2"
    assert access(region="eu-west-3").region == "eu-west-3"


@pytest.mark.usefixtures("keys_in_environment")
def test_credentials_are_the_given_then_the_prefixed_then_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keys_of(access()) == ("env-key", "env-secret", "env-token")
    assert keys_of(access(credentials_env="RAW_")) == ("env-key", "env-secret", "env-token")
    monkeypatch.setenv("RAW_AWS_ACCESS_KEY_ID", "raw-key")
    monkeypatch.setenv("RAW_AWS_SECRET_ACCESS_KEY", "raw-secret")
    assert keys_of(access(credentials_env="RAW_")) == ("raw-key", "raw-secret", None)
    assert keys_of(access(KEYS, credentials_env="RAW_")) == ("key-id", SECRET, TOKEN)


@pytest.mark.parametrize("prefix", ["", "RAW_"])
def test_half_a_pair_of_keys_is_refused(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setenv(f"{prefix}AWS_ACCESS_KEY_ID", "key")
    with pytest.raises(ConfigError, match=f"{prefix}AWS_SECRET_ACCESS_KEY is not set"):
        access(credentials_env=prefix or "OTHER_")


def test_without_credentials_the_ways_to_give_them_are_named() -> None:
    with pytest.raises(ConfigError, match=r"AWS_ACCESS_KEY_ID .* profile or role"):
        open_store("s3://bucket")


def test_an_unknown_profile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="nobody"):
        open_store("s3://bucket")


def test_a_profile_gives_keys_and_region(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = f"aws_access_key_id = {s3_server.access_key_id}\naws_secret_access_key = {s3_server.secret_access_key}\n"
    (tmp_path / "credentials").write_text("[data]\n" + keys)
    (tmp_path / "config").write_text("[profile data]\nregion = eu-central-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "data")
    store = open_store(StoreSpec(url=f"s3://{s3_server.bucket}/profile", endpoint_url=s3_server.endpoint_url))
    store.put("a", b"x")
    assert store.get("a") == b"x"
    assert store.spec.region == "eu-central-1"


def test_the_environment_opens_a_store(s3_env: Callable[[str], tuple[S3Server, str]]) -> None:
    server, bucket = s3_env("moto")
    store = open_store(f"s3://{bucket}/p")
    store.put("a", b"x")
    assert store.spec.endpoint_url == server.endpoint_url
    assert [entry["Key"] for entry in server.client().list_objects_v2(Bucket=bucket)["Contents"]] == ["p/a"]


def test_the_specs_endpoint_and_given_keys_win_over_the_environment(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BUCKET"):
        monkeypatch.setenv(name, "foreign")
    store = s3_server.store(s3_server.bucket, "foreign")
    store.put("a", b"x")
    assert store.get("a") == b"x"


def test_credentials_that_cannot_be_renewed_are_reported() -> None:
    def expired() -> None:
        raise RuntimeError("the SSO session has expired")

    spec = StoreSpec(url="s3://bucket", endpoint_url="http://127.0.0.1:1")
    client = S3Access("bucket", spec.endpoint_url, "us-east-1", expired).client()  # type: ignore[arg-type]
    error = failure_of(lambda: Store(spec, Location.of(spec.url), client).get("a"))
    assert isinstance(error, StoreError)
    assert "no credentials could be had (RuntimeError: the SSO session has expired)" in error.message


# --- secrets


def test_secrets_are_neither_shown_nor_pickled() -> None:
    spec = StoreSpec(url="s3://bucket/prefix", endpoint_url="http://127.0.0.1:1")
    store = open_store(spec, credentials=KEYS)
    found = S3Access.of(spec, "bucket", KEYS)
    shown = [repr(KEYS), str(KEYS), f"{store} {store!r} {store.url} {store.uri('a')}", repr(vars(store)), repr(found)]
    shown += [store.spec.model_dump_json(), repr(store._backend), repr(getattr(store._backend, "config", None))]
    assert not [text for text in shown if SECRET in text or TOKEN in text]
    for value in (KEYS, store):
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="not pickled"):
                attempt(value)
    assert dataclasses.replace(KEYS, session_token=None) == Credentials("key-id", SECRET)


@pytest.mark.ceph
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("credentials", "says"),
    [(KEYS, "InvalidAccessKeyId"), (Credentials("testkey", SECRET, None), "SignatureDoesNotMatch")],
    ids=["wrong key", "wrong secret"],
)
def test_denied_access_says_what_to_check(ceph: S3Server, credentials: Credentials, says: str, operation: str) -> None:
    store = open_store(ceph.spec(ceph.bucket), credentials=credentials)
    error = failure_of(lambda: OPERATIONS[operation](store))
    assert type(error) is StoreError
    assert "access denied (403" in error.message
    assert "check the credentials" in error.message
    assert says in error.message or operation == "head"  # which is answered without a reason


# --- what a server's failure becomes


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_missing_bucket_is_told_from_a_missing_object(s3_server: S3Server, operation: str) -> None:
    store = s3_server.store("no-such-bucket-here", "prefix")
    error = failure_of(lambda: OPERATIONS[operation](store))
    assert isinstance(error, ObjectMissingError)
    if operation == "head":
        assert "no such object, or no such bucket" in error.message
    else:
        assert "the bucket 'no-such-bucket-here' does not exist" in error.message
        assert s3_server.endpoint_url in error.message


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_port_where_nothing_listens_is_transient_and_told_soon(operation: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        store = open_store(StoreSpec(url="s3://bucket/prefix", endpoint_url=endpoint), credentials=KEYS)
        started = time.monotonic()
        error = failure_of(lambda: OPERATIONS[operation](store))
    assert time.monotonic() - started < 30  # S3's own retries would take longer
    assert isinstance(error, TransientError)
    assert f"nothing listens at {endpoint}" in error.message


def test_an_unknown_host_is_transient() -> None:
    spec = StoreSpec(url="s3://bucket", endpoint_url="http://host.invalid")
    error = failure_of(open_store(spec, credentials=KEYS).check_access)
    assert isinstance(error, TransientError)
    assert "http://host.invalid" in error.message


def test_https_to_a_plain_server_is_told(moto: S3Server) -> None:
    spec = StoreSpec(url="s3://bucket", endpoint_url=moto.endpoint_url.replace("http:", "https:"))
    error = failure_of(open_store(spec, credentials=KEYS).check_access)
    assert type(error) is StoreError
    assert "endpoint_url probably has to begin with http://" in error.message


class FailingServer:
    """An S3 server that answers each request as it is told; counts them."""

    def __init__(self) -> None:
        self.answer: Callable[[http.server.BaseHTTPRequestHandler], None] = lambda _: None
        self.requests = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if self.raw_requestline and self.parse_request():
                    outer.requests += 1
                    outer.answer(self)
                self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.spec = StoreSpec(
            url="s3://bucket/prefix", endpoint_url=f"http://127.0.0.1:{self._server.server_address[1]}"
        )

    def store(self) -> Store:
        return open_store(self.spec, credentials=KEYS)

    def answers(self, status: int, code: str | None, extra: str = "") -> None:
        body = f"<Error><Code>{code}</Code><Message>So it is.</Message>{extra}</Error>" if code else "<html>no</html>"

        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            request.rfile.read(int(request.headers.get("content-length", 0)))
            request.send_response(status)
            request.send_header("Content-Length", str(len(body)))
            request.send_header("Connection", "close")
            request.send_header("ETag", '"x"')
            request.end_headers()
            request.wfile.write(body.encode())

        self.answer = answer

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def failing() -> Iterator[FailingServer]:
    server = FailingServer()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        (503, "SlowDown", TransientError, "busy or failing (503 SlowDown: So it is.)"),
        (500, "InternalError", TransientError, "busy or failing"),
        (502, None, TransientError, "busy or failing (502)"),
        (429, None, TransientError, "busy or failing (429)"),
        (400, "RequestTimeout", TransientError, "busy or failing"),
        (409, "ConditionalRequestConflict", TransientError, "busy or failing"),
        (400, "ExpiredToken", StoreError, "the credentials have expired (400 ExpiredToken: So it is.): renew them"),
        (400, "KeyTooLongError", StoreError, "the server refused (400 KeyTooLongError: So it is.)"),
        (403, "AccessDenied", StoreError, "the bucket policy (s3:GetObject, s3:PutObject, s3:ListBucket)"),
        (403, "RequestTimeTooSkewed", StoreError, "the clock of this machine is wrong"),
        (403, "QuotaExceeded", StoreError, "the quota of the bucket or its owner is used up"),
        (401, None, StoreError, "access denied (401)"),
        (412, "PreconditionFailed", ObjectExistsError, "there is an object already"),
        (404, "NoSuchBucket", ObjectMissingError, "the bucket 'bucket' does not exist at http://127.0.0.1"),
        (301, "PermanentRedirect", StoreError, "the bucket is in another region"),
        (501, "NotImplemented", StoreError, "the server refused (501 NotImplemented: So it is.)"),
    ],
)
def test_an_answer_becomes_one_of_our_errors(
    failing: FailingServer, status: int, code: str | None, kind: type[ImageShardsError], says: str
) -> None:
    # What AWS adds to SignatureDoesNotMatch: the canonical request, with the session token in its headers.
    failing.answers(status, code, f"<CanonicalRequest>PUT\nx-amz-security-token:{TOKEN}</CanonicalRequest>")
    error = failure_of(lambda: failing.store().put("a", b"x", create=True))
    assert type(error) is kind
    assert says in error.message
    assert error.message.startswith("cannot create s3://bucket/prefix/a: ")


def test_a_server_that_is_not_s3_is_told(failing: FailingServer) -> None:
    failing.answers(404, None)
    error = failure_of(failing.store().check_access)
    assert type(error) is StoreError
    assert "is no S3 server: check endpoint_url" in error.message


def test_requests_are_tried_again_while_the_server_is_busy(failing: FailingServer) -> None:
    failing.answers(503, "SlowDown")
    busy = failing.answer

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        if failing.requests == 3:
            failing.answers(404, "NoSuchKey")
            failing.answer(request)
        else:
            busy(request)

    failing.answer = answer
    failing.store().check_access()
    assert failing.requests == 3


def test_a_busy_server_is_asked_five_times(failing: FailingServer) -> None:
    failing.answers(503, "SlowDown")
    failure_of(lambda: failing.store().get("a"))
    assert failing.requests == 5


def test_a_connection_that_breaks_within_an_object_is_transient(failing: FailingServer, tmp_path: Path) -> None:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        for name, value in {
            "Content-Length": "100",
            "ETag": '"x"',
            "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT",
        }.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(b"x" * 30)

    failing.answer = answer
    for call in (lambda: failing.store().get("a"), lambda: failing.store().download("a", tmp_path / "a")):
        assert isinstance(failure_of(call), TransientError)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_keeps_silent_is_transient(failing: FailingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_s3, "RESPONSE_TIMEOUT", store_s3.RESPONSE_TIMEOUT / 100)
    failing.answer = lambda _: time.sleep(20)
    error = failure_of(lambda: failing.store().get("a"))
    assert isinstance(error, TransientError)
    assert "there was no answer in time" in error.message


def test_a_slow_upload_is_not_taken_for_silence(failing: FailingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_s3, "RESPONSE_TIMEOUT", store_s3.RESPONSE_TIMEOUT / 100)

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        time.sleep(1)
        failing.answers(200, None)
        failing.answer(request)

    failing.answer = answer
    failing.store().put("a", bytes(20 * 1024**2), create=True)
    assert failing.requests == 1


def test_a_create_whose_answer_was_lost_finds_its_own_object(failing: FailingServer) -> None:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        failing.answers(412, "PreconditionFailed")  # for the next try; this one gets no answer

    failing.answer = answer
    with pytest.raises(ObjectExistsError):
        failing.store().put("a", b"x", create=True)
    assert failing.requests == 2


def test_a_key_of_others_that_is_no_path_stops_a_list_loudly(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()
    store = s3_server.store(bucket, "p")
    s3_server.client().put_object(Bucket=bucket, Key="p/a//b", Body=b"x")
    error = failure_of(lambda: list(store.list()))
    assert type(error) is StoreError
    assert "a//b" in error.message


def test_a_folder_marker_is_no_object(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()
    s3_server.client().put_object(Bucket=bucket, Key="p/raw/", Body=b"")
    store = s3_server.store(bucket, "p")
    store.put("raw/a", b"x")
    assert [info.key for info in store.list("raw")] == ["raw/a"]


def test_a_whole_bucket_is_a_store(s3_server: S3Server) -> None:
    store = s3_server.store(s3_server.new_bucket())
    store.put("a/b", b"x")
    assert [info.key for info in store.list()] == ["a/b"]
    assert store.get("a/b") == b"x"
    store.check_access()


# --- what a folder's failure becomes


def test_staging_files_of_a_killed_writer_are_no_objects(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    program = "import sys; from imageshards.store import open_store; s = open_store(sys.argv[1])\n"
    program += "while True: s.put('shards/a', bytes(200_000_000)); s.delete('shards/a')"
    with subprocess.Popen([sys.executable, "-c", program, str(folder)]) as writer:
        deadline = time.monotonic() + 30
        while not list(folder.glob("shards/a#*")) and time.monotonic() < deadline:
            time.sleep(0.001)
        writer.kill()
    store = open_store(str(folder))
    assert {info.size_bytes for info in store.list()} <= {200_000_000}
    Path(folder, "shards", "b#1").write_bytes(b"left behind")
    store.put("shards/a", b"x", create=not store.exists("shards/a"))
    assert [info.key for info in store.list()] == ["shards/a"]
    assert not store.exists("shards/b")


def test_repeated_copies_leave_no_staging_files(folder_store: Store) -> None:
    folder_store.put("a", b"x")
    for _ in range(3):
        folder_store.copy("a", "b/c")
    path = folder_store.local_path("b/c")
    assert path is not None
    assert [file.name for file in path.parent.iterdir()] == ["c"]


def test_a_file_in_the_place_of_a_folder_is_told(folder_store: Store, tmp_path: Path) -> None:
    folder_store.put("a", b"x")
    error = failure_of(lambda: folder_store.put("a/b", b"x"))
    assert type(error) is StoreError
    assert "Not a directory: a file is in the place of a folder" in error.message
    (tmp_path / "file").write_bytes(b"")
    for url in (tmp_path / "file", tmp_path / "file" / "below"):
        error = failure_of(open_store(str(url)).check_access)
        assert type(error) is StoreError
        assert "file is not a folder" in error.message


def test_an_object_in_the_place_of_a_folder_is_told(folder_store: Store) -> None:
    folder_store.put("a/b", b"x")
    for create in (False, True):
        assert isinstance(failure_of(lambda create=create: folder_store.put("a", b"x", create=create)), StoreError)
    assert folder_store.get("a/b") == b"x"


def test_a_name_too_long_for_a_folder_is_told(folder_store: Store) -> None:
    error = failure_of(lambda: folder_store.put("n" * 300, b"x"))
    assert type(error) is StoreError
    assert "File name too long" in error.message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, where the user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("create", [False, True])
def test_a_full_disk_is_told_and_leaves_nothing_behind(small_disk: Path, tmp_path: Path, create: bool) -> None:
    store = open_store(str(small_disk))
    store.put("fits", bytes(100_000))
    (tmp_path / "big").write_bytes(bytes(9 * 1024**2))
    for call in (
        lambda: store.put("a", bytes(1_000_000), create=create),
        lambda: store.put_file("a", tmp_path / "big", create=create),
    ):
        error = failure_of(call)
        assert type(error) is StoreError
        assert "No space left on device: free some space" in error.message
    assert [path.name for path in small_disk.iterdir()] == ["fits"]
    other = open_store(str(tmp_path))
    assert "No space left on device" in failure_of(lambda: other.download("big", small_disk / "a")).message
    assert [path.name for path in small_disk.iterdir()] == ["fits"]


def test_a_read_only_folder_is_told(small_disk: Path) -> None:
    store = open_store(str(small_disk))
    store.put("a", b"x")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for call in (lambda: store.put("b/c", b"x"), lambda: store.put("a", b"x"), lambda: store.delete("a")):
        error = failure_of(call)
        assert type(error) is StoreError
        assert "Read-only file system" in error.message
    assert store.get("a") == b"x"


def test_a_folder_may_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = open_store(str(tmp_path / "link"))
    store.put("a", b"x")
    assert [info.key for info in store.list()] == ["a"]
    assert (tmp_path / "real" / "a").read_bytes() == b"x"


# --- processes


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=True, capture_output=True, text=True, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


def test_keys_in_the_environment_need_no_boto3_and_nothing_needs_prefect_ray_or_torch() -> None:
    program = """
        import sys
        from imageshards.store import open_store
        open_store("s3://bucket")
        print([name for name in ("boto3", "botocore", "prefect", "ray", "torch") if name in sys.modules])
    """
    done = run(program, AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", AWS_REGION="us-east-1")
    assert done.stdout.strip() == "[]"


def test_a_forked_process_is_refused_where_it_would_hang(tmp_path: Path) -> None:
    program = f"""
        import os
        from imageshards.errors import ConfigError
        from imageshards.store import open_store
        store = open_store({str(tmp_path)!r})
        store.put("a", b"x")
        child = os.fork()
        if not child:
            for used in (store, open_store({str(tmp_path)!r})):
                try:
                    used.get("a")
                except ConfigError as error:
                    print(error, flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(store.get("a"))
    """
    first, second, parent = run(program).stdout.splitlines()
    assert first == second
    assert "forked" in first
    assert "spawn" in first
    assert parent == "b'x'"


@pytest.mark.ceph
def test_big_files_pass_in_bounded_memory(ceph: S3Server, tmp_path: Path) -> None:
    (tmp_path / "big").touch()
    os.truncate(tmp_path / "big", 400 * 1024**2)
    program = f"""
        import resource
        from pathlib import Path
        from imageshards.store import open_store
        store = open_store("s3://{ceph.new_bucket()}")
        store.put("small", b"x")
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        before = peak()
        store.put_file("big", Path({str(tmp_path / "big")!r}))
        uploaded = peak()
        store.download("big", Path({str(tmp_path / "back")!r}))
        print(uploaded - before, peak() - before)
        store.delete("big")
    """
    used_mib = [int(number) for number in run(program, **ceph.environment).stdout.split()]
    assert max(used_mib) < 120, used_mib


def test_a_deleted_object_leaves_no_empty_folder_below_the_store(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    for key in ("runs/one/spec.json", "runs/one/result.json", "raw/x.jpg"):
        store.put(key, b"x")
    store.delete("runs/one/spec.json")
    assert (tmp_path / "store" / "runs" / "one").is_dir()
    store.delete("runs/one/result.json")
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["raw"]
    store.delete("raw/x.jpg")
    assert (tmp_path / "store").is_dir()
