"""The inbox keeps what a custom webhook would get."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from deploy.inbox import serve


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    file = tmp_path / "notifications.jsonl"
    with serve(0, file) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", file
        server.shutdown()
        thread.join()


def test_each_message_is_a_line(inbox: tuple[str, Path]) -> None:
    url, file = inbox
    for number in range(2):
        assert requests.post(url, json={"subject": "s", "number": number}, timeout=10).ok
    assert [json.loads(line)["number"] for line in file.read_text().splitlines()] == [0, 1]


@pytest.mark.parametrize("body", ["", "no JSON", "[1]"])
def test_anything_else_is_refused(inbox: tuple[str, Path], body: str) -> None:
    url, file = inbox
    assert requests.post(url, data=body, timeout=10).status_code == requests.codes.bad_request
    assert not file.exists()
