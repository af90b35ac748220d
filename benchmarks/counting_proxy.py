"""Counts the requests that go to an S3 server: passes HTTP on as it comes, from a thread of this process."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from benchmarks.proxy import RequestSplitter

_REQUEST_LINE = re.compile(rb"([A-Z]+ \S+) HTTP/1\.[01]\r\n")
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNK_BYTES = 1 << 18


@dataclass(slots=True)
class Counted:
    """A proxy at work.

    Attributes:
        address: Where it listens, `http://127.0.0.1:port`.
        requests: Method and path of each request so far.
    """

    address: str = ""
    requests: list[str] = field(default_factory=list)


@contextmanager
def counting_proxy(server: str) -> Iterator[Counted]:
    """A proxy before a server, `host:port` or `http://host:port`."""
    host, _, port = server.removeprefix("http://").rpartition(":")
    counted = Counted()
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()
    thread = threading.Thread(
        target=loop.run_until_complete, args=(_serve(host, int(port), counted, ready, ended),), daemon=True
    )
    thread.start()
    ready.wait()
    try:
        yield counted
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


async def _serve(host: str, port: int, counted: Counted, ready: threading.Event, ended: asyncio.Event) -> None:
    open_pairs: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        open_pairs.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await _pair(reader, writer, host, port, counted)
        finally:
            open_pairs.discard(task)
            writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    counted.address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    ready.set()
    await ended.wait()
    listener.close()
    for task in list(open_pairs):
        task.cancel()
    await asyncio.gather(*open_pairs)


async def _pair(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, counted: Counted
) -> None:
    server_reader, server_writer = await asyncio.open_connection(host, port)
    answers = asyncio.create_task(_pass_on(server_reader, writer))
    splitter = RequestSplitter()
    body_left = 0
    try:
        while data := await reader.read(_CHUNK_BYTES):
            for piece, _ in splitter.feed(data):
                if body_left:  # which may look like a request
                    body_left -= len(piece)
                elif line := _REQUEST_LINE.match(piece):
                    counted.requests.append(line[1].decode())
                    length = _CONTENT_LENGTH.search(piece)
                    body_left = int(length[1]) if length else 0
                server_writer.write(piece)
            await server_writer.drain()
    finally:
        server_writer.close()
        answers.cancel()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        writer.close()
