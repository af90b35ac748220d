"""A web server for two archives, as the real source is one: it gives tags, answers conditional requests, and fails."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ArchiveServer:
    """What it serves, and what it was asked.

    Attributes:
        url: Its address.
        files: What it serves, by path.
        downloads: Paths that were sent in full, in order.
        confirmed: Paths of which it was asked whether they changed, and had not.
        failures: How many of the next answers are to be 500.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)
    failures: int = 0

    @property
    def parameters(self) -> dict[str, Any]:
        """The flow's parameters for it."""
        return {"images": f"{self.url}/images.tar.gz", "annotations": f"{self.url}/annotations.tar.gz"}

    def serve(self, *, images: bytes | None = None, annotations: bytes | None = None) -> None:
        """Serve other archives from now on."""
        if images is not None:
            self.files["/images.tar.gz"] = images
        if annotations is not None:
            self.files["/annotations.tar.gz"] = annotations

    def answer(self, path: str, tag: str | None) -> tuple[HTTPStatus, dict[str, str], bytes]:
        """What a request gets, given the tag that it came with."""
        if self.failures > 0:
            self.failures -= 1
            return HTTPStatus.INTERNAL_SERVER_ERROR, {}, b""
        content = self.files.get(path)
        if content is None:
            return HTTPStatus.NOT_FOUND, {}, b""
        current = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if tag == current:
            self.confirmed.append(path)
            return HTTPStatus.NOT_MODIFIED, {"ETag": current}, b""
        self.downloads.append(path)
        return HTTPStatus.OK, {"ETag": current}, content

    def forget(self) -> None:
        """Forget what it was asked."""
        self.downloads.clear()
        self.confirmed.clear()


@contextmanager
def running_archive_server() -> Iterator[ArchiveServer]:
    """Serve on a free port of loopback."""
    server = ArchiveServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = server.answer(self.path, self.headers.get("If-None-Match"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != HTTPStatus.NOT_MODIFIED:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class names it)
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
