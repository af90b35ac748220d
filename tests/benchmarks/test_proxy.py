from __future__ import annotations

import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.proxy import RequestSplitter, running_proxy
from imageshards.store import Store, open_store
from tests.conftest import S3Server

GET = b"GET /bucket/key HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n"
PUT = b"PUT /bucket/key HTTP/1.1\r\nHost: x\r\nContent-Length: 21\r\n\r\n"
BODY = b"GET / HTTP/1.1\r\n\r\nabc"
CPUS = sorted(os.sched_getaffinity(0))


@given(st.lists(st.integers(0, len(2 * GET + PUT + BODY)), max_size=8))
def test_requests_are_told_apart_however_the_bytes_arrive(cuts: list[int]) -> None:
    stream = GET + PUT + BODY + GET
    edges = sorted({0, *cuts, len(stream)})
    splitter = RequestSplitter()
    pieces = [piece for start, end in itertools.pairwise(edges) for piece in splitter.feed(stream[start:end])]
    assert b"".join(data for data, _ in pieces) == stream
    assert [data for data, is_get in pieces if is_get] == [GET, GET]


def test_a_request_body_of_unknown_length_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown length"):
        list(RequestSplitter().feed(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"))


def through(server: S3Server, address: str, bucket: str) -> Store:
    return open_store(
        server.spec(bucket, "prefix").model_copy(update={"endpoint_url": address}), credentials=server.credentials
    )


def test_signed_requests_of_every_kind_pass(s3_server: S3Server) -> None:
    data = os.urandom(3_000_000)
    with running_proxy(urlsplit(s3_server.endpoint_url).netloc, 0, cpus=CPUS) as address:
        store = through(s3_server, address, s3_server.bucket)
        store.put("some/key", data)
        assert store.get("some/key") == data
        assert store.get_range("some/key", 1000, 10) == data[1000:1010]
        assert [info.key for info in store.list("some/")] == ["some/key"]
        store.delete("some/key")
        assert not store.exists("some/key")


def test_gets_are_held_back_side_by_side(moto: S3Server) -> None:
    delay, gets = 1.0, 64
    with running_proxy(urlsplit(moto.endpoint_url).netloc, 1000 * delay, cpus=CPUS) as address:
        store = through(moto, address, moto.bucket)
        started = time.monotonic()
        store.put("held", b"x")
        put = time.monotonic()
        with ThreadPoolExecutor(gets) as pool:
            found = list(pool.map(store.get, ["held"] * gets))
        got = time.monotonic()
    assert found == [b"x"] * gets
    assert got - put >= delay > put - started
    assert got - put < gets * delay / 2  # one after another they would take gets * delay
