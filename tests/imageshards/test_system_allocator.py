"""Which allocator Arrow takes; in processes of their own, as it is chosen once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "ARROW_DEFAULT_MEMORY_POOL"
_SHOW = f"import os, pyarrow as pa; print(pa.default_memory_pool().backend_name, os.environ.get('{VARIABLE}'))"


def shown(before: str, **environment: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if name != VARIABLE}
    program = [sys.executable, "-c", f"{before}; {_SHOW}"]
    done = subprocess.run(program, cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_worker_takes_the_one_of_the_c_library_and_hands_nothing_on():
    assert shown("import imageshards.worker") == ["system", "None"]


@pytest.mark.parametrize("choice", ["system", "mimalloc"])
def test_what_the_user_chose_is_left_alone(choice):
    assert shown("import imageshards.worker", **{VARIABLE: choice}) == [choice, choice]


def test_a_process_that_has_loaded_arrow_keeps_what_it_has():
    assert shown("import pyarrow, imageshards.worker") == shown("pass")
