"""What ends with its parent, whatever it is at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid

import pytest

from tests.processes import PROC, processes_with, wait_until

pytestmark = pytest.mark.skipif(not PROC.is_dir(), reason="processes are looked up in /proc")

MARK = "IMAGESHARDS_TEST_PARENT_WATCH"
GONE_SECONDS = 20

DEAF = """
import signal, subprocess, time
from imageshards.parent_watch import end_group_with_parent
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "600"])
end_group_with_parent()
print("up", flush=True)
time.sleep(600)
"""
"""Does not stop when it is asked to, as a shutdown that is at something else; nor would its child."""

LEADER_OF_DEAF = f"""
import subprocess, sys
sys.exit(-subprocess.run([sys.executable, "-c", {DEAF!r}], check=False).returncode)
"""
"""Hands its standard input and output on; a group of its own, so that a mistake does not end the tests."""

POLITE = """
import signal, sys, time
from imageshards.parent_watch import stop_with_parent
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
stop_with_parent()
print("up", flush=True)
time.sleep(600)
"""


def start(program: str, mark: str, *, leader: bool) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={MARK: mark},
        start_new_session=leader,
    )
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    return process


def test_the_group_ends_at_once_with_children_that_nobody_asked() -> None:
    mark = uuid.uuid4().hex
    process = start(DEAF, mark, leader=True)
    assert len(processes_with(MARK, mark)) == 2
    with process:
        assert process.stdin
        process.stdin.close()
        assert process.wait(GONE_SECONDS) == -signal.SIGKILL
    assert wait_until(lambda: not processes_with(MARK, mark), timeout_seconds=GONE_SECONDS)


def test_a_process_in_the_group_of_another_ends_alone() -> None:
    mark = uuid.uuid4().hex
    process = start(LEADER_OF_DEAF, mark, leader=True)
    try:
        with process:
            assert process.stdin
            process.stdin.close()
            assert process.wait(GONE_SECONDS) == signal.SIGKILL  # how the other ended, says its leader
        (child,) = processes_with(MARK, mark)
        assert child.command == "sleep 600"
    finally:
        for left in processes_with(MARK, mark):
            os.kill(left.id, signal.SIGKILL)


def test_a_process_without_standard_input_ends_at_once() -> None:
    program = f"import os; os.close(0)\n{POLITE}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=GONE_SECONDS)
    assert done.returncode in (7, -signal.SIGTERM)


def test_a_process_that_stops_with_its_parent_may_do_so_in_its_own_way() -> None:
    process = start(POLITE, uuid.uuid4().hex, leader=False)
    with process:
        assert process.stdin
        process.stdin.write("a line is no end\n")
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.stdin.close()
        assert process.wait(GONE_SECONDS) == 7
