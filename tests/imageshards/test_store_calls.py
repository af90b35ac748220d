from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os
from pathlib import Path
from imageshards.store_calls import refuse_forked_process
before = dict(os.environ)
refuse_forked_process()
refuse_forked_process()
assert dict(os.environ) == before, "a program started from here would inherit the setting"
names = [(thread / "comm").read_text() for thread in Path("/proc/self/task").iterdir()]
print(sum(name.startswith("tokio") for name in names))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize(("setting", "threads"), [(None, 1), ("3", 3)])
def test_obstore_gets_one_thread_unless_the_environment_says_otherwise(setting: str | None, threads: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TOKIO_WORKER_THREADS"}
    if setting:
        environment["TOKIO_WORKER_THREADS"] = setting
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True, text=True, timeout=60
    )
    assert int(done.stdout) == threads
