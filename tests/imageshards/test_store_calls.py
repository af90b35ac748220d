from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys, time
from pathlib import Path
from imageshards.store_calls import refuse_forked_process
before = dict(os.environ)
refuse_forked_process()
refuse_forked_process()
assert dict(os.environ) == before, "a program started from here would inherit the setting"
def io_threads():
    names = [(thread / "comm").read_text() for thread in Path("/proc/self/task").iterdir()]
    return sum(name.startswith("tokio") for name in names)
given_up = time.monotonic() + 30
while io_threads() < int(sys.argv[1]) and time.monotonic() < given_up:
    time.sleep(0.01)  # a thread has its name only once it runs
time.sleep(0.5)  # for one too many
print(io_threads())
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize(("setting", "threads"), [(None, 1), ("3", 3)])
def test_obstore_gets_one_thread_unless_the_environment_says_otherwise(setting: str | None, threads: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TOKIO_WORKER_THREADS"}
    if setting:
        environment["TOKIO_WORKER_THREADS"] = setting
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(threads)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert int(done.stdout) == threads
