"""Receives notifications, where the stack was given no webhook: `python -m deploy.inbox PORT FILE`.

It takes what Prefect's custom-webhook block sends and appends it to a file, one JSON object a line, so that one can see
what a Slack channel or a mailbox would have got.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
LONGEST_BYTES = 1024**2


def serve(port: int, file: Path) -> ThreadingHTTPServer:
    """A server, not running yet, that appends each JSON object it is sent to the file."""

    class Handler(BaseHTTPRequestHandler):
        """Takes POST alone."""

        def do_POST(self) -> None:
            """Append one message."""
            length = int(self.headers.get("Content-Length") or 0)
            try:
                message = json.loads(self.rfile.read(length)) if length <= LONGEST_BYTES else None
            except ValueError:
                message = None
            if isinstance(message, dict):
                with file.open("a") as output:
                    output.write(json.dumps(message) + "\n")
            self.send_response(HTTPStatus.NO_CONTENT if isinstance(message, dict) else HTTPStatus.BAD_REQUEST)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name of the base class)
            """Say nothing: the file has it all."""

    return ThreadingHTTPServer((HOST, port), Handler)


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal."""
    serve(int(arguments[0]), Path(arguments[1])).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
