"""A real HTTP server on the loopback interface that can misbehave in every way seen in the field."""

from __future__ import annotations

import hashlib
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = random.Random(3).randbytes(300_000)
OTHER = random.Random(4).randbytes(300_000)
MODIFIED = "Wed, 21 Oct 2015 07:28:00 GMT"

Handler = BaseHTTPRequestHandler
Route = Callable[[Handler], None]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Site:
    """What the server does, by path, and what it was asked."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    def put(self, path: str, *steps: Route) -> str:
        """Answer with one step after the other, the last one again and again; returns the URL."""
        left = list(steps)

        def next_step(handler: Handler) -> None:
            step = left.pop(0) if len(left) > 1 else left[0]
            step(handler)

        self.routes[path] = next_step
        return self.url + path

    def headers_asked(self, name: str) -> list[str | None]:
        return [headers.get(name) for _, headers in self.asked]


@contextmanager
def running_site() -> Iterator[Site]:
    """Serve a site on the loopback interface while this lasts."""
    site = Site()

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            site.asked.append((self.path, dict(self.headers)))
            site.routes.get(self.path.partition("?")[0], status(404))(self)

        def log_message(self, *args: object) -> None: ...

    class Server(ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None: ...  # clients that hang up are part of the tests

    server = Server(("127.0.0.1", 0), Answer)
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(handler: Handler, code: int, headers: dict[str, str | None], body: bytes, send: int | None = None) -> None:
    """Send an answer; with `send`, break the connection off after that many bytes of the body."""
    handler.send_response(code)
    for name, value in headers.items():
        if value is not None:
            handler.send_header(name, value)
    if "Transfer-Encoding" not in headers:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body if send is None else body[:send])
    handler.close_connection = send is not None


def status(code: int, **headers: str) -> Route:
    return lambda handler: answer(handler, code, {k.replace("_", "-"): v for k, v in headers.items()}, b"<p>oops</p>")


def whole(
    body: bytes = BODY, *, etag: str | None = None, modified: str | None = None, send: int | None = None
) -> Route:
    """A server that knows no ranges and no conditions."""
    return lambda handler: answer(handler, 200, {"ETag": etag, "Last-Modified": modified}, body, send)


def ranged(
    body: bytes = BODY, *, etag: str | None = '"v1"', modified: str | None = None, send: int | None = None
) -> Route:
    """A server as it should be: ranges, If-Range, conditional requests."""

    def route(handler: Handler) -> None:
        asked, validators = handler.headers, {"ETag": etag, "Last-Modified": modified}
        known = [asked.get("If-None-Match") == etag, asked.get("If-Modified-Since") == modified]
        if known[0] if "If-None-Match" in asked else "If-Modified-Since" in asked and known[1]:
            handler.send_response(304)
            handler.end_headers()
            return
        start = int(re.sub(r"\D", "", asked.get("Range", "0")))
        if not start or asked.get("If-Range") not in (etag, modified):
            answer(handler, 200, validators, body, send)
        elif start >= len(body):
            answer(handler, 416, {**validators, "Content-Range": f"bytes */{len(body)}"}, b"<p>no such range</p>")
        else:
            content_range = f"bytes {start}-{len(body) - 1}/{len(body)}"
            answer(handler, 206, {**validators, "Content-Range": content_range}, body[start:], send)

    return route
