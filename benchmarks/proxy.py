"""Puts a distance between a client and an S3 server: passes HTTP on as it comes, and holds each GET back for a while.

    python -m benchmarks.proxy --server 127.0.0.1:7480 --delay-ms 50

listens on a free port of loopback, prints its number, and ends when its standard input does. Nothing is rewritten, for
the Host header is part of an S3 signature. The delay is for each request, not each byte, and connections wait side by
side; several processes share the port, so that the proxy is no bottleneck.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"
_BACKLOG = 1024
_STOP_SECONDS = 10


class RequestSplitter:
    """Tells in a client's bytes where requests begin."""

    def __init__(self) -> None:
        self._head = b""
        self._body_left = 0

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Pieces to pass on, in order, each with whether it begins a GET. A head comes whole.

        Raises:
            ValueError: A request whose body has no length.
        """
        while data:
            if self._body_left:
                piece, data = data[: self._body_left], data[self._body_left :]
                self._body_left -= len(piece)
                yield piece, False
                continue
            self._head += data
            head, end, data = self._head.partition(_END_OF_HEAD)
            if not end:
                return
            self._head = b""
            if _CHUNKED.search(head + end):
                raise ValueError("a request with a body of unknown length, which this proxy does not pass on")
            length = _CONTENT_LENGTH.search(head + end)
            self._body_left = int(length[1]) if length else 0
            yield head + end, head.startswith(b"GET ")


class _Side(asyncio.Protocol):
    """One of the two connections of a pair; what cannot be written yet stops the reading on the other side."""

    peer: _Side

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._waiting: list[bytes] = []
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.writelines(self._waiting)
        self._waiting.clear()
        if self._closing:
            self.transport.close()

    def send(self, data: bytes) -> None:
        if self.transport:
            self.transport.write(data)
        else:
            self._waiting.append(data)

    def close(self) -> None:
        self._closing = True
        if self.transport:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.peer.send(data)

    def connection_lost(self, _: Exception | None) -> None:
        self.peer.close()

    def pause_writing(self) -> None:
        if self.peer.transport:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer.transport:
            self.peer.transport.resume_reading()


class _ClientSide(_Side):
    """Takes a client's requests, and passes each on in its time."""

    def __init__(self, server: tuple[str, int], delay_seconds: float) -> None:
        super().__init__()
        self.peer = _Side()
        self.peer.peer = self
        self._server = server
        self._delay = delay_seconds
        self._requests = RequestSplitter()
        self._held: deque[tuple[float, bytes]] = deque()
        self._loop = asyncio.get_running_loop()
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await self._loop.create_connection(lambda: self.peer, *self._server)
        except OSError:
            self.close()

    def data_received(self, data: bytes) -> None:
        try:
            for piece, is_get in self._requests.feed(data):
                self._hold(piece, self._delay if is_get else 0.0)
        except ValueError as error:
            sys.stderr.write(f"proxy: {error}\n")
            self.close()

    def _hold(self, piece: bytes, seconds: float) -> None:
        if not seconds and not self._held:
            self.peer.send(piece)
            return
        due = self._loop.time() + seconds
        self._held.append((due, piece))
        if len(self._held) == 1:
            self._loop.call_at(due, self._release)

    def _release(self) -> None:
        self.peer.send(self._held.popleft()[1])
        if self._held:
            self._loop.call_at(self._held[0][0], self._release)


async def _serve(listener: socket.socket, server: tuple[str, int], delay_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    running = await loop.create_server(lambda: _ClientSide(server, delay_seconds), sock=listener)
    await ended.wait()
    running.close()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--delay-ms", type=float, required=True)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    host, _, port = options.server.rpartition(":")
    listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    for _ in range(options.processes - 1):
        if os.fork() == 0:
            break
    asyncio.run(_serve(listener, (host, int(port)), options.delay_ms / 1000))


@contextmanager
def running_proxy(server: str, delay_ms: float, *, cpus: Sequence[int]) -> Iterator[str]:
    """A proxy before a server (`host:port`) in processes of its own; gives its address, `http://127.0.0.1:port`."""
    command = [sys.executable, "-m", "benchmarks.proxy", "--server", server, "--delay-ms", str(delay_ms)]
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    finally:
        os.sched_setaffinity(0, before)
    assert process.stdin
    assert process.stdout
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


if __name__ == "__main__":
    main()
