"""Progress: bars on a terminal, seldom lines in the log elsewhere."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys

import pytest

from tasks import progress
from tasks.progress import step_progress, terminal_progress

PROGRAM = """
import logging, time
from tasks.progress import step_progress, terminal_progress
with terminal_progress(), step_progress("upload", "images", logging.getLogger("test")) as step:
    for done in range(1, 4):
        step(done, 3)
        time.sleep(0.2)
"""


def test_a_terminal_sees_a_bar() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait() == 0
    assert b"upload" in seen
    assert b"/3" in seen


def test_a_log_gets_a_line_now_and_then(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    logger = logging.getLogger("test")
    with caplog.at_level(logging.INFO), terminal_progress(), step_progress("upload", "images", logger) as step:
        step(1200, 2400)
    assert "upload: 1,200 of 2,400 images" in caplog.text


def test_a_log_is_not_flooded(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), step_progress("upload", "images", logging.getLogger("test")) as step:
        for done in range(1000):
            step(done)
    assert caplog.text == ""
