from __future__ import annotations

from benchmarks.counting_proxy import counting_proxy
from imageshards.store import open_store
from tests.conftest import S3Server


def test_each_request_counts_once_and_its_body_not_at_all(moto: S3Server) -> None:
    body = b"GET / HTTP/1.1\r\n\r\n" * 50_000
    with counting_proxy(moto.endpoint_url) as proxy:
        spec = moto.spec(moto.bucket, "counted").model_copy(update={"endpoint_url": proxy.address})
        store = open_store(spec, credentials=moto.credentials)
        store.put("key", body)
        assert store.get("key") == body
        store.delete("key")
        counted = [(request.split()[0], request.split()[1].partition("?")[0]) for request in proxy.requests]
    path = f"/{moto.bucket}/counted/key"
    assert counted[:2] == [("PUT", path), ("GET", path)]
    assert len(counted) == 3
